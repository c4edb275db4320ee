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
        q_latent(c.aligned ? 8 : 3, tokens, c.heads, c.rank),
        q_rope(c.aligned ? 16 : 1, tokens, c.heads, c.rope),
        pool(c.aligned ? 8 : 5, pool_pages, c.page_rows, c.rank + c.rope),
        z(c.aligned ? 24 : 2, tokens, c.heads, c.rank),
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

TEST_CASE("absorbed equals expanded") {
  using P = fp64_reference;
  constexpr index_t nope = 8, rank = 24, rope = 6, v_dim = 10, heads = 5;
  const decode_size size{{1, 4, 70}, {300, 65, 70}, heads, rank, rope};
  problem<P> absorbed(size);
  const index_t tokens = absorbed.tokens, keys = total(size.lengths), width = nope + v_dim;
  guarded<double> w_ukv(1, heads * width, rank), c(0, keys, rank), k_rope(0, keys, rope);
  guarded<double, 3> q(0, tokens, heads, nope + rope), kv(0, keys, heads, width);
  guarded<double, 3> expanded(0, tokens, heads, v_dim), o(0, tokens, heads, v_dim);
  guarded<double> expanded_lse(0, heads, tokens);
  guarded<std::int32_t, 1> offsets(0, 4), positions(0, keys);
  w_ukv.normal(1), q.normal(2), positions.fill([](index_t) { return 0; });
  offsets.get()(0) = 0;
  for (index_t b = 0, at = 0; b < 3; ++b) {
    for (index_t j = 0; j < absorbed.lengths.get()(b); ++j, ++at)
      for (index_t e = 0; e < rank + rope; ++e)
        (e < rank ? c.get()(at, e) : k_rope.get()(at, e - rank)) = absorbed.cache().row(b, j)(e);
    offsets.get()(b + 1) = static_cast<std::int32_t>(at);
  }
  // Of each head `width` rows: those of the keys, then those of the values.
  const view<const double, 3> w{
      w_ukv.get().data(), {heads, width, rank}, {width * w_ukv.get().stride(0), w_ukv.get().stride(0), 1}};
  // What is not decoding is the host's, whichever wing is tested.
  const auto on_host = [](auto&& work) {
    host_memory memory;
    cpu_context ctx{.threads = 2};
    ctx.scratch = scratch_arena{memory, measure(ctx, work)};
    work(ctx);
  };
  on_host([&](auto& ctx) {
    op::gemm<P>::forward(ctx, {.x = c, .w = w_ukv, .y = kv.get().join_columns()});
    op::mla_attention<P>::forward(ctx, {.q = q,
                                        .kv = kv,
                                        .k_rope = k_rope,
                                        .sequence = absorbed.queries(),
                                        .scale = absorbed.scale,
                                        .o = expanded,
                                        .lse = expanded_lse,
                                        .keys = {offsets, positions, longest(size.lengths)}});
    op::batched_gemm<P>::transposed(
        ctx, {.x = q.get().columns(0, nope), .w = w.slice(1, 0, nope), .y = absorbed.q_latent});
  });
  support::run(2, [&](auto& ctx) {
    auto args = absorbed.args();
    args.q_rope = q.get().columns(nope, nope + rope);
    op::mla_decode<P>::forward(ctx, args);
  });
  on_host([&](auto& ctx) {
    op::batched_gemm<P>::forward(ctx, {.x = absorbed.z, .w = w.slice(1, nope, width), .y = o});
  });
  CHECK(support::worst_row(o.values(), expanded.values(), v_dim) <= 1e-10);
  CHECK(support::worst_row(absorbed.lse.values(), expanded_lse.values(), tokens) <= 1e-10);
}

TEST_CASE_TEMPLATE("pages do not matter, to the bit", P, fp64_reference, fp32, bf16_mixed) {
  for (decode_size size : {decode_size{{1, 3, 0, 8}, {700, 64, 9, 257}, 3, 37, 11},
                           decode_size{{1, 3, 0, 8}, {700, 64, 9, 257}, 3, 48, 16, 64, true}}) {
    size.page_rows = 700;
    problem<P> contiguous(size, 0);
    contiguous.run();
    for (const int page_rows : {1, 7, 63, 64, 65, 128, 256, 1000})
      for (const int shuffle : {1, 5, 9}) {
        CAPTURE(page_rows);
        CAPTURE(shuffle);
        size.page_rows = page_rows;
        problem<P> paged(size, shuffle);
        paged.run(2);
        CHECK(paged.z.same_bits(contiguous.z));
        CHECK(paged.lse.same_bits(contiguous.lse));
        CHECK(paged.intact());
      }
  }
}

