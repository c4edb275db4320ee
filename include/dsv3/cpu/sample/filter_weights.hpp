// SPDX-License-Identifier: MIT
// top_k and top_p on a row of whole weights: the cut is found digit by digit, without sorting.
#pragma once

#include <dsv3/cpu/sample/first_above.hpp>
#include <dsv3/number/wide.hpp>
#include <dsv3/op/sample/exponential.hpp>
#include <dsv3/op/sample/sampling_options.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace dsv3::inline DSV3_ABI::cpu {

namespace detail {

// Weights of at least `least` stay, except the `excess` last ones of those equal to it.
struct weight_cut {
  std::uint64_t least, excess;
};

// ceil(top_p · total), top_p taken to 64 bits behind the point.
inline std::uint64_t share_of(std::uint64_t total, double top_p) {
  const uint128 product = wide_product(total, static_cast<std::uint64_t>(top_p * 0x1p64));
  const std::uint64_t floor = static_cast<std::uint64_t>(product >> 64);
  return std::max<std::uint64_t>(floor + (static_cast<std::uint64_t>(product) != 0), 1);
}

// The weights of at least `least`; `to` may be `from`.
inline index_t gather_weights(const std::uint64_t* from, index_t count, std::uint64_t least,
                              std::uint64_t* to) {
  constexpr index_t block = 16;  // most hold none and are passed over
  index_t kept = 0;
  for (index_t begin = 0; begin < count; begin += block) {
    const index_t end = std::min(begin + block, count);
    std::uint64_t largest = 0;
    DSV3_SIMD_MAX(largest)
    for (index_t i = begin; i < end; ++i) largest = from[i] > largest ? from[i] : largest;
    if (largest < least) continue;
    for (index_t i = begin; i < end; ++i) {  // without a branch: nobody can guess which
      const std::uint64_t weight = from[i];
      to[kept] = weight;
      kept += weight >= least;
    }
  }
  return kept;
}

inline std::uint64_t digits_of(std::uint64_t weight) {
  return __builtin_bit_cast(std::uint64_t, static_cast<double>(weight));
}

// Takes the positive weights of a list, largest first, until their worth reaches `need`; all of them where
// it never does. Of the list it leaves those in front that may be taken, `count` of them. The digits of a
// weight are those of its double, whose bits are ordered as the weights are: exponent and five bits of the
// fraction first, then ten bits at a time.
template <class Worth>
weight_cut find_cut(std::uint64_t* list, index_t& count, std::uint64_t need, const Worth& worth) {
  constexpr std::uint64_t first_digits = (op::weight_bits + 1) << 5, digits = 1 << 10;
  std::uint64_t worths[first_digits + 1];
  std::uint64_t prefix = 1023 << 5;  // of 1.0, the smallest weight
  for (int shift = 47;; shift -= 10) {
    const std::uint64_t above = shift == 47 ? first_digits : digits;  // the place of larger prefixes
    std::fill_n(worths, above + 1, 0);
    for (index_t i = 0; i < count; ++i)
      worths[std::min((digits_of(list[i]) >> shift) - prefix, above)] += worth(list[i]);
    std::uint64_t digit = above, taken = 0;
    for (; digit > 0 && taken + worths[digit] < need; --digit) taken += worths[digit];
    prefix += digit;
    const std::uint64_t least =
        static_cast<std::uint64_t>(std::ceil(__builtin_bit_cast(double, prefix << shift)));
    if (shift == 7) {  // no weight has more bits
      const std::uint64_t each = worth(least), equal = worths[digit] / each;
      return {least, equal - std::min(equal, (need - taken + each - 1) / each)};
    }
    count = gather_weights(list, count, least, list);
    prefix <<= 10;
  }
}

inline std::uint64_t cut_weights(std::uint64_t* w, index_t vocab, weight_cut c) {
  std::uint64_t total = 0;
  DSV3_SIMD_SUM(total)
  for (index_t v = 0; v < vocab; ++v) {
    w[v] = w[v] < c.least ? 0 : w[v];
    total += w[v];
  }
  total -= c.excess * c.least;
  for (index_t v = vocab; c.excess > 0;)
    if (w[--v] == c.least) w[v] = 0, --c.excess;
  return total;
}

}  // namespace detail

/// Zeroes the weights that the options do not keep and returns what is left of `total`. `list` is scratch for
/// `vocab` numbers: the weights that can stay at all, which are few where the model is sure.
inline std::uint64_t filter_weights(const sampling_options& options, std::uint64_t* w, index_t vocab,
                                    std::uint64_t total, std::uint64_t* list) {
  const bool some = options.top_k > 0 && options.top_k < vocab, share = options.top_p < 1;
  if (!some && !share) return total;
  const auto one = [](std::uint64_t) { return std::uint64_t{1}; };
  const auto mass = [](std::uint64_t weight) { return weight; };
  const std::uint64_t* from = w;
  index_t count = vocab;
  detail::weight_cut kept{1, 0};
  if (some) {
    const std::uint64_t k = static_cast<std::uint64_t>(options.top_k);
    std::uint64_t least = 1;
    if (options.top_k < vocab / 32) {  // the k-th largest of a part is no larger than that of all
      count = detail::gather_weights(w, vocab / 32, least, list);
      least = detail::find_cut(list, count, k, one).least;
    }
    count = detail::gather_weights(w, vocab, least, list);
    kept = detail::find_cut(list, count, k, one);
    count = detail::gather_weights(list, count, kept.least, list);
    from = list;
    total = cpu::weight_sum<std::uint64_t>(0, count, [list](index_t i) { return list[i]; }) -
            kept.excess * kept.least;
  }
  if (share) {
    // Weights below (total - need) / vocab together are less than what may go.
    const std::uint64_t need = detail::share_of(total, options.top_p);
    const std::uint64_t least =
        std::max<std::uint64_t>((total - need) / static_cast<std::uint64_t>(vocab), 1);
    count = detail::gather_weights(from, count, least, list);
    kept = detail::find_cut(list, count, need, mass);
  }
  return detail::cut_weights(w, vocab, kept);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
