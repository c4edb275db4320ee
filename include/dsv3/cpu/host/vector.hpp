// SPDX-License-Identifier: MIT
// One register's worth of numbers as a value: for the few loops whose order of sums must not be the
// compiler's choice.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/number/bf16.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cpu {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32, vector_registers = 16;
#else
inline constexpr int vector_bytes = 16, vector_registers = 16;
#endif

namespace detail {
template <class T, int bytes>
struct vector_of {
  typedef T type __attribute__((vector_size(bytes)));
};
}  // namespace detail

/// vector_lanes<T> numbers; operators act lane by lane.
template <class T>
inline constexpr index_t vector_lanes = vector_bytes / index_t{sizeof(T)};
template <class T>
using vector = typename detail::vector_of<T, vector_bytes>::type;

/// The next vector_lanes<T> elements as T, wherever they lie.
template <class T, class Element>
DSV3_FORCE_INLINE vector<T> load_vector(const Element* from) {
  if constexpr (std::is_same_v<Element, T>) {
    vector<T> result;
    std::memcpy(&result, from, sizeof(result));
    return result;
  } else if constexpr (std::is_same_v<Element, bf16> && std::is_same_v<T, float>) {
    typename detail::vector_of<std::uint16_t, vector_bytes / 2>::type bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (vector<float>)(__builtin_convertvector(bits, vector<std::uint32_t>) << 16);
  } else {
    vector<T> result;
    for (index_t l = 0; l < vector_lanes<T>; ++l) result[l] = static_cast<T>(from[l]);
    return result;
  }
}

/// The same of `count` elements, fewer than a vector has; zero beyond.
template <class T, class Element>
vector<T> load_part(const Element* from, index_t count) {
  T lanes[vector_lanes<T>] = {};
  for (index_t l = 0; l < count; ++l) lanes[l] = static_cast<T>(from[l]);
  return load_vector<T>(lanes);
}

namespace detail {

// Of the segments of 2 · half lanes that a and b consist of, one half: lanes `from` .. `from` + half - 1.
template <index_t half, index_t from, class T>
DSV3_FORCE_INLINE vector<T> halves(vector<T> a, vector<T> b) {
#if __has_builtin(__builtin_shuffle)
  vector<std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>> lanes;
  for (index_t l = 0; l < vector_lanes<T>; ++l) lanes[l] = l / half * 2 * half + l % half + from;
  return __builtin_shuffle(a, b, lanes);
#else
  vector<T> result;
  for (index_t l = 0; l < vector_lanes<T>; ++l) {
    const index_t lane = l / half * 2 * half + l % half + from;
    result[l] = lane < vector_lanes<T> ? a[lane] : b[lane - vector_lanes<T>];
  }
  return result;
#endif
}

template <index_t half, class T, std::size_t count>
DSV3_FORCE_INLINE vector<T> fold_all(const vector<T> (&from)[count]) {
  if constexpr (half == 0) {
    return from[0];
  } else {
    constexpr std::size_t left = (count + 1) / 2;
    vector<T> folded[left];
    DSV3_UNROLL
    for (std::size_t i = 0; i < left; ++i) {
      const vector<T> a = from[2 * i], b = from[std::min(2 * i + 1, count - 1)];
      folded[i] = halves<half, 0, T>(a, b) + halves<half, half, T>(a, b);
    }
    return fold_all<half / 2, T>(folded);
  }
}

}  // namespace detail

/// Lane i is the sum of the lanes of from[i]; at most as many vectors as they have lanes. A sum's order
/// depends on nothing.
template <class T, std::size_t count>
DSV3_FORCE_INLINE vector<T> sums_of_lanes(const vector<T> (&from)[count]) {
  static_assert(index_t(count) <= vector_lanes<T>);
  return detail::fold_all<vector_lanes<T> / 2, T>(from);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