TEST_CASE_TEMPLATE("a query has the same bits whoever is with it", P, fp64_reference, fp32, bf16_mixed) {
  // Alone, one query at a time, on a cache that ends with it: what decoding without drafts does.
  for (const bool aligned : {false, true}) {
    const int heads = 9, rank = aligned ? 48 : 33, rope = aligned ? 16 : 7;
    problem<P> together({{8, 1, 0, 3, 2, 17}, {513, 1030, 5, 66, 4100, 40}, heads, rank, rope, 64, aligned});
    together.run(3);
    for (index_t b = 0; b < together.sequences; ++b)
      for (index_t i = 0; i < together.offsets.get()(b + 1) - together.offsets.get()(b); ++i) {
        CAPTURE(b);
        CAPTURE(i);
        const index_t t = together.offsets.get()(b) + i;
        const int length = static_cast<int>(together.positions.get()(t)) + 1;
        problem<P> alone({{1}, {length}, heads, rank, rope, 64, aligned});
        for (index_t j = 0; j < length; ++j) alone.fill_row(0, j, static_cast<std::uint64_t>(b));
        copy_query(alone, 0, together, t);
        alone.run(1);
        CHECK(same_token(alone, 0, together, t));
      }
  }
}

TEST_CASE_TEMPLATE("the same bits for any number of threads", P, fp64_reference, fp32, bf16_mixed) {
  for (const decode_size& c :
       {decode_size{{1}, {2048}, 8, 32, 8}, decode_size{{30, 1, 2}, {90, 600, 5}, 9, 17, 3},
        decode_size{{30, 1, 2}, {90, 600, 5}, 9, 512, 64, 64, true}}) {
    problem<P> one(c);
    one.run(1);
    for (const int threads : {1, 2, 3, 7}) {
      problem<P> other(c);
      other.run(threads), other.run(threads);
      CHECK(other.z.same_bits(one.z));
      CHECK(other.lse.same_bits(one.lse));
    }
  }
}

TEST_CASE("rows beyond a query's sight never reach it, not even as NaN") {
  const decode_size size{{8, 5}, {260, 66}, 3, 18, 5};
  problem<fp32> clean(size);
  clean.run();
  for (index_t hidden = 1; hidden < 8; ++hidden) {  // the last rows, which the last queries see
    problem<fp32> spoiled(size);
    for (index_t j = 260 - hidden; j < 260; ++j) {
      const auto row = spoiled.cache().row(0, j);
      for (index_t e = 0; e < row.extent(0); ++e) row(e) = support::poison<float>();
    }
    spoiled.run(2);
    for (index_t t = 0; t < 13; ++t) {
      CAPTURE(t);
      const bool sees = t < 8 && t >= 8 - hidden;
      CHECK(same_token(spoiled, t, clean, t) == !sees);
      CHECK(std::isnan(spoiled.z.get()(t, 1, 2)) == sees);
    }
  }
}

TEST_CASE_TEMPLATE("scores of any finite size", P, fp64_reference, fp32) {
  for (const double scale : {-1e30, 1e-30, 1e4, 1e30}) {
    CAPTURE(scale);
    problem<P> run({{2}, {600}, 3, 6, 2});
    run.scale = scale;
    for (index_t j = 0; j < 600; ++j)
      for (index_t e = 0; e < 2; ++e) run.cache().row(0, j)(e) = 1;
    run.run();
    for (index_t h = 0; h < 3; ++h)  // probabilities add up to one
      CHECK(std::fabs(static_cast<double>(run.z.get()(1, h, 0)) - 1) <= 1e-5);
  }
}

