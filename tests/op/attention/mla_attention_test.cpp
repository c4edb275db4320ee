// SPDX-License-Identifier: MIT
// Latent attention against the direct formula, and what must hold beside it: causality to the bit, packed
// sequences, determinism, bounded scratch, refusals.
#include <doctest/doctest.h>

#include <dsv3/cpu/attention/mla_attention.hpp>
#include <dsv3/exec/measure.hpp>

#include <op/attention/mla_attention_cases.hpp>
#include <oracle/mla_attention.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

using namespace dsv3;
using cases::attention_size;
using support::guarded;

namespace {

// Every tensor of both directions. Rows lie apart by different gaps; what lies between them is NaN. Gaps of
// whole 16 bytes are what matrix units of a GPU ask for.
enum class gaps { odd, whole };

template <class P>
struct problem {
  using op_type = op::mla_attention<P>;
  using real = activation<P>;

  attention_size size;
  double scale = 0.35;
  index_t tokens = 0, longest = 0;
  guarded<std::int32_t, 1> offsets, positions;
  guarded<real, 3> q, kv, o, d_o, dq, dkv;
  guarded<real, 2> k_rope, dk_rope;
  guarded<accumulator<P>, 2> lse;

  static index_t total(const attention_size& c) {
    index_t sum = 0;
    for (int length : c.lengths) sum += length;
    return sum;
  }

  explicit problem(const attention_size& c, gaps apart = gaps::odd)
      : size(c),
        tokens(total(c)),
        offsets(0, c.lengths.size() + 1),
        positions(0, tokens),
        q(apart == gaps::odd ? 3 : 24, tokens, c.heads, c.qk_nope + c.qk_rope),
        kv(apart == gaps::odd ? 1 : 8, tokens, c.heads, c.qk_nope + c.v_dim),
        o(apart == gaps::odd ? 2 : 16, tokens, c.heads, c.v_dim),
        d_o(apart == gaps::odd ? 5 : 40, tokens, c.heads, c.v_dim),
        dq(apart == gaps::odd ? 7 : 56, tokens, c.heads, c.qk_nope + c.qk_rope),
        dkv(apart == gaps::odd ? 2 : 16, tokens, c.heads, c.qk_nope + c.v_dim),
        k_rope(apart == gaps::odd ? 9 : 72, tokens, c.qk_rope),
        dk_rope(apart == gaps::odd ? 4 : 32, tokens, c.qk_rope),
        lse(3, c.heads, tokens) {
    index_t reached = 0;
    offsets.get()(0) = 0;
    for (std::size_t s = 0; s < c.lengths.size(); ++s) {
      for (int t = 0; t < c.lengths[s]; ++t) positions.get()(reached++) = t;
      offsets.get()(static_cast<index_t>(s) + 1) = static_cast<std::int32_t>(reached);
      longest = std::max<index_t>(longest, c.lengths[s]);
    }
    q.normal(1), kv.normal(2), k_rope.normal(3), d_o.normal(4);
  }

  packed_sequences sequence() { return {offsets, positions, longest}; }
  typename op_type::forward_args forward_args() {
    return {.q = q, .kv = kv, .k_rope = k_rope, .sequence = sequence(), .scale = scale, .o = o, .lse = lse};
  }
  typename op_type::backward_args backward_args() {
    return {.d_o = d_o,
            .q = q,
            .kv = kv,
            .k_rope = k_rope,
            .o = o,
            .lse = lse,
            .sequence = sequence(),
            .scale = scale,
            .dq = dq,
            .dkv = dkv,
            .dk_rope = dk_rope};
  }

  // Both directions, with exactly the scratch that measure asks for.
  void run(int threads = 1) {
    support::run(threads, [&](auto& ctx) {
      op_type::forward(ctx, forward_args());
      op_type::backward(ctx, backward_args());
    });
  }

  oracle::attention expected() {
    return {.lengths = size.lengths,
            .heads = size.heads,
            .nope = size.qk_nope,
            .rope = size.qk_rope,
            .v_dim = size.v_dim,
            .scale = scale,
            .q = q.values(),
            .kv = kv.values(),
            .k_rope = k_rope.values()};
  }

