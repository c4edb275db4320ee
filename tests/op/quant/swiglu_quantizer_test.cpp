// SPDX-License-Identifier: MIT
// SwiGLU into tiles is SwiGLU and then tiles, bit for bit.
#include <dsv3/cpu/quant/swiglu_quantizer.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>

#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t rows, inner;
};
constexpr shape_case shapes[] = {{0, 4},   {1, 1},    {5, 127},  {7, 128},
                                 {9, 129}, {40, 300}, {3, 4225}, {131, 64}};

/// Inputs of one call. Of groups, the second of three is empty and the rows after each are padding.
template <class P>
struct fixture {
  index_t rows, inner;
  bool gated, grouped;
  guarded<activation<P>> gate_up;
  guarded<accumulator<P>, 1> row_gates;
  guarded<std::int32_t, 1> offsets{0, 4}, counts{0, 3};

  fixture(shape_case c, bool with_gates, bool with_groups)
      : rows(c.rows),
        inner(c.inner),
        gated(with_gates),
        grouped(with_groups),
        gate_up(inner % 8 == 0 ? 8 : 3, rows, 2 * inner),
        row_gates(0, rows) {
    gate_up.normal(1, 3);
    const random_stream random(20260101, 3);
    row_gates.fill([&](index_t r) { return 0.1 + random.uniform(static_cast<std::uint64_t>(r)); });
    const index_t half = rows / 2;
    const index_t first[] = {0, half, half, rows}, live[] = {half / 2, 0, (rows - half + 1) / 2};
    offsets.fill([&](index_t g) { return first[g]; });
    counts.fill([&](index_t g) { return live[g]; });
  }
  row_groups groups() { return grouped ? row_groups{offsets, counts} : row_groups{}; }
  view<const accumulator<P>, 1> gates() {
    return gated ? view<const accumulator<P>, 1>(row_gates.get()) : view<const accumulator<P>, 1>{};
  }

  template <class Element>
  void fused(int threads, scale_kind kind, support::row_tiles<Element>& y) {
    support::run(threads, [&](auto& ctx) {
      op::swiglu_quantizer<P, Element>::forward(
          ctx, {.gate_up = gate_up, .y = y.get(), .row_gates = gates(), .scales = kind, .groups = groups()});
    });
  }
  template <class Element>
  void one_after_the_other(scale_kind kind, support::row_tiles<Element>& y) {
    guarded<activation<P>> plain(0, rows, inner);
    support::run(1, [&](auto& ctx) {
      op::swiglu<P>::forward(ctx, {.gate_up = gate_up, .y = plain, .row_gates = gates()});
      op::tile_quantizer<activation<P>, Element, row_tile>::forward(
          ctx, {.x = plain, .y = y.get(), .scales = kind, .groups = groups()});
    });
  }
};

template <class P, class Element>
void check_bits() {
  for (const shape_case shape : shapes)
    for (const bool gated : {false, true})
      for (const bool grouped : {false, true})
        for (const bool token_minor : {false, true})
          for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
            CAPTURE(shape.rows);
            CAPTURE(shape.inner);
            CAPTURE(grouped);
            fixture<P> f(shape, gated, grouped);
            support::row_tiles<Element> expected(f.rows, f.inner, token_minor);
            f.one_after_the_other(kind, expected);
            for (const int threads : {1, 3}) {
              support::row_tiles<Element> found(f.rows, f.inner, token_minor);
              f.fused(threads, kind, found);
              CHECK(found.same_bits(expected));
              CHECK(found.intact());
            }
            CHECK(f.gate_up.intact());
          }
}

}  // namespace

TEST_CASE_TEMPLATE("swiglu_quantizer is swiglu and then tile_quantizer", P, fp32, bf16_mixed, fp8_tilewise) {
  check_bits<P, fp8_e4m3>();
}
TEST_CASE("the same in the reference precision and in the other format") {
  check_bits<fp64_reference, fp8_e4m3>();
  check_bits<fp8_tilewise, fp8_e5m2>();
}

TEST_CASE("NaN and infinity stay in their tile and are not saturated") {
  fixture<fp8_tilewise> f({2, 384}, false, false);
  f.gate_up.get()(0, 5) = bf16(NAN), f.gate_up.get()(1, 200) = bf16(INFINITY);
  support::row_tiles<fp8_e4m3> y(2, 384, false);
  f.fused(1, scale_kind::real, y);
  const auto value = [&](index_t r, index_t i) {
    return float(y.get().values(r, i)) * y.get().scale_of(r, i);
  };
  CHECK(std::isnan(value(0, 5)));
  CHECK(std::isfinite(value(0, 6)));
  CHECK(std::isnan(value(1, 200)));
  CHECK(std::isfinite(value(1, 127)));
  CHECK(std::isfinite(value(1, 256)));
}

TEST_CASE("swiglu_quantizer says what does not fit") {
  fixture<fp8_tilewise> f({4, 130}, true, false);
  support::row_tiles<fp8_e4m3> y(4, 130, false), short_y(3, 130, false), wide(4, 256, false);
  using args = op::swiglu_quantizer<fp8_tilewise>::forward_args;
  const auto sentence = [](const args& a) { return a.check().message(); };
  CHECK(sentence({.gate_up = f.gate_up, .y = short_y.get()}) ==
        "swiglu_quantizer.forward: y has 3 rows, gate_up has 4");
  CHECK(sentence({.gate_up = f.gate_up, .y = wide.get()}) ==
        "swiglu_quantizer.forward: gate_up has 260 columns, twice y has 512");
  CHECK(sentence({.gate_up = f.gate_up, .y = {y.get().values, short_y.get().scales}}) ==
        "swiglu_quantizer.forward: scales has 3 rows, y has 4");
  CHECK(sentence({.gate_up = f.gate_up, .y = y.get(), .row_gates = f.row_gates}).empty());
  guarded<float, 1> gates(0, 3);
  CHECK(sentence({.gate_up = f.gate_up, .y = y.get(), .row_gates = gates}) ==
        "swiglu_quantizer.forward: row_gates has 3 rows, y has 4");
}
