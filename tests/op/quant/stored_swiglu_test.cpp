// SPDX-License-Identifier: MIT
// SwiGLU over stored rows is the operations it stands for one after another, bit for bit.
#include <dsv3/cpu/quant/stored_rows.hpp>
#include <dsv3/cpu/quant/stored_swiglu.hpp>
#if defined(DSV3_TEST_BACKEND)
#include <dsv3/cuda/expert/swiglu.cuh>
#include <dsv3/cuda/quant/stored_rows.cuh>
#include <dsv3/cuda/quant/stored_swiglu.cuh>
#include <dsv3/cuda/quant/tile_quantizer.cuh>
#include <dsv3/cuda/quant/transposing_quantizer.cuh>
#endif

#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <utility>
#include <vector>

using namespace dsv3;
using support::guarded;
using codes = support::row_tiles<fp8_e4m3>;

namespace {

struct shape_case {
  index_t rows, inner;
  std::vector<std::pair<index_t, index_t>> groups;  // first row and number; none: all rows in one
};
const std::vector<shape_case>& shapes() {
  static const std::vector<shape_case> cases = {
      {0, 128, {}},
      {1, 128, {}},
      {130, 256, {}},
      {10, 128, {{0, 3}, {4, 0}, {4, 6}}},
      {700, 128, {{3, 127}, {131, 128}, {300, 129}, {512, 188}}},
      {400, 384, {{0, 200}, {200, 0}, {201, 1}, {256, 130}}},
  };
  return cases;
}

/// What one call reads; of rows in no group everything is poison.
template <class P>
struct fixture {
  const shape_case& shape;
  bool gated;
  index_t rows = shape.rows, inner = shape.inner;
  guarded<std::int32_t, 1> offsets, counts, token_of;
  guarded<activation<P>> gate_up, dy;
  guarded<accumulator<P>, 1> row_gates;
  codes kept{rows, 2 * inner, true};

  fixture(const shape_case& s, bool with_gates)
      : shape(s),
        gated(with_gates),
        offsets(0, s.groups.size() + 1),
        counts(0, s.groups.size()),
        token_of(0, s.rows),
        gate_up(8, s.rows, 2 * s.inner),
        dy(8, s.rows, s.inner),
        row_gates(0, s.rows) {
    const auto size = static_cast<index_t>(s.groups.size());
    const auto group = [&](index_t g) { return s.groups[static_cast<std::size_t>(g)]; };
    offsets.fill([&](index_t g) { return g < size ? group(g).first : s.rows; });
    counts.fill([&](index_t g) { return group(g).second; });
    token_of.fill([&](index_t r) { return is_live(r) ? 0 : -1; });
    const random_stream random(20260101, 5);
    for (index_t r = 0; r < rows; ++r) {
      if (!is_live(r)) continue;
      const auto number = [&](index_t i) {
        return random.normal(static_cast<std::uint64_t>(r * 4 * inner + i));
      };
      for (index_t i = 0; i < 2 * inner; ++i) gate_up.get()(r, i) = activation<P>(2 * number(i));
      for (index_t i = 0; i < inner; ++i) dy.get()(r, i) = activation<P>(number(2 * inner + i));
      row_gates.get()(r) = accumulator<P>(0.1 + 0.01 * static_cast<double>(r % 89));
    }
  }
  bool is_live(index_t row) const {
    if (shape.groups.empty()) return true;
    for (const auto& [first, count] : shape.groups)
      if (row >= first && row < first + count) return true;
    return false;
  }
  row_groups groups() { return shape.groups.empty() ? row_groups{} : row_groups{offsets, counts}; }
  view<const accumulator<P>, 1> gates() {
    return gated ? view<const accumulator<P>, 1>(row_gates.get()) : view<const accumulator<P>, 1>{};
  }
  bool intact() { return gate_up.intact() && dy.intact() && row_gates.intact() && kept.intact(); }

  void forward(int threads, scale_kind kind, codes& to, codes& y) {
    support::run(threads, [&](auto& ctx) {
      op::stored_swiglu<P>::forward(
          ctx,
          {.gate_up = gate_up, .kept = to, .y = y, .row_gates = gates(), .scales = kind, .groups = groups()});
    });
  }
  void forward_in_steps(scale_kind kind, codes& to, codes& y) {
    support::run(1, [&](auto& ctx) {
      op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>::forward(
          ctx, {.x = gate_up, .y = to, .scales = kind, .groups = groups()});
      op::swiglu_quantizer<P>::forward(
          ctx, {.gate_up = gate_up, .y = y, .row_gates = gates(), .scales = kind, .groups = groups()});
    });
  }
  /// The rows that backward and `again` read.
  void store(scale_kind kind) {
    codes y(rows, inner, true);
    forward_in_steps(kind, kept, y);
  }
  void load(guarded<activation<P>>& to) {
    support::run(1, [&](auto& ctx) {
      op::tile_quantizer<activation<P>, fp8_e4m3, row_tile>::dequantize(
          ctx, {.x = kept, .y = to, .groups = groups()});
    });
  }
};

template <class P, class Act>
void each_case(Act&& act) {
  for (const shape_case& shape : shapes())
    for (const bool gated : {false, true})
      for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two}) {
        CAPTURE(shape.rows);
        CAPTURE(shape.inner);
        CAPTURE(shape.groups.size());
        CAPTURE(gated);
        fixture<P> f(shape, gated);
        act(f, kind);
        CHECK(f.intact());
      }
}

}  // namespace