  bool intact() {
    return q.intact() && kv.intact() && k_rope.intact() && d_o.intact() && o.intact() && lse.intact() &&
           dq.intact() && dkv.intact() && dk_rope.intact();
  }
  bool same_results(const problem& other) const {
    return o.same_bits(other.o) && lse.same_bits(other.lse) && dq.same_bits(other.dq) &&
           dkv.same_bits(other.dkv) && dk_rope.same_bits(other.dk_rope);
  }
};

double typical(const std::vector<double>& values) {
  double squares = 0;
  for (double value : values) squares += value * value;
  return std::sqrt(squares / static_cast<double>(std::max<std::size_t>(values.size(), 1)));
}

// A gradient's row may vanish by cancellation (a query that sees one key): such rows are held to the tensor's
// size.
double worst_gradient(const std::vector<double>& found, const std::vector<double>& expected, index_t width) {
  return support::worst_row(found, expected, width, std::max(typical(expected), 1e-30));
}

template <class T>
bool same_bits(const dsv3::view<T, 1>& a, const dsv3::view<T, 1>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.extent(0)) * sizeof(T)) == 0;
}

// Tokens [begin, end) of one problem against tokens from `other_begin` on of another.
template <class T>
bool same_tokens(dsv3::view<T, 3> a, index_t begin, index_t end, dsv3::view<T, 3> b, index_t other_begin) {
  for (index_t t = begin; t < end; ++t)
    for (index_t h = 0; h < a.extent(1); ++h)
      if (!same_bits(a[t][h], b[other_begin + t - begin][h])) return false;
  return true;
}
template <class T>
bool same_tokens(dsv3::view<T, 2> a, index_t begin, index_t end, dsv3::view<T, 2> b, index_t other_begin) {
  for (index_t t = begin; t < end; ++t)
    if (!same_bits(a[t], b[other_begin + t - begin])) return false;
  return true;
}

template <class View>
void poison_tokens(View v, index_t begin, index_t end) {
  for (index_t t = begin; t < end; ++t) {
    if constexpr (View::rank == 3)
      poison_tokens(v[t], 0, v.extent(1));
    else
      for (index_t e = 0; e < v.extent(1); ++e) v(t, e) = support::poison<typename View::element>();
  }
}

}  // namespace

template <class P>
void compare_with_formula(const attention_size& c, gaps apart) {
  CAPTURE(c.lengths.size());
  CAPTURE(c.heads);
  CAPTURE(c.qk_nope);
  CAPTURE(c.qk_rope);
  problem<P> run(c, apart);
  CAPTURE(run.tokens);
  run.run(2);
  const auto expected = run.expected();
  const auto forward = expected.forward();
  const auto slopes = expected.backward(run.d_o.values(), run.o.values());
  const double allowed = support::tolerance<P>::row;
  CHECK(support::worst_row(run.o.values(), forward.o, c.v_dim) <= allowed);
  CHECK(support::worst_row(run.lse.values(), forward.lse, run.tokens) <= support::tolerance<fp32>::row);
  CHECK(worst_gradient(run.dq.values(), slopes.dq, c.qk_nope + c.qk_rope) <= allowed);
  CHECK(worst_gradient(run.dkv.values(), slopes.dkv, c.qk_nope + c.v_dim) <= allowed);
  CHECK(worst_gradient(run.dk_rope.values(), slopes.dk_rope, c.qk_rope) <= allowed);
  CHECK(run.intact());
}

TEST_CASE_TEMPLATE("agrees with the direct formula", P, fp64_reference, fp32, bf16_mixed) {
  for (const attention_size& c : cases::attention_sizes) compare_with_formula<P>(c, gaps::odd);
}

TEST_CASE("agrees with the direct formula in widths of matrix units") {
  for (const attention_size& c : cases::wide_attention_sizes)
    compare_with_formula<bf16_mixed>(c, gaps::whole);
}

