// SPDX-License-Identifier: MIT
#include <dsv3/cpu/linear/gemm.hpp>

#include <oracle/gemm.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/sparse_memory.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t tokens, in, out;
};
// Empty extents, single elements, odd sizes, and more than one tile and panel in each direction.
constexpr shape_case shapes[] = {{0, 5, 4},     {3, 0, 4},    {3, 5, 0},     {1, 1, 1},
                                 {1, 300, 7},   {5, 7, 1},    {7, 3, 5},     {8, 70, 50},
                                 {16, 33, 21},  {17, 31, 64}, {33, 65, 129}, {64, 64, 64},
                                 {300, 35, 70}, {40, 600, 9}, {9, 40, 600},  {270, 300, 530}};

/// All tensors of one linear layer, inputs filled, outputs poisoned, gradients of weights zero.
template <class P, class Output = activation<P>>
struct fixture {
  using op = dsv3::op::gemm<P, Output>;
  oracle::linear_extents extents;
  guarded<activation<P>> x, dx;
  guarded<weight<P>> w;
  guarded<Output> y, dy;
  guarded<gradient<P>> dw;

  fixture(shape_case c, index_t gap)
      : extents{static_cast<std::size_t>(c.tokens), static_cast<std::size_t>(c.in),
                static_cast<std::size_t>(c.out)},
        x(gap, c.tokens, c.in),
        dx(2 * gap, c.tokens, c.in),
        w(gap + 1, c.out, c.in),
        y(gap, c.tokens, c.out),
        dy(3 * gap, c.tokens, c.out),
        dw(gap, c.out, c.in) {
    x.normal(1), w.normal(2), dy.normal(3);
    dw.fill([](index_t) { return 0; });
  }

  void forward(int threads, store into = store::write) {
    support::run(threads, [&](auto& ctx) { op::forward(ctx, {.x = x, .w = w, .y = y, .into = into}); });
  }
  void backward_data(int threads, store into = store::write) {
    support::run(threads,
                 [&](auto& ctx) { op::backward_data(ctx, {.dy = dy, .w = w, .dx = dx, .into = into}); });
  }
  void backward_weights(int threads, store into = store::add) {
    support::run(threads,
                 [&](auto& ctx) { op::backward_weights(ctx, {.dy = dy, .x = x, .dw = dw, .into = into}); });
  }
  void all(int threads) { forward(threads), backward_data(threads), backward_weights(threads); }

  std::vector<double> expected_y() { return oracle::gemm(extents, x.values(), w.values()); }
  std::vector<double> expected_dx() { return oracle::gemm_data(extents, dy.values(), w.values()); }
  std::vector<double> expected_dw() { return oracle::gemm_weights(extents, dy.values(), x.values()); }

  bool intact() {
    return x.intact() && dx.intact() && w.intact() && y.intact() && dy.intact() && dw.intact();
  }
};

// The typical size of a sum of so many products; a row may hold one number, which may be near zero.
double scale(std::size_t terms) { return std::sqrt(static_cast<double>(terms)) + 1e-30; }

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

