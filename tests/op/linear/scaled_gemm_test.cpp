// SPDX-License-Identifier: MIT
#include <dsv3/cpu/linear/scaled_gemm.hpp>

#include <oracle/gemm.hpp>
#include <oracle/limited_sum.hpp>
#include <oracle/scaled_matrix.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/scaled.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

using namespace dsv3;
using support::guarded;
using support::scales_lie;

namespace {

/// The recipe's precision with outputs that are not rounded, to see the sums.
struct unrounded : fp8_tilewise {
  using activation = float;
};

struct shape_case {
  index_t tokens, in, out;
};
// Empty extents, single elements, edges inside tiles (576 is 4.5 blocks), several blocks of every kind; 384
// columns of a few tokens are cut in the middle of a block where two threads share them.
constexpr shape_case shapes[] = {{0, 130, 4},     {3, 0, 4},     {3, 5, 0},       {1, 1, 1},
                                 {5, 127, 129},   {128, 128, 1}, {2, 576, 300},   {130, 70, 576},
                                 {260, 150, 520}, {9, 40, 600},  {129, 384, 131}, {300, 129, 65},
                                 {16, 384, 131}};
// Rows at multiples of 16 bytes, which copy engines ask for: edges inside tiles, several tiles each way.
constexpr shape_case aligned_shapes[] = {{16, 16, 16},    {64, 128, 128},  {144, 576, 80},
                                         {272, 80, 1040}, {416, 528, 304}, {1072, 272, 400}};

constexpr accumulator_model fp32_sums = accumulator_model::fp32, fp22_sums = accumulator_model::hopper_fp22;

template <class Gradient>
constexpr oracle::narrow_format format_of = std::is_same_v<Gradient, fp8_e4m3> ? oracle::e4m3 : oracle::e5m2;

std::vector<double> normal(index_t rows, index_t columns, std::uint64_t stream) {
  const random_stream random(20260101, stream);
  std::vector<double> result;
  for (index_t i = 0; i < rows * columns; ++i)
    result.push_back(random.normal(static_cast<std::uint64_t>(i)) * (i / std::max<index_t>(columns, 1) % 5));
  return result;
}

oracle::scaled_matrix tiles_of(index_t rows, index_t columns, std::uint64_t stream, index_t tile_rows,
                               oracle::narrow_format format = oracle::e4m3, bool powers_of_two = false) {
  return oracle::quantized(normal(rows, columns, stream), static_cast<std::size_t>(rows),
                           static_cast<std::size_t>(columns), static_cast<std::size_t>(tile_rows), 128,
                           format, powers_of_two);
}

/// All tensors of one linear layer; what backward reads transposed is drawn on its own.
template <class P, class Gradient = fp8_e4m3>
struct fixture {
  using op = dsv3::op::scaled_gemm<P, Gradient>;
  oracle::linear_extents extents;
  oracle::scaled_matrix x_tiles, w_tiles, dy_tiles, x_t_tiles, dy_t_tiles;
  support::scaled_operand<fp8_e4m3, row_tile> x, x_t;
  support::scaled_operand<Gradient, row_tile> dy, dy_t;
  support::scaled_operand<fp8_e4m3, block_tile> w;
  guarded<activation<P>> y, dx;
  guarded<gradient<P>> dw;
  scaled_product_options product;

  fixture(shape_case c, index_t gap, scales_lie lie = scales_lie::by_row, bool powers_of_two = false)
      : extents{static_cast<std::size_t>(c.tokens), static_cast<std::size_t>(c.in),
                static_cast<std::size_t>(c.out)},
        x_tiles(tiles_of(c.tokens, c.in, 1, 1, oracle::e4m3, powers_of_two)),
        w_tiles(tiles_of(c.out, c.in, 2, 128, oracle::e4m3, powers_of_two)),
        dy_tiles(tiles_of(c.tokens, c.out, 3, 1, format_of<Gradient>, powers_of_two)),
        x_t_tiles(tiles_of(c.in, c.tokens, 4, 1, oracle::e4m3, powers_of_two)),
        dy_t_tiles(tiles_of(c.out, c.tokens, 5, 1, format_of<Gradient>, powers_of_two)),
        x(gap, x_tiles, lie),
        x_t(gap % 16 == 0 ? gap : gap + 2, x_t_tiles, lie),
        dy(2 * gap, dy_tiles, lie),
        dy_t(gap, dy_t_tiles, lie),
        w(gap % 16 == 0 ? gap : gap + 1, w_tiles, lie),
        y(gap, c.tokens, c.out),
        dx(2 * gap, c.tokens, c.in),
        dw(gap, c.out, c.in) {
    dw.fill([](index_t) { return 0; });
  }

