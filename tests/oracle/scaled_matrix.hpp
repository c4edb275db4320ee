// SPDX-License-Identifier: MIT
// 8-bit numbers in scaled tiles by their definition, with a quantiser that searches the nearest number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oracle {

/// A sign, `exponent_bits` of exponent and the rest mantissa; `finite` positive codes are numbers.
struct narrow_format {
  int exponent_bits;
  unsigned finite;

  int mantissa_bits() const { return 7 - exponent_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }

  /// The number as mantissa · 2^exponent.
  struct parts {
    std::int64_t mantissa;
    int exponent;
  };
  parts split(std::uint8_t code) const {
    const int field = (code & 127) >> mantissa_bits(), low = code & ((1 << mantissa_bits()) - 1);
    const int mantissa = field == 0 ? low : low + (1 << mantissa_bits());
    return {code >= 128 ? -mantissa : mantissa, std::max(field, 1) - bias() - mantissa_bits()};
  }
  double value(std::uint8_t code) const {
    const parts p = split(code);
    return std::ldexp(static_cast<double>(p.mantissa), p.exponent);
  }
  double largest() const { return value(static_cast<std::uint8_t>(finite - 1)); }

  /// Every positive number, in order; a number's place is its code.
  std::vector<double> numbers() const {
    std::vector<double> result;
    for (unsigned code = 0; code < finite; ++code) result.push_back(value(static_cast<std::uint8_t>(code)));
    return result;
  }
};

inline constexpr narrow_format e4m3{4, 127}, e5m2{5, 124};

/// value(r, c) = code · scale of the tile that holds it.
struct scaled_matrix {
  narrow_format format;
  std::size_t rows, columns, tile_rows, tile_columns;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;

  std::size_t tiles_down() const { return (rows + tile_rows - 1) / tile_rows; }
  std::size_t tiles_across() const { return (columns + tile_columns - 1) / tile_columns; }
  float& scale(std::size_t r, std::size_t c) {
    return scales[r / tile_rows * tiles_across() + c / tile_columns];
  }
  std::vector<double> values() {
    std::vector<double> result;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        result.push_back(format.value(codes[r * columns + c]) * static_cast<double>(scale(r, c)));
    return result;
  }
};

/// Of `numbers` [rows, columns]; every tile's largest becomes the format's largest, or, with powers of two,
/// less than twice smaller.
inline scaled_matrix quantized(const std::vector<double>& numbers, std::size_t rows, std::size_t columns,
                               std::size_t tile_rows, std::size_t tile_columns, narrow_format format = e4m3,
                               bool powers_of_two = false) {
  scaled_matrix m{format, rows, columns, tile_rows, tile_columns, {}, {}};
  m.codes.resize(rows * columns);
  m.scales.assign(m.tiles_down() * m.tiles_across(), 0.0f);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    float& largest = m.scale(i / columns, i % columns);
    largest = std::max(largest, static_cast<float>(std::fabs(numbers[i])));
  }
  for (float& scale : m.scales) {
    scale = std::max(scale, 1e-4f) / static_cast<float>(format.largest());
    if (powers_of_two) scale = std::exp2(std::ceil(std::log2(scale)));
  }
  const std::vector<double> table = format.numbers();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double number = numbers[i] / static_cast<double>(m.scale(i / columns, i % columns));
    auto nearest = std::lower_bound(table.begin(), table.end() - 1, std::fabs(number));
    if (nearest != table.begin() && std::fabs(number) - nearest[-1] < *nearest - std::fabs(number)) --nearest;
    m.codes[i] = static_cast<std::uint8_t>(nearest - table.begin() + (number < 0 ? 128 : 0));
  }
  return m;
}

}  // namespace oracle
