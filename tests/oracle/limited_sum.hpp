// SPDX-License-Identifier: MIT
// A sum in few bits, in exact integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oracle {

/// mantissa · 2^exponent, exactly.
struct binary_number {
  std::int64_t mantissa = 0;
  int exponent = 0;

  int leading_bit() const {
    int bit = exponent - 1;
    for (std::int64_t rest = std::abs(mantissa); rest > 0; rest /= 2) ++bit;
    return bit;
  }
  /// How many times 2^unit it is, towards zero.
  std::int64_t in_units_of(int unit) const {
    std::int64_t result = mantissa;
    for (int e = exponent; e < unit && result != 0; ++e) result /= 2;
    for (int e = exponent; e > unit && result != 0; --e) result *= 2;
    return result;
  }
  double value() const { return std::ldexp(static_cast<double>(mantissa), exponent); }
};

/// In every step of 32 products, these and the sum so far are cut to 13 bits below the leading bit of the
/// largest of them, and so is what they add up to.
inline binary_number limited_sum(binary_number sum, const std::vector<binary_number>& products) {
  for (std::size_t first = 0; first < products.size(); first += 32) {
    std::vector<binary_number> addends(
        products.begin() + static_cast<std::ptrdiff_t>(first),
        products.begin() + static_cast<std::ptrdiff_t>(std::min(first + 32, products.size())));
    addends.push_back(sum);
    int top = -1000;
    for (const binary_number& x : addends)
      if (x.mantissa != 0) top = std::max(top, x.leading_bit());
    sum = {0, top - 13};
    for (const binary_number& x : addends) sum.mantissa += x.in_units_of(sum.exponent);
    const int unit = sum.leading_bit() - 13;
    sum = {sum.in_units_of(unit), unit};
  }
  return sum;
}

}  // namespace oracle