#if defined(DSV3_TEST_BACKEND)
TEST_CASE("many sequences of a large model, as the bodies of any GPU attend to them") {
  using P = bf16_mixed;
  for (const int heads : {16, 128}) {
    CAPTURE(heads);
    decode_size size{{}, {}, heads, 512, 64, 64, true};
    for (int b = 0; b < 100; ++b) {  // some without queries, some with more queries than rows
      size.queries.push_back(b % 7 == 3 ? 0 : 1 + b % 3);
      size.lengths.push_back(b % 11 == 5 ? b % 4 : b * 97 % 530);
    }
    problem<P> here(size), there(size);
    here.run();
    cuda::device_memory memory;
    cuda_context<backend::cuda> ctx{.state = {&support::gpu()}};
    const auto work = [&](auto& on) { op::mla_decode<P>::forward(on, there.args()); };
    ctx.scratch = scratch_arena{memory, measure(ctx, work)};
    work(ctx), synchronize(ctx);
    CHECK(support::worst_row(here.z.values(), there.z.values(), size.rank) <= support::tolerance<P>::row);
    CHECK(support::worst_row(here.lse.values(), there.lse.values(), here.tokens) <=
          support::tolerance<fp32>::row);
    CHECK(here.intact());
    problem<P> again(size);
    again.run();
    CHECK(again.z.same_bits(here.z));  // from run to run
  }
}
#endif

TEST_CASE("lse is optional") {
  problem<fp32> with({{1, 2}, {90, 300}, 4, 9, 4}), without({{1, 2}, {90, 300}, 4, 9, 4});
  with.run();
  auto args = without.args();
  args.lse = {};
  support::run(1, [&](auto& ctx) { op::mla_decode<fp32>::forward(ctx, args); });
  CHECK(without.z.same_bits(with.z));
}

TEST_CASE("scratch is exact, known without data, and bounded") {
  using op_type = op::mla_decode<fp32>;
  problem<fp32> run({{1, 2}, {300, 70}, 4, 9, 4});
  support::scratch_memory memory;
  auto ctx = support::context(2);
  const std::size_t bytes = measure(ctx, [&](auto& probe) { op_type::forward(probe, run.args()); });
  ctx.scratch = scratch_arena{memory, bytes - 1};
  CHECK_THROWS_AS(op_type::forward(ctx, run.args()), dsv3::error);

  // How much it is on the host.
  const auto bytes_for = [](index_t sequences, index_t queries, index_t capacity) {
    float* none = reinterpret_cast<float*>(64);
    const auto* numbers = reinterpret_cast<const std::int32_t*>(64);
    const index_t tokens = sequences * queries;
    const cpu_context on_two{.threads = 2};
    return measure(on_two, [&](auto& probe) {
      op_type::forward(probe, {.q_latent = view{none, tokens, 8, 128},
                               .q_rope = view{none, tokens, 8, 32},
                               .queries = {view{numbers, sequences + 1}, view{numbers, tokens}, queries},
                               .cache = {view<const float, 3>{none, sequences * capacity / 64, 64, 160},
                                         view{numbers, sequences, capacity / 64}, view{numbers, sequences}},
                               .z = view{none, tokens, 8, 128}});
    });
  };
  CHECK(bytes_for(1, 1, 1 << 17) < 1 << 20);
  CHECK(bytes_for(64, 1, 1 << 17) == bytes_for(8, 1, 64));  // many sequences need no results side by side
  CHECK(bytes_for(1, 4096, 4096) == bytes_for(1, 256, 1 << 17));
}

#if !defined(DSV3_TEST_BACKEND)  // a GPU does not reach such addresses
TEST_CASE("rows more than 2^31 elements into the pool") {
  // Pages a gigabyte apart; the last three of the pool are in use.
  constexpr index_t page_rows = 64, width = 20, far = index_t{1} << 28, pool_pages = 24;
  problem<fp32> near({{2}, {150}, 2, 14, 6}, 0);
  near.run();
  const support::sparse<float> memory(pool_pages * far);
  const view<float, 3> pool{memory.data(), {pool_pages, page_rows, width}, {far, width, 1}};
  problem<fp32> away({{2}, {150}, 2, 14, 6}, 0);
  guarded<std::int32_t, 2> table(0, 1, 3);
  for (index_t page = 0; page < 3; ++page) {
    table.get()(0, page) = static_cast<std::int32_t>(pool_pages - 1 - page);
    for (index_t r = 0; r < page_rows; ++r)
      for (index_t e = 0; e < width; ++e) pool(table.get()(0, page), r, e) = near.pool.get()(page, r, e);
  }
  auto args = away.args();
  args.cache = {pool, table, away.lengths};
  support::run(2, [&](auto& ctx) { op::mla_decode<fp32>::forward(ctx, args); });
  CHECK(away.z.same_bits(near.z));
}

