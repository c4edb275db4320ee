// SPDX-License-Identifier: MIT
#include <dsv3/cpu/expert/permute.hpp>

#include <op/expert/permute_cases.hpp>
#include <oracle/permute.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using permute_cases::problem;
using support::guarded;

namespace {

/// A plan in guarded memory, and one of every tensor that moves along it.
template <class P>
struct fixture {
  problem p;
  permutation_config config;
  index_t tokens, rows_capacity;
  guarded<std::int32_t> ids, row_of;
  guarded<std::int32_t, 1> offsets, counts, token_of;
  guarded<activation<P>> x, rows, add, y;
  guarded<accumulator<P>> gates, gates_back;
  guarded<accumulator<P>, 1> row_gates;

  explicit fixture(const problem& given, index_t gap = 2)
      : p(given),
        config(p.config),
        tokens(config.tokens),
        rows_capacity(config.row_capacity()),
        ids(gap, tokens, config.top_k),
        row_of(gap + 1, tokens, config.top_k),
        offsets(0, config.experts + 1),
        counts(0, config.experts),
        token_of(0, rows_capacity),
        x(gap, tokens, p.width),
        rows(gap == 0 ? 0 : gap + 8, rows_capacity, p.width),
        add(gap, tokens, p.width),
        y(gap, tokens, p.width),
        gates(gap, tokens, config.top_k),
        gates_back(gap, tokens, config.top_k),
        row_gates(0, rows_capacity) {
    const std::vector<int> chosen = permute_cases::choose(p);
    ids.fill([&](index_t i) { return chosen[static_cast<std::size_t>(i)]; });
    x.normal(1), add.normal(2), gates.normal(3);
  }

  permutation plan() { return {config, offsets, counts, row_of, token_of}; }
  permutation_view planned() { return plan(); }
  void make_plan(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::permute<P>::plan(ctx, {.ids = ids, .plan = plan()}); });
  }
  void dispatch(int threads = 2) {
    support::run(threads, [&](auto& ctx) {
      op::permute<P>::dispatch(ctx, {.x = x, .plan = planned(), .rows = rows});
      op::permute<P>::dispatch_gates(ctx, {.gates = gates, .plan = planned(), .row_gates = row_gates});
    });
  }
  void combine(int threads = 2) {
    support::run(threads, [&](auto& ctx) {
      op::permute<P>::combine(ctx, {.rows = rows, .plan = planned(), .add = add, .y = y});
      op::permute<P>::combine_gates(ctx, {.row_gates = row_gates, .plan = planned(), .gates = gates_back});
    });
  }
  bool intact() {
    return ids.intact() && row_of.intact() && offsets.intact() && counts.intact() && token_of.intact() &&
           x.intact() && rows.intact() && add.intact() && y.intact() && gates.intact() &&
           gates_back.intact() && row_gates.intact();
  }
  bool same_plan(const fixture& other) const {
    return row_of.same_bits(other.row_of) && offsets.same_bits(other.offsets) &&
           counts.same_bits(other.counts) && token_of.same_bits(other.token_of);
  }
};

}  // namespace

TEST_CASE("the plan agrees with the oracle") {
  for (const problem& p : permute_cases::named)
    for (const index_t gap : {0, 3}) {
      CAPTURE(p.config.tokens);
      CAPTURE(p.config.experts);
      CAPTURE(p.config.alignment);
      CAPTURE(p.config.masked);
      fixture<fp32> f(p, gap);
      f.make_plan();
      const auto n = [](index_t i) { return static_cast<std::size_t>(i); };
      const auto expected = oracle::permute_plan(
          permute_cases::choose(p),
          {n(f.tokens), n(p.config.top_k), n(p.config.experts), n(p.config.alignment), p.config.masked},
          n(f.rows_capacity));
      CHECK(f.offsets.values() == expected.offsets);
      CHECK(f.counts.values() == expected.counts);
      CHECK(f.row_of.values() == expected.row_of);
      CHECK(f.token_of.values() == expected.token_of);
      CHECK(f.intact());
    }
}

