// SPDX-License-Identifier: MIT
// A latent cache in 8 bits: its bytes, what they read as, and attention over them.
#include <dsv3/cpu/attention/latent_cache.hpp>
#include <dsv3/cpu/attention/mla_decode.hpp>
#include <dsv3/tensor/layout_policy.hpp>

#include <oracle/stored_rows.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

using fp8 = cache_row::fp8;

struct size_case {
  index_t rank, rope;
  bool aligned = false;  // all rows begin at multiples of 16 bytes
};
constexpr size_case sizes[] = {{1, 2},          {11, 5},         {128, 64},       {130, 6},
                               {300, 32},       {512, 64},       {256, 64, true}, {144, 16, true},
                               {512, 64, true}, {640, 130, true}};

/// Two sequences of 150 and 70 rows, all appended, in pages that lie backwards; the last queries of each.
template <class P, class Row>
struct problem {
  using cached = op::latent_cache<P, Row>;
  using decode = op::mla_decode<P, Row>;
  static constexpr index_t tokens = 220, queries = 4, heads = 5;

  size_case size;
  index_t page_rows, table_pages;
  guarded<typename cached::element, 3> pages;
  guarded<std::int32_t, 2> table;
  guarded<std::int32_t, 1> lengths{0, 2}, offsets{0, 3}, query_offsets{0, 3}, positions{0, tokens};
  guarded<activation<P>> c, k_rope;
  guarded<activation<P>, 3> q_latent, q_rope, z;
  guarded<accumulator<P>> lse{1, heads, queries};

  explicit problem(size_case s, index_t rows_of_page = 64)
      : size(s),
        page_rows(rows_of_page),
        table_pages(ceil_div(150, page_rows)),
        pages(s.aligned ? row_gap() : 3, 2 * table_pages + 1, page_rows, Row::width(s.rank, s.rope)),
        table(1, 2, table_pages),
        c(s.aligned ? 16 : 3, tokens, s.rank),
        k_rope(s.aligned ? 16 : 1, tokens, s.rope),
        q_latent(s.aligned ? 16 : 2, queries, heads, s.rank),
        q_rope(s.aligned ? 16 : 1, queries, heads, s.rope),
        z(1, queries, heads, s.rank) {
    c.normal(1), k_rope.normal(2), q_latent.normal(3), q_rope.normal(4);
    table.fill([&](index_t i) { return 2 * table_pages - i; });
    positions.fill([](index_t) { return 0; });
    lengths.fill([](index_t b) { return b == 0 ? 150 : 70; });
    offsets.fill([](index_t b) { return b == 0 ? 0 : b == 1 ? 150 : 220; });
    query_offsets.fill([](index_t b) { return b == 0 ? 0 : b == 1 ? 3 : 4; });
  }

  // Elements that bring a row's to a multiple of 16.
  index_t row_gap() const { return 16 - Row::width(size.rank, size.rope) % 16; }
  paged_view<typename cached::element> cache() { return {pages, table, lengths}; }
  packed_sequences all() { return {offsets, positions, 150}; }
  packed_sequences asked() { return {query_offsets, positions.get().slice(0, 0, queries), 3}; }
  typename cached::append_args appended() {
    return {.c = c, .k_rope = k_rope, .tokens = all(), .cache = cache()};
  }

  void append(int threads = 1) {
    support::run(threads, [&](auto& ctx) { cached::append(ctx, appended()); });
  }
  void gather(guarded<activation<P>>& to_c, guarded<activation<P>>& to_rope, int threads = 1) {
    support::run(threads, [&](auto& ctx) {
      cached::gather(ctx, {.cache = cache(), .tokens = all(), .c = to_c, .k_rope = to_rope});
    });
  }
  typename decode::forward_args attending() {
    return {.q_latent = q_latent,
            .q_rope = q_rope,
            .queries = asked(),
            .cache = cache(),
            .scale = 1 / std::sqrt(double(size.rank + size.rope)),
            .z = z,
            .lse = lse};
  }
  void attend(int threads = 1) {
    support::run(threads, [&](auto& ctx) { decode::forward(ctx, attending()); });
  }
  bool intact() { return pages.intact() && c.intact() && k_rope.intact() && z.intact() && lse.intact(); }
};

