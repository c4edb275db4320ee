// SPDX-License-Identifier: MIT
// Small models with what another implementation makes of them: tests/data/golden/README.md.
#pragma once

#include <dsv3/io/safetensors.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace golden {

using namespace dsv3;

inline const char* const variants[] = {"tiny",     "tiny_yarn", "tiny_direct_q",
                                       "tiny_mtp", "tiny_fp8",  "tiny_mtp_fp8"};
constexpr double mtp_weight = 0.3;  // of the variants that have an MTP module

inline std::string folder_of(const std::string& variant) { return "tests/data/golden/" + variant; }

// Every expected tensor is there, and differs by no more than: logits and hidden states 2e-5 of the largest
// value, losses 1e-6 of themselves, each gradient 1e-4 of its norm.
inline void compare(const std::string& variant, const std::string& path) {
  const safetensors_file expected{folder_of(variant) + "/golden.safetensors"}, found{path};
  index_t gradients = 0;
  for (const tensor_entry& tensor : expected.tensors()) {
    if (tensor.type == dtype::i64) continue;  // tokens, not results of one forward pass
    CAPTURE(tensor.name);
    REQUIRE(found.contains(tensor.name));
    const tensor_entry& other = found.tensor(tensor.name);
    REQUIRE(other.extents == tensor.extents);
    std::vector<double> a(static_cast<std::size_t>(other.elements())), b(a.size());
    read_converted(other, std::span(a));
    read_converted(tensor, std::span(b));
    double difference = 0, norm = 0, furthest = 0, largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
      furthest = std::max(furthest, std::fabs(a[i] - b[i])), largest = std::max(largest, std::fabs(b[i]));
      if (std::isnan(a[i])) furthest = difference = INFINITY;
    }
    if (tensor.name.starts_with("grad.")) {
      ++gradients;
      CHECK(std::sqrt(difference) <= 1e-4 * std::sqrt(norm));
    } else {
      CHECK(furthest <= (tensor.name.ends_with("loss") ? 1e-6 : 2e-5) * largest);
    }
  }
  CHECK(gradients >= 40);
  CHECK(found.tensors().size() == expected.tensors().size() - 2);
}

}  // namespace golden