#endif

TEST_CASE("numbers that point nowhere are refused") {
  const auto sentence = [](auto&& spoil) {
    problem<fp32> run({{1, 2}, {90, 300}, 2, 4, 2}, 0);
    auto args = run.args();
    spoil(run, args);
    support::scratch_memory memory;
    auto ctx = support::context(1);
    ctx.scratch = scratch_arena{memory, 1 << 20};
    return support::raised([&] { op::mla_decode<fp32>::forward(ctx, args), synchronize(ctx); });
  };
  CHECK(sentence([](auto&, auto&) {}) == "");
  CHECK(sentence([](auto& run, auto&) { run.table.get()(1, 4) = 10; }) ==
        "mla_decode.forward: cache.table has page 10 for sequence 1, there are 10 pages");
  CHECK(sentence([](auto& run, auto&) { run.table.get()(1, 0) = -1; }) ==
        "mla_decode.forward: cache.table has page -1 for sequence 1, there are 10 pages");
  CHECK(sentence([](auto& run, auto&) { run.table.get()(0, 2) = 99; }) == "");  // not in use
  CHECK(sentence([](auto& run, auto&) { run.lengths.get()(0) = 321; }) ==
        "mla_decode.forward: cache.lengths has 321 rows for sequence 0, its pages hold 320");
  CHECK(sentence([](auto& run, auto&) { run.lengths.get()(0) = -1; }) ==
        "mla_decode.forward: cache.lengths has -1 rows for sequence 0, its pages hold 320");
  CHECK(sentence([](auto&, auto& args) { args.queries.max_length = 1; }) ==
        "mla_decode.forward: sequence 1 has 2 tokens, max_length is 1");
}

TEST_CASE("check says what is wrong") {
  problem<fp32> run({{1, 2}, {90, 300}, 2, 4, 3});
  CHECK(run.args().check());
  const auto sentence = [&](auto&& spoil) {
    auto args = run.args();
    spoil(args);
    return args.check().message();
  };
  CHECK(sentence([](auto& a) { a.q_rope = a.q_rope.rows(0, 2); }) ==
        "mla_decode.forward: q_rope has 2 tokens, q_latent has 3");
  CHECK(sentence([](auto& a) { a.q_rope = a.q_rope.slice(1, 0, 1); }) ==
        "mla_decode.forward: q_rope has 1 heads, q_latent has 2");
  CHECK(sentence([](auto& a) { a.z = a.z.rows(0, 2); }) ==
        "mla_decode.forward: z has 2 tokens, q_latent has 3");
  CHECK(sentence([](auto& a) { a.z = a.z.slice(1, 0, 1); }) ==
        "mla_decode.forward: z has 1 heads, q_latent has 2");
  CHECK(sentence([](auto& a) { a.z = a.z.columns(0, 3); }) ==
        "mla_decode.forward: z has 3 columns, q_latent has 4");
  CHECK(sentence([](auto& a) { a.queries.positions = a.queries.positions.rows(0, 2); }) ==
        "mla_decode.forward: queries has 2 tokens, q_latent has 3");
  CHECK(sentence([](auto& a) { a.cache.table = a.cache.table.rows(0, 1); }) ==
        "mla_decode.forward: cache.table has 1 sequences, queries has 2");
  CHECK(sentence([](auto& a) { a.cache.lengths = a.cache.lengths.rows(0, 1); }) ==
        "mla_decode.forward: cache.lengths has 1 sequences, queries has 2");
  CHECK(sentence([](auto& a) { a.cache.pages = a.cache.pages.columns(0, 6); }) ==
        "mla_decode.forward: cache has 6 columns, kv_rank + qk_rope has 7");
  CHECK(sentence([](auto& a) { a.lse = a.lse.rows(0, 1); }) ==
        "mla_decode.forward: lse has 1 heads, q_latent has 2");
  CHECK(sentence([](auto& a) { a.lse = a.lse.columns(0, 2); }) ==
        "mla_decode.forward: lse has 2 tokens, q_latent has 3");
  CHECK(sentence([](auto& a) {
          a.z = dsv3::view<float, 3>{static_cast<float*>(nullptr), 3, 2, 4};
        }) == "mla_decode.forward: z has 24 elements and a null pointer");
}
