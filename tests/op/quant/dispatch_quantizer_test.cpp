// SPDX-License-Identifier: MIT
// Dispatch in 8 bits is tiles and then dispatch, bit for bit.
#include <dsv3/cpu/expert/permute.hpp>
#include <dsv3/cpu/quant/dispatch_quantizer.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>

#include <op/expert/permute_cases.hpp>
#include <support/guarded.hpp>
#include <support/row_tiles.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace dsv3;
using permute_cases::problem;
using support::guarded;

namespace {

constexpr scale_group groups[] = {scale_group::tile, scale_group::block, scale_group::tensor};

/// Tokens and where they go.
template <class P>
struct fixture {
  permutation_config config;
  index_t width;
  guarded<std::int32_t> ids, row_of;
  guarded<std::int32_t, 1> offsets, counts, token_of;
  guarded<activation<P>> x;

  explicit fixture(const problem& p)
      : config(p.config),
        width(p.width),
        ids(0, config.tokens, config.top_k),
        row_of(2, config.tokens, config.top_k),
        offsets(0, config.experts + 1),
        counts(0, config.experts),
        token_of(0, config.row_capacity()),
        x(width % 8 == 0 ? 8 : 3, config.tokens, width) {
    const std::vector<int> chosen = permute_cases::choose(p);
    ids.fill([&](index_t i) { return chosen[static_cast<std::size_t>(i)]; });
    x.normal(1, 3);
    support::run(1, [&](auto& ctx) {
      op::permute<P>::plan(ctx, {.ids = ids, .plan = {config, offsets, counts, row_of, token_of}});
    });
  }
  permutation_view plan() { return {config, offsets, counts, row_of, token_of}; }

  template <class Element>
  void fused(int threads, scale_kind kind, scale_group group, support::row_tiles<Element>& rows) {
    support::run(threads, [&](auto& ctx) {
      op::dispatch_quantizer<P, Element>::forward(
          ctx, {.x = x, .plan = plan(), .rows = rows.get(), .scales = kind, .group = group});
    });
  }
  template <class Element>
  void one_after_the_other(scale_kind kind, scale_group group, support::row_tiles<Element>& rows) {
    support::row_tiles<Element> tiles(config.tokens, width, false);
    support::run(1, [&](auto& ctx) {
      op::tile_quantizer<activation<P>, Element, row_tile>::forward(
          ctx, {.x = x, .y = tiles.get(), .scales = kind, .group = group});
    });
    const auto from = tiles.get(), to = rows.get();
    for (index_t t = 0; t < config.tokens; ++t)
      for (index_t k = 0; k < config.top_k; ++k) {
        const index_t row = row_of.get()(t, k);
        for (index_t i = 0; i < width; ++i) to.values(row, i) = from.values(t, i);
        for (index_t i = 0; i < from.scales.extent(1); ++i) to.scales(row, i) = from.scales(t, i);
      }
  }
};

template <class P, class Element>
void check_bits(const problem& p) {
  for (const bool token_minor : {false, true})
    for (const scale_kind kind : {scale_kind::real, scale_kind::power_of_two})
      for (const scale_group group : groups) {
        CAPTURE(p.config.tokens);
        CAPTURE(p.width);
        CAPTURE(int(group));
        fixture<P> f(p);
        support::row_tiles<Element> expected(p.config.row_capacity(), p.width, token_minor);
        f.one_after_the_other(kind, group, expected);
        for (const int threads : {1, 3}) {
          support::row_tiles<Element> found(p.config.row_capacity(), p.width, token_minor);
          f.fused(threads, kind, group, found);
          CHECK(found.same_bits(expected));
          CHECK(found.intact());
        }
        CHECK(f.x.intact());
      }
}

}  // namespace

TEST_CASE_TEMPLATE("dispatch_quantizer is tile_quantizer and then permute", P, fp32, fp8_tilewise) {
  for (const problem& p : permute_cases::named) check_bits<P, fp8_e4m3>(p);
}

TEST_CASE("the same over several bands of tokens and strips of columns, in other formats") {
  constexpr problem wide = {
      {.tokens = 260, .top_k = 2, .experts = 6, .alignment = 16}, 4225, permute_cases::choice::spread};
  check_bits<fp8_tilewise, fp8_e4m3>(wide);
  constexpr problem small = {
      {.tokens = 9, .top_k = 2, .experts = 5, .alignment = 8}, 129, permute_cases::choice::spread};
  check_bits<fp64_reference, fp8_e4m3>(small);
  check_bits<bf16_mixed, fp8_e5m2>(small);
}