  void forward(int threads, store into = store::write) {
    support::run(threads, [&](auto& ctx) {
      op::forward(ctx, {.x = x.get(), .w = w.get(), .y = y, .into = into, .product = product});
    });
  }
  void backward_data(int threads, store into = store::write) {
    support::run(threads, [&](auto& ctx) {
      op::backward_data(ctx, {.dy = dy.get(), .w = w.get(), .dx = dx, .into = into, .product = product});
    });
  }
  void backward_weights(int threads, store into = store::add) {
    support::run(threads, [&](auto& ctx) {
      op::backward_weights(
          ctx, {.dy_t = dy_t.get(), .x_t = x_t.get(), .dw = dw, .into = into, .product = product});
    });
  }
  void all(int threads) { forward(threads), backward_data(threads), backward_weights(threads); }

  std::vector<double> expected_y() { return oracle::gemm(extents, x_tiles.values(), w_tiles.values()); }
  std::vector<double> expected_dx() {
    return oracle::gemm_data(extents, dy_tiles.values(), w_tiles.values());
  }
  // (dyᵀ) · (xᵀ)ᵀ is the forward product of these two.
  std::vector<double> expected_dw() {
    return oracle::gemm({extents.out, extents.tokens, extents.in}, dy_t_tiles.values(), x_t_tiles.values());
  }

  bool intact() {
    return x.intact() && x_t.intact() && dy.intact() && dy_t.intact() && w.intact() && y.intact() &&
           dx.intact() && dw.intact();
  }
};

// The typical size of a sum of so many products; a row may hold one number, which may be near zero.
double size_of(std::size_t terms) { return std::sqrt(static_cast<double>(terms)) + 1e-30; }

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

template <class P, class Gradient>
void agrees(shape_case shape, int threads, scaled_product_options product, double row, double weight_row,
            index_t gap = 3) {
  CAPTURE(shape.tokens);
  CAPTURE(shape.in);
  CAPTURE(shape.out);
  CAPTURE(threads);
  CAPTURE(product.promotion);
  const bool dense = threads == 1;
  fixture<P, Gradient> f(shape, dense ? 0 : gap, dense ? scales_lie::by_row : scales_lie::by_column);
  f.product = product;
  f.all(threads);
  const auto y = f.expected_y(), dx = f.expected_dx(), dw = f.expected_dw();
  CHECK(support::worst_row(f.y.values(), y, shape.out, size_of(f.extents.in)) <= row);
  CHECK(support::worst_row(f.dx.values(), dx, shape.in, size_of(f.extents.out)) <= row);
  CHECK(support::worst_row(f.dw.values(), dw, shape.in, size_of(f.extents.tokens)) <= weight_row);

  f.y.normal(6), f.dx.normal(7), f.dw.normal(8);
  const auto y_sum = plus(f.y.values(), y), dx_sum = plus(f.dx.values(), dx),
             dw_sum = plus(f.dw.values(), dw);
  f.forward(threads, store::add), f.backward_data(threads, store::add), f.backward_weights(threads);
  CHECK(support::worst_row(f.y.values(), y_sum, shape.out, size_of(f.extents.in) + 1) <= row);
  CHECK(support::worst_row(f.dx.values(), dx_sum, shape.in, size_of(f.extents.out) + 1) <= row);
  CHECK(support::worst_row(f.dw.values(), dw_sum, shape.in, size_of(f.extents.tokens) + 1) <= weight_row);

  f.dw.fill([](index_t) { return support::poison<double>(); });
  f.backward_weights(threads, store::write);
  CHECK(support::worst_row(f.dw.values(), dw, shape.in, size_of(f.extents.tokens)) <= weight_row);
  CHECK(f.intact());
}

}  // namespace