TEST_CASE("gradients are the slopes of the oracle's forward") {
  problem<fp64_reference> run({{3, 4}, 2, 3, 2, 3});
  run.run();
  auto nudged = run.expected();
  const auto d_o = run.d_o.values();
  const auto loss = [&] {
    const auto o = nudged.forward().o;
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += o[i] * d_o[i];
    return sum;
  };
  const auto slopes_of = [&](std::vector<double>& input) {
    std::vector<double> slopes;
    for (double& number : input)
      slopes.push_back(support::central_difference(number, support::difference_step, loss));
    return slopes;
  };
  const double allowed = support::difference_tolerance;
  CHECK(worst_gradient(run.dq.values(), slopes_of(nudged.q), 5) <= allowed);
  CHECK(worst_gradient(run.dkv.values(), slopes_of(nudged.kv), 6) <= allowed);
  CHECK(worst_gradient(run.dk_rope.values(), slopes_of(nudged.k_rope), 2) <= allowed);
}

template <class P>
void compare_with_alone(const attention_size& c, gaps apart) {
  const index_t qk = c.qk_nope + c.qk_rope, width = c.qk_nope + c.v_dim;
  problem<P> packed(c, apart);
  packed.run(2);
  index_t first = 0;
  for (int length : c.lengths) {
    problem<P> alone({{length}, c.heads, c.qk_nope, c.qk_rope, c.v_dim}, apart);
    for (index_t t = 0; t < length; ++t) {
      for (index_t h = 0; h < c.heads; ++h) {
        for (index_t e = 0; e < qk; ++e) alone.q.get()(t, h, e) = packed.q.get()(first + t, h, e);
        for (index_t e = 0; e < width; ++e) alone.kv.get()(t, h, e) = packed.kv.get()(first + t, h, e);
        for (index_t e = 0; e < c.v_dim; ++e) alone.d_o.get()(t, h, e) = packed.d_o.get()(first + t, h, e);
      }
      for (index_t e = 0; e < c.qk_rope; ++e) alone.k_rope.get()(t, e) = packed.k_rope.get()(first + t, e);
    }
    alone.run();
    CHECK(same_tokens(alone.o.get(), 0, length, packed.o.get(), first));
    CHECK(same_tokens(alone.dq.get(), 0, length, packed.dq.get(), first));
    CHECK(same_tokens(alone.dkv.get(), 0, length, packed.dkv.get(), first));
    CHECK(same_tokens(alone.dk_rope.get(), 0, length, packed.dk_rope.get(), first));
    first += length;
  }
}

TEST_CASE_TEMPLATE("packed sequences are the same bits as each alone", P, fp32, bf16_mixed) {
  compare_with_alone<P>({{130, 0, 1, 300, 64}, 3, 6, 4, 5}, gaps::odd);
}

TEST_CASE("packed sequences of matrix units are the same bits as each alone") {
  compare_with_alone<bf16_mixed>({{130, 0, 1, 300, 64}, 3, 64, 32, 64}, gaps::whole);
  compare_with_alone<bf16_mixed>({{130, 0, 1, 300, 64}, 3, 128, 64, 128}, gaps::whole);
}

TEST_CASE("sequences never reach each other, not even as NaN") {
  for (const int width : {64, 128}) {
    const attention_size c{{130, 77, 300}, 2, width, 32, width};
    problem<bf16_mixed> clean(c, gaps::whole);
    clean.run();
    const index_t begins[] = {0, 130, 207, 507};
    for (int s = 0; s < 3; ++s) {
      CAPTURE(s);
      problem<bf16_mixed> poisoned(c, gaps::whole);
      poison_tokens(poisoned.q.get(), begins[s], begins[s + 1]);
      poison_tokens(poisoned.kv.get(), begins[s], begins[s + 1]);
      poison_tokens(poisoned.k_rope.get(), begins[s], begins[s + 1]);
      poison_tokens(poisoned.d_o.get(), begins[s], begins[s + 1]);
      poisoned.run();
      for (int other = 0; other < 3; ++other) {
        if (other == s) continue;
        const index_t begin = begins[other], end = begins[other + 1];
        CHECK(same_tokens(poisoned.o.get(), begin, end, clean.o.get(), begin));
        CHECK(same_tokens(poisoned.dq.get(), begin, end, clean.dq.get(), begin));
        CHECK(same_tokens(poisoned.dkv.get(), begin, end, clean.dkv.get(), begin));
        CHECK(same_tokens(poisoned.dk_rope.get(), begin, end, clean.dk_rope.get(), begin));
      }
      CHECK(std::isnan(poisoned.o.get()(begins[s], 1, 0)));
    }
  }
}