TEST_CASE("scales of dispatched rows are powers of two unless asked otherwise") {
  constexpr problem p = {{.tokens = 9, .top_k = 2, .experts = 5}, 300, permute_cases::choice::spread};
  fixture<fp8_tilewise> f(p);
  support::row_tiles<fp8_e4m3> rows(p.config.row_capacity(), p.width, false);
  support::run(1, [&](auto& ctx) {
    op::dispatch_quantizer<fp8_tilewise>::forward(ctx, {.x = f.x, .plan = f.plan(), .rows = rows.get()});
  });
  for (index_t r = 0; r < p.config.row_capacity(); ++r)
    for (index_t tile = 0; tile < 3; ++tile) {
      const float scale = rows.get().scales(r, tile);
      CHECK(scale == power_of_two_down(scale));
    }
}

namespace {

// Quantised, then placed, is dispatched: also where slots have no expert.
template <class P, class Element>
void check_place(const problem& p, bool some_empty) {
  fixture<P> f(p);
  if (some_empty) {
    for (index_t t = 0; t < f.config.tokens; ++t)
      for (index_t k = 0; k < f.config.top_k; ++k)
        if ((t + k) % 3 == 0) f.ids.get()(t, k) = -1;
    support::run(1, [&](auto& ctx) {
      op::permute<P>::plan(ctx,
                           {.ids = f.ids, .plan = {f.config, f.offsets, f.counts, f.row_of, f.token_of}});
    });
  }
  for (const bool token_minor : {false, true})
    for (const int threads : {1, 3}) {
      CAPTURE(p.width);
      support::row_tiles<Element> expected(f.config.row_capacity(), p.width, token_minor);
      support::row_tiles<Element> found(f.config.row_capacity(), p.width, token_minor);
      support::row_tiles<Element> tiles(f.config.tokens, p.width, !token_minor);
      f.fused(threads, scale_kind::power_of_two, scale_group::tile, expected);
      support::run(threads, [&](auto& ctx) {
        op::tile_quantizer<activation<P>, Element, row_tile>::forward(
            ctx, {.x = f.x, .y = tiles.get(), .scales = scale_kind::power_of_two});
        op::dispatch_quantizer<P, Element>::place(ctx,
                                                  {.x = tiles.get(), .plan = f.plan(), .rows = found.get()});
      });
      CHECK(found.same_bits(expected));
      CHECK(found.intact());
      CHECK(tiles.intact());
    }
}

}  // namespace

TEST_CASE("what was quantised before is placed where dispatch_quantizer puts it") {
  for (const problem& p : permute_cases::named) check_place<fp8_tilewise, fp8_e4m3>(p, false);
  constexpr problem wide = {
      {.tokens = 261, .top_k = 3, .experts = 6, .alignment = 16}, 4225, permute_cases::choice::spread};
  check_place<fp8_tilewise, fp8_e5m2>(wide, true);
  constexpr problem packed = {{.tokens = 70, .top_k = 3, .experts = 6}, 512, permute_cases::choice::spread};
  check_place<fp8_tilewise, fp8_e4m3>(packed, true);
}

TEST_CASE("dispatch_quantizer says what does not fit") {
  using args = op::dispatch_quantizer<fp8_tilewise>::forward_args;
  constexpr problem p = {{.tokens = 9, .top_k = 2, .experts = 5}, 130, permute_cases::choice::spread};
  fixture<fp8_tilewise> f(p);
  support::row_tiles<fp8_e4m3> rows(18, 130, false), few(17, 130, false), wide(18, 257, false);
  const auto sentence = [](const args& a) { return a.check().message(); };
  CHECK(sentence({.x = f.x, .plan = f.plan(), .rows = rows.get()}).empty());
  CHECK(sentence({.x = f.x, .plan = f.plan(), .rows = few.get()}) ==
        "dispatch_quantizer.forward: rows has 17 rows, plan has 18");
  CHECK(sentence({.x = f.x, .plan = f.plan(), .rows = wide.get()}) ==
        "dispatch_quantizer.forward: rows has 257 columns, x has 130");
  CHECK(sentence({.x = f.x, .plan = f.plan(), .rows = {rows.get().values, wide.get().scales}}) ==
        "dispatch_quantizer.forward: scales has 3 columns, the tiles has 2");
  guarded<bf16> short_x(0, 8, 130);
  CHECK(sentence({.x = short_x, .plan = f.plan(), .rows = rows.get()}) ==
        "dispatch_quantizer.forward: x has 8 tokens, plan has 9");
}
