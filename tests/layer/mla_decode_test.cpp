// SPDX-License-Identifier: MIT
// Absorption, step by step and as the layer does it: decoding over the latent cache in either form is
// forward.
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/exec/trace.hpp>
#include <dsv3/infer/step_rows.hpp>
#include <dsv3/model/config.hpp>

#include <algorithm>
#include <numeric>

using namespace dsv3;
using support::packed_batch;
using P = fp64_reference;

namespace {

// ---- matrices that know their shape, for the derivation --------------------------------------------------

struct matrix {
  index_t rows, columns;
  std::vector<double> values;

  double operator()(index_t row, index_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
  double& operator()(index_t row, index_t column) {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
  bool is(index_t r, index_t c) const { return rows == r && columns == c; }
};

matrix zeros(index_t rows, index_t columns) {
  return {rows, columns, std::vector<double>(static_cast<std::size_t>(rows * columns), 0.0)};
}
matrix random(index_t rows, index_t columns, std::uint64_t seed) {
  return {rows, columns, support::random_values(rows * columns, seed)};
}
matrix transposed(const matrix& a) {
  matrix result = zeros(a.columns, a.rows);
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t j = 0; j < a.columns; ++j) result(j, i) = a(i, j);
  return result;
}
matrix operator*(const matrix& a, const matrix& b) {
  REQUIRE(a.columns == b.rows);
  matrix result = zeros(a.rows, b.columns);
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t k = 0; k < a.columns; ++k)
      for (index_t j = 0; j < b.columns; ++j) result(i, j) += a(i, k) * b(k, j);
  return result;
}
matrix operator*(double factor, matrix a) {
  for (double& value : a.values) value *= factor;
  return a;
}
matrix operator+(matrix a, const matrix& b) {
  REQUIRE(b.is(a.rows, a.columns));
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
  return a;
}
matrix beside(const matrix& a, const matrix& b) {
  REQUIRE(a.rows == b.rows);
  matrix result = zeros(a.rows, a.columns + b.columns);
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t j = 0; j < result.columns; ++j) result(i, j) = j < a.columns ? a(i, j) : b(i, j - a.columns);
  return result;
}
matrix softmax(matrix column) {
  const double highest = *std::max_element(column.values.begin(), column.values.end());
  double sum = 0;
  for (double& value : column.values) sum += value = std::exp(value - highest);
  return 1 / sum * column;
}
bool equal(const matrix& a, const matrix& b) {
  return a.is(b.rows, b.columns) && support::worst_row(a.values, b.values, a.rows * a.columns) < 1e-12;
}

// ---- the layer
// ---------------------------------------------------------------------------------------------

// Odd numbers everywhere; with and without query compression, with and without YaRN; V3's shape made small.
std::vector<mla_config> configs() {
  const rope_config plain{.theta = 100}, stretched{.theta = 100, .factor = 4, .original_length = 8};
  return {{.hidden = 10,
           .heads = 3,
           .qk_nope = 5,
           .qk_rope = 4,
           .v_dim = 7,
           .kv_rank = 6,
           .q_rank = 9,
           .rope = plain},
          {.hidden = 7,
           .heads = 1,
           .qk_nope = 3,
           .qk_rope = 2,
           .v_dim = 1,
           .kv_rank = 5,
           .q_rank = 0,
           .rope = stretched},
          {.hidden = 24,
           .heads = 4,
           .qk_nope = 8,
           .qk_rope = 4,
           .v_dim = 8,
           .kv_rank = 32,
           .q_rank = 12,
           .rope = stretched}};
}

// How the rows of a cache lie: pages of so many rows, 0 for one page per sequence; shuffled ones have pages
// of nobody between them.
struct paging {
  index_t page_rows = 0;
  bool shuffled = false;
};

struct decoded {
  std::vector<double> y;      // [tokens, hidden]        packed by sequence
  std::vector<double> cache;  // [tokens, cache_width]   the rows in use, likewise
};

struct fixture {
  mla<P> layer;
  std::vector<index_t> lengths;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  packed_batch<P> batch;
  owned<mla_storage<P>> weights;
  std::vector<double> x;

