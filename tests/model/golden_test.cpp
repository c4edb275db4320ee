// SPDX-License-Identifier: MIT
// The same logits, losses, hidden states and gradients as another implementation:
// tests/data/golden/README.md.
#include <examples/forward/run.hpp>
#include <examples/support/cpu_place.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <string>

using namespace dsv3;

namespace {

const char* const variants[] = {"tiny", "tiny_yarn", "tiny_direct_q", "tiny_mtp", "tiny_fp8", "tiny_mtp_fp8"};
constexpr double mtp_weight = 0.3;  // of the variants that have an MTP module

std::string golden(const std::string& variant) { return "tests/data/golden/" + variant; }

// Every expected tensor is there, and differs by no more than: logits and hidden states 2e-5 of the largest
// value, losses 1e-6 of themselves, each gradient 1e-4 of its norm.
void compare(const std::string& variant, const std::string& path) {
  const safetensors_file expected{golden(variant) + "/golden.safetensors"}, found{path};
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

template <precision P>
void run(const std::string& variant, const std::string& out, int threads) {
  forward::run_at<P, support::cpu_place>({.model = golden(variant),
                                          .ids = golden(variant) + "/golden.safetensors",
                                          .out = out,
                                          .wanted = forward::gradients::all,
                                          .mtp_weight = mtp_weight,
                                          .threads = threads});
}

}  // namespace

TEST_CASE("transformers in fp32") {
  const support::temporary_folder folder;
  for (const char* variant : variants) {
    CAPTURE(variant);
    run<fp32>(variant, folder / "out", 2);
    compare(variant, folder / "out");
  }
}

TEST_CASE("any number of threads") {
  const support::temporary_folder folder;
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    run<fp32>("tiny_mtp", folder / "out", threads);
    compare("tiny_mtp", folder / "out");
  }
}

TEST_CASE("the program, in fp32 and fp64") {
  const char* bin = std::getenv("DSV3_BIN");
  const std::string program = std::string(bin == nullptr ? "build/cpu/bin" : bin) + "/dsv3-forward";
  if (!std::filesystem::exists(program)) {
    MESSAGE("not run, not built: " << program);
    return;
  }
  const support::temporary_folder folder;
  for (const char* variant : variants)
    for (const char* precision : {"fp32", "fp64"}) {
      CAPTURE(variant);
      CAPTURE(precision);
      const std::string command = program + " --model " + golden(variant) + " --ids " + golden(variant) +
                                  "/golden.safetensors --grad --mtp-weight 0.3 --precision " + precision +
                                  " --out " + (folder / "out");
      REQUIRE(std::system(command.c_str()) == 0);
      compare(variant, folder / "out");
    }
}
