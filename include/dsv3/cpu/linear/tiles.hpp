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

/// How the operand of a product is given: as a view of its numbers; scaled_part.hpp adds scaled tiles.
template <class Element>
struct operand_of {
  using type = view<const Element, 2>;
};

/// c = op(a) · op(b), written to c or added to it; op(a) [m, k], op(b) [k, n], c [m, n].
template <class A, class B, class C>
struct tiled_product {
  using a_element = A;
  using b_element = B;
  using c_element = C;

  transpose ta;
  typename operand_of<A>::type a;
  transpose tb;
  typename operand_of<B>::type b;
  view<C, 2> c;
  store into;

  index_t m() const { return c.extent(0); }
  index_t n() const { return c.extent(1); }
  index_t k() const { return a.extent(ta == transpose::no ? 1 : 0); }

  /// The part that makes these rows and columns of c.
  tiled_product part(index_range rows, index_range columns) const {
    return {ta,
            a.slice(ta == transpose::no ? 0 : 1, rows.begin, rows.end),
            tb,
            b.slice(tb == transpose::no ? 1 : 0, columns.begin, columns.end),
            c.rows(rows.begin, rows.end).columns(columns.begin, columns.end),
            into};
  }
};

/// Extents of a product, or the largest ones of several.
struct product_extents {
  index_t m, n, k;
};

/// The numbers of a matrix as type Sum, row after row.
template <class Sum, class Element>
void copy_numbers(const view<const Element, 2>& from, Sum* to) {
  const index_t columns = from.extent(1);
  for (index_t r = 0; r < from.extent(0); ++r, to += columns) {
    const Element* row = from[r].data();
    DSV3_SIMD
    for (index_t i = 0; i < columns; ++i) to[i] = Sum(row[i]);
  }
}

/// Sums become the output, or are added to it.
template <class Sum, class Element>
void put_numbers(const view<Sum, 2>& sums, const view<Element, 2>& to, store into) {
  for (index_t r = 0; r < to.extent(0); ++r) {
    const Sum* from = sums[r].data();
    Element* row = to[r].data();
    if (into == store::add) {
      DSV3_SIMD
      for (index_t i = 0; i < to.extent(1); ++i) row[i] = Element(Sum(row[i]) + from[i]);
    } else {
      DSV3_SIMD
      for (index_t i = 0; i < to.extent(1); ++i) row[i] = Element(from[i]);
    }
  }
}

/// How one tile is multiplied: by cpu::product. Operands of another type than Sum are converted block by
/// block, in panels of scratch; an output of another type is summed in a panel and rounded once.
template <class Sum, class Product>
class converted_tile {
  template <class Element>
  static constexpr bool foreign = !std::is_same_v<Element, Sum>;
  static constexpr bool converts_a = foreign<typename Product::a_element>,
                        converts_b = foreign<typename Product::b_element>,
                        converts_c = foreign<typename Product::c_element>;

 public:
  static constexpr bool needs_panels = converts_a || converts_b || converts_c;

  /// Of the panels of a tile that is summed `depth` deep at a time.
  static index_t elements(index_t rows, index_t columns, index_t depth) {
    return (converts_a ? rows * depth : 0) + (converts_b ? columns * depth : 0) +
           (converts_c ? rows * columns : 0);
  }

  static void multiply(const Product& p, index_t depth, Sum* panel) {
    const index_t k = p.k();
    Sum *a_panel = panel, *b_panel = a_panel + (converts_a ? p.m() * depth : 0);
    view<Sum, 2> sums;
    if constexpr (converts_c)
      sums = view{b_panel + (converts_b ? p.n() * depth : 0), p.m(), p.n()};
    else
      sums = p.c;
    Sum keep = Sum(!converts_c && p.into == store::add ? 1 : 0);
    index_t first = 0;
    do {  // once even where there is nothing to sum: the output is still written
      const index_t last = std::min(first + depth, k);
      const auto a = as_sums(p.a.slice(p.ta == transpose::no ? 1 : 0, first, last), a_panel);
      const auto b = as_sums(p.b.slice(p.tb == transpose::no ? 0 : 1, first, last), b_panel);
      product(p.ta, p.tb, p.m(), p.n(), last - first, Sum(1), a.data(), a.stride(0), b.data(), b.stride(0),
              keep, sums.data(), sums.stride(0));
      keep = Sum(1);
      first = last;
    } while (first < k);
    if constexpr (converts_c) put_numbers(sums, p.c, p.into);
  }