TEST_CASE("later tokens never reach earlier ones, not even as NaN") {
  const attention_size c{{300, 70}, 2, 6, 4, 5};
  problem<fp32> clean(c);
  clean.run();
  for (index_t cut : {0, 1, 37, 63, 64, 65, 255, 256, 257, 299, 300, 301, 363, 364, 369}) {
    CAPTURE(cut);
    const index_t end = cut < 300 ? 300 : 370;  // of the sequence that is cut
    problem<fp32> poisoned(c);
    poison_tokens(poisoned.q.get(), cut, end);
    poison_tokens(poisoned.kv.get(), cut, end);
    poison_tokens(poisoned.k_rope.get(), cut, end);
    poison_tokens(poisoned.d_o.get(), cut, end);
    poisoned.run();
    CHECK(same_tokens(poisoned.o.get(), 0, cut, clean.o.get(), 0));
    CHECK(same_tokens(poisoned.dq.get(), 0, cut, clean.dq.get(), 0));
    CHECK(same_tokens(poisoned.o.get(), end, 370, clean.o.get(), end));
    CHECK(same_tokens(poisoned.dq.get(), end, 370, clean.dq.get(), end));
    CHECK(same_tokens(poisoned.dkv.get(), end, 370, clean.dkv.get(), end));
    CHECK(same_tokens(poisoned.dk_rope.get(), end, 370, clean.dk_rope.get(), end));
    for (index_t t = cut; t < end; ++t) CHECK(std::isnan(poisoned.o.get()(t, 1, 0)));
    CHECK(poisoned.intact());
  }
}

TEST_CASE("gradients of earlier queries never reach later keys") {
  const attention_size c{{300}, 2, 6, 4, 5};
  problem<fp32> clean(c);
  clean.run();
  for (index_t cut : {1, 63, 64, 100, 256, 299}) {
    CAPTURE(cut);
    problem<fp32> poisoned(c);
    poison_tokens(poisoned.d_o.get(), 0, cut);
    poisoned.run();
    CHECK(same_tokens(poisoned.dq.get(), cut, 300, clean.dq.get(), cut));
    CHECK(same_tokens(poisoned.dkv.get(), cut, 300, clean.dkv.get(), cut));
    CHECK(same_tokens(poisoned.dk_rope.get(), cut, 300, clean.dk_rope.get(), cut));
    CHECK(std::isnan(poisoned.dkv.get()(cut - 1, 0, 0)));
  }
}

TEST_CASE_TEMPLATE("the same bits for any number of threads, every time", P, fp64_reference, fp32,
                   bf16_mixed) {
  const attention_size c{{130, 3, 300}, 19, 6, 4, 5};
  problem<P> one(c);
  one.run(1);
  for (int threads : {1, 2, 3, 7}) {
    problem<P> other(c);
    other.run(threads);
    CHECK(other.same_results(one));
    other.run(threads);  // activation gradients are written, not added to
    CHECK(other.same_results(one));
  }
}

TEST_CASE("the same bits every time on matrix units") {
  const attention_size c{{130, 3, 300}, 5, 128, 64, 128};
  problem<bf16_mixed> one(c, gaps::whole), other(c, gaps::whole);
  one.run();
  for (int time = 0; time < 3; ++time) {
    other.run(2);
    CHECK(other.same_results(one));
  }
}

TEST_CASE_TEMPLATE("scores of any finite size", P, fp64_reference, fp32) {
  for (double scale : {-1e30, 1e-30, 1e4, 1e30}) {
    CAPTURE(scale);
    problem<P> run({{300}, 1, 4, 2, 3});
    run.scale = scale;
    for (index_t t = 0; t < 300; ++t)
      for (index_t e = 4; e < 7; ++e) run.kv.get()(t, 0, e) = 1;
    run.run();
    for (double o : run.o.values()) CHECK(std::fabs(o - 1) <= 1e-5);  // probabilities add up to one
    for (double d : run.dq.values()) CHECK(std::isfinite(d));
    for (double d : run.dkv.values()) CHECK(std::isfinite(d));
  }
}

