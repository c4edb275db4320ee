// SPDX-License-Identifier: MIT
// What attention does row by row between its matrix products.
#pragma once

#include <dsv3/cpu/host/math.hpp>
#include <dsv3/tensor/view.hpp>

#include <limits>

namespace dsv3::inline DSV3_ABI::cpu {

/// to[i] = from[i], through the accumulator type.
template <class Acc, class From, class To>
void copy_row(const From* from, index_t count, To* to) {
  DSV3_SIMD
  for (index_t i = 0; i < count; ++i) to[i] = static_cast<To>(static_cast<Acc>(from[i]));
}

/// Columns [begin, end) of one head, tokens `first` onwards, as `rows` rows of accumulators `stride` apart.
template <class Acc, class Element>
void load_rows(const view<const Element, 3>& from, index_t first, index_t rows, index_t head, index_t begin,
               index_t end, Acc* to, index_t stride) {
  for (index_t r = 0; r < rows; ++r)
    copy_row<Acc>(from[first + r][head].data() + begin, end - begin, to + r * stride);
}

/// to += Σ_j weights[j · stride] · from[j], rows of `width`, j < count.
template <class Acc>
void add_weighted_rows(const Acc* weights, index_t stride, index_t count, const Acc* from, index_t width,
                       Acc* to) {
  index_t j = 0;
  for (; j + 4 <= count; j += 4) {  // four at a time: one store of `to` for four rows
    const Acc* row = from + j * width;
    const Acc a = weights[j * stride], b = weights[(j + 1) * stride];
    const Acc c = weights[(j + 2) * stride], d = weights[(j + 3) * stride];
    DSV3_SIMD
    for (index_t e = 0; e < width; ++e)
      to[e] += (a * row[e] + b * row[width + e]) + (c * row[2 * width + e] + d * row[3 * width + e]);
  }
  for (; j < count; ++j) {
    const Acc* row = from + j * width;
    const Acc a = weights[j * stride];
    DSV3_SIMD
    for (index_t e = 0; e < width; ++e) to[e] += a * row[e];
  }
}

/// The running maximum and the running sum of exponentials of one row of scores.
template <class Acc>
struct softmax_row {
  Acc highest = -std::numeric_limits<Acc>::infinity(), sum = 0;

  /// Turns the next `count` scores into exp(score - highest) and adds them to `sum`. Returns the factor for
  /// whatever was summed with the exponentials of earlier calls.
  Acc absorb(Acc* scores, index_t count) {
    Acc top = highest, added = 0;
    DSV3_SIMD_MAX(top)
    for (index_t j = 0; j < count; ++j) top = scores[j] > top ? scores[j] : top;
    // Where every score so far is -infinity there is nothing to subtract: exp gives zero anyway.
    const Acc shift = top == -std::numeric_limits<Acc>::infinity() ? Acc(0) : top;
    DSV3_SIMD_SUM(added)
    for (index_t j = 0; j < count; ++j) added += scores[j] = exponential(scores[j] - shift);
    const Acc rescale = exponential(highest - shift);
    highest = top;
    sum = sum * rescale + added;
    return rescale;
  }
};

/// From scores S in p and d_o · v in ds: p = exp(S - lse), ds = scale · p · (ds - projection).
template <class Acc>
void differentiate_row(Acc* p, Acc* ds, index_t count, Acc lse, Acc projection, Acc scale) {
  DSV3_SIMD
  for (index_t j = 0; j < count; ++j) {
    p[j] = exponential(p[j] - lse);
    ds[j] = p[j] * (ds[j] - projection) * scale;
  }
}

/// Σ_i a[i] · b[i] in accumulators.
template <class Acc, class Element>
Acc dot_row(const Element* a, const Element* b, index_t count) {
  Acc sum = 0;
  DSV3_SIMD_SUM(sum)
  for (index_t i = 0; i < count; ++i) sum += static_cast<Acc>(a[i]) * static_cast<Acc>(b[i]);
  return sum;
}

}  // namespace dsv3::inline DSV3_ABI::cpu
