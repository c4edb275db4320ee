// SPDX-License-Identifier: MIT
// Appending to the latent cache and reading it back: every row where it belongs, nothing else touched.
#include <dsv3/cpu/attention/latent_cache.hpp>

#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/sparse_memory.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

// Sequences of 130, 0, 64 and 5 rows in pages of 64 that lie in no order; the rest of the pool is NaN.
template <class P>
struct pool {
  using op_type = op::latent_cache<P>;
  static constexpr index_t rank = 11, rope = 5, sequences = 4;

  guarded<activation<P>, 3> pages{3, 10, 64, rank + rope};
  guarded<std::int32_t, 2> table{2, sequences, 3};
  guarded<std::int32_t, 1> lengths{0, sequences}, offsets{0, sequences + 1};

  pool() {
    const std::int32_t scattered[sequences][3] = {{7, 2, 9}, {-1, -1, -1}, {0, -1, -1}, {5, -1, -1}};
    const std::int32_t rows[] = {130, 0, 64, 5};
    for (index_t b = 0; b < sequences; ++b) {
      lengths.get()(b) = rows[b];
      for (index_t page = 0; page < 3; ++page) table.get()(b, page) = scattered[b][page];
    }
  }

  paged_view<activation<P>> cache() { return {pages, table, lengths}; }

  // Packed tokens, so many of each sequence.
  struct packed {
    std::vector<int> counts;
    index_t tokens;
    guarded<std::int32_t, 1> offsets, positions;
    guarded<activation<P>> c, k_rope;

    explicit packed(const std::vector<int>& n)
        : counts(n),
          tokens(n[0] + n[1] + n[2] + n[3]),
          offsets(0, sequences + 1),
          positions(0, tokens),
          c(4, tokens, rank),
          k_rope(7, tokens, rope) {
      offsets.get()(0) = 0;
      for (index_t b = 0; b < sequences; ++b)
        offsets.get()(b + 1) = offsets.get()(b) + n[static_cast<std::size_t>(b)];
      positions.fill([](index_t) { return 0; });
    }
    packed_sequences sequence() {
      return {offsets, positions, *std::max_element(counts.begin(), counts.end())};
    }
  };

  typename op_type::append_args append(packed& from) {
    return {.c = from.c, .k_rope = from.k_rope, .tokens = from.sequence(), .cache = cache()};
  }
  typename op_type::gather_args gather(packed& to) {
    return {.cache = cache(), .tokens = to.sequence(), .c = to.c, .k_rope = to.k_rope};
  }
};

}  // namespace

TEST_CASE_TEMPLATE("appends the last rows of every sequence", P, fp64_reference, fp32, bf16_mixed) {
  for (const int threads : {1, 2, 3}) {
    pool<P> held;
    typename pool<P>::packed from({70, 0, 1, 5});
    from.c.normal(1), from.k_rope.normal(2);
    support::run(threads, [&](auto& ctx) { op::latent_cache<P>::append(ctx, held.append(from)); });
    index_t written = 0;
    for (index_t b = 0; b < 4; ++b) {
      const index_t length = held.lengths.get()(b), n = from.offsets.get()(b + 1) - from.offsets.get()(b);
      for (index_t j = 0; j < length; ++j)
        for (index_t e = 0; e < 16; ++e) {
          const double found = static_cast<double>(held.cache().row(b, j)(e));
          if (j < length - n) {
            CHECK(std::isnan(found));
            continue;
          }
          const index_t t = from.offsets.get()(b) + j - (length - n);
          CHECK(found == static_cast<double>(e < 11 ? from.c.get()(t, e) : from.k_rope.get()(t, e - 11)));
          ++written;
        }
    }
    index_t numbers = 0;  // nothing else in the pool is one
    for (const double value : held.pages.values()) numbers += std::isnan(value) ? 0 : 1;
    CHECK(numbers == written);
    CHECK(held.pages.intact());
    CHECK(from.c.intact());
  }
}

TEST_CASE_TEMPLATE("gathers what was appended, bit for bit", P, fp64_reference, fp32, bf16_mixed) {
  for (const int threads : {1, 2, 3}) {
    pool<P> held;
    typename pool<P>::packed from({130, 0, 64, 5}), whole({130, 0, 64, 5}), part({65, 0, 0, 4});
    from.c.normal(1), from.k_rope.normal(2);
    from.c.get()(3, 2) = activation<P>(-INFINITY), from.c.get()(4, 2) = support::poison<activation<P>>();
    support::run(threads, [&](auto& ctx) {
      op::latent_cache<P>::append(ctx, held.append(from));
      op::latent_cache<P>::gather(ctx, held.gather(whole));
      op::latent_cache<P>::gather(ctx, held.gather(part));  // the first rows
    });
    CHECK(whole.c.same_bits(from.c));
    CHECK(whole.k_rope.same_bits(from.k_rope));
    for (index_t t = 0; t < 69; ++t) {
      const index_t u = t < 65 ? t : t - 65 + 194;
      CHECK(static_cast<double>(part.k_rope.get()(t, 4)) == static_cast<double>(from.k_rope.get()(u, 4)));
    }
    CHECK(part.c.intact());
    CHECK(part.k_rope.intact());
  }
}

