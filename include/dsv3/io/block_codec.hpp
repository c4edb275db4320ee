// SPDX-License-Identifier: MIT
// Weights as the released files hold them: 8-bit codes and one scale per block of 128 x 128.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/number/bf16.hpp>
#include <dsv3/number/fp8.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A block of smaller values, zeros too, gets the scale of this one.
inline constexpr float smallest_block_amax = 1e-12f;

/// What the codes of a block are multiplied by, from its largest magnitude. Derived again from code * scale
/// in float it has the same bits: x = 448 * scale is what was rounded to give the scale, or rounds to a
/// number whose quotient rounds back.
constexpr float block_scale(float amax) { return std::max(amax, smallest_block_amax) / 448.0f; }

namespace detail {

// The largest magnitude's bits. As integers NaN is above infinity, and infinity above every number.
inline std::uint32_t largest_magnitude(const float* values, index_t count) {
  std::uint32_t largest = 0;
  DSV3_SIMD_MAX(largest)
  for (index_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = __builtin_bit_cast(std::uint32_t, values[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

}  // namespace detail

/// For every block: scale = block_scale(amax), code = fp8_e4m3(x / scale). A double is rounded to float
/// first. Raises for a value that is not finite; `name` says of which tensor, whose rows begin at
/// `first_row`.
template <class T>
void quantize_blocks(const view<const T, 2>& from, const scaled_view<fp8_e4m3, block_tile>& to,
                     const std::string& name, index_t first_row = 0) {
  constexpr index_t edge = block_tile::rows;
  std::vector<float> block(static_cast<std::size_t>(edge * edge));
  for (index_t r0 = 0; r0 < from.extent(0); r0 += edge)
    for (index_t c0 = 0; c0 < from.extent(1); c0 += edge) {
      const index_t rows = std::min(edge, from.extent(0) - r0), columns = std::min(edge, from.extent(1) - c0);
      for (index_t r = 0; r < rows; ++r) {
        const T* source = &from(r0 + r, c0);
        float* values = block.data() + r * columns;
        DSV3_SIMD
        for (index_t c = 0; c < columns; ++c) values[c] = static_cast<float>(source[c]);
      }
      const std::uint32_t largest = detail::largest_magnitude(block.data(), rows * columns);
      if (largest >= 0x7F800000u) {
        const auto bad = std::find_if(block.begin(), block.end(), [](float x) { return !(x - x == 0); });
        const index_t at = bad - block.begin();
        raise(name + "[" + std::to_string(first_row + r0 + at / columns) + ", " +
              std::to_string(c0 + at % columns) + "] is " + std::to_string(*bad) +
              ", expected a finite number: no 8-bit code stands for it");
      }
      const float scale = block_scale(__builtin_bit_cast(float, largest));
      to.scales(r0 / edge, c0 / edge) = scale;
      for (index_t r = 0; r < rows; ++r) {
        const float* values = block.data() + r * columns;
        fp8_e4m3* codes = &to.values(r0 + r, c0);
        DSV3_SIMD
        for (index_t c = 0; c < columns; ++c) codes[c].bits = fp8_e4m3(values[c] / scale).bits;
      }
    }
}

/// to = code * scale, rounded once.
template <class T>
void dequantize_row(const scaled_view<const fp8_e4m3, block_tile>& from, index_t row, T* to) {
  constexpr index_t edge = block_tile::columns;
  // A product of code and scale is exact in double.
  using wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  for (index_t c0 = 0; c0 < from.extent(1); c0 += edge) {
    const index_t columns = std::min(edge, from.extent(1) - c0);
    const wide scale = from.scale_of(row, c0);
    const fp8_e4m3* codes = &from.values(row, c0);
    DSV3_SIMD
    for (index_t c = 0; c < columns; ++c)
      to[c0 + c] = static_cast<T>(static_cast<wide>(static_cast<float>(codes[c])) * scale);
  }
}

}  // namespace dsv3::inline DSV3_ABI