template <class P, class Output>
void agrees(shape_case shape, index_t gap, int threads) {
  constexpr double row = support::tolerance<P>::row;
  CAPTURE(shape.tokens);
  CAPTURE(shape.in);
  CAPTURE(shape.out);
  CAPTURE(threads);
  fixture<P, Output> f(shape, gap);
  f.all(threads);
  const auto y = f.expected_y(), dx = f.expected_dx(), dw = f.expected_dw();
  CHECK(support::worst_row(f.y.values(), y, shape.out, scale(f.extents.in)) <= row);
  CHECK(support::worst_row(f.dx.values(), dx, shape.in, scale(f.extents.out)) <= row);
  CHECK(support::worst_row(f.dw.values(), dw, shape.in, scale(f.extents.tokens)) <= row);

  f.y.normal(4), f.dx.normal(5), f.dw.normal(6);
  const auto y_sum = plus(f.y.values(), y), dx_sum = plus(f.dx.values(), dx),
             dw_sum = plus(f.dw.values(), dw);
  f.forward(threads, store::add), f.backward_data(threads, store::add), f.backward_weights(threads);
  CHECK(support::worst_row(f.y.values(), y_sum, shape.out, scale(f.extents.in) + 1) <= row);
  CHECK(support::worst_row(f.dx.values(), dx_sum, shape.in, scale(f.extents.out) + 1) <= row);
  CHECK(support::worst_row(f.dw.values(), dw_sum, shape.in, scale(f.extents.tokens) + 1) <= row);

  f.dw.fill([](index_t) { return support::poison<double>(); });
  f.backward_weights(threads, store::write);
  CHECK(support::worst_row(f.dw.values(), dw, shape.in, scale(f.extents.tokens)) <= row);
  CHECK(f.intact());
}

}  // namespace

TEST_CASE_TEMPLATE("gemm agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  for (const shape_case shape : shapes)
    for (const int threads : {1, 2, 3}) agrees<P, activation<P>>(shape, threads == 1 ? 0 : 3, threads);
}

TEST_CASE("gemm gives logits in the accumulator") {
  for (const shape_case shape : shapes) agrees<bf16_mixed, float>(shape, 2, 2);
  fixture<bf16_mixed, float> f({50, 300, 20}, 1);  // not rounded to bf16 on the way
  f.forward(1);
  CHECK(support::worst_row(f.y.values(), f.expected_y(), 20) <= support::tolerance<fp32>::row);
}

TEST_CASE("gemm gradients are the slopes of the oracle") {
  fixture<fp64_reference> f({4, 5, 3}, 1);
  f.all(1);
  std::vector<double> x = f.x.values(), w = f.w.values();
  const std::vector<double> dy = f.dy.values();
  const auto loss = [&] {
    const auto y = oracle::gemm(f.extents, x, w);
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += dy[i] * y[i];
    return total;
  };
  std::vector<double> dx, dw;
  for (double& number : x) dx.push_back(support::central_difference(number, support::difference_step, loss));
  for (double& number : w) dw.push_back(support::central_difference(number, support::difference_step, loss));
  CHECK(support::worst_row(f.dx.values(), dx, 5) <= support::difference_tolerance);
  CHECK(support::worst_row(f.dw.values(), dw, 5) <= support::difference_tolerance);
}

TEST_CASE_TEMPLATE("gemm writes activation gradients and adds weight gradients", P, fp64_reference, fp32) {
  fixture<P> f({150, 90, 110}, 1);
  f.backward_data(2), f.backward_weights(2);
  const auto dx = f.dx, dw = f.dw;
  f.backward_data(2), f.backward_weights(2);
  CHECK(f.dx.same_bits(dx));
  auto twice = guarded<gradient<P>>(dw).values();
  for (double& value : twice) value *= 2;
  CHECK(support::worst_row(f.dw.values(), twice, 90) <= support::tolerance<P>::row);
}

TEST_CASE_TEMPLATE("gemm gives each of a few tokens the same bits whichever come with it", P, fp64_reference,
                   fp32, bf16_mixed) {
  fixture<P> alone({16, 701, 259}, 3), together = alone;
  for (const store into : {store::write, store::add}) {
    const auto forward = [into](fixture<P>& f, int threads, index_t begin, index_t end) {
      f.y.fill([](index_t) { return 0.125; });
      support::run(threads, [&](auto& ctx) {
        fixture<P>::op::forward(
            ctx, {.x = f.x.get().rows(begin, end), .w = f.w, .y = f.y.get().rows(begin, end), .into = into});
      });
    };
    for (const index_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16})
      for (const int threads : {1, 2, 3}) {
        CAPTURE(tokens);
        CAPTURE(threads);
        forward(together, threads, 0, tokens);
        for (const index_t t : {index_t{0}, tokens / 2, tokens - 1}) {
          forward(alone, 1, t, t + 1);
          CHECK(std::memcmp(alone.y.get()[t].data(), together.y.get()[t].data(),
                            259 * sizeof(activation<P>)) == 0);
        }
      }
    CHECK(together.intact());
  }
}