TEST_CASE("rows of a sequence appended one by one are those appended at once") {
  pool<fp32> at_once, one_by_one;
  pool<fp32>::packed from({130, 0, 0, 0});
  from.c.normal(1), from.k_rope.normal(2);
  at_once.lengths.get()(2) = at_once.lengths.get()(3) = 0;
  support::run(1, [&](auto& ctx) { op::latent_cache<fp32>::append(ctx, at_once.append(from)); });
  one_by_one.lengths.fill([](index_t) { return 0; });
  for (index_t t = 0; t < 130; ++t) {
    pool<fp32>::packed token({1, 0, 0, 0});
    for (index_t e = 0; e < 11; ++e) token.c.get()(0, e) = from.c.get()(t, e);
    for (index_t e = 0; e < 5; ++e) token.k_rope.get()(0, e) = from.k_rope.get()(t, e);
    one_by_one.lengths.get()(0) = static_cast<std::int32_t>(t + 1);
    support::run(1, [&](auto& ctx) { op::latent_cache<fp32>::append(ctx, one_by_one.append(token)); });
  }
  CHECK(one_by_one.pages.same_bits(at_once.pages));
}

#if !defined(DSV3_TEST_BACKEND)  // a GPU does not reach such addresses
TEST_CASE("pages more than 2^31 elements into the pool") {
  constexpr index_t far = index_t{1} << 28, pool_pages = 24;
  pool<fp32> held;
  const support::sparse<float> memory(pool_pages * far);
  const view<float, 3> pages{memory.data(), {pool_pages, 64, 16}, {far, 16, 1}};
  for (index_t page = 0; page < 3; ++page)
    held.table.get()(0, page) = static_cast<std::int32_t>(pool_pages - 1 - page);
  pool<fp32>::packed from({130, 0, 64, 5}), to({130, 0, 64, 5});
  from.c.normal(1), from.k_rope.normal(2);
  auto append = held.append(from);
  auto gather = held.gather(to);
  append.cache.pages = pages, gather.cache.pages = pages;
  support::run(2, [&](auto& ctx) {
    op::latent_cache<fp32>::append(ctx, append);
    op::latent_cache<fp32>::gather(ctx, gather);
  });
  CHECK(pages(pool_pages - 1, 0, 0) == from.c.get()(0, 0));
  CHECK(to.c.same_bits(from.c));
  CHECK(to.k_rope.same_bits(from.k_rope));
}

#endif

TEST_CASE("numbers that point nowhere are refused") {
  auto ctx = support::context(1);
  const auto appending = [&](auto&& spoil) {
    pool<fp32> held;
    pool<fp32>::packed from({1, 0, 1, 5});
    auto args = held.append(from);
    spoil(held, from, args);
    return support::raised([&] { op::latent_cache<fp32>::append(ctx, args), synchronize(ctx); });
  };
  CHECK(appending([](auto&, auto&, auto&) {}) == "");
  CHECK(appending([](auto& held, auto&, auto&) { held.lengths.get()(3) = 4; }) ==
        "latent_cache.append: sequence 3 has 5 tokens, its part of the cache has 4 rows");
  CHECK(appending([](auto& held, auto&, auto&) { held.lengths.get()(1) = 1; }) ==
        "latent_cache.append: cache.table has page -1 for sequence 1, there are 10 pages");
  CHECK(appending([](auto& held, auto&, auto&) { held.lengths.get()(2) = 193; }) ==
        "latent_cache.append: cache.lengths has 193 rows for sequence 2, its pages hold 192");
  CHECK(appending([](auto&, auto& from, auto&) { from.offsets.get()(4) = 6; }) ==
        "latent_cache.append: the sequences end at token 6, there are 7 tokens");
  pool<fp32> held;
  pool<fp32>::packed to({130, 1, 0, 0});
  CHECK(support::raised([&] { op::latent_cache<fp32>::gather(ctx, held.gather(to)), synchronize(ctx); }) ==
        "latent_cache.gather: sequence 1 has 1 tokens, its part of the cache has 0 rows");
}

TEST_CASE("check says what is wrong") {
  pool<fp32> held;
  pool<fp32>::packed tokens({1, 0, 1, 5});
  CHECK(held.append(tokens).check());
  CHECK(held.gather(tokens).check());
  const auto sentences = [&](auto&& spoil) {
    auto append = held.append(tokens);
    auto gather = held.gather(tokens);
    spoil(append), spoil(gather);
    return std::vector<std::string>{append.check().message(), gather.check().message()};
  };
  const auto both = [](const std::string& rest) {
    return std::vector<std::string>{"latent_cache.append: " + rest, "latent_cache.gather: " + rest};
  };
  CHECK(sentences([](auto& a) { a.k_rope = a.k_rope.rows(0, 2); }) == both("k_rope has 2 tokens, c has 7"));
  CHECK(sentences([](auto& a) { a.tokens.positions = a.tokens.positions.rows(0, 2); }) ==
        both("tokens has 2 tokens, c has 7"));
  CHECK(sentences([](auto& a) { a.cache.table = a.cache.table.rows(0, 3); }) ==
        both("cache.table has 3 sequences, tokens has 4"));
  CHECK(sentences([](auto& a) { a.cache.lengths = a.cache.lengths.rows(0, 3); }) ==
        both("cache.lengths has 3 sequences, tokens has 4"));
  CHECK(sentences([](auto& a) { a.cache.pages = a.cache.pages.columns(0, 15); }) ==
        both("cache has 15 columns, kv_rank + qk_rope has 16"));
  CHECK(sentences([](auto& a) {
          a.c = std::decay_t<decltype(a.c)>{static_cast<float*>(nullptr), 7, 11};
        }) == both("c has 77 elements and a null pointer"));
}
