// SPDX-License-Identifier: MIT
#include <dsv3/cpu/linear/batched_gemm.hpp>

#include <op/linear/batched_gemm_cases.hpp>
#include <oracle/batched_gemm.hpp>
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
using cases::batched_size;
using support::guarded;

namespace {

/// One call; heads and rows lie apart, with NaN between them.
template <class P>
struct problem {
  using op_type = op::batched_gemm<P>;
  batched_size size;
  bool transposed;
  guarded<activation<P>, 3> x, y;
  guarded<weight<P>, 3> w;

  problem(const batched_size& c, bool turned)
      : size(c),
        transposed(turned),
        x(3, c.tokens, c.heads, c.in),
        y(5, c.tokens, c.heads, c.out),
        w(1, c.heads, turned ? c.in : c.out, turned ? c.out : c.in) {
    x.normal(1), w.normal(2);
  }

  void run(int threads) {
    support::run(threads, [&](auto& ctx) {
      if (transposed)
        op_type::transposed(ctx, {.x = x, .w = w, .y = y});
      else
        op_type::forward(ctx, {.x = x, .w = w, .y = y});
    });
  }
  std::vector<double> expected() {
    return oracle::batched_gemm(static_cast<std::size_t>(size.tokens), static_cast<std::size_t>(size.heads),
                                static_cast<std::size_t>(size.in), static_cast<std::size_t>(size.out),
                                transposed, x.values(), w.values());
  }
  bool intact() { return x.intact() && y.intact() && w.intact(); }
};

}  // namespace

TEST_CASE_TEMPLATE("agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  for (const batched_size& c : cases::batched_sizes)
    for (const bool transposed : {false, true})
      for (const int threads : {1, 2}) {
        CAPTURE(c.tokens);
        CAPTURE(c.in);
        CAPTURE(c.out);
        CAPTURE(transposed);
        problem<P> run(c, transposed);
        run.run(threads);
        CHECK(support::worst_row(run.y.values(), run.expected(), c.out, std::sqrt(c.in) + 1e-30) <=
              support::tolerance<P>::row);
        CHECK(run.intact());
      }
}

TEST_CASE_TEMPLATE("the same bits for any number of threads, every time", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const bool transposed : {false, true}) {
    problem<P> one({5, 12, 90, 110}, transposed);
    one.run(1);
    for (const int threads : {1, 2, 3, 7}) {
      problem<P> other({5, 12, 90, 110}, transposed);
      other.run(threads), other.run(threads);
      CHECK(other.y.same_bits(one.y));
    }
  }
}

#if defined(DSV3_TEST_BACKEND)
constexpr int alike = 16;  // a GPU promises it of as many tokens as decoding has at once
#else
constexpr int alike = 70;
#endif

TEST_CASE_TEMPLATE("a token has the same bits whichever come with it", P, fp64_reference, fp32, bf16_mixed) {
  for (const bool transposed : {false, true})
    for (const int tokens : {2, 3, 4, 5, 6, 7, 8, 9, alike}) {
      problem<P> together({tokens, 3, 41, 83}, transposed);
      together.run(2);
      for (index_t t = 0; t < tokens; ++t) {
        problem<P> alone({1, 3, 41, 83}, transposed);
        for (index_t h = 0; h < 3; ++h)
          for (index_t i = 0; i < 41; ++i) alone.x.get()(0, h, i) = together.x.get()(t, h, i);
        alone.run(1);
        for (index_t h = 0; h < 3; ++h)
          CHECK(std::memcmp(alone.y.get()[0][h].data(), together.y.get()[t][h].data(),
                            83 * sizeof(activation<P>)) == 0);
      }
    }
}

TEST_CASE("NaN stays in its token and its head") {
  for (const bool transposed : {false, true}) {
    problem<fp32> run({4, 3, 20, 30}, transposed);
    run.x.get()(2, 1, 19) = support::poison<float>();
    run.run(2);
    for (index_t t = 0; t < 4; ++t)
      for (index_t h = 0; h < 3; ++h)
        for (index_t o = 0; o < 30; ++o) CHECK(std::isnan(run.y.get()(t, h, o)) == (t == 2 && h == 1));
  }
}