TEST_CASE_TEMPLATE("dispatch copies, combine sums, padding stays as it is", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const problem& p : permute_cases::named)
    for (const index_t gap : {0, 3, 6}) {
      CAPTURE(p.config.tokens);
      CAPTURE(p.config.experts);
      CAPTURE(p.width);
      fixture<P> f(p, gap);
      f.make_plan(), f.dispatch();
      index_t wrong = 0;
      for (index_t r = 0; r < f.rows_capacity; ++r) {
        const std::int32_t t = f.token_of.get()(r);
        for (index_t i = 0; i < p.width; ++i) {
          const double found = static_cast<double>(f.rows.get()(r, i));
          // Padding keeps the poison it began with.
          wrong += t < 0 ? !std::isnan(found) : found != static_cast<double>(f.x.get()(t, i));
        }
        wrong += std::isnan(f.row_gates.get()(r)) != (t < 0);
      }
      CHECK(wrong == 0);

      // Experts that do nothing, over poisoned padding: top_k times the token comes back, plus what is added.
      f.combine();
      CHECK(f.gates_back.values() == f.gates.values());
      std::vector<double> expected = f.add.values();
      const std::vector<double> x = f.x.values();
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += double(p.config.top_k) * x[i];
      CHECK(support::worst_row(f.y.values(), expected, p.width) <= support::tolerance<P>::row);

      support::run(2, [&](auto& ctx) {
        op::permute<P>::combine(ctx, {.rows = f.rows, .plan = f.planned(), .y = f.y});
      });
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = double(p.config.top_k) * x[i];
      CHECK(support::worst_row(f.y.values(), expected, p.width) <= support::tolerance<P>::row);

      CHECK(f.intact());
    }
}

TEST_CASE_TEMPLATE("combine may write over what it adds", P, fp64_reference, fp32, bf16_mixed) {
  fixture<P> f(permute_cases::named[8]);
  f.make_plan(), f.dispatch(), f.combine();
  const std::vector<double> apart = f.y.values();
  support::run(2, [&](auto& ctx) {
    op::permute<P>::combine(ctx, {.rows = f.rows, .plan = f.planned(), .add = f.add, .y = f.add});
  });
  CHECK(f.add.values() == apart);
}

TEST_CASE("dispatch and combine are each other's transpose") {
  using P = fp64_reference;
  for (const problem& p : permute_cases::named) {
    fixture<P> f(p), g(p);
    f.make_plan(), f.dispatch();
    g.make_plan(), g.rows.normal(5), g.row_gates.normal(6);
    support::run(2, [&](auto& ctx) {
      op::permute<P>::combine(ctx, {.rows = g.rows, .plan = g.planned(), .y = g.y});
      op::permute<P>::combine_gates(ctx, {.row_gates = g.row_gates, .plan = g.planned(), .gates = g.gates});
    });
    // <dispatch x, rows> = <x, combine rows> over live rows, and the same for gates.
    double left = 0, right = 0, scale = 1;
    const auto add = [&](double& sum, double a, double b) { sum += a * b, scale += std::fabs(a * b); };
    for (index_t r = 0; r < f.rows_capacity; ++r) {
      if (f.token_of.get()(r) < 0) continue;
      for (index_t i = 0; i < p.width; ++i) add(left, f.rows.get()(r, i), g.rows.get()(r, i));
      add(left, f.row_gates.get()(r), g.row_gates.get()(r));
    }
    for (index_t t = 0; t < f.tokens; ++t) {
      for (index_t i = 0; i < p.width; ++i) add(right, f.x.get()(t, i), g.y.get()(t, i));
      for (index_t k = 0; k < p.config.top_k; ++k) add(right, f.gates.get()(t, k), g.gates.get()(t, k));
    }
    CHECK(std::fabs(left - right) <= 1e-13 * scale);
  }
}