TEST_CASE("a score of minus infinity is a key that is not there") {
  problem<fp64_reference> run({{300}, 1, 4, 2, 3});
  for (index_t t = 0; t < 300; ++t) {
    run.q.get()(t, 0, 0) = 1;
    if (t < 256 || t == 280) run.kv.get()(t, 0, 0) = -INFINITY;
  }
  support::run(1, [&](auto& ctx) { op::mla_attention<fp64_reference>::forward(ctx, run.forward_args()); });
  // Queries that see no other key have no softmax: NaN, in the formula as here.
  const auto expected = run.expected().forward();
  CHECK(std::isnan(expected.o[255 * 3]));
  CHECK(std::isfinite(expected.o[256 * 3]));
  CHECK(support::worst_row(run.o.values(), expected.o, 3) <= 1e-12);
}

TEST_CASE("lse is optional") {
  problem<fp32> with({{100}, 2, 4, 2, 3}), without({{100}, 2, 4, 2, 3});
  with.run();
  auto args = without.forward_args();
  args.lse = {};
  support::run(1, [&](auto& ctx) { op::mla_attention<fp32>::forward(ctx, args); });
  CHECK(without.o.same_bits(with.o));
}

TEST_CASE("scratch is exact, and a square of no sequence") {
  using op_type = op::mla_attention<fp32>;
  problem<fp32> run({{200, 90}, 3, 6, 4, 5});
  support::scratch_memory memory;
  auto ctx = support::context(3);
  const std::size_t bytes = measure(ctx, [&](auto& probe) { op_type::backward(probe, run.backward_args()); });
  ctx.scratch = scratch_arena{memory, bytes - 1};
  CHECK_THROWS_AS(op_type::backward(ctx, run.backward_args()), dsv3::error);

  // In measure mode nothing is read: neither data nor offsets need exist.
  const auto bytes_of_length = [&](index_t length, bool backward) {
    const view<const std::int32_t, 1> nowhere{static_cast<const std::int32_t*>(nullptr), length};
    const packed_sequences sequence{nowhere.rows(0, 2), nowhere, length};
    float* none = reinterpret_cast<float*>(64);
    const view<float, 3> q{none, length, 2, 96}, kv{none, length, 2, 128}, o{none, length, 2, 64};
    const view<float, 2> k_rope{none, length, 32}, lse{none, 2, length};
    return measure(ctx, [&](auto& probe) {
      auto data = sequence;
      data.offsets = view<const std::int32_t, 1>{reinterpret_cast<const std::int32_t*>(64), 2};
      data.positions = view<const std::int32_t, 1>{reinterpret_cast<const std::int32_t*>(64), length};
      if (backward)
        op_type::backward(probe, {.d_o = o,
                                  .q = q,
                                  .kv = kv,
                                  .k_rope = k_rope,
                                  .o = o,
                                  .lse = lse,
                                  .sequence = data,
                                  .dq = q,
                                  .dkv = kv,
                                  .dk_rope = k_rope});
      else
        op_type::forward(probe, {.q = q, .kv = kv, .k_rope = k_rope, .sequence = data, .o = o, .lse = lse});
    });
  };
  CHECK(bytes_of_length(1 << 20, false) == bytes_of_length(1 << 10, false));
  CHECK(bytes_of_length(1 << 20, true) <
        (std::size_t{1} << 20) * (3 * 97 + 2 * 32) * sizeof(float) + (8 << 20));
}

