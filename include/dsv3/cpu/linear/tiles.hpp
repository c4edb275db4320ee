// SPDX-License-Identifier: MIT
// One or many matrix products on several threads: outputs are cut into tiles, threads take one tile after
// another.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>
#include <dsv3/exec/scratch.hpp>
#include <dsv3/op/linear/store.hpp>

#include <atomic>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cpu {

/// c = op(a) · op(b), written to c or added to it; op(a) [m, k], op(b) [k, n], c [m, n], row-major.
template <class A, class B, class C>
struct tiled_product {
  using a_element = A;
  using b_element = B;
  using c_element = C;

  index_t m, n, k;
  transpose ta, tb;
  const A* a;
  index_t lda;
  const B* b;
  index_t ldb;
  C* c;
  index_t ldc;
  store into;

  /// The part that makes the tile of c with this corner and these extents.
  tiled_product tile(index_t row, index_t column, index_t rows, index_t columns) const {
    tiled_product part = *this;
    part.m = rows, part.n = columns;
    part.a += ta == transpose::no ? row * lda : row;
    part.b += tb == transpose::no ? column : column * ldb;
    part.c += row * ldc + column;
    return part;
  }
};

/// Runs products whose sums are of type Sum. Operands of another type are converted to Sum block by block, in
/// panels of scratch; an output of another type is summed in a panel and rounded once.
template <class Sum, class Product>
class tiles {
 public:
  /// Panels for `threads` threads and products of at most these extents; null where nothing needs converting.
  static Sum* panels(scratch_arena& arena, int threads, index_t m, index_t n, index_t k) {
    return converts ? arena.take<Sum>(std::max(threads, 1) * panel_extents(m, n, k).elements()) : nullptr;
  }

  /// Runs product_of(g) for every g in [0, groups); no output may overlap another. (m, n, k) and `panels` as
  /// above.
  template <class ProductOf>
  static void run(int threads, index_t groups, index_t m, index_t n, index_t k, ProductOf&& product_of,
                  Sum* panels) {
    const panel largest = panel_extents(m, n, k);
    const panel shape = tile_shape(threads, groups, largest, product_of);
    const index_t total = count_tiles(groups, shape, product_of);
    std::atomic<index_t> next = 0;
    const index_t workers = std::clamp<index_t>(total, 1, std::max(threads, 1));
    parallel_parts(threads, workers, [&](index_t worker) {
      Sum* mine = converts ? panels + worker * largest.elements() : nullptr;
      index_t group = 0, before = 0;  // number of tiles in the groups before `group`
      for (index_t tile = next++; tile < total; tile = next++) {
        while (tile - before >= shape.tiles_of(product_of(group)))
          before += shape.tiles_of(product_of(group++));
        const Product whole = product_of(group);
        const index_t across = ceil_div(whole.n, shape.columns);
        const index_t row = (tile - before) / across * shape.rows,
                      column = (tile - before) % across * shape.columns;
        multiply(whole.tile(row, column, std::min(shape.rows, whole.m - row),
                            std::min(shape.columns, whole.n - column)),
                 largest.depth, mine);
      }
    });
  }

 private:
  using A = typename Product::a_element;
  using B = typename Product::b_element;
  using C = typename Product::c_element;
  static constexpr bool converts_a = !std::is_same_v<A, Sum>, converts_b = !std::is_same_v<B, Sum>,
                        converts_c = !std::is_same_v<C, Sum>,
                        converts = converts_a || converts_b || converts_c;

  // Extents of a tile, and the depth up to which it is summed at a time.
  struct panel {
    index_t rows, columns, depth;
    index_t elements() const {
      return (converts_a ? rows * depth : 0) + (converts_b ? columns * depth : 0) +
             (converts_c ? rows * columns : 0);
    }
    index_t tiles_of(const Product& p) const { return ceil_div(p.m, rows) * ceil_div(p.n, columns); }
  };

