// SPDX-License-Identifier: MIT
// Products with a few rows on one side, as decoding has them: the other side is read once, in its own element
// type, and nothing is packed.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Rows that are multiplied at a time.
inline constexpr index_t most_rows = 8;

namespace detail {

// One vector register of sums, and how many registers a block of sums may take.
template <class Sum>
struct sum_registers {
#if defined(__AVX512F__)
  static constexpr index_t lanes = 64 / index_t{sizeof(Sum)}, block = 24;
#elif defined(__AVX__)
  static constexpr index_t lanes = 32 / index_t{sizeof(Sum)}, block = 12;
#else
  static constexpr index_t lanes = 16 / index_t{sizeof(Sum)}, block = 12;
#endif
};

// Calls work.template operator()<n>() for n = min(count, most).
template <index_t most, class Work>
void with_constant(index_t count, Work&& work) {
  if constexpr (most > 1) {
    if (count < most) return with_constant<most - 1>(count, work);
  }
  work.template operator()<most>();
}

// `lanes` products of each pair of rows, added to sums[r][o].
template <index_t rows, index_t outputs, index_t lanes, class Sum, class W>
DSV3_FORCE_INLINE void add_products(const Sum* x, index_t x_stride, const W* w, index_t w_stride,
                                    Sum (&sums)[rows][outputs][lanes]) {
  Sum loaded[outputs][lanes];
  DSV3_UNROLL
  for (index_t o = 0; o < outputs; ++o) {
    DSV3_SIMD
    for (index_t l = 0; l < lanes; ++l) loaded[o][l] = static_cast<Sum>(w[o * w_stride + l]);
  }
  DSV3_UNROLL
  for (index_t r = 0; r < rows; ++r) {
    DSV3_UNROLL
    for (index_t o = 0; o < outputs; ++o) {
      DSV3_SIMD
      for (index_t l = 0; l < lanes; ++l) sums[r][o][l] += x[r * x_stride + l] * loaded[o][l];
    }
  }
}

template <index_t rows, index_t outputs, class Sum, class W, class Put>
void dot_block(index_t depth, const Sum* x, index_t x_stride, const W* w, index_t w_stride, Put&& put) {
  constexpr index_t lanes = sum_registers<Sum>::lanes;
  Sum sums[rows][outputs][lanes] = {};
  index_t i = 0;
  for (; i + lanes <= depth; i += lanes) add_products(x + i, x_stride, w + i, w_stride, sums);
  if (i < depth) {
    Sum x_rest[rows][lanes] = {};
    W w_rest[outputs][lanes] = {};
    for (index_t r = 0; r < rows; ++r) std::copy_n(x + r * x_stride + i, depth - i, x_rest[r]);
    for (index_t o = 0; o < outputs; ++o) std::copy_n(w + o * w_stride + i, depth - i, w_rest[o]);
    add_products(x_rest[0], lanes, w_rest[0], lanes, sums);
  }
  for (index_t r = 0; r < rows; ++r)
    for (index_t o = 0; o < outputs; ++o) {
      DSV3_UNROLL
      for (index_t half = lanes / 2; half > 0; half /= 2) {
        DSV3_SIMD
        for (index_t l = 0; l < half; ++l) sums[r][o][l] += sums[r][o][l + half];
      }
      put(r, o, sums[r][o][0]);
    }
}

template <index_t rows, index_t vectors, index_t lanes, class Sum, class W, class Start, class Put>
void weighted_block(index_t count, const Sum* weights, index_t weights_stride, const W* from,
                    index_t from_stride, Start&& start, Put&& put) {
  Sum sums[rows][vectors][lanes];
  for (index_t r = 0; r < rows; ++r)
    for (index_t v = 0; v < vectors; ++v)
      for (index_t l = 0; l < lanes; ++l) sums[r][v][l] = start(r, v * lanes + l);
  for (index_t j = 0; j < count; ++j, from += from_stride) {
    Sum loaded[vectors][lanes];
    DSV3_UNROLL
    for (index_t v = 0; v < vectors; ++v) {
      DSV3_SIMD
      for (index_t l = 0; l < lanes; ++l) loaded[v][l] = static_cast<Sum>(from[v * lanes + l]);
    }
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) {
      DSV3_UNROLL
      for (index_t v = 0; v < vectors; ++v) {
        DSV3_SIMD
        for (index_t l = 0; l < lanes; ++l) sums[r][v][l] += weights[r * weights_stride + j] * loaded[v][l];
      }
    }
  }
  for (index_t r = 0; r < rows; ++r)
    for (index_t v = 0; v < vectors; ++v)
      for (index_t l = 0; l < lanes; ++l) put(r, v * lanes + l, sums[r][v][l]);
}

}  // namespace detail

/// put(r, o, Σ_i x[r][i] · w[o][i]) for r < rows, o < outputs, i < depth. A sum's order is a function of
/// `depth` alone: a row has the same bits whatever rows come with it.
template <class Sum, class W, class Put>
void dot_rows(index_t rows, index_t outputs, index_t depth, const Sum* x, index_t x_stride, const W* w,
              index_t w_stride, Put&& put) {
  for (index_t row = 0; row < rows; row += most_rows)
    detail::with_constant<most_rows>(rows - row, [&]<index_t height>() {
      constexpr index_t width = std::min<index_t>(detail::sum_registers<Sum>::block / height, 4);
      for (index_t output = 0; output < outputs; output += width)
        detail::with_constant<width>(outputs - output, [&]<index_t live>() {
          detail::dot_block<height, live>(
              depth, x + row * x_stride, x_stride, w + output * w_stride, w_stride,
              [&](index_t r, index_t o, Sum sum) { put(row + r, output + o, sum); });
        });
    });
}

/// put(r, e, start(r, e) + Σ_j weights[r][j] · from[j][e]) for r < rows, e < width, j < count, one addend
/// after the other: a count may be taken in several calls that start where the last one ended.
template <class Sum, class W, class Start, class Put>
void weighted_rows(index_t rows, index_t count, index_t width, const Sum* weights, index_t weights_stride,
                   const W* from, index_t from_stride, Start&& start, Put&& put) {
  constexpr index_t lanes = detail::sum_registers<Sum>::lanes;
  for (index_t row = 0; row < rows; row += most_rows)
    detail::with_constant<most_rows>(rows - row, [&]<index_t height>() {
      const auto block = [&]<index_t vectors, index_t across>(index_t column) {
        detail::weighted_block<height, vectors, across>(
            count, weights + row * weights_stride, weights_stride, from + column, from_stride,
            [&](index_t r, index_t e) { return start(row + r, column + e); },
            [&](index_t r, index_t e, Sum sum) { put(row + r, column + e, sum); });
      };
      constexpr index_t most = std::min<index_t>(detail::sum_registers<Sum>::block / height, 4);
      index_t column = 0;
      for (; width - column >= lanes; column += std::min(most, (width - column) / lanes) * lanes)
        detail::with_constant<most>((width - column) / lanes, [&]<index_t vectors>() {
          block.template operator()<vectors, lanes>(column);
        });
      for (; column < width; ++column) block.template operator()<1, 1>(column);
    });
}

}  // namespace dsv3::inline DSV3_ABI::cpu
