// SPDX-License-Identifier: MIT
// Products with a few rows on one side, as decoding has them: the other side is read once, in its own element
// type, and nothing is packed.
#pragma once

#include <dsv3/cpu/host/vector.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI::cpu {

/// Rows that are multiplied at a time; their sums stay in registers.
inline constexpr index_t block_height = 8;

namespace detail {

// Calls work.template operator()<n>() for n = min(count, most).
template <index_t most, class Work>
DSV3_FORCE_INLINE void with_constant(index_t count, Work&& work) {
  if constexpr (most > 1) {
    if (count < most) return with_constant<most - 1>(count, work);
  }
  work.template operator()<most>();
}

// The next rows of `count` that are multiplied together: 8, 4, 2 or 1, so that few kernels are compiled.
template <index_t most = block_height, class Work>
DSV3_FORCE_INLINE index_t with_height(index_t count, Work&& work) {
  if constexpr (most > 1) {
    if (count < most) return with_height<most / 2>(count, work);
  }
  work.template operator()<most>();
  return most;
}

// How many vectors beside `rows` make a block whose sums stay in registers.
constexpr index_t beside(index_t rows) {
  return std::clamp<index_t>((vector_registers - vector_registers / 4) / rows, 1, 4);
}

// totals[r * outputs + o] = Σ_i x[r][i] · w[o][i]. What becomes of them is the caller's: blocks are compiled
// once for all callers.
template <index_t rows, index_t outputs, class Sum, class W>
void dot_block(index_t depth, const Sum* x, index_t x_stride, const W* w, index_t w_stride, Sum* totals) {
  constexpr index_t lanes = vector_lanes<Sum>;
  vector<Sum> sums[rows * outputs] = {};
  // Rows are short for the processor to notice that they follow one another: it is told.
  const index_t ahead = std::max(outputs * w_stride, index_t{8192 / sizeof(W)});
  const auto add = [&](auto&& load_x, auto&& load_w) {
    vector<Sum> loaded[outputs];
    DSV3_UNROLL
    for (index_t o = 0; o < outputs; ++o) loaded[o] = load_w(w + o * w_stride);
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) {
      const vector<Sum> row = load_x(x + r * x_stride);
      DSV3_UNROLL
      for (index_t o = 0; o < outputs; ++o) sums[r * outputs + o] += row * loaded[o];
    }
  };
  index_t i = 0;
  for (; i + lanes <= depth; i += lanes) {
    DSV3_UNROLL
    for (index_t o = 0; o < outputs; ++o) __builtin_prefetch(w + o * w_stride + i + ahead, 0, 2);
    add([&](const Sum* at) { return load_vector<Sum>(at + i); },
        [&](const W* at) { return load_vector<Sum>(at + i); });
  }
  if (i < depth)
    add([&](const Sum* at) { return load_part<Sum>(at + i, depth - i); },
        [&](const W* at) { return load_part<Sum>(at + i, depth - i); });
  constexpr index_t together = std::min(rows * outputs, lanes);
  DSV3_UNROLL
  for (index_t first = 0; first < rows * outputs; first += together) {
    vector<Sum> group[together];
    DSV3_UNROLL
    for (index_t s = 0; s < together; ++s) group[s] = sums[std::min(first + s, rows * outputs - 1)];
    const vector<Sum> of_group = sums_of_lanes<Sum>(group);
    DSV3_UNROLL
    for (index_t s = 0; s < together; ++s)
      if (first + s < rows * outputs) totals[first + s] = of_group[s];
  }
}