  fixture(const mla_config& c, const std::vector<index_t>& of)
      : layer{c}, lengths(of), batch(ctx, memory, c.rope, c.qk_rope, of), weights(memory, c) {
    support::fill_random(weights, 11);
    x = support::random_values(batch.tokens() * c.hidden, 1);
  }
  index_t hidden() const { return layer.config.hidden; }
  index_t width() const { return layer.config.cache_width(); }
  index_t sequences() const { return static_cast<index_t>(lengths.size()); }
  index_t length(index_t b) const { return lengths[static_cast<std::size_t>(b)]; }
  index_t offset(index_t b) const { return batch.offsets[static_cast<std::size_t>(b)]; }

  std::vector<double> forward() {
    std::vector<double> y(x.size(), NAN);
    layer.forward(ctx, {.x = view<const double, 2>{x.data(), batch.tokens(), hidden()},
                        .weights = weights,
                        .sequence = batch.sequence(),
                        .rope = batch.rope,
                        .y = view{y.data(), batch.tokens(), hidden()}});
    return y;
  }

  // All tokens of all sequences: step by step each sequence gets the next of its `parts`, the last one again
  // and again until nothing is left; a part of none leaves the sequence out of that step.
  decoded decode(const std::vector<std::vector<index_t>>& parts, attention_form form, paging lie = {},
                 int threads = 2) {
    const index_t longest = std::max<index_t>(batch.longest, 1);
    const index_t page_rows = lie.page_rows > 0 ? lie.page_rows : longest;
    const index_t each = ceil_div(longest, page_rows), all = sequences() * each + (lie.shuffled ? 3 : 0);
    std::vector<double> pool(static_cast<std::size_t>(all * page_rows * width()), NAN);
    const view<double, 3> pages{pool.data(), all, page_rows, width()};
    std::vector<std::vector<std::int32_t>> table(lengths.size());
    for (index_t b = 0; b < sequences(); ++b)
      for (index_t page = 0; page < ceil_div(length(b), page_rows); ++page) {
        index_t place = b * each + page;
        if (lie.shuffled) place = (place * coprime(all) + 2) % all;
        table[static_cast<std::size_t>(b)].push_back(static_cast<std::int32_t>(place));
      }
    decoded result{std::vector<double>(x.size(), NAN), {}};
    std::vector<index_t> done(lengths.size(), 0);
    for (std::size_t step = 0; done != lengths; ++step) {
      step_rows rows{memory};
      std::vector<double> step_x;
      std::vector<index_t> whose;  // row of x of each token
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        const index_t wanted = parts[b][std::min(step, parts[b].size() - 1)];
        const index_t count = std::min(wanted, lengths[b] - done[b]);
        if (count == 0) continue;
        rows.add(table[b], done[b], std::vector<std::int32_t>(static_cast<std::size_t>(count)));
        for (index_t i = 0; i < count; ++i) {
          whose.push_back(offset(static_cast<index_t>(b)) + done[b] + i);
          const auto from = x.begin() + whose.back() * hidden();
          step_x.insert(step_x.end(), from, from + hidden());
        }
        done[b] += count;
      }
      std::vector<double> step_y(step_x.size(), NAN);
      const auto work = [&](auto& at) {
        layer.decode(at, {.x = view<const double, 2>{step_x.data(), rows.tokens(), hidden()},
                          .weights = weights,
                          .tokens = rows.tokens(form),
                          .cache = pages,
                          .rope = batch.rope,
                          .y = view{step_y.data(), rows.tokens(), hidden()}});
      };
      cpu_context<> exact{.threads = threads};
      const std::size_t bytes = measure(exact, work);
      exact.scratch = scratch_arena{memory, bytes};
      work(exact);
      CHECK(exact.scratch.peak() == bytes);
      for (std::size_t i = 0; i < whose.size(); ++i)
        std::copy_n(step_y.begin() + static_cast<std::ptrdiff_t>(i) * hidden(), hidden(),
                    result.y.begin() + whose[i] * hidden());
    }
    index_t written = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b)
      for (index_t j = 0; j < lengths[b]; ++j, ++written) {
        const auto row = pages[table[b][static_cast<std::size_t>(j / page_rows)]][j % page_rows];
        result.cache.insert(result.cache.end(), row.data(), row.data() + width());
      }
    const auto untouched = std::count_if(pool.begin(), pool.end(), [](double v) { return std::isnan(v); });
    CHECK(untouched == static_cast<std::ptrdiff_t>(pool.size()) - written * width());
    return result;
  }

  static index_t coprime(index_t count) {
    index_t step = count / 2 + 1;
    while (std::gcd(step, count) != 1) ++step;
    return step;
  }
};

constexpr attention_form forms[] = {attention_form::absorbed, attention_form::expanded,
                                    attention_form::by_cost};

