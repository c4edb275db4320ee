// SPDX-License-Identifier: MIT
// Products of a few rows with large weights on several threads: each weight is read once, as it lies.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/linear/few_rows.hpp>
#include <dsv3/exec/scratch.hpp>
#include <dsv3/op/linear/store.hpp>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cpu {

/// Up to so many rows a product is faster row by row than in tiles, which pack both operands.
inline constexpr index_t few_rows = 16;

/// Runs products c = a · bᵀ of at most few_rows rows, whose sums are of type Sum. A row of c has the same
/// bits whatever rows come with it, and whatever the number of threads.
template <class Sum, class Product>
class rowwise {
 public:
  /// Panels for `threads` threads and products of depth `k`; null where rows need no converting.
  static Sum* panels(scratch_arena& arena, int threads, index_t k) {
    return converts ? arena.take<Sum>(std::max(threads, 1) * few_rows * k) : nullptr;
  }

  static bool takes(const Product& p) { return p.m() <= few_rows; }

  /// Runs product_of(g) for every g in [0, groups) whose rows are few enough; all are equally wide and deep.
  template <class ProductOf>
  static void run(int threads, index_t groups, ProductOf&& product_of, Sum* panels) {
    index_t total = 0, width = 1, depth = 0;  // `total`: columns of all products that have rows
    for (index_t g = 0; g < groups; ++g)
      if (const Product p = product_of(g); takes(p) && p.m() > 0) total += width = p.n(), depth = p.k();
    const index_t parts = std::clamp<index_t>(total * depth / worthwhile, 1, 4 * std::max(threads, 1));
    parallel_slots(threads, parts, [&](index_t slot, index_t part) {
      const index_range mine = split_range(total, part, parts);
      index_t before = 0;  // columns of the products before
      for (index_t g = 0; g < groups && before < mine.end; ++g) {
        const Product p = product_of(g);
        if (!takes(p) || p.m() == 0) continue;
        const index_range columns{std::max<index_t>(mine.begin - before, 0),
                                  std::min(mine.end - before, p.n())};
        if (columns.count() > 0) multiply(p, columns, panels + (converts ? slot * few_rows * p.k() : 0));
        before += p.n();
      }
    });
  }

 private:
  static constexpr bool converts = !std::is_same_v<typename Product::a_element, Sum>;
  static constexpr index_t worthwhile = index_t{1} << 16;  // weights worth handing to a thread

  static void multiply(const Product& p, index_range columns, Sum* panel) {
    const Sum* x;
    index_t stride = p.a.stride(0);
    if constexpr (converts) {
      stride = p.k();
      for (index_t r = 0; r < p.m(); ++r) {
        const auto* row = p.a[r].data();
        DSV3_SIMD
        for (index_t i = 0; i < stride; ++i) panel[r * stride + i] = Sum(row[i]);
      }
      x = panel;
    } else {
      x = p.a.data();
    }
    const auto w = p.b.rows(columns.begin, columns.end);
    using element = typename Product::c_element;
    dot_rows(p.m(), columns.count(), p.k(), x, stride, w.data(), w.stride(0),
             [&](index_t r, index_t o, Sum sum) {
               element& to = p.c(r, columns.begin + o);
               to = element(p.into == store::add ? Sum(to) + sum : sum);
             });
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
