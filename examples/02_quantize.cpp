// SPDX-License-Identifier: MIT
// Tour, stop 2: 8-bit numbers on buffers of one's own. Two matrices of floats are quantised in tiles and
// multiplied, in floats and in the few bits of a matrix unit.
#include <support/tour.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

using namespace dsv3;

// Codes and scales belong to the caller, who says how they lie: one scale for 1 x 128 or 128 x 128 values.
template <class Tile>
struct quantized {
  shared_array<fp8_e4m3> codes;
  shared_array<float> scales;
  index_t rows, columns;

  quantized(tour::place& here, index_t rows_, index_t columns_)
      : codes(here.array<fp8_e4m3>(rows_ * columns_)), scales(here.memory), rows(rows_), columns(columns_) {
    const shape tiles = scaled_view<fp8_e4m3, Tile>::scale_shape({rows, columns});
    scales.resize(static_cast<std::size_t>(tiles[0] * tiles[1]));
  }
  scaled_view<fp8_e4m3, Tile> view_of() {
    const shape tiles = scaled_view<fp8_e4m3, Tile>::scale_shape({rows, columns});
    const index_t extents[] = {tiles[0], tiles[1]}, strides[] = {tiles[1], 1};
    return {view{codes.data(), rows, columns}, {scales.data(), extents, strides}};
  }
};

// The recipe's precision, but outputs are not rounded to bf16: one role replaced.
struct unrounded : fp8_tilewise {
  using activation = float;
};

int main() {
  constexpr index_t tokens = 48, in = 4096, out = 64;
  const random_stream random(1, 2);
  tour::place here;
  auto x = here.array<float>(tokens * in), w = here.array<float>(out * in);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(0.02 * random.normal(x.size() + i));

  // Scratch is the caller's too: measure() says how much, with the very call that follows.
  const auto run = [&](auto&& work) {
    auto ctx = here.context();
    ctx.scratch = scratch_arena{here.memory, measure(ctx, work)};
    work(ctx);
    synchronize(ctx);
  };
  quantized<row_tile> x8(here, tokens, in);
  quantized<block_tile> w8(here, out, in);
  run([&](auto& ctx) {
    op::tile_quantizer<float, fp8_e4m3, row_tile>::forward(
        ctx, {.x = view<const float, 2>{x.data(), tokens, in}, .y = x8.view_of()});
    op::tile_quantizer<float, fp8_e4m3, block_tile>::forward(
        ctx, {.x = view<const float, 2>{w.data(), out, in}, .y = w8.view_of()});
  });

  // y = x · wᵀ of what the codes stand for; and of the floats, in double.
  const auto multiply = [&](scaled_product_options product) {
    auto y = here.array<float>(tokens * out);
    run([&](auto& ctx) {
      op::scaled_gemm<unrounded>::forward(
          ctx, {.x = x8.view_of(), .w = w8.view_of(), .y = view{y.data(), tokens, out}, .product = product});
    });
    return y;
  };
  std::vector<double> exact(tokens * out), held(tokens * out);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t o = 0; o < out; ++o)
      for (index_t i = 0; i < in; ++i) {
        const auto value = [&](auto& operand, index_t row) {
          return static_cast<double>(static_cast<float>(operand.view_of().values(row, i))) *
                 static_cast<double>(operand.view_of().scale_of(row, i));
        };
        exact[t * out + o] += static_cast<double>(x[t * in + i]) * static_cast<double>(w[o * in + i]);
        held[t * out + o] += value(x8, t) * value(w8, o);
      }

  double square = 0;
  for (const double value : exact) square += value * value;
  const double typical = std::sqrt(square / static_cast<double>(exact.size()));
  const auto largest_error = [&](const auto& found, const std::vector<double>& expected) {
    double largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(found[i]) - expected[i]));
    return largest / typical;
  };
  std::printf("largest errors of %d sums of %d products, over their typical size\n",
              static_cast<int>(tokens * out), static_cast<int>(in));
  const double rounding = largest_error(held, exact);
  std::printf("  %.6f  8-bit operands instead of floats\n", rounding);
  const double floats = largest_error(multiply({}), held);
  std::printf("  %.6f  their product added up in floats\n", floats);
  const double promoted = largest_error(multiply({accumulator_model::hopper_fp22, 128}), held);
  std::printf("  %.6f  added up in few bits, moved to a float every 128\n", promoted);
  const double never = largest_error(multiply({accumulator_model::hopper_fp22, 0}), held);
  std::printf("  %.6f  added up in few bits to the end\n", never);
  return rounding < 0.2 && floats < 1e-5 && promoted < 2e-3 && never > 4 * promoted && never < 0.03 ? 0 : 1;
}