// Ways to cut three sequences into steps.
const std::vector<std::vector<std::vector<index_t>>>& ways() {
  static const std::vector<std::vector<std::vector<index_t>>> all{
      {{1}, {1}, {1}},           // token by token, all beside each other
      {{100}, {100}, {100}},     // the whole prompt at once
      {{5}, {4}, {3}},           // a prompt in parts
      {{3, 1, 2}, {1}, {8, 1}},  // several queries of some, one of others
      {{0, 0, 4}, {1}, {0, 9}},  // sequences that join later
  };
  return all;
}

}  // namespace

TEST_CASE("the derivation of absorption, with the shapes of one head of DeepSeek-V3") {
  // [absorption]
  const mla_config v3 = model_config::deepseek_v3().attention();
  const index_t keys = 7;
  const matrix q = random(v3.qk_nope, 1, 1), q_rope = random(v3.qk_rope, 1, 2);        // of one query
  const matrix c = random(keys, v3.kv_rank, 3), k_rope = random(keys, v3.qk_rope, 4);  // cached
  const matrix w_uk = random(v3.qk_nope, v3.kv_rank, 5), w_uv = random(v3.v_dim, v3.kv_rank, 6);

  // 1. Keys: the bracket moves from (w_uk c) to (w_ukᵀ q).
  const matrix k = c * transposed(w_uk);         // [keys, 512] · [512, 128]   every key is made
  const matrix q_latent = transposed(w_uk) * q;  // [512, 128] · [128, 1]      once per query
  CHECK(k.is(keys, 128));
  CHECK(q_latent.is(512, 1));
  CHECK(equal(k * q, c * q_latent));

  // 2. Position: a second term of the same sum, and one product with the row that the cache holds.
  const matrix cached = beside(c, k_rope);
  const matrix query = transposed(beside(transposed(q_latent), transposed(q_rope)));
  CHECK(cached.is(keys, 576));
  CHECK(query.is(576, 1));
  CHECK(equal(k * q + k_rope * q_rope, cached * query));

  // 3. Softmax: equal scores, so equal probabilities. The scale is the original head's.
  CHECK(v3.softmax_scale() == doctest::Approx(std::pow(0.1 * std::log(40) + 1, 2) / std::sqrt(192)));
  const matrix p = softmax(v3.softmax_scale() * (cached * query));
  CHECK(equal(p, softmax(v3.softmax_scale() * (k * q + k_rope * q_rope))));

  // 4. Values: the sum over the keys is linear, so w_uv comes out of it.
  const matrix v = c * transposed(w_uv);  // [keys, 512] · [512, 128]   every value is made
  const matrix z = transposed(c) * p;     // [512, keys] · [keys, 1]    once per query
  CHECK(v.is(keys, 128));
  CHECK(z.is(512, 1));
  CHECK(equal(transposed(v) * p, w_uv * z));
  // [end of absorption]
}

TEST_CASE("decoding in any steps and either form is forward") {
  for (const mla_config& c : configs()) {
    fixture f(c, {13, 1, 9});
    const auto expected = f.forward();
    for (const auto& way : ways())
      for (const attention_form form : forms) {
        CAPTURE(c.hidden);
        CAPTURE(&way - ways().data());
        CAPTURE(static_cast<int>(form));
        CHECK(support::worst_row(f.decode(way, form).y, expected, f.hidden()) < 1e-10);
      }
  }
}

TEST_CASE("a cache longer than a page and a split of keys") {
  fixture f(configs()[0], {301, 40, 270});
  const auto expected = f.forward();
  const std::vector<std::vector<index_t>> way{{296, 1}, {36, 2}, {262, 8}};
  for (const attention_form form : forms)
    for (const int threads : {1, 3})
      CHECK(support::worst_row(f.decode(way, form, {64, true}, threads).y, expected, f.hidden()) < 1e-10);
}

TEST_CASE("where pages lie and what else is in them changes no bit") {
  for (const mla_config& c : configs()) {
    fixture f(c, {13, 1, 9});
    for (const auto& way : ways())
      for (const attention_form form : forms) {
        const decoded contiguous = f.decode(way, form);
        for (const paging lie : {paging{4, false}, paging{4, true}, paging{1, true}, paging{64, true}}) {
          CAPTURE(&way - ways().data());
          CAPTURE(static_cast<int>(form));
          CAPTURE(lie.page_rows);
          const decoded paged = f.decode(way, form, lie);
          CHECK(paged.y == contiguous.y);
          CHECK(paged.cache == contiguous.cache);
        }
      }
  }
}