TEST_CASE_TEMPLATE("gemm repeats its bits", P, fp64_reference, fp32, bf16_mixed) {
  for (const int threads : {1, 2, 3, 7}) {
    fixture<P> one({200, 310, 150}, 1), other({200, 310, 150}, 1);
    one.all(threads), other.all(threads);
    CAPTURE(threads);
    CHECK(other.y.same_bits(one.y));
    CHECK(other.dx.same_bits(one.dx));
    CHECK(other.dw.same_bits(one.dw));
  }
}

TEST_CASE("gemm adds before it rounds") {
  using P = bf16_mixed;
  // 1 + 2^-8 is halfway between two bf16 numbers and would go down; the 2^-18 beside it must be seen.
  guarded<bf16> x(0, 1, 2), w(0, 1, 2), y(0, 1, 1);
  x.fill([](index_t) { return 1.0; });
  w.assign({0x1p-8, 0x1p-18});
  y.assign({1});
  support::run(1,
               [&](auto& ctx) { op::gemm<P>::forward(ctx, {.x = x, .w = w, .y = y, .into = store::add}); });
  CHECK(y.values() == std::vector<double>{1 + 0x1p-7});
}

TEST_CASE_TEMPLATE("gemm keeps bad numbers in their row and column", P, fp64_reference, fp32, bf16_mixed) {
  for (const float bad : {NAN, INFINITY}) {
    fixture<P> f({20, 30, 40}, 1);
    f.x.get()(7, 3) = activation<P>(bad);
    f.w.get()(11, 4) = weight<P>(bad);
    f.forward(2);
    for (index_t t = 0; t < 20; ++t)
      for (index_t o = 0; o < 40; ++o)
        CHECK(std::isfinite(static_cast<double>(f.y.get()(t, o))) == (t != 7 && o != 11));
  }
}

#if !defined(DSV3_TEST_BACKEND)  // a GPU does not reach sparse memory

TEST_CASE_TEMPLATE("gemm reaches beyond 2^31 elements", P, fp32, bf16_mixed) {
  constexpr index_t tokens = 4, distance = (index_t{1} << 30) + 64;  // the last row starts at 3 * 2^30
  const support::sparse<activation<P>> x(tokens * distance), y(tokens * distance);
  guarded<weight<P>> w(0, 1, 2);
  guarded<gradient<P>> dw(0, 1, 2);
  w.assign({2, -1}), dw.assign({0, 0});
  const index_t x_extents[] = {tokens, 2}, y_extents[] = {tokens, 1}, strides[] = {distance, 1};
  const view<activation<P>, 2> far_x{x.data(), x_extents, strides}, far_y{y.data(), y_extents, strides};
  for (index_t t = 0; t < tokens; ++t)
    for (index_t i = 0; i < 2; ++i) far_x(t, i) = activation<P>(static_cast<float>(10 * t + i + 1));
  support::run(1, [&](auto& ctx) { op::gemm<P>::forward(ctx, {.x = far_x, .w = w, .y = far_y}); });
  for (index_t t = 0; t < tokens; ++t) CHECK(static_cast<float>(far_y(t, 0)) == 10 * t);
  support::run(1,
               [&](auto& ctx) { op::gemm<P>::backward_weights(ctx, {.dy = far_y, .x = far_x, .dw = dw}); });
  CHECK(dw.values() == std::vector<double>{10 * 11 + 20 * 21 + 30 * 31, 10 * 12 + 20 * 22 + 30 * 32});
  support::run(1, [&](auto& ctx) { op::gemm<P>::backward_data(ctx, {.dy = far_y, .w = w, .dx = far_x}); });
  for (index_t t = 0; t < tokens; ++t) {
    CHECK(static_cast<float>(far_x(t, 0)) == 20 * t);
    CHECK(static_cast<float>(far_x(t, 1)) == -10 * t);
  }
}