TEST_CASE_TEMPLATE("forward stores what SwiGLU reads and quantises what it makes", P, fp32, fp8_tilewise) {
  each_case<P>([](fixture<P>& f, scale_kind kind) {
    for (const bool token_minor : {false, true}) {
      codes kept(f.rows, 2 * f.inner, token_minor), y(f.rows, f.inner, token_minor);
      codes kept_in_steps(f.rows, 2 * f.inner, token_minor), y_in_steps(f.rows, f.inner, token_minor);
      f.forward_in_steps(kind, kept_in_steps, y_in_steps);
      f.forward(3, kind, kept, y);
      CHECK(kept.same_bits(kept_in_steps));
      CHECK(y.same_bits(y_in_steps));
      CHECK(kept.intact());
      CHECK(y.intact());
    }
  });
}

TEST_CASE_TEMPLATE("again makes forward's output from what was stored, cut along the columns", P, fp32,
                   fp8_tilewise) {
  each_case<P>([](fixture<P>& f, scale_kind kind) {
    f.store(kind);
    guarded<activation<P>> loaded(8, f.rows, 2 * f.inner);
    f.load(loaded);
    const index_t tiles = f.groups().tiles(f.rows);
    for (const bool token_minor : {false, true}) {
      codes y(f.rows, f.inner, true);
      codes found(f.inner, f.rows, token_minor, tiles), expected(f.inner, f.rows, token_minor, tiles);
      support::run(1, [&](auto& ctx) {
        op::swiglu_quantizer<P>::forward(
            ctx, {.gate_up = loaded, .y = y, .row_gates = f.gates(), .scales = kind, .groups = f.groups()});
        op::transposing_quantizer<activation<P>, fp8_e4m3>::retile(
            ctx, {.y = y, .t = expected, .scales = kind, .groups = f.groups()});
      });
      support::run(2, [&](auto& ctx) {
        op::stored_swiglu<P>::again(
            ctx, {.kept = f.kept, .t = found, .row_gates = f.gates(), .scales = kind, .groups = f.groups()});
      });
      CHECK(found.same_bits(expected));
      CHECK(found.intact());
    }
  });
}

template <class P, class Gradient>
void check_backward() {
  using tiles_of = support::row_tiles<Gradient>;
  each_case<P>([](fixture<P>& f, scale_kind kind) {
    f.store(kind);
    guarded<activation<P>> loaded(8, f.rows, 2 * f.inner), d_gate_up(8, f.rows, 2 * f.inner);
    f.load(loaded);
    const index_t tiles = f.groups().tiles(f.rows);
    tiles_of y(f.rows, 2 * f.inner, true), y_in_steps(f.rows, 2 * f.inner, true);
    tiles_of t(2 * f.inner, f.rows, true, tiles), t_in_steps(2 * f.inner, f.rows, true, tiles);
    guarded<accumulator<P>, 1> d_gates(0, f.rows), d_gates_in_steps(0, f.rows);
    const auto wanted = [&](guarded<accumulator<P>, 1>& of) {
      return f.gated ? of.get() : view<accumulator<P>, 1>{};
    };
    support::run(1, [&](auto& ctx) {
      op::swiglu<P>::backward(ctx, {.dy = f.dy,
                                    .gate_up = loaded,
                                    .d_gate_up = d_gate_up,
                                    .row_gates = f.gates(),
                                    .d_row_gates = wanted(d_gates_in_steps),
                                    .token_of = f.token_of});
      op::transposing_quantizer<activation<P>, Gradient>::both(
          ctx, {.x = d_gate_up, .y = y_in_steps, .t = t_in_steps, .scales = kind, .groups = f.groups()});
    });
    support::run(3, [&](auto& ctx) {
      op::stored_swiglu<P, Gradient>::backward(ctx, {.dy = f.dy,
                                                     .kept = f.kept,
                                                     .y = y,
                                                     .t = t,
                                                     .row_gates = f.gates(),
                                                     .d_row_gates = wanted(d_gates),
                                                     .scales = kind,
                                                     .groups = f.groups()});
    });
    CHECK(y.same_bits(y_in_steps));
    CHECK(t.same_bits(t_in_steps));
    CHECK(y.intact());
    CHECK(t.intact());
    CHECK(d_gates.intact());
    if (!f.gated) return;
    for (index_t r = 0; r < f.rows; ++r)
      if (f.is_live(r))
        CHECK(d_gates.get()(r) == doctest::Approx(d_gates_in_steps.get()(r)).epsilon(1e-5).scale(30));
  });
}

TEST_CASE("backward makes SwiGLU's gradient from what was stored, along the rows and along the columns") {
  check_backward<fp32, fp8_e4m3>();
  check_backward<fp8_tilewise, fp8_e4m3>();
  check_backward<fp8_tilewise, fp8_e5m2>();
}

TEST_CASE("stored_swiglu says which widths it takes, and which rows do not fit") {
  fixture<fp8_tilewise> f(shapes()[2], false);
  codes y(f.rows, f.inner, false), narrow(f.rows, 64, false), wide(f.rows, 128, false);
  using op_type = op::stored_swiglu<fp8_tilewise>;
  const view<const bf16, 2> gate_up = f.gate_up.get();
  CHECK(op_type::forward_args{.gate_up = gate_up, .kept = f.kept, .y = y}.check().message().empty());
  CHECK(op_type::forward_args{.gate_up = gate_up.columns(0, 128), .kept = wide, .y = narrow}
            .check()
            .message()
            .find("a multiple of 128, found inner 64") != std::string::npos);
  CHECK(op_type::forward_args{.gate_up = gate_up, .kept = wide, .y = y}.check().message().find("kept") !=
        std::string::npos);
}