TEST_CASE_TEMPLATE("ragged groups are the experts' rows", P, fp64_reference, fp32, bf16_mixed) {
  for (const problem& p : permute_cases::named) {
    fixture<P> f(p);
    f.make_plan(), f.dispatch();
    const auto by_expert = f.plan().ragged(f.rows.get());
    CHECK(by_expert.groups() == p.config.experts);
    CHECK(by_expert.width() == p.width);

    // y = Σ_k gate · (e + 1) x: each expert scales its own rows in place, through the ragged view alone.
    for (index_t e = 0; e < by_expert.groups(); ++e) {
      const auto group = by_expert.group(e);
      CHECK(group.extent(0) == f.counts.get()(e));
      for (index_t r = 0; r < group.extent(0); ++r)
        for (index_t i = 0; i < p.width; ++i)
          group(r, i) = activation<P>(accumulator<P>(group(r, i)) * accumulator<P>(e + 1) *
                                      f.row_gates.get()(f.offsets.get()(e) + r));
    }
    f.combine();
    std::vector<double> expected = f.add.values();
    const std::vector<int> ids = permute_cases::choose(p);
    for (index_t t = 0; t < f.tokens; ++t)
      for (index_t k = 0; k < p.config.top_k; ++k)
        for (index_t i = 0; i < p.width; ++i)
          expected[static_cast<std::size_t>(t * p.width + i)] += static_cast<double>(
              activation<P>(accumulator<P>(f.x.get()(t, i)) *
                            accumulator<P>(ids[static_cast<std::size_t>(t * p.config.top_k + k)] + 1) *
                            f.gates.get()(t, k)));
    CHECK(support::worst_row(f.y.values(), expected, p.width) <= support::tolerance<P>::row);
  }
}

TEST_CASE_TEMPLATE("permutation gives the same bits on any number of threads", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const bool masked : {false, true}) {
    const problem p{{.tokens = 9001, .top_k = 6, .experts = 12, .alignment = 16, .masked = masked},
                    3,
                    permute_cases::choice::spread};
    fixture<P> one(p);
    one.make_plan(1), one.dispatch(1), one.combine(1);
    for (const int threads : {1, 2, 3, 7}) {
      fixture<P> other(p);
      other.make_plan(threads), other.dispatch(threads), other.combine(threads);
      CHECK(other.same_plan(one));
      CHECK(other.rows.same_bits(one.rows));
      CHECK(other.row_gates.same_bits(one.row_gates));
      CHECK(other.y.same_bits(one.y));
      CHECK(other.gates_back.same_bits(one.gates_back));
    }
  }
}

TEST_CASE_TEMPLATE("a slot without an expert has no row and adds nothing", P, fp64_reference, bf16_mixed) {
  for (const bool masked : {false, true})
    for (const int threads : {1, 3}) {
      const problem p{
          {.tokens = 5000, .top_k = 4, .experts = 12, .alignment = masked ? 1 : 16, .masked = masked},
          9,
          permute_cases::choice::spread};
      fixture<P> f(p);
      const auto empty = [](index_t t, index_t k) { return t % 3 == 0 || (t + k) % 2 == 0; };
      std::vector<int> ids = permute_cases::choose(p);
      for (index_t t = 0; t < f.tokens; ++t)
        for (index_t k = 0; k < 4; ++k)
          if (empty(t, k)) f.ids.get()(t, k) = -1, ids[static_cast<std::size_t>(4 * t + k)] = -1;
      f.make_plan(threads), f.dispatch(threads), f.combine(threads);
      index_t wrong = 0;
      for (index_t e = 0; e < 12; ++e) {
        index_t row = f.offsets.get()(e);
        for (index_t slot = 0; slot < 4 * f.tokens; ++slot) {
          if (ids[static_cast<std::size_t>(slot)] != e) continue;
          wrong += f.row_of.get()(slot / 4, slot % 4) != row || f.token_of.get()(row) != slot / 4;
          ++row;
        }
        wrong += f.counts.get()(e) != row - f.offsets.get()(e);
      }
      std::vector<double> expected = f.add.values(), gates = f.gates.values();
      for (index_t t = 0; t < f.tokens; ++t)
        for (index_t k = 0; k < 4; ++k) {
          const bool none = empty(t, k);
          wrong += none && f.row_of.get()(t, k) != -1;
          if (none) gates[static_cast<std::size_t>(4 * t + k)] = 0;
          for (index_t i = 0; i < 9 && !none; ++i)
            expected[static_cast<std::size_t>(9 * t + i)] += static_cast<double>(f.x.get()(t, i));
        }
      CHECK(wrong == 0);
      CHECK(f.gates_back.values() == gates);
      CHECK(support::worst_row(f.y.values(), expected, 9) <= support::tolerance<P>::row);
      CHECK(f.intact());
    }
}

