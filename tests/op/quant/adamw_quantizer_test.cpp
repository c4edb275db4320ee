// SPDX-License-Identifier: MIT
// AdamW into tiles is AdamW and then tiles, bit for bit.
#include <dsv3/cpu/quant/adamw_quantizer.hpp>

#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace dsv3;
using support::guarded;
using P = fp8_tilewise;

namespace {

struct shape_case {
  index_t matrices, rows, columns;
};
constexpr shape_case shapes[] = {{0, 128, 128}, {1, 1, 4},     {1, 128, 128}, {2, 128, 256}, {3, 130, 132},
                                 {2, 60, 200},  {1, 300, 129}, {2, 5, 7},     {1, 257, 384}};

/// Matrices in the middle of their training. Codes and scales are poison at first.
template <class Element>
struct fixture {
  index_t matrices, rows, columns, n = matrices * rows * columns;
  index_t down = ceil_div(rows, 128), across = ceil_div(columns, 128);
  guarded<gradient<P>, 1> g{0, n};
  guarded<master<P>, 1> p{0, n};
  guarded<moment<P>, 1> m{0, n}, v{0, n};
  guarded<Element, 1> codes{0, n};
  guarded<float, 1> scales{0, matrices* down* across};
  guarded<double, 1> clip{0, 1}, pace{0, 3};
  adamw_config config;

  explicit fixture(const shape_case& s, double factor = 0.5)
      : matrices(s.matrices), rows(s.rows), columns(s.columns) {
    p.normal(2), g.normal(3, 0.3), m.normal(4, 0.1);
    v.fill([](index_t i) { return 0.01 * static_cast<double>(1 + i % 7); });
    clip.fill([&](index_t) { return factor; });
    const auto now = config.pace(0.01, 3);
    pace.fill([&](index_t i) { return now[static_cast<std::size_t>(i)]; });
  }
  scaled_view<Element, block_tile, 3> w() {
    return {view{codes.get().data(), matrices, rows, columns},
            view<float, 3, strided>{scales.get().data(), matrices, down, across}};
  }
  typename op::adamw_quantizer<P, Element>::step_args args(scale_kind kind) {
    return {.g = g,
            .scale = clip,
            .p = p,
            .w = w(),
            .m = m,
            .v = v,
            .config = config,
            .pace = pace,
            .scales = kind};
  }
  void fused(int threads, scale_kind kind) {
    support::run(threads, [&](auto& ctx) { op::adamw_quantizer<P, Element>::step(ctx, args(kind)); });
  }
  void one_after_the_other(scale_kind kind) {
    support::run(1, [&](auto& ctx) {
      op::adamw<P, master<P>>::step(ctx, args(kind).plain());
      for (index_t i = 0; i < matrices; ++i)
        op::tile_quantizer<master<P>, Element, block_tile>::forward(
            ctx, {.x = view<const master<P>, 2>{p.get().data() + i * rows * columns, rows, columns},
                  .y = w()[i],
                  .scales = kind});
    });
  }
  bool same_bits(const fixture& other) const {
    return p.same_bits(other.p) && m.same_bits(other.m) && v.same_bits(other.v) &&
           codes.same_bits(other.codes) && scales.same_bits(other.scales);
  }
  bool intact() {
    return g.intact() && p.intact() && m.intact() && v.intact() && codes.intact() && scales.intact() &&
           clip.intact() && pace.intact();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("adamw_quantizer is adamw and then tile_quantizer", Element, fp8_e4m3, fp8_e5m2) {
  for (const shape_case& shape : shapes)
    for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
      CAPTURE(shape.rows);
      CAPTURE(shape.columns);
      fixture<Element> expected(shape);
      expected.one_after_the_other(kind);
      for (const int threads : {1, 3}) {
        fixture<Element> found(shape);
        found.fused(threads, kind);
        CHECK(found.same_bits(expected));
        CHECK(found.intact());
      }
    }
}

TEST_CASE("a clip factor that is not finite moves nothing, and the codes stay the master's") {
  for (const double factor : {std::numeric_limits<double>::infinity(), std::nan("")})
    for (const shape_case& shape : shapes) {
      fixture<fp8_e4m3> before(shape), after(shape);
      before.one_after_the_other(scale_kind::real), after.one_after_the_other(scale_kind::real);
      after.clip.fill([&](index_t) { return factor; });
      after.fused(2, scale_kind::real);
      CHECK(after.same_bits(before));
    }
}

TEST_CASE("adamw_quantizer says what does not fit") {
  fixture<fp8_e4m3> f({2, 128, 256});
  auto args = f.args(scale_kind::real);
  CHECK(args.check().message().empty());
  args.w.scales = {};
  CHECK(args.check().message().find("scales") != std::string::npos);
  args = f.args(scale_kind::real);
  args.p = args.p.rows(0, 128);
  CHECK(args.check().message().find("p has") != std::string::npos);
}
