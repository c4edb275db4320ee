// SPDX-License-Identifier: MIT
// What a model is before its first step (report, section 4.2).
#pragma once

#include <dsv3/model/bundles.hpp>
#include <dsv3/op/memory/copy.hpp>
#include <dsv3/op/memory/fill.hpp>

#include <cstdint>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// One tensor of a model: a matrix from normal(0, deviation), a norm gain 1. The random stream is (seed,
/// name), so what a tensor gets depends on no order, and on the precision only by rounding.
template <execution_context Ctx, class Element>
void initialize_tensor(Ctx& ctx, const std::string& name, bool is_matrix, view<Element, 1> values,
                       double deviation, std::uint64_t seed) {
  if (is_matrix)
    op::fill<Element>::normal(
        ctx, {.y = values, .random = random_stream::named(seed, name), .mean = 0, .deviation = deviation});
  else
    op::fill<Element>::constant(ctx, {.y = values, .value = 1});
}

/// All of them, with config.init_deviation.
template <execution_context Ctx, class Element>
void initialize(Ctx& ctx, model_tensors<Element>& masters, std::uint64_t seed) {
  for_each_field(
      [&](const std::string& name, const shape& s, auto& field) {
        initialize_tensor(ctx, name, s.rank() > 1, field.flat(), masters.config.init_deviation, seed);
      },
      masters);
}

/// Gives every weight its master's value, rounded. Fields that lie in the masters' own memory are left alone.
template <execution_context Ctx, class Master, class Matrix, class Vector>
void adopt_masters(Ctx& ctx, model_tensors<Master>& masters, model_tensors<Matrix, Vector>& weights) {
  for_each_field(
      [&](const std::string&, const shape& s, auto& master, auto& weight) {
        using element = typename std::remove_reference_t<decltype(weight)>::element;
        if constexpr (std::is_same_v<element, Master>)
          if (weight.data() == master.data()) return;
        const index_t n = s.elements();
        op::copy<Master, element>::forward(
            ctx, {.x = view{master.data(), index_t{1}, n}, .y = view{weight.data(), index_t{1}, n}});
      },
      masters, weights);
}

}  // namespace dsv3::inline DSV3_ABI