TEST_CASE_TEMPLATE("scaled_gemm agrees with the oracle", Gradient, fp8_e4m3, fp8_e5m2) {
  constexpr double floats = support::tolerance<fp32>::row, bf16s = support::tolerance<bf16_mixed>::row;
  // Hopper's own matrix unit is asked for floats and gives what it has, where it takes the shape.
  constexpr double given = support::on_hopper ? support::few_bits_row : floats;
  for (const shape_case shape : shapes) {
    agrees<unrounded, Gradient>(shape, 1, {fp32_sums, 128}, floats, given);  // rows without gaps
    agrees<unrounded, Gradient>(shape, 3, {fp32_sums, 0}, floats, floats);
    agrees<fp8_tilewise, Gradient>(shape, 2, {fp32_sums, 128}, bf16s, floats);
  }
}

TEST_CASE_TEMPLATE("scaled_gemm agrees with the oracle over aligned rows", Gradient, fp8_e4m3, fp8_e5m2) {
  // Hopper's own matrix unit is asked for floats and gives what it has.
  constexpr double floats = support::on_hopper ? support::few_bits_row : support::tolerance<fp32>::row;
  constexpr double bf16s = support::tolerance<bf16_mixed>::row;
  for (const shape_case shape : aligned_shapes) {
    agrees<fp8_tilewise, Gradient>(shape, 1, {fp32_sums, 128}, bf16s, floats);
    agrees<fp8_tilewise, Gradient>(shape, 3, {fp32_sums, 128}, bf16s, floats, 16);
  }
}

TEST_CASE_TEMPLATE("scaled_gemm in few bits stays near the oracle", Gradient, fp8_e4m3, fp8_e5m2) {
  for (const shape_case shape : shapes) {
    agrees<unrounded, Gradient>(shape, 1, {fp22_sums, 128}, support::few_bits_row, support::few_bits_row);
    agrees<unrounded, Gradient>(shape, 3, {fp22_sums, 0}, 4e-3, 4e-3);
  }
}

TEST_CASE("scaled_gemm is exact over long sums") {
  for (const index_t depth : {4096, 7168, 18432}) {
    fixture<unrounded> forward({3, depth, 5}, 1), data({3, 5, depth}, 1), weights({depth, 5, 3}, 1);
    forward.forward(2), data.backward_data(2), weights.backward_weights(2);
    const double size = size_of(static_cast<std::size_t>(depth)), row = support::tolerance<fp32>::row;
    CHECK(support::worst_row(forward.y.values(), forward.expected_y(), 5, size) <= row);
    CHECK(support::worst_row(data.dx.values(), data.expected_dx(), 5, size) <= row);
    CHECK(support::worst_row(weights.dw.values(), weights.expected_dw(), 5, size) <= row);
  }
}

TEST_CASE("scaled_gemm in few bits is the oracle's sum") {
  // With powers of two as scales all of it is exact but the cuts and, where it is promoted, a sum of floats.
  constexpr shape_case shape{5, 700, 37};
  fixture<unrounded> f(shape, 2, scales_lie::by_column, true);
  for (const index_t promotion : {128, 256, 512, 0}) {
    CAPTURE(promotion);
    f.product = {fp22_sums, promotion};
    f.forward(2);
    std::vector<double> expected;
    for (std::size_t t = 0; t < 5; ++t)
      for (std::size_t o = 0; o < 37; ++o) {
        double total = 0;
        oracle::binary_number sum;
        double unit = 1;  // of the sum
        for (std::size_t first = 0; first < 700; first += 128) {
          const std::size_t last = std::min<std::size_t>(first + 128, 700);
          std::vector<oracle::binary_number> products;
          for (std::size_t i = first; i < last; ++i) {
            const auto a = oracle::e4m3.split(f.x_tiles.codes[t * 700 + i]),
                       b = oracle::e4m3.split(f.w_tiles.codes[o * 700 + i]);
            products.push_back({a.mantissa * b.mantissa, a.exponent + b.exponent});
          }
          const double now = double(f.x_tiles.scale(t, first)) * double(f.w_tiles.scale(o, first));
          sum.exponent += static_cast<int>(std::log2(unit / now));
          unit = now;
          sum = oracle::limited_sum(sum, products);
          if (last == 700 || (promotion > 0 && last % static_cast<std::size_t>(promotion) == 0))
            total += sum.value() * unit, sum = {};
        }
        expected.push_back(total);
      }
    const auto found = f.y.values();
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(std::fabs(found[i] - expected[i]) <= (promotion == 0 ? 0 : 1e-6 * size_of(700)));
  }
}

