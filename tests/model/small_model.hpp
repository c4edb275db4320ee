// SPDX-License-Identifier: MIT
// A model of a few thousand parameters with every feature on, and bundles filled with numbers of their own.
#pragma once

#include <dsv3/exec/memory.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/model/bundles.hpp>

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

namespace support {

inline dsv3::model_config small_model() {
  return {.vocab = 24,
          .hidden = 16,
          .layers = 3,
          .dense_layers = 1,
          .mtp_depth = 1,
          .dense_inner = 20,
          .heads = 2,
          .q_rank = 12,
          .kv_rank = 8,
          .qk_nope = 6,
          .qk_rope = 4,
          .v_dim = 6,
          .expert_inner = 10,
          .experts = 4,
          .shared_experts = 1,
          .top_k = 2,
          .groups = 2,
          .kept_groups = 1,
          .routed_scale = 2.5,
          .rope = {.factor = 4, .original_length = 16},
          .max_positions = 64};
}

/// Different numbers everywhere, all of them bf16 numbers, so that no conversion changes them.
template <class Bundle>
void fill_with_numbers(Bundle& bundle, std::uint64_t seed) {
  const dsv3::random_stream random{seed, 7};
  std::uint64_t counter = 0;
  dsv3::for_each_field(
      [&](const std::string&, const dsv3::shape& s, auto& field) {
        using element = typename std::remove_reference_t<decltype(field)>::element;
        for (dsv3::index_t i = 0; i < s.elements(); ++i) {
          const double number = random.normal(counter++);
          if constexpr (std::is_integral_v<element>)
            field.data()[i] = static_cast<element>(1000 * number);
          else
            field.data()[i] =
                static_cast<element>(static_cast<float>(dsv3::bf16(static_cast<float>(number))));
        }
      },
      bundle);
}

/// The same bits in every field.
template <class Bundle>
bool same_bits(const Bundle& a, const Bundle& b) {
  bool same = true;
  dsv3::for_each_field(
      [&](const std::string&, const dsv3::shape& s, auto& x, auto& y) {
        same = same && std::memcmp(x.data(), y.data(),
                                   static_cast<std::size_t>(s.elements()) * sizeof(*x.data())) == 0;
      },
      a, b);
  return same;
}

}  // namespace support
