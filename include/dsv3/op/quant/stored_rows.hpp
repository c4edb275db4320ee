// SPDX-License-Identifier: MIT
// Activations that wait for backward in fewer bytes, in a format chosen at run time.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/fp8_recipe.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/number/traits.hpp>
#include <dsv3/tensor/bundle.hpp>
#include <dsv3/tensor/ragged.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

struct narrow_rows_config {
  index_t rows = 0, columns = 0;
  stored_format format = stored_format::e4m3;

  /// E5M6 rows are padded to eight values.
  index_t row_bytes() const {
    switch (format) {
      case stored_format::bf16:
        return 2 * columns;
      case stored_format::e4m3:
        return columns;
      case stored_format::e5m6:
        return ceil_div(columns, 8) * 12;
    }
    return 0;
  }
  index_t row_scales() const { return format == stored_format::bf16 ? 0 : ceil_div(columns, 128); }
};

/// A row of numbers as bytes, with a scale for every 128 of them; BF16 has no scales.
template <class Byte>
struct narrow_rows_tensors {
  narrow_rows_config config;
  view<Byte, 2> bytes;                                                            // [rows, row_bytes]
  view<std::conditional_t<std::is_const_v<Byte>, const float, float>, 2> scales;  // [rows, row_scales]

  template <class Visit, class... Self>
  static void each_field(const narrow_rows_config& c, Visit&& visit, Self&... self) {
    const bool any = c.columns > 0;
    visit("bytes", any ? shape{c.rows, c.row_bytes()} : shape{}, self.bytes...);
    visit("scales", any && c.row_scales() > 0 ? shape{c.rows, c.row_scales()} : shape{}, self.scales...);
  }

  template <class B = Byte>
    requires(!std::is_const_v<B>)
  operator narrow_rows_tensors<const B>() const { return {config, bytes, scales}; }
};
using narrow_rows = narrow_rows_tensors<std::uint8_t>;
using narrow_rows_view = narrow_rows_tensors<const std::uint8_t>;

/// Rows of E4M3 are tiles of one row.
template <class Byte, class Element = std::conditional_t<std::is_const_v<Byte>, const fp8_e4m3, fp8_e4m3>>
scaled_view<Element, row_tile> as_tiles(const narrow_rows_tensors<Byte>& rows) {
  return {{reinterpret_cast<Element*>(rows.bytes.data()),
           {rows.bytes.extent(0), rows.bytes.extent(1)},
           {rows.bytes.stride(0), 1}},
          {rows.scales.data(), {rows.scales.extent(0), rows.scales.extent(1)}, {rows.scales.stride(0), 1}}};
}

namespace op {

/// store: 128 neighbours of a row share a scale: tile_scale(amax, largest of the format, scales); codes of
/// x / scale. load: codes times scales, rounded to the activation. BF16 is copied. Report, section 3.3.3;
/// how E5M6 is packed: number/e5m6.hpp.
template <precision P>
struct stored_rows {
  struct store_args {
    static constexpr const char* name = "stored_rows.store";
    view<const activation<P>, 2> x;  // [rows, columns]
    narrow_rows y;                   // live rows written
    scale_kind scales = scale_kind::real;
    row_groups groups = {};
    status check() const { return match(name, x, y); }
    void outputs(auto&& visit) const { visit("bytes", y.bytes), visit("scales", y.scales); }
  };

  struct load_args {
    static constexpr const char* name = "stored_rows.load";
    narrow_rows_view x;
    view<activation<P>, 2> y;  // [rows, columns]    live rows written
    row_groups groups = {};
    status check() const { return match(name, y, x); }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  template <execution_context Ctx>
  static void store(Ctx&, const store_args&);
  template <execution_context Ctx>
  static void load(Ctx&, const load_args&);

 private:
  template <class Wide, class Narrow>
  static status match(const char* name, const Wide& wide, const Narrow& narrow) {
    requirements need{name};
    need.equal("the narrow side", "rows", narrow.config.rows, "the wide one", wide.extent(0))
        .equal("the narrow side", "columns", narrow.config.columns, "the wide one", wide.extent(1))
        .present("the wide side", wide)
        .present("bytes", narrow.bytes)
        .present("scales", narrow.scales);
    if (!wide.empty())
      need.equal("bytes", "rows", narrow.bytes.extent(0), "the wide side", wide.extent(0))
          .equal("bytes", "columns", narrow.bytes.extent(1), "the format", narrow.config.row_bytes())
          .equal("scales", "columns", narrow.scales.extent(1), "the format", narrow.config.row_scales());
    if (!narrow.scales.empty())
      need.equal("scales", "rows", narrow.scales.extent(0), "the wide side", wide.extent(0));
    return need.verdict();
  }
};

template <precision P>
template <execution_context Ctx>
void stored_rows<P>::store(Ctx& ctx, const store_args& args) {
  invoke<stored_rows>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void stored_rows<P>::load(Ctx& ctx, const load_args& args) {
  invoke<stored_rows>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
