// SPDX-License-Identifier: MIT
// What a model is before its first step (report, section 4.2).
#pragma once

#include <dsv3/model/bundles.hpp>
#include <dsv3/op/memory/copy.hpp>
#include <dsv3/op/memory/fill.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

#include <cstdint>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// One tensor of a model: a matrix from normal(0, deviation), a norm gain 1. The random stream is (seed,
/// name), so what a tensor gets depends on no order, and on the precision only by rounding; and a part of a
/// tensor that begins with its element `first` gets what it has in the whole.
template <execution_context Ctx, class Element>
void initialize_tensor(Ctx& ctx, const std::string& name, bool is_matrix, view<Element, 1> values,
                       double deviation, std::uint64_t seed, index_t first = 0) {
  if (is_matrix)
    op::fill<Element>::normal(ctx, {.y = values,
                                    .random = random_stream::named(seed, name),
                                    .mean = 0,
                                    .deviation = deviation,
                                    .first = first});
  else
    op::fill<Element>::constant(ctx, {.y = values, .value = 1});
}

/// Which element of the model's tensor a rank's part of it begins with: its experts are a stretch of all.
inline index_t first_element(const model_config& config, const std::string& name, const shape& part) {
  return name.find(".mlp.experts.") != name.npos ? config.expert_rank * part.elements() : 0;
}

/// All of them, with config.init_deviation.
template <execution_context Ctx, class Element>
void initialize(Ctx& ctx, model_tensors<Element>& masters, std::uint64_t seed) {
  for_each_field(
      [&](const std::string& name, const shape& s, auto& field) {
        initialize_tensor(ctx, name, s.rank() > 1, field.flat(), masters.config.init_deviation, seed,
                          first_element(masters.config, name, s));
      },
      masters);
}

/// Gives a weight its master's values, rounded.
template <execution_context Ctx, class Master, class Element>
void adopt_master(Ctx& ctx, view<const Master, 1> master, view<Element, 1> weight) {
  const index_t n = master.size();
  op::copy<Master, Element>::forward(
      ctx, {.x = view{master.data(), index_t{1}, n}, .y = view{weight.data(), index_t{1}, n}});
}
/// The same in scaled tiles; matrix by matrix of a stack, or all at once where no tile reaches into two.
template <execution_context Ctx, class Master, class Element>
void adopt_master(Ctx& ctx, view<const Master, 1> master, const scaled_view<Element, block_tile, 3>& weight,
                  const fp8_recipe& recipe) {
  const index_t stack = weight.extent(0), rows = weight.extent(1), columns = weight.extent(2);
  const auto group = recipe.weights == scale_group::tensor ? scale_group::tensor : scale_group::tile;
  using quantizer = op::tile_quantizer<Master, Element, block_tile>;
  if (group == scale_group::tile && rows % block_tile::rows == 0 && weight.values.contiguous() &&
      weight.scales.contiguous()) {
    const scaled_view<Element, block_tile> all{
        view{weight.values.data(), stack * rows, columns},
        view<float, 2, strided>{weight.scales.data(), stack * weight.scales.extent(1),
                                weight.scales.extent(2)}};
    return quantizer::forward(
        ctx,
        {.x = view{master.data(), stack * rows, columns}, .y = all, .scales = recipe.scales, .group = group});
  }
  for (index_t i = 0; i < stack; ++i)
    quantizer::forward(ctx, {.x = view{master.data() + i * rows * columns, rows, columns},
                             .y = weight[i],
                             .scales = recipe.scales,
                             .group = group});
}

/// A matrix in scaled tiles as a stack of one.
template <class Element, class Tile>
scaled_view<Element, Tile, 3> stack_of(const scaled_view<Element, Tile, 3>& x) {
  return x;
}
template <class Element, class Tile>
scaled_view<Element, Tile, 3> stack_of(const scaled_view<Element, Tile, 2>& x) {
  return {{x.values.data(),
           {1, x.extent(0), x.extent(1)},
           {x.extent(0) * x.values.stride(0), x.values.stride(0), 1}},
          {x.scales.data(),
           {1, x.scales.extent(0), x.scales.extent(1)},
           {x.scales.size(), x.scales.stride(0), x.scales.stride(1)}}};
}

/// Gives every weight its master's value, rounded. Fields that lie in the masters' own memory are left alone.
template <execution_context Ctx, class Master, class Matrix, class Vector, class Product>
void adopt_masters(Ctx& ctx, model_tensors<Master>& masters,
                   model_tensors<Matrix, Vector, Product>& weights) {
  for_each_field(
      [&](const std::string&, const shape&, auto& master, auto& weight) {
        using field = std::remove_reference_t<decltype(weight)>;
        const view<const Master, 1> from = master.flat();
        if constexpr (requires { typename field::scale; }) {
          adopt_master(ctx, from, stack_of(weight), masters.config.recipe);
        } else {
          if constexpr (std::is_same_v<typename field::element, Master>)
            if (weight.data() == master.data()) return;
          adopt_master(ctx, from, weight.flat());
        }
      },
      masters, weights);
}

}  // namespace dsv3::inline DSV3_ABI