#if !defined(DSV3_TEST_BACKEND)  // a GPU does not reach sparse memory

TEST_CASE("weights more than 2^31 elements apart") {
  constexpr index_t far = (index_t{1} << 31) + 7, in = 20, out = 30;
  for (const bool transposed : {false, true}) {
    problem<bf16_mixed> near({2, 3, in, out}, transposed);
    near.run(1);
    const support::sparse<bf16> memory(3 * far);
    const index_t rows = transposed ? in : out, columns = transposed ? out : in;
    const view<bf16, 3> w{memory.data(), {3, rows, columns}, {far, columns, 1}};
    for (index_t h = 0; h < 3; ++h)
      for (index_t r = 0; r < rows; ++r)
        for (index_t e = 0; e < columns; ++e) w(h, r, e) = near.w.get()(h, r, e);
    problem<bf16_mixed> away({2, 3, in, out}, transposed);
    support::run(2, [&](auto& ctx) {
      if (transposed)
        op::batched_gemm<bf16_mixed>::transposed(ctx, {.x = away.x, .w = w, .y = away.y});
      else
        op::batched_gemm<bf16_mixed>::forward(ctx, {.x = away.x, .w = w, .y = away.y});
    });
    CHECK(away.y.same_bits(near.y));
  }
}

#endif

TEST_CASE("scratch is exact") {
  problem<bf16_mixed> run({5, 3, 20, 30}, false);
  host_memory memory;
  cpu_context ctx{.threads = 2};
  const auto work = [&](auto& context) {
    op::batched_gemm<bf16_mixed>::forward(context, {.x = run.x, .w = run.w, .y = run.y});
  };
  ctx.scratch = scratch_arena{memory, measure(ctx, work) - 1};
  CHECK_THROWS_AS(work(ctx), dsv3::error);
}

TEST_CASE("check says what is wrong") {
  using op_type = op::batched_gemm<fp32>;
  problem<fp32> straight({4, 3, 5, 6}, false), turned({4, 3, 5, 6}, true);
  const auto forward = [&](auto&& spoil) {
    op_type::forward_args args{.x = straight.x, .w = straight.w, .y = straight.y};
    spoil(args);
    return args.check().message();
  };
  const auto transposed = [&](auto&& spoil) {
    op_type::transposed_args args{.x = turned.x, .w = turned.w, .y = turned.y};
    spoil(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(transposed([](auto&) {}) == "");
  CHECK(forward([](auto& a) { a.w = a.w.rows(0, 2); }) == "batched_gemm.forward: w has 2 heads, x has 3");
  CHECK(forward([](auto& a) { a.w = a.w.columns(0, 4); }) ==
        "batched_gemm.forward: w has 4 columns, x has 5");
  CHECK(forward([](auto& a) { a.w = a.w.slice(1, 0, 5); }) ==
        "batched_gemm.forward: y has 6 columns, w as rows has 5");
  CHECK(forward([](auto& a) { a.y = a.y.rows(0, 3); }) == "batched_gemm.forward: y has 3 tokens, x has 4");
  CHECK(forward([](auto& a) { a.y = a.y.slice(1, 0, 2); }) == "batched_gemm.forward: y has 2 heads, x has 3");
  CHECK(forward([](auto& a) {
          a.x = dsv3::view<const float, 3>{static_cast<float*>(nullptr), 4, 3, 5};
        }) == "batched_gemm.forward: x has 60 elements and a null pointer");
  CHECK(transposed([](auto& a) { a.w = a.w.rows(0, 2); }) ==
        "batched_gemm.transposed: w has 2 heads, x has 3");
  CHECK(transposed([](auto& a) { a.w = a.w.slice(1, 0, 4); }) ==
        "batched_gemm.transposed: w has 4 rows, x as columns has 5");
  CHECK(transposed([](auto& a) { a.w = a.w.columns(0, 4); }) ==
        "batched_gemm.transposed: y has 6 columns, w has 4");
  CHECK(transposed([](auto& a) { a.y = a.y.rows(0, 3); }) ==
        "batched_gemm.transposed: y has 3 tokens, x has 4");
}
