// SPDX-License-Identifier: MIT
// Tiles of products over scaled tiles: summed in floats, or in a model of a matrix unit's few bits.
#pragma once

#include <dsv3/cpu/host/limited_sum.hpp>
#include <dsv3/cpu/linear/scaled_part.hpp>
#include <dsv3/number/fp8_recipe.hpp>

#include <algorithm>
#include <limits>
#include <utility>

namespace dsv3::inline DSV3_ABI::cpu {

/// A product and what adds it up; a is read as it lies.
template <class A, class B, class C>
struct scaled_product : tiled_product<A, B, C> {
  scaled_product_options options;

  scaled_product part(index_range rows, index_range columns) const {
    return {tiled_product<A, B, C>::part(rows, columns), options};
  }
};

/// Adds up products of codes by limited_sum. Every `promotion` elements a sum is multiplied by its scales and
/// added to a float, and begins anew. One that goes on into another stretch of 128 is first expressed in that
/// stretch's scales: the unit itself knows none. A code that is not finite makes NaN of its sums.
template <class Product>
class limited_tile {
 public:
  static index_t elements(index_t rows, index_t columns) {
    const index_t wide = round_up(columns, lanes);
    return rows * stretch + wide * stretch + 2 * rows * wide + 2 * wide;
  }

  static void multiply(const Product& p, float* panel) { limited_tile(p, panel).run(); }

 private:
  static constexpr index_t stretch = 128, lanes = vector_lanes<float>;

  limited_tile(const Product& product, float* panel)
      : p(product),
        m(p.m()),
        n(p.n()),
        wide(round_up(n, lanes)),
        a(panel),
        b(a + m * stretch),
        sums(b + wide * stretch),
        totals(sums + m * wide),
        scales(totals + m * wide),
        former(scales + wide) {
    std::fill(b, scales, 0.0f);
    std::fill_n(scales, 2 * wide, 1.0f);
  }

  void run() {
    const index_t k = p.k(), promotion = p.options.promotion;
    bool goes_on = false;
    for (index_t first = 0; first < k; first += stretch) {
      const index_t last = std::min(first + stretch, k);
      read_a(first, last);
      read_b(first, last);
      std::swap(scales, former);
      for (index_t c = 0; c < n; ++c)
        scales[c] = p.tb == transpose::no ? p.b.scale_of(first, c) : p.b.scale_of(c, first);
      if (goes_on) rescale(first);
      add(last - first);
      goes_on = last < k && (promotion == 0 || last % promotion != 0);
      if (!goes_on) promote(first);
    }
    const index_t extents[] = {m, n}, strides[] = {wide, 1};
    put_numbers(view<float, 2>{totals, extents, strides}, p.c, p.into);
  }

  void add(index_t depth) {
    constexpr index_t together = 4;
    for (index_t c = 0; c < wide; c += lanes) {
      index_t r = 0;
      for (; r + together <= m; r += together)
        limited_sum::add<together>(depth, a + r * stretch, stretch, b + c * stretch, sums + r * wide + c,
                                   wide);
      for (; r < m; ++r)
        limited_sum::add<1>(depth, a + r * stretch, stretch, b + c * stretch, sums + r * wide + c, wide);
    }
  }

  // From the former stretch's scales to those of the one that begins at `first`.
  void rescale(index_t first) {
    constexpr float beyond = std::numeric_limits<float>::quiet_NaN();
    for (index_t r = 0; r < m; ++r) {
      const float is = p.a.scale_of(r, first - 1), becomes = p.a.scale_of(r, first);
      float *sum = sums + r * wide, *total = totals + r * wide;
      DSV3_SIMD
      for (index_t c = 0; c < wide; ++c) {
        const float scaled = sum[c] * ((is * former[c]) / (becomes * scales[c]));
        const bool takes = scaled > -limited_sum::most && scaled < limited_sum::most;
        sum[c] = takes ? scaled : 0.0f;
        total[c] = takes ? total[c] : beyond;
      }
    }
  }

  void promote(index_t first) {
    for (index_t r = 0; r < m; ++r) {
      const float scale = p.a.scale_of(r, first);
      float *sum = sums + r * wide, *total = totals + r * wide;
      DSV3_SIMD
      for (index_t c = 0; c < wide; ++c) {
        total[c] += sum[c] * (scale * scales[c]);
        sum[c] = 0;
      }
    }
  }

  // `a` holds codes as [m, stretch], `b` as [wide / lanes, stretch, lanes].
  void read_a(index_t first, index_t last) {
    for (index_t r = 0; r < m; ++r)
      widen(p.a.values()[r].data() + first, last - first, a + r * stretch,
            [&](index_t) { std::fill_n(totals + r * wide, n, std::numeric_limits<float>::quiet_NaN()); });
  }
  void read_b(index_t first, index_t last) {
    const auto spoil = [&](index_t c) {
      for (index_t r = 0; r < m; ++r) totals[r * wide + c] = std::numeric_limits<float>::quiet_NaN();
    };
    const auto& codes = p.b.values();
    if (p.tb == transpose::no) {
      for (index_t i = first; i < last; ++i)
        for (index_t c = 0; c < n; c += lanes)
          widen(codes[i].data() + c, std::min(lanes, n - c), b + c * stretch + (i - first) * lanes,
                [&](index_t lane) { spoil(c + lane); });
    } else {
      for (index_t c = 0; c < n; ++c) {
        float line[stretch];
        widen(codes[c].data() + first, last - first, line, [&](index_t) { spoil(c); });
        float* to = b + c / lanes * lanes * stretch + c % lanes;
        for (index_t i = 0; i < last - first; ++i) to[i * lanes] = line[i];
      }
    }
  }

  // Codes to floats; spoil(i) for those that are not finite, which become zero.
  template <class Element, class Spoil>
  static void widen(const Element* codes, index_t count, float* to, Spoil&& spoil) {
    constexpr std::int32_t infinity = 0x7F800000;
    std::int32_t largest = 0;
    DSV3_SIMD_MAX(largest)
    for (index_t i = 0; i < count; ++i) {
      to[i] = static_cast<float>(codes[i]);
      const std::int32_t magnitude = __builtin_bit_cast(std::int32_t, to[i]) & 0x7FFFFFFF;
      largest = magnitude > largest ? magnitude : largest;
    }
    if (largest < infinity) return;
    for (index_t i = 0; i < count; ++i)
      if ((__builtin_bit_cast(std::int32_t, to[i]) & infinity) == infinity) to[i] = 0, spoil(i);
  }

  const Product& p;
  index_t m, n, wide;  // `wide`: n rounded up to vectors
  float *a, *b, *sums, *totals, *scales, *former;
};

/// How tiles of a scaled_product are multiplied: as its options say.
template <class Product>
struct scaled_tile {
  using in_floats = converted_tile<float, Product>;
  using in_few_bits = limited_tile<Product>;
  static constexpr bool needs_panels = true;

  static index_t elements(index_t rows, index_t columns, index_t depth) {
    return std::max(in_floats::elements(rows, columns, depth), in_few_bits::elements(rows, columns));
  }
  static void multiply(const Product& p, index_t depth, float* panel) {
    if (p.options.accumulator == accumulator_model::fp32)
      in_floats::multiply(p, depth, panel);
    else
      in_few_bits::multiply(p, panel);
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
