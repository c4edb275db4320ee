// SPDX-License-Identifier: MIT
// Tiles of one row on the CPU: up to 128 neighbours that share a scale.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/scale.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cpu {

/// To floats; answers their largest magnitude, NaN aside.
template <class From>
float widen_tile(const From* x, index_t count, float* wide) {
  std::int32_t largest = 0;
  DSV3_SIMD_MAX(largest)
  for (index_t i = 0; i < count; ++i) {
    wide[i] = static_cast<float>(x[i]);
    const std::int32_t magnitude = __builtin_bit_cast(std::int32_t, wide[i]) & 0x7FFFFFFF;
    const std::int32_t number = magnitude > 0x7F800000 ? 0 : magnitude;
    largest = number > largest ? number : largest;
  }
  return __builtin_bit_cast(float, largest);
}

/// Codes of up to 128 numbers; answers their scale.
template <class Element, class From>
float quantize_tile(const From* x, index_t count, scale_kind kind, Element* y) {
  float wide[128];
  const float scale = tile_scale(widen_tile(x, count, wide), Element::largest, kind);
  auto* codes = reinterpret_cast<std::uint8_t*>(y);
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) codes[i] = Element(wide[i] / scale).bits;
  return scale;
}

/// Calls body(tile, first column, columns) for the tiles of a row.
template <class Body>
void each_tile(index_t columns, Body&& body) {
  for (index_t tile = 0; 128 * tile < columns; ++tile)
    body(tile, 128 * tile, columns - 128 * tile < 128 ? columns - 128 * tile : 128);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
