// SPDX-License-Identifier: MIT
// SwiGLU between products of 8-bit operands, whose input waits for backward in E4M3.
#pragma once

#include <dsv3/op/expert/swiglu.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>
#include <dsv3/tensor/ragged.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// What other operations do one after another, bit for bit, but for the order of a row gate's sum, and
/// without plain numbers in memory between them:
///   forward    kept = quantised gate_up; y = quantised swiglu(gate_up)
///   again      the columns of y made from `kept`: swiglu of its numbers, rounded to the activation,
///   quantised
///              along the rows, and cut anew along the columns
///   backward   swiglu's backward from `kept`, its output quantised along the rows (y) and the columns (t)
/// Tokens of different groups share no tile, as in transposing_quantizer. Gradient is the 8-bit format of
/// gradients.
template <precision P, class Gradient = fp8_e4m3>
struct stored_swiglu {
  struct forward_args {
    static constexpr const char* name = "stored_swiglu.forward";
    view<const activation<P>, 2> gate_up;          // [rows, 2 * inner]    inner a multiple of 128
    scaled_view<fp8_e4m3, row_tile> kept;          // [rows, 2 * inner]    live rows written
    scaled_view<fp8_e4m3, row_tile> y;             // [rows, inner]        live rows written
    view<const accumulator<P>, 1> row_gates = {};  // [rows]               none when empty
    scale_kind scales = scale_kind::real;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const {
      visit("kept values", kept.values), visit("kept scales", kept.scales);
      visit("values", y.values), visit("scales", y.scales);
    }
  };

  struct again_args {
    static constexpr const char* name = "stored_swiglu.again";
    scaled_view<const fp8_e4m3, row_tile> kept;  // [rows, 2 * inner]    inner a multiple of 128
    scaled_view<fp8_e4m3, row_tile> t;           // [inner, rows], scales [inner, groups.tiles(rows)]  written
    view<const accumulator<P>, 1> row_gates = {};  // [rows]
    scale_kind scales = scale_kind::real;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const { visit("values", t.values), visit("scales", t.scales); }
  };

  struct backward_args {
    static constexpr const char* name = "stored_swiglu.backward";
    view<const activation<P>, 2> dy;             // [rows, inner]        inner a multiple of 128
    scaled_view<const fp8_e4m3, row_tile> kept;  // [rows, 2 * inner]
    scaled_view<Gradient, row_tile> y;           // [rows, 2 * inner]    live rows written
    scaled_view<Gradient, row_tile> t;           // [2 * inner, rows], scales [2 * inner, groups.tiles(rows)]
    view<const accumulator<P>, 1> row_gates = {};  // [rows]
    view<accumulator<P>, 1> d_row_gates = {};      // [rows]               live rows written when not empty
    scale_kind scales = scale_kind::real;
    row_groups groups = {};
    status check() const;
    void outputs(auto&& visit) const {
      visit("values", y.values), visit("scales", y.scales);
      visit("transposed values", t.values), visit("transposed scales", t.scales);
      visit("d_row_gates", d_row_gates);
    }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void again(Ctx&, const again_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

namespace detail {

template <class Element>
void match_rows(requirements& need, const char* name, const scaled_view<Element, row_tile>& x, index_t rows,
                index_t columns) {
  const std::string scales = std::string(name) + "'s scales";
  need.equal(name, "rows", x.extent(0), "the rows", rows)
      .equal(name, "columns", x.extent(1), "the columns", columns)
      .equal(scales.c_str(), "rows", x.scales.extent(0), name, rows)
      .equal(scales.c_str(), "columns", x.scales.extent(1), "the tiles", ceil_div(columns, 128))
      .present(name, x.values)
      .present(scales.c_str(), x.scales);
}
template <class Element>
void match_columns(requirements& need, const scaled_view<Element, row_tile>& t, index_t rows, index_t columns,
                   const row_groups& groups) {
  need.equal("t", "rows", t.extent(0), "the columns", columns)
      .equal("t", "columns", t.extent(1), "the rows", rows)
      .equal("t's scales", "rows", t.scales.extent(0), "t", t.extent(0))
      .equal("t's scales", "columns", t.scales.extent(1), "the tiles", groups.tiles(rows))
      .present("t", t.values)
      .present("t's scales", t.scales);
}
template <class Gates>
void match_gates(requirements& need, const char* name, const Gates& gates, index_t rows) {
  if (!gates.empty()) need.equal(name, "rows", gates.extent(0), "the rows", rows);
}
inline void whole_tiles(requirements& need, index_t inner) {
  need.that(inner % 128 == 0, "the inner width must be a multiple of 128", {{"inner", inner}});
}

}  // namespace detail

template <precision P, class Gradient>
status stored_swiglu<P, Gradient>::forward_args::check() const {
  requirements need{name};
  const index_t rows = gate_up.extent(0), inner = y.extent(1);
  need.equal("gate_up", "columns", gate_up.extent(1), "twice y", 2 * inner).present("gate_up", gate_up);
  detail::whole_tiles(need, inner);
  detail::match_rows(need, "kept", kept, rows, 2 * inner), detail::match_rows(need, "y", y, rows, inner);
  detail::match_gates(need, "row_gates", row_gates, rows);
  return need.verdict();
}
template <precision P, class Gradient>
status stored_swiglu<P, Gradient>::again_args::check() const {
  requirements need{name};
  const index_t rows = kept.extent(0), inner = t.extent(0);
  detail::whole_tiles(need, inner);
  detail::match_rows(need, "kept", kept, rows, 2 * inner);
  detail::match_columns(need, t, rows, inner, groups);
  detail::match_gates(need, "row_gates", row_gates, rows);
  return need.verdict();
}
template <precision P, class Gradient>
status stored_swiglu<P, Gradient>::backward_args::check() const {
  requirements need{name};
  const index_t rows = dy.extent(0), inner = dy.extent(1);
  need.present("dy", dy);
  detail::whole_tiles(need, inner);
  detail::match_rows(need, "kept", kept, rows, 2 * inner), detail::match_rows(need, "y", y, rows, 2 * inner);
  detail::match_columns(need, t, rows, 2 * inner, groups);
  detail::match_gates(need, "row_gates", row_gates, rows);
  detail::match_gates(need, "d_row_gates", d_row_gates, rows);
  return need.verdict();
}

template <precision P, class Gradient>
template <execution_context Ctx>
void stored_swiglu<P, Gradient>::forward(Ctx& ctx, const forward_args& args) {
  invoke<stored_swiglu>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void stored_swiglu<P, Gradient>::again(Ctx& ctx, const again_args& args) {
  invoke<stored_swiglu>(ctx, args);
}
template <precision P, class Gradient>
template <execution_context Ctx>
void stored_swiglu<P, Gradient>::backward(Ctx& ctx, const backward_args& args) {
  invoke<stored_swiglu>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