double rounded_to_bf16(double x) { return static_cast<double>(float(bf16(x))); }

}  // namespace

TEST_CASE("a row takes the bytes that readers of such caches expect") {
  CHECK(fp8::width(512, 64) == 656);
  CHECK(fp8::scales_at(512) == 512);
  CHECK(fp8::rope_at(512) == 528);
  CHECK(fp8::width(130, 6) == 130 + 2 * 4 + 6 * 2);
  using layout = with_fp8_cache<default_layout>;
  CHECK(std::is_same_v<layout::cache::row, fp8>);
  CHECK(layout::cache::page_rows == default_layout::cache::page_rows);
  CHECK(layout_policy<layout>);
}

TEST_CASE_TEMPLATE("rows hold codes, scales and keys of the oracle, and read as their products", P,
                   fp64_reference, fp32, bf16_mixed) {
  for (const size_case size : sizes)
    for (const int threads : {1, 3}) {
      CAPTURE(size.rank);
      problem<P, fp8> f(size);
      guarded<activation<P>> c(2, f.tokens, size.rank), k_rope(3, f.tokens, size.rope);
      f.append(threads), f.gather(c, k_rope, threads);
      index_t wrong_bytes = 0, wrong_values = 0;
      for (index_t t = 0; t < f.tokens; t += 7) {
        std::vector<double> row;
        for (index_t e = 0; e < size.rank; ++e)
          row.push_back(static_cast<double>(static_cast<float>(f.c.get()(t, e))));
        const auto expected = oracle::narrow(row, oracle::e4m3, true);
        std::vector<std::uint8_t> bytes(expected.codes.begin(), expected.codes.end());
        const auto put = [&](auto value) {
          std::uint8_t raw[sizeof(value)];
          std::memcpy(raw, &value, sizeof(value));
          bytes.insert(bytes.end(), raw, raw + sizeof(value));
        };
        for (const double scale : expected.scales) put(static_cast<float>(scale));
        for (index_t e = 0; e < size.rope; ++e) put(bf16(f.k_rope.get()(t, e)));
        const index_t b = t < 150 ? 0 : 1;
        const auto found = f.cache().row(b, t - 150 * b);
        REQUIRE(found.extent(0) == static_cast<index_t>(bytes.size()));
        wrong_bytes += std::memcmp(found.data(), bytes.data(), bytes.size()) != 0;
        for (index_t e = 0; e < size.rank; ++e) {
          const auto at = static_cast<std::size_t>(e);
          const int code = expected.codes[at];
          const double value = oracle::e4m3.value(code % 128) * expected.scales[at / 128];
          wrong_values += static_cast<double>(c.get()(t, e)) != (code < 128 ? value : -value);
        }
        for (index_t e = 0; e < size.rope; ++e)
          wrong_values += static_cast<double>(k_rope.get()(t, e)) !=
                          rounded_to_bf16(static_cast<double>(f.k_rope.get()(t, e)));
      }
      CHECK(wrong_bytes == 0);
      CHECK(wrong_values == 0);  // a power of two times four bits is exact, in BF16 too
      CHECK(f.intact());
      CHECK(c.intact());
      CHECK(k_rope.intact());
    }
}

TEST_CASE("what no sequence has is not written") {
  problem<fp32, fp8> f({130, 6});
  f.append(3);
  const auto pages = f.pages.get();
  index_t untouched = 0, written = 0;
  for (index_t page = 0; page < pages.extent(0); ++page)
    for (index_t row = 0; row < f.page_rows; ++row) {
      bool poisoned = true;
      for (index_t e = 0; e < pages.extent(2); ++e)
        poisoned = poisoned && pages(page, row, e) == support::poison<std::uint8_t>();
      (poisoned ? untouched : written) += 1;
    }
  CHECK(written == f.tokens);
  CHECK(untouched == pages.extent(0) * f.page_rows - f.tokens);
}

TEST_CASE("rows that were read are written again without rounding") {
  problem<bf16_mixed, fp8> f({300, 32}), again({300, 32});
  guarded<bf16> c(2, f.tokens, 300), k_rope(3, f.tokens, 32);
  f.append(), f.gather(again.c, again.k_rope);
  again.append(), again.gather(c, k_rope);
  CHECK(c.values() == again.c.values());
  CHECK(k_rope.values() == again.k_rope.values());
}