TEST_CASE("scaled_gemm gives the same bits whatever the threads, in few bits") {
  for (const index_t promotion : {128, 0}) {
    fixture<fp8_tilewise> one({270, 300, 530}, 1), other({270, 300, 530}, 1);
    one.product = other.product = {fp22_sums, promotion};
    one.all(1);
    for (const int threads : {2, 3}) {
      other.dw.fill([](index_t) { return 0; });
      other.all(threads);
      CHECK(other.y.same_bits(one.y));
      CHECK(other.dx.same_bits(one.dx));
      CHECK(other.dw.same_bits(one.dw));
    }
  }
}

TEST_CASE("scaled_gemm repeats its bits") {
  for (const int threads : {1, 2, 3, 7}) {
    const bool aligned = threads == 1;
    const shape_case shape = aligned ? shape_case{208, 320, 144} : shape_case{200, 310, 150};
    fixture<fp8_tilewise> one(shape, aligned ? 0 : 1), other(shape, aligned ? 0 : 1);
    one.all(threads), other.all(threads);
    CAPTURE(threads);
    CHECK(other.y.same_bits(one.y));
    CHECK(other.dx.same_bits(one.dx));
    CHECK(other.dw.same_bits(one.dw));
  }
}

TEST_CASE("scaled_gemm without promotion loses what the report says") {
  // One scale for all, so that nothing but the unit's sum is at work: 64 x 64 sums of 4096 products.
  constexpr index_t size = 64, depth = 4096;
  const auto numbers = [](std::uint64_t stream) {
    const random_stream random(20260101, stream);
    std::vector<double> result;
    for (std::uint64_t i = 0; i < size * depth; ++i) result.push_back(random.normal(i));
    oracle::scaled_matrix m = oracle::quantized(result, size, depth, size, depth);
    m.tile_rows = stream == 1 ? 1 : 128, m.tile_columns = 128;
    m.scales.assign(m.tiles_down() * m.tiles_across(), m.scales[0]);
    return m;
  };
  auto x = numbers(1), w = numbers(2);
  support::scaled_operand<fp8_e4m3, row_tile> x_operand(0, x);
  support::scaled_operand<fp8_e4m3, block_tile> w_operand(0, w);
  const auto exact = oracle::gemm({size, depth, size}, x.values(), w.values());
  double magnitudes = 0;
  for (const double value : exact) magnitudes += std::fabs(value);
  // The largest error as a share of the mean magnitude.
  const auto error = [&](scaled_product_options product) {
    guarded<float> y(0, size, size);
    support::run(2, [&](auto& ctx) {
      dsv3::op::scaled_gemm<unrounded>::forward(
          ctx, {.x = x_operand.get(), .w = w_operand.get(), .y = y, .product = product});
    });
    double worst = 0;
    const auto found = y.values();
    for (std::size_t i = 0; i < found.size(); ++i) worst = std::max(worst, std::fabs(found[i] - exact[i]));
    return worst / (magnitudes / static_cast<double>(exact.size()));
  };
  const double never = error({fp22_sums, 0}), late = error({fp22_sums, 1024}),
               often = error({fp22_sums, 128});
  CHECK(never > 0.008);  // nearly 2 % over the 4096 x 4096 sums of the report
  CHECK(never < 0.02);
  CHECK(late < never / 2);
  CHECK(often < never / 10);
  CHECK(often < 1e-3);
  CHECK(error({fp32_sums, 128}) < 1e-5);
}

