// SPDX-License-Identifier: MIT
// Absorbed attention against the direct formula and against the expanded form, and what must hold beside it:
// pages that do not matter, rows that are not seen, independence to the bit, exact scratch, refusals.
#include <dsv3/cpu/attention/mla_attention.hpp>
#include <dsv3/cpu/attention/mla_decode.hpp>
#include <dsv3/cpu/linear/batched_gemm.hpp>
#include <dsv3/cpu/linear/gemm.hpp>

#include <op/attention/mla_decode_cases.hpp>
#include <oracle/mla_decode.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/sparse_memory.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

using namespace dsv3;
using cases::decode_size;
using support::guarded;

namespace {

int total(const std::vector<int>& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }
int longest(const std::vector<int>& counts) {
  return counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
}

// One call. Pages lie in the pool in no order, with some that belong to nobody; what no sequence uses is NaN.
template <class P>
struct problem {
  using op_type = op::mla_decode<P>;
  using real = activation<P>;

  decode_size size;
  double scale = 0.35;
  index_t sequences, tokens, table_pages, pool_pages;
  guarded<std::int32_t, 1> offsets, positions, lengths;
  guarded<std::int32_t, 2> table;
  guarded<real, 3> q_latent, q_rope, pool, z;
  guarded<accumulator<P>, 2> lse;

  // `shuffle` zero: every page where it would lie by itself.
  explicit problem(const decode_size& c, int shuffle = 7)
      : size(c),
        sequences(static_cast<index_t>(c.queries.size())),
        tokens(total(c.queries)),
        table_pages(ceil_div(longest(c.lengths), c.page_rows)),
        pool_pages(sequences * table_pages + (shuffle != 0 ? 3 : 0)),
        offsets(0, sequences + 1),
        positions(0, tokens),
        lengths(0, sequences),
        table(2, sequences, table_pages),
        q_latent(3, tokens, c.heads, c.rank),
        q_rope(1, tokens, c.heads, c.rope),
        pool(5, pool_pages, c.page_rows, c.rank + c.rope),
        z(2, tokens, c.heads, c.rank),
        lse(3, c.heads, tokens) {
    q_latent.normal(1), q_rope.normal(2);
    offsets.get()(0) = 0;
    for (index_t b = 0; b < sequences; ++b) {
      const auto at = static_cast<std::size_t>(b);
      offsets.get()(b + 1) = offsets.get()(b) + c.queries[at];
      lengths.get()(b) = c.lengths[at];
      for (index_t i = 0; i < c.queries[at]; ++i)
        positions.get()(offsets.get()(b) + i) = static_cast<std::int32_t>(c.lengths[at] - c.queries[at] + i);
      for (index_t page = 0; page < table_pages; ++page) {
        const index_t straight = b * table_pages + page;
        table.get()(b, page) = static_cast<std::int32_t>(
            shuffle != 0 ? (straight * coprime(pool_pages) + shuffle) % pool_pages : straight);
      }
      for (index_t j = 0; j < c.lengths[at]; ++j) fill_row(b, j, static_cast<std::uint64_t>(b));
    }
  }

  // Rows depend on sequence and position alone, wherever they lie.
  void fill_row(index_t b, index_t j, std::uint64_t stream) {
    const random_stream random(20260101, 100 + stream);
    const auto row = cache().row(b, j);
    for (index_t e = 0; e < row.extent(0); ++e)
      row(e) = real(random.normal(static_cast<std::uint64_t>(j * row.extent(0) + e)));
  }
  static index_t coprime(index_t count) {
    index_t step = count / 2 + 1;
    while (std::gcd(step, count) != 1) ++step;
    return step;
  }

  paged_view<real> cache() { return {pool, table, lengths}; }
  packed_sequences queries() { return {offsets, positions, longest(size.queries)}; }
  typename op_type::forward_args args() {
    return {.q_latent = q_latent,
            .q_rope = q_rope,
            .queries = queries(),
            .cache = cache(),
            .scale = scale,
            .z = z,
            .lse = lse};
  }
  void run(int threads = 1) {
    support::run(threads, [&](auto& ctx) { op_type::forward(ctx, args()); });
  }

  std::vector<std::vector<double>> cached() {
    std::vector<std::vector<double>> rows(size.queries.size());
    for (index_t b = 0; b < sequences; ++b)
      for (index_t j = 0; j < lengths.get()(b); ++j)
        for (index_t e = 0; e < size.rank + size.rope; ++e)
          rows[static_cast<std::size_t>(b)].push_back(static_cast<double>(cache().row(b, j)(e)));
    return rows;
  }
  oracle::mla_decode expected() {
    return {.queries = size.queries,
            .lengths = size.lengths,
            .heads = size.heads,
            .rank = size.rank,
            .rope = size.rope,
            .scale = scale,
            .q_latent = q_latent.values(),
            .q_rope = q_rope.values(),
            .cache = cached()};
  }
  bool intact() {
    return q_latent.intact() && q_rope.intact() && pool.intact() && z.intact() && lse.intact();
  }
};

// Whether token t of one problem has the bits of token u of another.
template <class P>
bool same_token(problem<P>& a, index_t t, problem<P>& b, index_t u) {
  for (index_t h = 0; h < a.size.heads; ++h) {
    const auto bytes = static_cast<std::size_t>(a.size.rank) * sizeof(activation<P>);
    if (std::memcmp(a.z.get()[t][h].data(), b.z.get()[u][h].data(), bytes) != 0) return false;
    if (std::memcmp(&a.lse.get()(h, t), &b.lse.get()(h, u), sizeof(accumulator<P>)) != 0) return false;
  }
  return true;
}

// The queries of token u of b become those of token t of a.
template <class P>
void copy_query(problem<P>& a, index_t t, problem<P>& b, index_t u) {
  for (index_t h = 0; h < a.size.heads; ++h) {
    for (index_t e = 0; e < a.size.rank; ++e) a.q_latent.get()(t, h, e) = b.q_latent.get()(u, h, e);
    for (index_t e = 0; e < a.size.rope; ++e) a.q_rope.get()(t, h, e) = b.q_rope.get()(u, h, e);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("agrees with the direct formula", P, fp64_reference, fp32, bf16_mixed) {
  for (const decode_size& c : cases::decode_sizes)
    for (const int threads : {1, 2}) {
      CAPTURE(c.lengths.size());
      CAPTURE(longest(c.lengths));
      CAPTURE(c.heads);
      CAPTURE(c.rank);
      CAPTURE(threads);
      problem<P> run(c);
      run.run(threads);
      const auto expected = run.expected().forward();
      CHECK(support::worst_row(run.z.values(), expected.z, c.rank) <= support::tolerance<P>::row);
      CHECK(support::worst_row(run.lse.values(), expected.lse, run.tokens) <=
            std::min(support::tolerance<P>::row, support::tolerance<fp32>::row));
      CHECK(run.intact());
    }
}