template <class P>
void compare_with_last_rows(int nope, int rope, int v_dim, gaps apart) {
  const std::vector<int> lengths{300, 64, 0, 1, 700},
      sizes[] = {
          {1, 64, 0, 0, 1}, {37, 1, 0, 1, 444}, {0, 0, 0, 0, 0}, {256, 63, 0, 1, 700}, {300, 64, 0, 1, 65}};
  problem<P> whole({lengths, 3, nope, rope, v_dim}, apart);
  whole.run(2);
  const auto expected = whole.o.values(), expected_lse = whole.lse.values();
  for (const std::vector<int>& queries : sizes) {
    CAPTURE(queries[0]);
    problem<P> chunk({queries, 3, nope, rope, v_dim}, apart);
    std::vector<double> o, lse(3 * static_cast<std::size_t>(chunk.tokens));
    index_t t = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s)
      for (index_t u = whole.offsets.get()(static_cast<index_t>(s) + 1) - queries[s];
           u < whole.offsets.get()(static_cast<index_t>(s) + 1); ++u, ++t)
        for (index_t h = 0; h < 3; ++h) {
          for (index_t e = 0; e < nope + rope; ++e) chunk.q.get()(t, h, e) = whole.q.get()(u, h, e);
          const auto row = static_cast<std::size_t>((u * 3 + h) * v_dim);
          o.insert(o.end(), &expected[row], &expected[row] + v_dim);
          lse[static_cast<std::size_t>(h * chunk.tokens + t)] =
              expected_lse[static_cast<std::size_t>(h * whole.tokens + u)];
        }
    for (const int threads : {1, 2}) {
      auto args = chunk.forward_args();
      args.kv = whole.kv, args.k_rope = whole.k_rope, args.keys = whole.sequence();
      support::run(threads, [&](auto& ctx) { op::mla_attention<P>::forward(ctx, args); });
      CHECK(support::worst_row(chunk.o.values(), o, v_dim) <= support::tolerance<P>::row);
      CHECK(support::worst_row(chunk.lse.values(), lse, std::max<index_t>(chunk.tokens, 1)) <=
            support::tolerance<fp32>::row);
      CHECK(chunk.intact());
    }
  }
}

TEST_CASE_TEMPLATE("the last queries over all keys are the last rows of the whole", P, fp64_reference, fp32,
                   bf16_mixed) {
  compare_with_last_rows<P>(6, 4, 5, gaps::odd);
}

TEST_CASE("the last queries over all keys are the last rows of the whole on matrix units") {
  compare_with_last_rows<bf16_mixed>(64, 32, 64, gaps::whole);
  compare_with_last_rows<bf16_mixed>(128, 64, 128, gaps::whole);
}

TEST_CASE("keys that are the queries give the same bits named or not") {
  problem<fp32> named({{300, 0, 65}, 2, 6, 4, 5}), unnamed({{300, 0, 65}, 2, 6, 4, 5});
  auto args = named.forward_args();
  args.keys = named.sequence();
  support::run(1, [&](auto& ctx) { op::mla_attention<fp32>::forward(ctx, args); });
  args = unnamed.forward_args();
  support::run(1, [&](auto& ctx) { op::mla_attention<fp32>::forward(ctx, args); });
  CHECK(named.o.same_bits(unnamed.o));
  CHECK(named.lse.same_bits(unnamed.lse));
}

TEST_CASE("later keys never reach earlier queries of a chunk, not even as NaN") {
  problem<fp32> keys({{300}, 2, 6, 4, 5}), clean({{90}, 2, 6, 4, 5});
  const auto attend = [&](problem<fp32>& chunk) {
    auto args = chunk.forward_args();
    args.kv = keys.kv, args.k_rope = keys.k_rope, args.keys = keys.sequence();
    support::run(2, [&](auto& ctx) { op::mla_attention<fp32>::forward(ctx, args); });
  };
  attend(clean);
  for (const index_t cut : {299, 298, 257, 256, 255, 240, 211, 210}) {  // query t is key 210 + t
    CAPTURE(cut);
    poison_tokens(keys.kv.get(), cut, 300);
    poison_tokens(keys.k_rope.get(), cut, 300);
    problem<fp32> spoiled({{90}, 2, 6, 4, 5});
    attend(spoiled);
    CHECK(same_tokens(spoiled.o.get(), 0, cut - 210, clean.o.get(), 0));
    for (index_t t = cut - 210; t < 90; ++t) CHECK(std::isnan(spoiled.o.get()(t, 1, 0)));
  }
}

