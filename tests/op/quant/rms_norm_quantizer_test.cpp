// SPDX-License-Identifier: MIT
// RMSNorm into tiles is RMSNorm and then tiles, bit for bit.
#include <dsv3/cpu/quant/rms_norm_quantizer.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>

#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t tokens, hidden;
};
constexpr shape_case shapes[] = {{0, 4},    {1, 1},    {5, 127},  {7, 128}, {9, 129},
                                 {40, 300}, {3, 4225}, {19, 576}, {2, 7168}};

/// Everything of one call; which of the optional views are given is asked for.
template <class P>
struct fixture {
  index_t tokens, hidden;
  bool residual_given, all_written;
  guarded<activation<P>> x, residual, sum, y;
  guarded<master<P>, 1> gain;
  guarded<accumulator<P>, 1> rstd;

  fixture(shape_case c, bool with_residual, bool everything)
      : tokens(c.tokens),
        hidden(c.hidden),
        residual_given(with_residual),
        all_written(everything),
        x(gap(3), tokens, hidden),
        residual(gap(4), tokens, hidden),
        sum(gap(5), tokens, hidden),
        y(gap(6), tokens, hidden),
        gain(0, hidden),
        rstd(0, tokens) {
    x.normal(1, 3), residual.normal(2), gain.normal(3);
  }

  /// Rows that start anywhere, but on whole vectors where their length allows it.
  index_t gap(index_t otherwise) const { return hidden % 8 == 0 ? 8 : otherwise; }

  typename op::rms_norm<P>::forward_args plain() {
    typename op::rms_norm<P>::forward_args args{.x = x, .gain = gain, .y = {}};
    if (residual_given) args.residual = residual, args.sum = sum;
    if (all_written) args.y = y, args.rstd = rstd;
    return args;
  }
  bool same_bits(const fixture& other) const {
    return sum.same_bits(other.sum) && y.same_bits(other.y) && rstd.same_bits(other.rstd);
  }
  bool intact() {
    return x.intact() && residual.intact() && sum.intact() && y.intact() && gain.intact() && rstd.intact();
  }

  template <class Element>
  void fused(int threads, scale_kind kind, support::row_tiles<Element>& tiles) {
    support::run(threads, [&](auto& ctx) {
      op::rms_norm_quantizer<P, Element>::forward(ctx, {.plain = plain(), .y = tiles.get(), .scales = kind});
    });
  }
  template <class Element>
  void one_after_the_other(scale_kind kind, support::row_tiles<Element>& tiles) {
    guarded<activation<P>> own(0, tokens, hidden);
    auto args = plain();
    if (!all_written) args.y = own;
    support::run(1, [&](auto& ctx) {
      op::rms_norm<P>::forward(ctx, args);
      op::tile_quantizer<activation<P>, Element, row_tile>::forward(
          ctx, {.x = args.y, .y = tiles.get(), .scales = kind});
    });
  }
};

template <class P, class Element>
void check_bits() {
  for (const shape_case shape : shapes)
    for (const bool residual : {false, true})
      for (const bool everything : {false, true})
        for (const bool token_minor : {false, true})
          for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
            CAPTURE(shape.tokens);
            CAPTURE(shape.hidden);
            CAPTURE(residual);
            CAPTURE(everything);
            fixture<P> apart(shape, residual, everything);
            support::row_tiles<Element> expected(shape.tokens, shape.hidden, token_minor);
            apart.one_after_the_other(kind, expected);
            for (const int threads : {1, 3}) {
              fixture<P> f(shape, residual, everything);
              support::row_tiles<Element> found(shape.tokens, shape.hidden, token_minor);
              f.fused(threads, kind, found);
              CHECK(found.same_bits(expected));
              CHECK(f.same_bits(apart));
              CHECK(f.intact());
              CHECK(found.intact());
            }
          }
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm_quantizer is rms_norm and then tile_quantizer", P, fp32, bf16_mixed,
                   fp8_tilewise) {
  check_bits<P, fp8_e4m3>();
}
TEST_CASE("the same in the reference precision and in the other format") {
  check_bits<fp64_reference, fp8_e4m3>();
  check_bits<fp8_tilewise, fp8_e5m2>();
}

TEST_CASE("the normalised rows may take the place of x") {
  fixture<fp8_tilewise> apart({5, 300}, false, true), f({5, 300}, false, true);
  support::row_tiles<fp8_e4m3> expected(5, 300, true), found(5, 300, true);
  apart.fused(1, scale_kind::real, expected);
  support::run(1, [&](auto& ctx) {
    op::rms_norm_quantizer<fp8_tilewise>::forward_args args{.plain = f.plain(), .y = found.get()};
    args.plain.y = f.x;
    op::rms_norm_quantizer<fp8_tilewise>::forward(ctx, args);
  });
  CHECK(found.same_bits(expected));
  CHECK(f.x.values() == apart.y.values());
}

TEST_CASE("rms_norm_quantizer says what does not fit") {
  using args = op::rms_norm_quantizer<fp8_tilewise>::forward_args;
  fixture<fp8_tilewise> f({4, 130}, true, true), other({3, 130}, true, true);
  support::row_tiles<fp8_e4m3> y(4, 130, true), wide(4, 300, true);
  const auto sentence = [](const args& a) { return a.check().message(); };
  CHECK(sentence({.plain = f.plain(), .y = y.get()}).empty());
  CHECK(sentence({.plain = f.plain(), .y = wide.get()}) ==
        "rms_norm_quantizer.forward: y has 300 columns, x has 130");
  args a{.plain = f.plain(), .y = y.get()};
  a.plain.sum = other.sum;
  CHECK(sentence(a) == "rms_norm_quantizer.forward: sum has 3 tokens, x has 4");
  a = {.plain = f.plain(), .y = y.get()};
  a.plain.residual = other.residual;
  CHECK(sentence(a) == "rms_norm_quantizer.forward: residual has 3 tokens, x has 4");
  a = {.plain = f.plain(), .y = y.get()};
  a.plain.y = other.y;
  CHECK(sentence(a) == "rms_norm_quantizer.forward: y in full has 3 tokens, x has 4");
  a = {.plain = f.plain(), .y = y.get()};
  a.plain.rstd = other.rstd;
  CHECK(sentence(a) == "rms_norm_quantizer.forward: rstd has 3 tokens, x has 4");
  a = {.plain = f.plain(), .y = y.get()};
  a.plain.epsilon = 0;
  CHECK(sentence(a) == "rms_norm_quantizer.forward: epsilon must be positive");
}