TEST_CASE("scaled_gemm takes one scale for all") {
  // Strides of zero: what one scale per tensor is.
  fixture<unrounded> f({40, 300, 150}, 1), tiles({40, 300, 150}, 1);
  const std::vector<float> scale{0.0078125f};
  for (float& each : tiles.x_tiles.scales) each = scale[0];
  tiles.x.put(tiles.x_tiles, 0, 0, 0, 0, 0);
  const index_t extents[] = {40, 3}, strides[] = {0, 0};
  for (const auto sums : {fp32_sums, fp22_sums}) {
    f.product = tiles.product = {sums, 0};
    support::run(2, [&](auto& ctx) {
      dsv3::op::scaled_gemm<unrounded>::forward(ctx,
                                                {.x = {f.x.get().values, {scale.data(), extents, strides}},
                                                 .w = f.w.get(),
                                                 .y = f.y,
                                                 .product = f.product});
    });
    tiles.forward(2);
    CHECK(f.y.same_bits(tiles.y));
  }
}

TEST_CASE("scaled_gemm keeps bad numbers in their row and column") {
  for (const auto sums : {fp32_sums, fp22_sums})
    for (const index_t gap : {1, 0}) {
      const index_t promotion = gap * 128, tokens = gap == 0 ? 32 : 20, in = gap == 0 ? 304 : 300,
                    out = gap == 0 ? 48 : 40;
      fixture<fp8_tilewise, fp8_e5m2> f({tokens, in, out}, gap);
      f.product = {sums, promotion};
      f.x.values()(0, 7, 3) = fp8_e4m3::from_bits(0xFF);
      f.w.values()(0, 11, 299) = fp8_e4m3::from_bits(0x7F);
      f.dy.values()(0, 5, 9) = fp8_e5m2::from_bits(0xFC);  // -infinity
      f.x_t.values()(0, 130, 19) = fp8_e4m3::from_bits(0x7F);
      f.dy_t_tiles.scale(38, 0) = INFINITY;
      f.dy_t.put(f.dy_t_tiles, 0, 0, 0, 0, 0);
      f.all(2);
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t o = 0; o < out; ++o) CHECK(std::isfinite(float(f.y.get()(t, o))) == (t != 7 && o != 11));
        for (index_t i = 0; i < in; ++i)
          CHECK(std::isfinite(float(f.dx.get()(t, i))) == (t != 5 && i != 299));
      }
      for (index_t o = 0; o < out; ++o)
        for (index_t i = 0; i < in; ++i) CHECK(std::isfinite(f.dw.get()(o, i)) == (o != 38 && i != 130));
    }
}

TEST_CASE("scaled_gemm in few bits follows scales far apart") {
  // 2^-30, 1 and 2^30: what is far smaller counts for nothing.
  fixture<unrounded> f({2, 384, 3}, 0, scales_lie::by_row, true);
  for (const index_t promotion : {128, 0})
    for (const bool rising : {true, false}) {
      for (std::size_t t = 0; t < 2; ++t)
        for (std::size_t tile = 0; tile < 3; ++tile)
          f.x_tiles.scale(t, tile * 128) = std::exp2(30.0f * (rising ? tile - 1.0f : 1.0f - tile));
      f.x.put(f.x_tiles, 0, 0, 0, 0, 0);
      f.product = {fp22_sums, promotion};
      f.forward(1);
      CHECK(support::worst_row(f.y.values(), f.expected_y(), 3) <= support::few_bits_row);
    }
  // A sum that the next scales put beyond what the model holds is not made up.
  f.x_tiles.scale(1, 128) = 0x1p-100f, f.w_tiles.scale(0, 128) = 0x1p-20f, f.x_tiles.scale(1, 0) = 0x1p60f;
  f.x.put(f.x_tiles, 0, 0, 0, 0, 0), f.w.put(f.w_tiles, 0, 0, 0, 0, 0);
  f.product = {fp22_sums, 0};
  f.forward(1);
  for (index_t o = 0; o < 3; ++o) {
    CHECK(std::isfinite(f.y.get()(0, o)));
    CHECK(std::isnan(f.y.get()(1, o)));
  }
}