// `live` columns of the only vector, or whole vectors.
template <index_t rows, index_t vectors, class Sum, class W>
void weighted_block(index_t count, const Sum* weights, index_t weights_stride, const W* from,
                    index_t from_stride, index_t live, bool add, Sum* to, index_t to_stride) {
  constexpr index_t lanes = vector_lanes<Sum>;
  vector<Sum> sums[rows][vectors] = {};
  if (add) {
    DSV3_UNROLL
    for (index_t r = 0; r < rows; ++r) {
      DSV3_UNROLL
      for (index_t v = 0; v < vectors; ++v)
        sums[r][v] = live == lanes ? load_vector<Sum>(to + r * to_stride + v * lanes)
                                   : load_part<Sum>(to + r * to_stride, live);
    }
  }
  const auto add_all = [&](auto&& load) {
    for (index_t j = 0; j < count; ++j) {
      vector<Sum> loaded[vectors];
      DSV3_UNROLL
      for (index_t v = 0; v < vectors; ++v) loaded[v] = load(from + j * from_stride + v * lanes);
      DSV3_UNROLL
      for (index_t r = 0; r < rows; ++r) {
        const Sum share = weights[r * weights_stride + j];
        DSV3_UNROLL
        for (index_t v = 0; v < vectors; ++v) sums[r][v] += share * loaded[v];
      }
    }
  };
  if (live == lanes)
    add_all([](const W* at) { return load_vector<Sum>(at); });
  else
    add_all([&](const W* at) { return load_part<Sum>(at, live); });
  DSV3_UNROLL
  for (index_t r = 0; r < rows; ++r) {
    DSV3_UNROLL
    for (index_t v = 0; v < vectors; ++v)
      std::memcpy(to + r * to_stride + v * lanes, &sums[r][v], static_cast<std::size_t>(live) * sizeof(Sum));
  }
}

}  // namespace detail

/// put(r, o, Σ_i x[r][i] · w[o][i]) for r < rows, o < outputs, i < depth. A sum's order is a function of
/// `depth` alone: a row has the same bits whatever rows come with it.
template <class Sum, class W, class Put>
void dot_rows(index_t rows, index_t outputs, index_t depth, const Sum* x, index_t x_stride, const W* w,
              index_t w_stride, Put&& put) {
  constexpr index_t reread = 32;  // outputs whose w is still in the cache when the next rows come
  for (index_t first = 0; first < outputs; first += reread)
    for (index_t row = 0; row < rows;)
      row += detail::with_height(rows - row, [&]<index_t height>() {
        constexpr index_t width = detail::beside(height);
        const index_t last = std::min(first + reread, outputs);
        for (index_t output = first; output < last; output += width)
          detail::with_constant<width>(last - output, [&]<index_t live>() {
            Sum totals[height * live];
            detail::dot_block<height, live>(depth, x + row * x_stride, x_stride, w + output * w_stride,
                                            w_stride, totals);
            for (index_t r = 0; r < height; ++r)
              for (index_t o = 0; o < live; ++o) put(row + r, output + o, totals[r * live + o]);
          });
      });
}

/// to[r][e] = Σ_j weights[r][j] · from[j][e] for r < rows, e < width, j < count, or += where `add`. Addends
/// come one after the other: a count may be taken in several calls, and a row has the same bits whatever rows
/// come with it.
template <class Sum, class W>
void weighted_rows(index_t rows, index_t count, index_t width, const Sum* weights, index_t weights_stride,
                   const W* from, index_t from_stride, bool add, Sum* to, index_t to_stride) {
  constexpr index_t lanes = vector_lanes<Sum>;
  for (index_t row = 0; row < rows;)
    row += detail::with_height(rows - row, [&]<index_t height>() {
      const auto block = [&]<index_t vectors>(index_t column, index_t live) {
        detail::weighted_block<height, vectors>(count, weights + row * weights_stride, weights_stride,
                                                from + column, from_stride, live, add,
                                                to + row * to_stride + column, to_stride);
      };
      constexpr index_t most = detail::beside(height);
      index_t column = 0;
      for (; width - column >= lanes; column += std::min(most, (width - column) / lanes) * lanes)
        detail::with_constant<most>((width - column) / lanes, [&]<index_t vectors>() {
          block.template operator()<vectors>(column, lanes);
        });
      if (column < width) block.template operator()<1>(column, width - column);
    });
}

}  // namespace dsv3::inline DSV3_ABI::cpu
