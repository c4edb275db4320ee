// SPDX-License-Identifier: MIT
// Reductions in rank order: what makes the same ranks give the same bits, whatever carried their data.
#pragma once

#include <dsv3/comm/engine.hpp>

#include <algorithm>
#include <span>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace detail {

// Integers wrap around; two's complement makes the unsigned sum the signed one.
template <class Sum>
Sum reduced(Sum a, Sum b, reduction how) {
  switch (how) {
    case reduction::max:
      return b > a || b != b ? b : a;  // a NaN stays
    case reduction::min:
      return b < a || b != b ? b : a;
    default:
      break;
  }
  if constexpr (std::is_integral_v<Sum>)
    return static_cast<Sum>(static_cast<std::make_unsigned_t<Sum>>(a) +
                            static_cast<std::make_unsigned_t<Sum>>(b));
  else
    return a + b;
}

template <class T, class Sum = T>
void reduce_elements(std::span<const void* const> from, std::span<void* const> to, index_range range,
                     reduction how) {
  constexpr index_t block = 1024;  // stays in the innermost cache
  Sum sums[block];
  const auto add_rank = [&](const T* values, index_t count, auto with) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) sums[i] = with(sums[i], static_cast<Sum>(values[i]));
  };
  for (index_t begin = range.begin; begin < range.end; begin += block) {
    const index_t count = std::min(block, range.end - begin);
    const T* first = static_cast<const T*>(from[0]) + begin;
    for (index_t i = 0; i < count; ++i) sums[i] = static_cast<Sum>(first[i]);
    for (const void* rank : from.subspan(1)) {
      const T* values = static_cast<const T*>(rank) + begin;
      if (how == reduction::sum)
        add_rank(values, count, [](Sum a, Sum b) { return reduced(a, b, reduction::sum); });
      else if (how == reduction::max)
        add_rank(values, count, [](Sum a, Sum b) { return reduced(a, b, reduction::max); });
      else
        add_rank(values, count, [](Sum a, Sum b) { return reduced(a, b, reduction::min); });
    }
    for (void* rank : to) {
      T* values = static_cast<T*>(rank) + begin;
      for (index_t i = 0; i < count; ++i) values[i] = T(sums[i]);
    }
  }
}

}  // namespace detail

/// to[..][i] = from[0][i], from[1][i], ... reduced in this order, for i in `range`; bf16 in float, rounded
/// once. An output may be one of the inputs.
inline void reduce_in_order(std::span<const void* const> from, std::span<void* const> to, index_range range,
                            reduced_element element, reduction how) {
  switch (element) {
    case reduced_element::int32:
      return detail::reduce_elements<std::int32_t>(from, to, range, how);
    case reduced_element::int64:
      return detail::reduce_elements<std::int64_t>(from, to, range, how);
    case reduced_element::bf16:
      return detail::reduce_elements<bf16, float>(from, to, range, how);
    case reduced_element::float32:
      return detail::reduce_elements<float>(from, to, range, how);
    case reduced_element::float64:
      return detail::reduce_elements<double>(from, to, range, how);
  }
}

constexpr const char* name_of(reduced_element element) {
  switch (element) {
    case reduced_element::int32:
      return "int32";
    case reduced_element::int64:
      return "int64";
    case reduced_element::bf16:
      return "bf16";
    case reduced_element::float32:
      return "float";
    default:
      return "double";
  }
}

constexpr const char* name_of(reduction how) {
  return how == reduction::sum ? "sum" : how == reduction::max ? "max" : "min";
}

}  // namespace dsv3::inline DSV3_ABI