  static panel panel_extents(index_t m, index_t n, index_t k) {
    m = std::max<index_t>(m, 1), n = std::max<index_t>(n, 1), k = std::max<index_t>(k, 1);
    if (!converts) return {m, n, k};
    return {std::min<index_t>(m, 256), std::min<index_t>(n, 512),
            std::min<index_t>(k, 256)};  // about a megabyte
  }

  template <class ProductOf>
  static index_t count_tiles(index_t groups, const panel& shape, ProductOf&& product_of) {
    index_t total = 0;
    for (index_t g = 0; g < groups; ++g) total += shape.tiles_of(product_of(g));
    return total;
  }

  // The largest tiles that still give every thread four, so that a slow thread can be helped out, and that
  // are worth the hand-out. A function of the extents and the thread count alone.
  template <class ProductOf>
  static panel tile_shape(int threads, index_t groups, panel shape, ProductOf&& product_of) {
    constexpr index_t edge = 64, worthwhile = index_t{1} << 18;
    if (threads <= 1) return shape;
    index_t multiplications = 0;
    for (index_t g = 0; g < groups; ++g) {
      const Product p = product_of(g);
      multiplications += p.m * p.n * std::max<index_t>(p.k, 1);
    }
    for (index_t total; (total = count_tiles(groups, shape, product_of)) < 4 * threads;) {
      index_t& longer = shape.rows >= shape.columns ? shape.rows : shape.columns;
      if (longer <= edge || multiplications < 2 * worthwhile * total) break;
      longer = round_up(ceil_div(longer, 2), edge);
    }
    return shape;
  }

  template <class From>
  static void convert(const From* from, index_t distance, index_t rows, index_t columns, Sum* to) {
    for (index_t r = 0; r < rows; ++r, from += distance, to += columns) {
      DSV3_SIMD
      for (index_t i = 0; i < columns; ++i) to[i] = Sum(from[i]);
    }
  }

  // The block of a matrix stored with `distance` between rows, as numbers of type Sum: itself, or converted
  // in `panel`.
  template <class From>
  static const Sum* block(const From* from, index_t& distance, index_t rows, index_t columns, Sum* panel) {
    if constexpr (std::is_same_v<From, Sum>) {
      return from;
    } else {
      convert(from, distance, rows, columns, panel);
      distance = columns;
      return panel;
    }
  }

  static void multiply(const Product& p, index_t depth, Sum* panel) {
    Sum* a_panel = panel;
    Sum* b_panel = a_panel + (converts_a ? p.m * depth : 0);
    Sum* sums = b_panel + (converts_b ? p.n * depth : 0);
    index_t sums_distance = p.n;
    bool adds = false;
    if constexpr (!converts_c) sums = p.c, sums_distance = p.ldc, adds = p.into == store::add;
    index_t first = 0;
    do {  // once even where there is nothing to sum: the output is still written
      const index_t now = std::min(depth, p.k - first);
      const bool as_is_a = p.ta == transpose::no, as_is_b = p.tb == transpose::no;
      index_t lda = p.lda, ldb = p.ldb;
      const Sum* a = block(p.a + (as_is_a ? first : first * lda), lda, as_is_a ? p.m : now,
                           as_is_a ? now : p.m, a_panel);
      const Sum* b = block(p.b + (as_is_b ? first * ldb : first), ldb, as_is_b ? now : p.n,
                           as_is_b ? p.n : now, b_panel);
      product(p.ta, p.tb, p.m, p.n, now, Sum(1), a, lda, b, ldb, adds ? Sum(1) : Sum(0), sums, sums_distance);
      adds = true;
      first += now;
    } while (first < p.k);
    if constexpr (converts_c) put(p, sums);
  }

  static void put(const Product& p, const Sum* sums) {
    for (index_t r = 0; r < p.m; ++r, sums += p.n) {
      C* c = p.c + r * p.ldc;
      if (p.into == store::add) {
        DSV3_SIMD
        for (index_t i = 0; i < p.n; ++i) c[i] = C(Sum(c[i]) + sums[i]);
      } else {
        DSV3_SIMD
        for (index_t i = 0; i < p.n; ++i) c[i] = C(sums[i]);
      }
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