TEST_CASE_TEMPLATE("attention over 8-bit rows is attention over what they read as, bit for bit", P,
                   fp64_reference, fp32, bf16_mixed) {
  for (const size_case size : sizes)
    for (const int threads : {1, 2, 3}) {
      CAPTURE(size.rank);
      CAPTURE(threads);
      problem<P, fp8> narrow(size);
      problem<P, cache_row::plain> plain(size);
      narrow.append();
      narrow.gather(plain.c, plain.k_rope), plain.append();
      narrow.attend(threads), plain.attend(threads);
      CHECK(narrow.z.same_bits(plain.z));
      CHECK(narrow.lse.same_bits(plain.lse));
      CHECK(narrow.intact());
    }
}

TEST_CASE("pages and threads make no difference") {
  problem<bf16_mixed, fp8> whole({130, 6}, 150);
  whole.append(), whole.attend();
  for (const index_t page_rows : {1, 7, 63, 64, 65, 128})
    for (const int threads : {1, 3}) {
      CAPTURE(page_rows);
      problem<bf16_mixed, fp8> paged({130, 6}, page_rows);
      paged.append(threads), paged.attend(threads);
      CHECK(paged.z.same_bits(whole.z));
      CHECK(paged.lse.same_bits(whole.lse));
    }
}

TEST_CASE("the error is that of one rounding to E4M3") {
  problem<bf16_mixed, fp8> narrow({512, 64});
  problem<bf16_mixed, cache_row::plain> plain({512, 64});
  guarded<bf16> c(0, narrow.tokens, 512), k_rope(0, narrow.tokens, 64);
  narrow.append(), plain.append(), narrow.gather(c, k_rope);
  CHECK(k_rope.values() == plain.k_rope.values());
  const std::vector<double> exact = plain.c.values(), read = c.values();
  double squares = 0, numbers = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double error = std::fabs(read[i] - exact[i]);
    // Half a step of three mantissa bits; below the smallest normal number half of its last place, with a
    // scale of at most twice the largest magnitude over 448.
    CHECK(error <= std::max(std::fabs(exact[i]) / 16, 0.5 * std::exp2(-9) * 2 * 6 / 448));
    squares += error * error, numbers += exact[i] * exact[i];
  }
  // Errors spread evenly over steps of 2^-3 to 2^-4 of a number are 2.6 % of it on average.
  CHECK(std::sqrt(squares / numbers) > 0.02);
  CHECK(std::sqrt(squares / numbers) < 0.033);

  narrow.attend(), plain.attend();
  const std::vector<double> found = narrow.z.values(), expected = plain.z.values();
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < found.size(); ++i)
    difference += std::pow(found[i] - expected[i], 2), size += std::pow(expected[i], 2);
  CHECK(std::sqrt(difference / size) > 0.002);  // it is another cache
  CHECK(std::sqrt(difference / size) < 0.04);   // means of values that are off by so much, and of scores
}

TEST_CASE("NaN in a latent stays one number and infinity stays in its tile") {
  problem<bf16_mixed, fp8> f({256, 4});
  f.c.get()(0, 3) = bf16(NAN), f.c.get()(1, 200) = bf16(INFINITY);
  guarded<bf16> c(0, f.tokens, 256), k_rope(0, f.tokens, 4);
  f.append(), f.gather(c, k_rope);
  for (index_t e = 0; e < 128; ++e) {
    CHECK(std::isnan(float(c.get()(0, e))) == (e == 3));
    CHECK(std::isfinite(float(c.get()(1, e))));
  }
  CHECK(std::isnan(float(c.get()(1, 200))));
}

TEST_CASE("a cache of another width is refused") {
  problem<bf16_mixed, fp8> f({130, 6});
  guarded<std::uint8_t, 3> pages(0, 7, 64, 136);
  auto append = f.appended();
  append.cache.pages = pages;
  CHECK(append.check().message() == "latent_cache.append: cache has 136 columns, a row in bytes has 150");
  auto attend = f.attending();
  attend.cache.pages = pages.get();
  CHECK(attend.check().message() == "mla_decode.forward: cache has 136 columns, a row in bytes has 150");
}