TEST_CASE("gemm needs scratch only to convert, and a bounded amount") {
  const cpu_context<> ctx{.threads = 2};
  float nothing[1];
  bf16 nothing16[1];
  const index_t n = index_t{1} << 20;
  CHECK(measure(ctx, [&](auto& probe) {
          op::gemm<fp32>::forward(probe, {.x = view<const float, 2>(nothing, n, n),
                                          .w = view<const float, 2>(nothing, n, n),
                                          .y = view<float, 2>(nothing, n, n)});
        }) == 0);
  const std::size_t bytes = measure(ctx, [&](auto& probe) {
    op::gemm<bf16_mixed>::forward(probe, {.x = view<const bf16, 2>(nothing16, n, n),
                                          .w = view<const bf16, 2>(nothing16, n, n),
                                          .y = view<bf16, 2>(nothing16, n, n)});
  });
  CHECK(bytes > 0);
  CHECK(bytes <= std::size_t{2} << 21);  // two megabytes a thread
}

#endif

TEST_CASE("gemm says what does not fit") {
  using P = fp32;
  fixture<P> f({4, 8, 6}, 0), other({3, 9, 5}, 0);
  const auto forward = [&](auto&& change) {
    op::gemm<P>::forward_args args{.x = f.x, .w = f.w, .y = f.y};
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.w = other.w; }) == "gemm.forward: w has 9 columns, x has 8");
  CHECK(forward([&](auto& a) { a.y = f.y.get().rows(0, 3); }) == "gemm.forward: y has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.y = f.y.get().columns(0, 5); }) ==
        "gemm.forward: y has 5 columns, w as rows has 6");
  CHECK(forward([&](auto& a) { a.w = view<const float, 2>(nullptr, 6, 8); }) ==
        "gemm.forward: w has 48 elements and a null pointer");

  const auto data = [&](auto&& change) {
    op::gemm<P>::backward_data_args args{.dy = f.dy, .w = f.w, .dx = f.dx};
    change(args);
    return args.check().message();
  };
  CHECK(data([](auto&) {}) == "");
  CHECK(data([&](auto& a) { a.dy = f.dy.get().columns(0, 5); }) ==
        "gemm.backward_data: dy has 5 columns, w as rows has 6");
  CHECK(data([&](auto& a) { a.dx = f.dx.get().rows(0, 3); }) ==
        "gemm.backward_data: dx has 3 tokens, dy has 4");
  CHECK(data([&](auto& a) { a.dx = f.dx.get().columns(0, 7); }) ==
        "gemm.backward_data: dx has 7 columns, w has 8");

  const auto weights = [&](auto&& change) {
    op::gemm<P>::backward_weights_args args{.dy = f.dy, .x = f.x, .dw = f.dw};
    change(args);
    return args.check().message();
  };
  CHECK(weights([](auto&) {}) == "");
  CHECK(weights([&](auto& a) { a.x = f.x.get().rows(0, 3); }) ==
        "gemm.backward_weights: dy has 4 tokens, x has 3");
  CHECK(weights([&](auto& a) { a.dw = f.dw.get().rows(0, 5); }) ==
        "gemm.backward_weights: dw has 5 rows, dy as columns has 6");
  CHECK(weights([&](auto& a) { a.dw = f.dw.get().columns(0, 7); }) ==
        "gemm.backward_weights: dw has 7 columns, x has 8");

  cpu_context<> ctx;
  op::gemm<P>::forward_args bad{.x = f.x, .w = other.w, .y = f.y};
  CHECK(support::raised([&] { op::gemm<P>::forward(ctx, bad); }) == "gemm.forward: w has 9 columns, x has 8");
}