TEST_CASE("sequences that do not tile the tokens are refused") {
  using op_type = op::mla_attention<fp32>;
  const auto sentence = [](auto&& spoil) {
    problem<fp32> run({{3, 4}, 1, 2, 2, 2});
    auto sequence = run.sequence();
    spoil(run.offsets.get(), sequence);
    auto args = run.forward_args();
    args.sequence = sequence;
    return support::raised([&] { support::run(1, [&](auto& ctx) { op_type::forward(ctx, args); }); });
  };
  CHECK(sentence([](auto, auto&) {}) == "");
  CHECK(sentence([](auto, auto& sequence) { sequence.max_length = 3; }) ==
        "mla_attention.forward: sequence 1 has 4 tokens, max_length is 3");
  CHECK(sentence([](auto offsets, auto&) { offsets(0) = 1; }) ==
        "mla_attention.forward: sequence 0 has the tokens [1, 3), it must begin at 0 and not end before");
  CHECK(sentence([](auto offsets, auto&) { offsets(1) = 8; }) ==
        "mla_attention.forward: sequence 0 has 8 tokens, max_length is 4");
  CHECK(sentence([](auto offsets, auto& sequence) { offsets(1) = 8, sequence.max_length = 9; }) ==
        "mla_attention.forward: sequence 1 has the tokens [8, 7), it must begin at 8 and not end before");
  CHECK(sentence([](auto offsets, auto&) { offsets(2) = 6; }) ==
        "mla_attention.forward: the sequences end at token 6, there are 7 tokens");
  CHECK(sentence([](auto, auto& sequence) { sequence.offsets = {}; }) ==
        "mla_attention.forward: the sequences end at token 0, there are 7 tokens");
}

TEST_CASE("more queries than keys are refused") {
  problem<fp32> queries({{3, 4}, 1, 2, 2, 2}), keys({{4, 3}, 1, 2, 2, 2});
  auto args = queries.forward_args();
  args.keys = keys.sequence();
  const auto attend = [&] {
    support::run(1, [&](auto& ctx) { op::mla_attention<fp32>::forward(ctx, args); });
  };
  CHECK(support::raised(attend) == "mla_attention.forward: sequence 1 has 4 queries, and only 3 keys");
  keys.offsets.get()(1) = 8;
  CHECK(support::raised(attend) == "mla_attention.forward: sequence 0 has 8 tokens, max_length is 4");
}

TEST_CASE("check says what is wrong") {
  problem<fp32> run({{3, 4}, 2, 4, 2, 3});
  CHECK(run.forward_args().check());
  CHECK(run.backward_args().check());
  const auto forward = [&](auto&& spoil) {
    auto args = run.forward_args();
    spoil(args);
    return args.check().message();
  };
  const auto backward = [&](auto&& spoil) {
    auto args = run.backward_args();
    spoil(args);
    return args.check().message();
  };
  CHECK(forward([](auto& a) { a.kv = a.kv.rows(0, 6); }) ==
        "mla_attention.forward: kv has 6 tokens, key sequence has 7");
  CHECK(forward([](auto& a) { a.kv = a.kv.slice(1, 0, 1); }) ==
        "mla_attention.forward: kv has 1 heads, q has 2");
  CHECK(forward([](auto& a) { a.o = a.o.columns(0, 2); }) ==
        "mla_attention.forward: kv has 7 columns, qk_nope + v_dim has 6");
  CHECK(forward([](auto& a) { a.lse = a.lse.rows(0, 1); }) ==
        "mla_attention.forward: lse has 1 heads, q has 2");
  CHECK(forward([](auto& a) { a.sequence.positions = a.sequence.positions.rows(0, 2); }) ==
        "mla_attention.forward: sequence has 2 tokens, q has 7");
  CHECK(forward([](auto& a) {
          a.keys = {a.sequence.offsets.rows(0, 2), a.sequence.positions, 4};
        }) == "mla_attention.forward: keys has 1 sequences, sequence has 2");
  CHECK(forward([](auto& a) {
          a.q = view<const float, 3>{static_cast<const float*>(nullptr), 7, 2, 6};
        }) == "mla_attention.forward: q has 84 elements and a null pointer");
  CHECK(backward([](auto& a) { a.lse = {}; }) == "mla_attention.backward: lse has 0 heads, q has 2");
  CHECK(backward([](auto& a) { a.dq = a.dq.rows(0, 6); }) ==
        "mla_attention.backward: dq has 6 tokens, q has 7");
  CHECK(backward([](auto& a) { a.dkv = a.dkv.slice(1, 0, 1); }) ==
        "mla_attention.backward: dkv has 1 heads, kv has 2");
  CHECK(backward([](auto& a) { a.dk_rope = a.dk_rope.columns(0, 1); }) ==
        "mla_attention.backward: dk_rope has 1 columns, k_rope has 2");
}
