// SPDX-License-Identifier: MIT
// Quantisation in tiles as its formula reads, element by element.
#pragma once

#include <oracle/narrow_float.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <vector>

namespace oracle {

enum class scales { real, power_of_two, power_of_two_down };
enum class sharing { tile, block, tensor };

/// Live rows [first, first + count) of each group.
struct group {
  long first, count;
};

struct quantizer {
  narrow_float format;
  double largest;  // of the format
  long tile_rows, tile_columns;
  scales kind;
  sharing share;
  std::vector<group> groups;

  struct element {
    bool live = false;
    std::uint32_t code = 0;
    float scale = 0;
  };

  /// Of x [rows, columns], floats.
  std::vector<element> operator()(const std::vector<double>& x, long columns) const {
    using set = std::tuple<long, long, long>;  // of numbers with one scale
    const auto set_of = [&](long g, long row, long column) {
      if (share == sharing::tensor) return set{0, 0, 0};
      if (share == sharing::block) return set{g, row / 128, column / 128};
      return set{g, row / tile_rows, column / tile_columns};
    };
    const auto each = [&](auto&& visit) {
      for (long g = 0; g < static_cast<long>(groups.size()); ++g)
        for (long r = 0; r < groups[static_cast<std::size_t>(g)].count; ++r)
          for (long c = 0; c < columns; ++c) {
            const long row = groups[static_cast<std::size_t>(g)].first + r;
            visit(static_cast<std::size_t>(row * columns + c), set_of(g, r, c));
          }
    };
    std::map<set, double> amax;
    each([&](std::size_t i, const set& s) {
      if (!std::isnan(x[i])) amax[s] = std::max(amax[s], std::fabs(x[i]));
    });
    std::vector<element> result(x.size());
    each([&](std::size_t i, const set& s) {
      const float scale = scale_of(amax[s]);
      // A double quotient of floats rounds to the float that their exact quotient rounds to.
      const auto quotient = static_cast<float>(x[i] / static_cast<double>(scale));
      result[i] = {true, format.round(quotient), scale};
    });
    return result;
  }

  float scale_of(double amax) const {
    const auto real = static_cast<float>(std::max(amax, static_cast<double>(1e-4f)) / largest);
    int exponent;
    if (kind == scales::real || std::isinf(real)) return real;
    const bool power = std::frexp(real, &exponent) == 0.5f;
    return std::ldexp(1.0f, kind == scales::power_of_two && !power ? exponent : exponent - 1);
  }
};

}  // namespace oracle