TEST_CASE("threads change no bit of the absorbed form") {
  fixture f(configs()[2], {13, 1, 9});
  const decoded one = f.decode({{5}, {4}, {3}}, attention_form::absorbed, {}, 1);
  for (const int threads : {2, 3})
    CHECK(f.decode({{5}, {4}, {3}}, attention_form::absorbed, {}, threads).y == one.y);
}

TEST_CASE("the cache holds the latent after its norm and the shared key after its rotation") {
  fixture f(configs()[0], {6});
  owned<mla_saved<P>> saved{f.memory, mla_activation_config{f.layer.config, 6, keep::everything}};
  std::vector<double> y(f.x.size());
  f.layer.forward(f.ctx, {.x = view<const double, 2>{f.x.data(), 6, f.hidden()},
                          .weights = f.weights,
                          .sequence = f.batch.sequence(),
                          .rope = f.batch.rope,
                          .y = view{y.data(), 6, f.hidden()},
                          .saved = &saved});
  std::vector<double> expected;
  const index_t rank = f.layer.config.kv_rank;
  for (index_t t = 0; t < 6; ++t)
    for (index_t e = 0; e < f.width(); ++e)
      expected.push_back(e < rank ? saved.c_kv(t, e) : saved.a_kv(t, e));
  CHECK(support::worst_row(f.decode({{2}}, attention_form::absorbed).cache, expected, f.width()) < 1e-13);
}

TEST_CASE("costs are those of the table: 2 FLOPs each, 128 heads") {
  const mla_config v3 = model_config::deepseek_v3().attention();
  const double flops = 2.0 * static_cast<double>(v3.heads);
  CHECK(v3.cache_width() == 576);
  CHECK(flops * v3.expanded_cost(0, 1) == 33554432);
  CHECK(flops * v3.absorbed_cost(1, 0) == 33554432);
  CHECK(flops * (v3.expanded_cost(1, 1) - v3.expanded_cost(0, 1)) == 81920);
  CHECK(flops * (v3.absorbed_cost(1, 1) - v3.absorbed_cost(1, 0)) == 278528);
  const index_t far = index_t{1} << 20;
  CHECK(v3.absorbed_cost(170, far) < v3.expanded_cost(170, far));
  CHECK(v3.absorbed_cost(171, far) > v3.expanded_cost(171, far));
  CHECK(v3.expanded_cost(1, 4096) > 100 * v3.absorbed_cost(1, 4096));
  CHECK(v3.absorbed_cost(4096, 4096) > v3.expanded_cost(4096, 4096));
}

TEST_CASE("by_cost takes the form that multiplies less, forced ones are what they are called") {
  // Up-projection 32 · 16 per query or key, 48 more multiplications per pair: over 40 keys even at 8.4
  // queries.
  const mla_config c = configs()[2];
  fixture f(c, {40});
  std::vector<double> pool(static_cast<std::size_t>(40 * f.width()), 0.5), y(f.x.size());
  const auto core = [&](index_t queries, attention_form form) {
    step_rows rows{f.memory};
    rows.add({0}, 40 - queries, std::vector<std::int32_t>(static_cast<std::size_t>(queries)));
    trace_log log;
    cpu_context<backend::trace<backend::cpu>> ctx{
        .threads = 1, .scratch = scratch_arena{f.memory, std::size_t{1} << 20}, .state = {&log}};
    f.layer.decode(ctx, {.x = view<const double, 2>{f.x.data(), queries, f.hidden()},
                         .weights = f.weights,
                         .tokens = rows.tokens(form),
                         .cache = view{pool.data(), 1, 40, f.width()},
                         .rope = f.batch.rope,
                         .y = view{y.data(), queries, f.hidden()}});
    std::string name;
    for (const trace_entry& entry : log.entries)
      if (std::string(entry.name).starts_with("mla_")) name += entry.name;
    return name;
  };
  const std::string absorbed = "mla_decode.forward", expanded = "mla_attention.forward";
  for (index_t queries = 1; queries <= 40; ++queries) {
    CAPTURE(queries);
    CHECK(core(queries, attention_form::by_cost) == (queries <= 8 ? absorbed : expanded));
    CHECK(core(queries, attention_form::absorbed) == absorbed);
    CHECK(core(queries, attention_form::expanded) == expanded);
  }
}