TEST_CASE("less room than all slots need is enough for what fits, and refused for what does not") {
  using P = fp32;
  problem p{{.tokens = 50, .top_k = 4, .experts = 16, .alignment = 8, .masked = false, .room = 100},
            5,
            permute_cases::choice::spread};
  const auto plan = [&](index_t live) {
    fixture<P> f(p);
    for (index_t i = live; i < 200; ++i) f.ids.get()(i / 4, i % 4) = -1;
    const std::string sentence = support::raised([&] { f.make_plan(); });
    CHECK(f.intact());
    if (sentence.empty()) {
      f.dispatch(), f.combine();
      CHECK(f.intact());
    }
    return sentence;
  };
  CHECK(p.config.row_capacity() == 216);
  CHECK(plan(100) == "");
  p.how = permute_cases::choice::few_experts;  // 200 rows of 5 experts
  CHECK(plan(200) == "");
  p.config.alignment = 1;
  CHECK(plan(100) == "");
  CHECK(plan(101) == "permute.plan: the experts are given 101 rows, padding included, there is room for 100");
}

#if defined(DSV3_TEST_BACKEND)
TEST_CASE("what a lost row is combined to is not a number") {
  using P = fp32;
  fixture<P> f({{.tokens = 20, .top_k = 2, .experts = 4, .alignment = 1, .masked = false, .room = 30},
                5,
                permute_cases::choice::spread});
  CHECK(support::raised([&] { f.make_plan(); }) != "");
  f.rows.normal(3), f.row_gates.normal(4);
  f.combine();
  index_t lost = 0, wrong = 0;
  for (index_t t = 0; t < 20; ++t) {
    bool any = false;
    for (index_t k = 0; k < 2; ++k) {
      const bool gone = f.row_of.get()(t, k) == -2;
      lost += gone, any = any || gone;
      wrong += std::isnan(f.gates_back.get()(t, k)) != gone;
    }
    for (index_t i = 0; i < 5; ++i) wrong += std::isnan(f.y.get()(t, i)) != any;
  }
  CHECK(lost == 10);
  CHECK(wrong == 0);
  CHECK(f.intact());
}
#endif