 private:
  // The matrix itself, or a copy of type Sum in `panel`.
  template <class Operand>
  static view<const Sum, 2> as_sums(const Operand& from, Sum* panel) {
    if constexpr (std::is_same_v<Operand, view<const Sum, 2>>) {
      return from;
    } else {
      copy_numbers(from, panel);
      return view<const Sum, 2>{panel, from.extent(0), from.extent(1)};
    }
  }
};

/// Runs products whose sums are of type Sum; Tile multiplies, as converted_tile does.
template <class Sum, class Product, class Tile = converted_tile<Sum, Product>>
class tiles {
 public:
  /// Panels for `threads` threads and products of at most these extents; null where none are needed.
  static Sum* panels(scratch_arena& arena, int threads, const product_extents& most) {
    return Tile::needs_panels ? arena.take<Sum>(std::max(threads, 1) * largest_tile(most).elements())
                              : nullptr;
  }

  /// Runs product_of(g) for every g in [0, groups); no output may overlap another. `most` and `panels` as
  /// above.
  template <class ProductOf>
  static void run(int threads, index_t groups, const product_extents& most, ProductOf&& product_of,
                  Sum* panels) {
    const tile largest = largest_tile(most), shape = tile_for(threads, groups, largest, product_of);
    const index_t total = shape.number(groups, product_of);
    std::atomic<index_t> next = 0;
    const index_t workers = std::clamp<index_t>(total, 1, std::max(threads, 1));
    parallel_parts(threads, workers, [&](index_t worker) {
      Sum* mine = Tile::needs_panels ? panels + worker * largest.elements() : nullptr;
      index_t group = 0, before = 0;  // `before`: tiles of the groups before `group`
      for (index_t at = next++; at < total; at = next++) {
        while (at - before >= shape.number_in(product_of(group)))
          before += shape.number_in(product_of(group++));
        const Product whole = product_of(group);
        const index_t across = ceil_div(whole.n(), shape.columns);
        const index_t row = (at - before) / across * shape.rows,
                      column = (at - before) % across * shape.columns;
        Tile::multiply(whole.part({row, std::min(row + shape.rows, whole.m())},
                                  {column, std::min(column + shape.columns, whole.n())}),
                       shape.depth, mine);
      }
    });
  }

 private:
  // The extents of a tile, and how deep it is summed at a time.
  struct tile {
    index_t rows, columns, depth;

    index_t elements() const { return Tile::elements(rows, columns, depth); }
    index_t number_in(const Product& p) const { return ceil_div(p.m(), rows) * ceil_div(p.n(), columns); }
    template <class ProductOf>
    index_t number(index_t groups, ProductOf&& product_of) const {
      index_t total = 0;
      for (index_t g = 0; g < groups; ++g) total += number_in(product_of(g));
      return total;
    }
  };

  // Panels of one thread take about a megabyte; products without panels may be one tile.
  static tile largest_tile(const product_extents& most) {
    const auto bound = [](index_t extent, index_t limit) {
      return std::max<index_t>(Tile::needs_panels ? std::min(extent, limit) : extent, 1);
    };
    return {bound(most.m, 256), bound(most.n, 512), bound(most.k, 256)};
  }

  // The largest tiles of which every thread gets four, so that a slow thread can be helped out; but products
  // lose pace in small tiles, so below `good` two must do, and no tile is smaller than is worth handing out.
  // A function of extents and thread count alone.
  template <class ProductOf>
  static tile tile_for(int threads, index_t groups, tile shape, ProductOf&& product_of) {
    constexpr index_t good = 256, edge = 64, worthwhile = index_t{1} << 18;
    if (threads <= 1) return shape;
    index_t work = 0;
    for (index_t g = 0; g < groups; ++g) {
      const Product p = product_of(g);
      work += p.m() * p.n() * std::max<index_t>(p.k(), 1);
    }
    for (;;) {
      const index_t total = shape.number(groups, product_of);
      index_t& longer = shape.rows >= shape.columns ? shape.rows : shape.columns;
      if (total >= (longer > good ? 4 : 2) * threads || longer <= edge || work < 2 * worthwhile * total)
        return shape;
      longer = round_up(ceil_div(longer, 2), edge);
    }
  }
};

}  // namespace dsv3::inline DSV3_ABI::cpu