TEST_CASE("scaled_gemm needs a bounded amount of scratch") {
  const cpu_context<> ctx{.threads = 2};
  using op = dsv3::op::scaled_gemm<fp8_tilewise>;
  const index_t n = index_t{1} << 20;
  fp8_e4m3 code[1];
  float scale[1];
  bf16 number[1];
  const index_t rows[] = {n, n / 128}, blocks[] = {n / 128, n / 128}, strides[] = {0, 0};
  const view<const fp8_e4m3, 2> codes(code, n, n);
  const std::size_t bytes = measure(ctx, [&](auto& probe) {
    op::forward(probe, {.x = {codes, {scale, rows, strides}},
                        .w = {codes, {scale, blocks, strides}},
                        .y = view<bf16, 2>(number, n, n)});
  });
  CHECK(bytes > 0);
  CHECK(bytes <= std::size_t{2} << 21);  // two megabytes a thread
}

TEST_CASE("scaled_gemm says what does not fit") {
  using P = fp8_tilewise;
  using op = dsv3::op::scaled_gemm<P>;
  fixture<P> f({4, 300, 6}, 0), other({3, 310, 5}, 0);
  const auto forward = [&](auto&& change) {
    op::forward_args args{.x = f.x.get(), .w = f.w.get(), .y = f.y};
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.w = other.w.get(); }) ==
        "scaled_gemm.forward: w has 310 columns, x has 300");
  CHECK(forward([&](auto& a) { a.y = f.y.get().rows(0, 3); }) ==
        "scaled_gemm.forward: y has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.y = f.y.get().columns(0, 5); }) ==
        "scaled_gemm.forward: y has 5 columns, w as rows has 6");
  CHECK(forward([&](auto& a) { a.x.scales = a.x.scales.columns(0, 2); }) ==
        "scaled_gemm.forward: x as scales has 2 columns, x as tiles has 3");
  CHECK(forward([&](auto& a) { a.w.scales = a.w.scales.rows(0, 0); }) ==
        "scaled_gemm.forward: w as scales has 0 rows, w as tiles has 1");
  CHECK(forward([&](auto& a) { a.product.promotion = 100; }) ==
        "scaled_gemm.forward: the promotion interval must be a multiple of 128, or 0, found interval 100");
  CHECK(forward([&](auto& a) { a.product.promotion = -128; }) ==
        "scaled_gemm.forward: the promotion interval must be a multiple of 128, or 0, found interval -128");

  const auto data = [&](auto&& change) {
    op::backward_data_args args{.dy = f.dy.get(), .w = f.w.get(), .dx = f.dx};
    change(args);
    return args.check().message();
  };
  CHECK(data([](auto&) {}) == "");
  CHECK(data([&](auto& a) { a.dy = other.dy.get(); }) ==
        "scaled_gemm.backward_data: dy has 5 columns, w as rows has 6");
  CHECK(data([&](auto& a) { a.dx = f.dx.get().rows(0, 3); }) ==
        "scaled_gemm.backward_data: dx has 3 tokens, dy has 4");
  CHECK(data([&](auto& a) { a.dx = f.dx.get().columns(0, 7); }) ==
        "scaled_gemm.backward_data: dx has 7 columns, w has 300");

  const auto weights = [&](auto&& change) {
    op::backward_weights_args args{.dy_t = f.dy_t.get(), .x_t = f.x_t.get(), .dw = f.dw};
    change(args);
    return args.check().message();
  };
  CHECK(weights([](auto&) {}) == "");
  CHECK(weights([&](auto& a) { a.x_t = other.x_t.get(); }) ==
        "scaled_gemm.backward_weights: x_t has 3 columns, dy_t has 4");
  CHECK(weights([&](auto& a) { a.dw = f.dw.get().rows(0, 5); }) ==
        "scaled_gemm.backward_weights: dw has 5 rows, dy_t has 6");
  CHECK(weights([&](auto& a) { a.dw = f.dw.get().columns(0, 7); }) ==
        "scaled_gemm.backward_weights: dw has 7 columns, x_t as rows has 300");

  cpu_context<> ctx;
  op::forward_args bad{.x = f.x.get(), .w = other.w.get(), .y = f.y};
  CHECK(support::raised([&] { op::forward(ctx, bad); }) ==
        "scaled_gemm.forward: w has 310 columns, x has 300");
}