TEST_CASE("a bad choice is refused") {
  using P = fp32;
  const auto refusal = [](problem p, index_t token, index_t slot, std::int32_t expert, int threads) {
    fixture<P> f(p);
    f.ids.get()(token, slot) = expert;
    const std::string sentence = support::raised([&] { f.make_plan(threads); });
    CHECK(f.intact());
    return sentence;
  };
  const problem p = permute_cases::named[4];
  CHECK(refusal(p, 3, 1, 5, 2) ==
        "permute.plan: token 3, slot 1 has expert 5, expected 0 to 4, or -1 for none");
  CHECK(refusal(p, 8, 0, -2, 1) ==
        "permute.plan: token 8, slot 0 has expert -2, expected 0 to 4, or -1 for none");
  const problem large{{.tokens = 9001, .top_k = 6, .experts = 12}, 1, permute_cases::choice::spread};
  CHECK(refusal(large, 8000, 5, 1 << 30, 3) ==
        "permute.plan: token 8000, slot 5 has expert 1073741824, expected 0 to 11, or -1 for none");

  // A token that chooses an expert twice is no trouble where segments grow, and has no room where they do
  // not.
  const auto repeated = [](const problem& given) {
    fixture<P> f(given);
    f.ids.fill([](index_t) { return 2; });
    const std::string sentence = support::raised([&] { f.make_plan(); });
    CHECK(f.intact());
    return sentence;
  };
  CHECK(repeated(permute_cases::named[4]) == "");
  CHECK(repeated(permute_cases::named[5]) ==
        "permute.plan: expert 2 is chosen 18 times by 9 tokens, expected at most once each in the masked "
        "layout");
}

TEST_CASE("permutation says what does not fit") {
  using P = fp32;
  fixture<P> f(permute_cases::named[4]), other(permute_cases::named[8]);
  const auto plan = [&](auto&& change) {
    typename op::permute<P>::plan_args args{.ids = f.ids, .plan = f.plan()};
    change(args);
    return args.check().message();
  };
  CHECK(plan([](auto&) {}) == "");
  CHECK(plan([&](auto& a) { a.ids = other.ids; }) == "permute.plan: ids has 50 tokens, plan has 9");
  CHECK(plan([](auto& a) { a.plan.config.top_k = 3; }) ==
        "permute.plan: ids has 2 columns, plan as top_k has 3");
  CHECK(plan([](auto& a) { a.plan.config.alignment = 0; }) == "permute.plan: the alignment must be positive");
  CHECK(plan([](auto& a) { a.plan.config.alignment = index_t{1} << 40; }) ==
        "permute.plan: more than 2^31 rows");
  CHECK(plan([](auto& a) { a.plan.config.masked = true, a.plan.config.room = 3; }) ==
        "permute.plan: the masked layout has room for all tokens");
  CHECK(plan([&](auto& a) { a.plan.offsets = other.offsets; }) ==
        "permute.plan: offsets has 17 elements, plan has 6");
  CHECK(plan([&](auto& a) { a.plan.counts = other.counts; }) ==
        "permute.plan: counts has 16 experts, plan has 5");
  CHECK(plan([&](auto& a) { a.plan.row_of = other.row_of; }) ==
        "permute.plan: row_of has 50 tokens, plan has 9");
  CHECK(plan([&](auto& a) { a.plan.token_of = {}; }) == "permute.plan: token_of has 0 rows, plan has 56");

  using op_type = op::permute<P>;
  typename op_type::dispatch_args dispatch{.x = f.x, .plan = f.planned(), .rows = f.rows};
  CHECK(dispatch.check().message() == "");
  dispatch.rows = other.rows;
  CHECK(dispatch.check().message() == "permute.dispatch: rows has 234 rows, plan has 56");
  typename op_type::combine_args combine{.rows = f.rows, .plan = f.planned(), .add = f.add, .y = f.y};
  CHECK(combine.check().message() == "");
  combine.add = other.add;
  CHECK(combine.check().message() == "permute.combine: add has 50 tokens, y has 9");
  typename op_type::dispatch_gates_args gates{
      .gates = f.gates, .plan = f.planned(), .row_gates = f.row_gates};
  CHECK(gates.check().message() == "");
  gates.gates = gates.gates.columns(0, 1);
  CHECK(gates.check().message() == "permute.dispatch_gates: gates has 1 columns, plan as top_k has 2");
  typename op_type::combine_gates_args back{.row_gates = f.row_gates, .plan = f.planned(), .gates = f.gates};
  CHECK(back.check().message() == "");
  back.row_gates = {};
  CHECK(back.check().message() == "permute.combine_gates: row_gates has 0 rows, plan has 56");
}
