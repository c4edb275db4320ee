// SPDX-License-Identifier: MIT
#include <dsv3/cpu/routing/router.hpp>

#include <op/routing/router_cases.hpp>
#include <oracle/router.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <type_traits>
#include <vector>

using namespace dsv3;
using router_cases::problem;
using support::guarded;

namespace {

/// Scores, gates and dlogits are accumulators whatever the activation is.
template <class P>
constexpr double accumulator_row =
    support::tolerance<std::conditional_t<std::is_same_v<accumulator<P>, double>, fp64_reference, fp32>>::row;

oracle::routing plain(const router_config& c) {
  const auto n = [](index_t i) { return static_cast<std::size_t>(i); };
  return {n(c.hidden), n(c.experts),     n(c.top_k),
          n(c.groups), n(c.kept_groups), c.normalise == gate_norm::sum_to_one,
          c.scale};
}

/// All tensors of one forward and one backward, inputs filled, outputs poisoned. Biases are mostly negative.
template <class P>
struct fixture {
  index_t tokens;
  router_config config;
  guarded<activation<P>> x, dx;
  guarded<master<P>> centroids;
  guarded<gradient<P>> dcentroids;
  guarded<master<P>, 1> bias;
  guarded<accumulator<P>> scores, gates, dgates, dscores, dlogits;
  guarded<std::int32_t> ids;
  guarded<std::int64_t, 1> load;

  explicit fixture(const problem& p, index_t gap = 2, std::uint64_t seed = 0)
      : tokens(p.tokens),
        config(p.config),
        x(gap, tokens, config.hidden),
        dx(gap + 1, tokens, config.hidden),
        centroids(gap, config.experts, config.hidden),
        dcentroids(gap, config.experts, config.hidden),
        bias(0, config.experts),
        scores(gap, tokens, config.experts),
        gates(gap, tokens, config.top_k),
        dgates(2 * gap, tokens, config.top_k),
        dscores(gap, tokens, config.experts),
        dlogits(gap, tokens, config.experts),
        ids(gap, tokens, config.top_k),
        load(0, config.experts) {
    x.normal(10 * seed + 1), dgates.normal(10 * seed + 2), dscores.normal(10 * seed + 3, 0.1);
    centroids.normal(10 * seed + 4, 1.5 / std::sqrt(double(config.hidden)));
    const random_stream random(20260101, 10 * seed + 5);
    bias.fill([&](index_t e) { return 0.5 * random.normal(static_cast<std::uint64_t>(e)) - 0.6; });
    load.fill([](index_t) { return 0; });
    dcentroids.fill([](index_t) { return 0; });
  }

  typename op::router<P>::forward_args forward_args() {
    return {.config = config,
            .x = x,
            .centroids = centroids,
            .bias = bias,
            .scores = scores,
            .ids = ids,
            .gates = gates,
            .load = load};
  }
  typename op::router<P>::backward_data_args data_args() {
    return {.config = config,
            .dgates = dgates,
            .scores = scores,
            .ids = ids,
            .centroids = centroids,
            .dscores = dscores,
            .dlogits = dlogits,
            .dx = dx};
  }
  typename op::router<P>::backward_weights_args weights_args() {
    return {.dlogits = dlogits, .x = x, .dcentroids = dcentroids};
  }
  void forward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::router<P>::forward(ctx, forward_args()); });
  }
  void backward_data(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::router<P>::backward_data(ctx, data_args()); });
  }
  void backward_weights(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::router<P>::backward_weights(ctx, weights_args()); });
  }

  std::vector<int> choice() {
    std::vector<int> result;
    for (const double id : ids.values()) result.push_back(static_cast<int>(id));
    return result;
  }
  /// What the choice ranks, with the rounding of the accumulator.
  std::vector<double> biased(index_t t) {
    std::vector<double> c;
    for (index_t e = 0; e < config.experts; ++e)
      c.push_back(double(accumulator<P>(scores.get()(t, e) + accumulator<P>(bias.get()(e)))));
    return c;
  }
  /// The ids are distinct experts; without NaN they are the brute force's, too.
  void check_distinct() {
    for (index_t t = 0; t < tokens; ++t) {
      std::set<std::int32_t> seen;
      for (index_t k = 0; k < config.top_k; ++k) {
        const std::int32_t id = ids.get()(t, k);
        CHECK((id >= 0 && id < config.experts));
        seen.insert(id);
      }
      CHECK(static_cast<index_t>(seen.size()) == config.top_k);
    }
  }
  bool intact() {
    return x.intact() && dx.intact() && centroids.intact() && dcentroids.intact() && bias.intact() &&
           scores.intact() && gates.intact() && dgates.intact() && dscores.intact() && dlogits.intact() &&
           ids.intact() && load.intact();
  }
};

/// Runs everything and compares it with the oracle; returns how many tokens would choose differently if
/// experts of dropped groups counted as 0 instead of minus infinity.
template <class P>
int compare(const problem& p, index_t gap, std::uint64_t seed, int threads = 2) {
  CAPTURE(p.tokens);
  CAPTURE(p.config.hidden);
  CAPTURE(p.config.experts);
  CAPTURE(p.config.top_k);
  CAPTURE(p.config.groups);
  CAPTURE(p.config.kept_groups);
  fixture<P> f(p, gap, seed);
  const oracle::routing r = plain(p.config);
  const index_t experts = p.config.experts, top_k = p.config.top_k;
  f.forward(threads);

  CHECK(support::worst_row(f.scores.values(), oracle::router_scores(f.x.values(), f.centroids.values(), r),
                           experts) <= accumulator_row<P>);
  int masked_zero_differs = 0;
  std::vector<double> load(static_cast<std::size_t>(experts), 0.0);
  const std::vector<int> found = f.choice();
  for (index_t t = 0; t < p.tokens; ++t) {
    const std::vector<int> expected = oracle::router_choice(f.biased(t), r);
    CHECK(std::vector<int>(found.begin() + t * top_k, found.begin() + (t + 1) * top_k) == expected);
    masked_zero_differs += oracle::router_choice(f.biased(t), r, 0) != expected;
    for (const int e : expected) load[static_cast<std::size_t>(e)] += 1;
  }
  CHECK(f.load.values() == load);
  const std::vector<double> scores = f.scores.values();
  CHECK(support::worst_row(f.gates.values(), oracle::router_gates(scores, found, r), top_k) <=
        accumulator_row<P>);

  f.backward_data(threads), f.backward_weights(threads);
  const auto expected = oracle::router_backward(f.dgates.values(), f.dscores.values(), scores, found,
                                                f.x.values(), f.centroids.values(), r);
  CHECK(support::worst_row(f.dlogits.values(), expected.dlogits, experts, 0.1) <= accumulator_row<P>);
  CHECK(support::worst_row(f.dx.values(), expected.dx, p.config.hidden, 0.1) <= support::tolerance<P>::row);
  CHECK(support::worst_row(f.dcentroids.values(), expected.dcentroids, p.config.hidden, 0.1) <=
        accumulator_row<P>);
  CHECK(f.intact());
  return masked_zero_differs;
}

}  // namespace

TEST_CASE_TEMPLATE("the router agrees with brute force", P, fp64_reference, fp32, bf16_mixed) {
  for (const problem& p : router_cases::named)
    for (const index_t gap : {0, 3}) compare<P>(p, gap, 1);
}

TEST_CASE("the router agrees with brute force on many configurations") {
  int masked_zero_differs = 0;
  for (std::uint64_t n = 0; n < 400; ++n)
    masked_zero_differs += compare<fp64_reference>(router_cases::random(n), 1, n);
  CHECK(masked_zero_differs > 100);  // the cases tell minus infinity from 0
  for (std::uint64_t n = 400; n < 500; ++n) {
    compare<fp32>(router_cases::random(n), 1, n);
    compare<bf16_mixed>(router_cases::random(n), 1, n);
  }
}

TEST_CASE("the router agrees with brute force on a batch worth many threads") {
  const problem p{1100,
                  {.hidden = 1000, .experts = 140, .top_k = 6, .groups = 7, .kept_groups = 3, .scale = 2.5}};
  compare<fp32>(p, 3, 1);
  compare<bf16_mixed>(p, 0, 1);
  for (const index_t experts : {24, 72})
    compare<bf16_mixed>({2500, {.hidden = 40, .experts = experts, .top_k = 6, .groups = 8, .kept_groups = 3}},
                        0, 1);
}

TEST_CASE_TEMPLATE("scores of long rows are as exact as floats can be", P, fp32, bf16_mixed) {
  // All of one sign, so that what a sum cuts off adds up.
  fixture<P> f({70, {.hidden = 7168, .experts = 72, .top_k = 2}}, 0);
  const random_stream random(20260101, 77);
  const auto draw = [&](index_t i) { return 0.5 + random.uniform(static_cast<std::uint64_t>(i)); };
  f.x.fill(draw), f.centroids.fill([&](index_t i) { return draw(i + 1000000) / 7168; });
  f.forward();
  const std::vector<double> expected =
      oracle::router_scores(f.x.values(), f.centroids.values(), plain(f.config));
  CHECK(support::worst_row(f.scores.values(), expected, f.config.experts) <= 1e-6);
}

TEST_CASE_TEMPLATE("gates sum to the scale and experts lie in the kept groups", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const problem& p : router_cases::named) {
    fixture<P> f(p);
    f.forward();
    f.check_distinct();
    for (index_t t = 0; t < p.tokens; ++t) {
      std::set<index_t> groups;
      double sum = 0, scores = 0;
      for (index_t k = 0; k < p.config.top_k; ++k) {
        groups.insert(f.ids.get()(t, k) / p.config.group_experts());
        sum += double(f.gates.get()(t, k));
        scores += double(f.scores.get()(t, f.ids.get()(t, k)));
      }
      CHECK(static_cast<index_t>(groups.size()) <= p.config.kept_groups);
      const double expected = p.config.scale * (p.config.normalise == gate_norm::none ? scores : 1);
      CHECK(std::fabs(sum - expected) <= accumulator_row<P> * expected);
    }
  }
}

TEST_CASE_TEMPLATE("the bias steers the choice and nothing else", P, fp64_reference, fp32, bf16_mixed) {
  const problem p{50, {.hidden = 16, .experts = 16, .top_k = 4, .groups = 4, .kept_groups = 2, .scale = 2.5}};
  fixture<P> f(p), favoured(p);
  favoured.bias.get()(13) = 9;
  f.forward(), favoured.forward();
  CHECK(favoured.scores.same_bits(f.scores));
  int changed = 0;
  for (index_t t = 0; t < p.tokens; ++t) {
    CHECK(favoured.ids.get()(t, 0) == 13);
    changed += favoured.choice() != f.choice();
  }
  CHECK(changed > 0);
  CHECK(favoured.load.get()(13) == p.tokens);
  CHECK(support::worst_row(favoured.gates.values(),
                           oracle::router_gates(f.scores.values(), favoured.choice(), plain(p.config)),
                           4) <= accumulator_row<P>);
}

TEST_CASE_TEMPLATE("ties go to the smaller index, among groups too", P, fp64_reference, fp32, bf16_mixed) {
  const problem p{3, {.hidden = 4, .experts = 12, .top_k = 4, .groups = 4, .kept_groups = 2}};
  const auto choice_with = [&](const std::vector<double>& bias) {
    fixture<P> f(p);
    f.x.fill([](index_t) { return 0.0; });  // every score is one half
    f.bias.assign(bias);
    f.forward();
    const std::vector<int> all = f.choice();
    CHECK(std::vector<int>(all.begin() + 4, all.begin() + 8) ==
          std::vector<int>(all.begin(), all.begin() + 4));
    return std::vector<int>(all.begin(), all.begin() + 4);
  };
  using ids = std::vector<int>;
  CHECK(choice_with({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) == ids{0, 1, 2, 3});
  CHECK(choice_with({0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0}) == ids{3, 10, 4, 5});
  CHECK(choice_with({0, 0, 0, 0, 1, 1, 0, 0, 0, 2, 0, 0}) == ids{9, 4, 5, 3});
  CHECK(choice_with({0, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0}) ==
        ids{9, 4, 3, 5});  // the better group comes later
  // Groups 1, 2 and 3 tie at 2 behind group 0: group 1 stays, and group 0's best equal its experts by index.
  CHECK(choice_with({-1, 2, 2, 0, 2, 0, 1, 1, 0, 2, 0, -1}) == ids{1, 2, 4, 3});
  CHECK(choice_with({-3, -3, -3, -2, -2, -2, -2, -2, -2, -3, -3, -3}) == ids{3, 4, 5, 6});
}

TEST_CASE_TEMPLATE("numbers that are not finite leave valid choices", P, fp64_reference, fp32, bf16_mixed) {
  const double inf = INFINITY, nan = NAN;
  for (const problem& p : {router_cases::named[4], router_cases::named[5], router_cases::named[6]}) {
    fixture<P> clean(p);
    clean.forward();
    for (const double bad : {nan, inf, -inf}) {
      CAPTURE(bad);
      fixture<P> token(p);  // one token's row
      token.x.get()(2, 3) = activation<P>(static_cast<float>(bad));
      token.forward();
      token.check_distinct();
      for (index_t t = 0; t < p.tokens; ++t)
        for (index_t k = 0; k < p.config.top_k; ++k) {
          if (t != 2) CHECK(token.ids.get()(t, k) == clean.ids.get()(t, k));
          if (t != 2)
            CHECK(token.gates.get()(t, k) == clean.gates.get()(t, k));
          else if (std::isnan(bad))
            CHECK(std::isnan(token.gates.get()(t, k)));
        }

      fixture<P> expert(p);  // one expert's bias: a NaN is chosen last, and no gate sees it
      expert.bias.get()(5) = static_cast<master<P>>(bad);
      expert.forward();
      expert.check_distinct();
      for (const int id : expert.choice()) {
        if (bad != inf) CHECK(id != 5);
      }
      if (bad == inf) CHECK(expert.load.get()(5) == p.tokens);
      for (const double gate : expert.gates.values()) CHECK(std::isfinite(gate));

      fixture<P> all(p);  // every bias
      all.bias.fill([&](index_t) { return bad; });
      all.forward();
      all.check_distinct();
      for (const double gate : all.gates.values()) CHECK(std::isfinite(gate));

      fixture<P> mixed(p);  // infinities of both signs in one group: its score is a NaN
      mixed.bias.get()(0) = static_cast<master<P>>(inf), mixed.bias.get()(1) = static_cast<master<P>>(bad);
      mixed.forward();
      mixed.check_distinct();
    }
  }
}

TEST_CASE_TEMPLATE("load is added to, and halves of a batch add up to the whole", P, fp64_reference, fp32,
                   bf16_mixed) {
  const problem p{301, {.hidden = 20, .experts = 16, .top_k = 4, .groups = 4, .kept_groups = 2}};
  fixture<P> whole(p), halves(p);
  whole.forward();
  for (const auto& [begin, end] : {std::pair<index_t, index_t>{0, 150}, {150, 301}})
    support::run(2, [&, first = begin, last = end](auto& ctx) {
      auto args = halves.forward_args();
      args.x = args.x.rows(first, last), args.scores = args.scores.rows(first, last);
      args.ids = args.ids.rows(first, last), args.gates = args.gates.rows(first, last);
      op::router<P>::forward(ctx, args);
    });
  CHECK(halves.load.same_bits(whole.load));
  CHECK(halves.ids.same_bits(whole.ids));

  std::vector<double> twice = whole.load.values();
  CHECK(std::accumulate(twice.begin(), twice.end(), 0.0) == 301 * 4);
  for (double& count : twice) count *= 2;
  whole.forward();
  CHECK(whole.load.values() == twice);

  support::run(2, [&](auto& ctx) {  // nobody asks for the load
    auto args = whole.forward_args();
    args.load = {};
    op::router<P>::forward(ctx, args);
  });
  CHECK(whole.load.values() == twice);
}

TEST_CASE("router gradients are the slopes of the oracle with the choice held") {
  using P = fp64_reference;
  for (const gate_norm normalise : {gate_norm::sum_to_one, gate_norm::none}) {
    const problem p{4,
                    {.hidden = 6,
                     .experts = 8,
                     .top_k = 4,
                     .groups = 4,
                     .kept_groups = 2,
                     .normalise = normalise,
                     .scale = 2.5}};
    fixture<P> f(p);
    f.forward(), f.backward_data(), f.backward_weights();
    const oracle::routing r = plain(p.config);
    std::vector<double> x = f.x.values(), centroids = f.centroids.values();
    const std::vector<double> dgates = f.dgates.values(), dscores = f.dscores.values();
    const std::vector<int> ids = f.choice();
    const auto loss = [&] {
      const std::vector<double> s = oracle::router_scores(x, centroids, r),
                                gates = oracle::router_gates(s, ids, r);
      double total = 0;
      for (std::size_t i = 0; i < gates.size(); ++i) total += dgates[i] * gates[i];
      for (std::size_t i = 0; i < s.size(); ++i) total += dscores[i] * s[i];
      return total;
    };
    std::vector<double> dx, dcentroids;
    for (double& number : x)
      dx.push_back(support::central_difference(number, support::difference_step, loss));
    for (double& number : centroids)
      dcentroids.push_back(support::central_difference(number, support::difference_step, loss));
    CHECK(support::worst_row(f.dx.values(), dx, p.config.hidden) <= support::difference_tolerance);
    CHECK(support::worst_row(f.dcentroids.values(), dcentroids, p.config.hidden) <=
          support::difference_tolerance);
  }
}

TEST_CASE_TEMPLATE("backward writes dx and dcentroids, or adds to them", P, fp64_reference, fp32,
                   bf16_mixed) {
  const problem p{20, {.hidden = 140, .experts = 8, .top_k = 2, .groups = 2, .kept_groups = 1, .scale = 2.5}};
  const oracle::routing r = plain(p.config);
  for (const index_t gap : {2, 3}) {  // rows of dx at odd and at even places
    fixture<P> f(p, gap);
    f.forward(), f.backward_data();
    const auto dx = f.dx;
    const auto dlogits = f.dlogits;
    f.backward_data();  // over its own results
    CHECK(f.dx.same_bits(dx));
    CHECK(f.dlogits.same_bits(dlogits));

    auto expected = oracle::router_backward(f.dgates.values(), f.dscores.values(), f.scores.values(),
                                            f.choice(), f.x.values(), f.centroids.values(), r);
    f.dx.normal(77);
    const std::vector<double> before = f.dx.values();
    for (std::size_t i = 0; i < before.size(); ++i) expected.dx[i] += before[i];
    support::run(2, [&](auto& ctx) {
      auto args = f.data_args();
      args.into = store::add;
      op::router<P>::backward_data(ctx, args);
    });
    CHECK(support::worst_row(f.dx.values(), expected.dx, p.config.hidden) <= support::tolerance<P>::row);

    f.backward_weights(), f.backward_weights();
    auto twice = expected.dcentroids;
    for (double& value : twice) value *= 2;
    CHECK(support::worst_row(f.dcentroids.values(), twice, p.config.hidden) <= accumulator_row<P>);
    f.dcentroids.fill([](index_t) { return support::poison<double>(); });
    support::run(2, [&](auto& ctx) {
      auto args = f.weights_args();
      args.into = store::write;
      op::router<P>::backward_weights(ctx, args);
    });
    CHECK(support::worst_row(f.dcentroids.values(), expected.dcentroids, p.config.hidden) <=
          accumulator_row<P>);

    support::run(2, [&](auto& ctx) {  // without a balance loss
      auto args = f.data_args();
      args.dscores = {};
      op::router<P>::backward_data(ctx, args);
    });
    const auto alone = oracle::router_backward(f.dgates.values(), {}, f.scores.values(), f.choice(),
                                               f.x.values(), f.centroids.values(), r);
    CHECK(support::worst_row(f.dlogits.values(), alone.dlogits, p.config.experts, 0.1) <= accumulator_row<P>);
  }
}

TEST_CASE_TEMPLATE("the router agrees on any number of threads, and repeats its bits", P, fp64_reference,
                   fp32, bf16_mixed) {
  const problem p{517,
                  {.hidden = 390, .experts = 32, .top_k = 8, .groups = 8, .kept_groups = 4, .scale = 2.5}};
  for (const int threads : {1, 2, 3, 7}) {
    CAPTURE(threads);
    compare<P>(p, 1, 1, threads);
    fixture<P> one(p), other(p);
    for (fixture<P>* f : {&one, &other})
      f->forward(threads), f->backward_data(threads), f->backward_weights(threads);
    CHECK(other.scores.same_bits(one.scores));
    CHECK(other.ids.same_bits(one.ids));
    CHECK(other.gates.same_bits(one.gates));
    CHECK(other.load.same_bits(one.load));
    CHECK(other.dlogits.same_bits(one.dlogits));
    CHECK(other.dx.same_bits(one.dx));
    CHECK(other.dcentroids.same_bits(one.dcentroids));
  }
}

TEST_CASE_TEMPLATE("a token whose scores vanish has finite gradients", P, fp64_reference, fp32, bf16_mixed) {
  const problem p{2, {.hidden = 1, .experts = 4, .top_k = 2, .scale = 2.5}};
  fixture<P> f(p);
  f.x.fill([](index_t) { return -2000.0; });
  f.centroids.fill([](index_t) { return 1; });
  f.forward(), f.backward_data();
  for (const double gate : f.gates.values()) CHECK(gate == 0);
  for (const double dz : f.dlogits.values()) CHECK(dz == 0);
}

TEST_CASE("the router says what does not fit") {
  using P = fp32;
  const problem p{4, {.hidden = 8, .experts = 12, .top_k = 4, .groups = 4, .kept_groups = 2}};
  fixture<P> f(p), other({3, {.hidden = 9, .experts = 13, .top_k = 5}});
  const auto config = [&](auto&& change) {
    router_config c = p.config;
    change(c);
    return c.check().message();
  };
  CHECK(config([](auto&) {}) == "");
  CHECK(config([](auto& c) { c.experts = 0; }) ==
        "router: experts and groups must be positive, found experts 0, groups 4");
  CHECK(config([](auto& c) { c.groups = 0; }) ==
        "router: experts and groups must be positive, found experts 12, groups 0");
  CHECK(config([](auto& c) { c.groups = 5; }) ==
        "router: the groups must divide the experts, found experts 12, groups 5");
  CHECK(config([](auto& c) { c.kept_groups = 5; }) ==
        "router: kept groups must be between 1 and the groups, found kept groups 5, groups 4");
  CHECK(config([](auto& c) { c.kept_groups = 0; }) ==
        "router: kept groups must be between 1 and the groups, found kept groups 0, groups 4");
  CHECK(config([](auto& c) { c.top_k = 7; }) ==
        "router: top_k must be between 1 and the experts of the kept groups, found top_k 7, experts 12, "
        "groups 4, kept groups 2");
  CHECK(config([](auto& c) { c.top_k = 0; }) ==
        "router: top_k must be between 1 and the experts of the kept groups, found top_k 0, experts 12, "
        "groups 4, kept groups 2");

  const auto forward = [&](auto&& change) {
    auto args = f.forward_args();
    change(args);
    return args.check().message();
  };
  const std::string at = "router.forward: ";
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([](auto& a) { a.config.top_k = 0; }) ==
        "router: top_k must be between 1 and the experts of the kept groups, found top_k 0, experts 12, "
        "groups 4, kept groups 2");
  CHECK(forward([&](auto& a) { a.x = other.x; }) == at + "x has 9 columns, config as hidden has 8");
  CHECK(forward([&](auto& a) { a.centroids = other.centroids; }) ==
        at + "centroids has 13 experts, config has 12");
  CHECK(forward([&](auto& a) { a.bias = other.bias; }) == at + "bias has 13 experts, config has 12");
  CHECK(forward([&](auto& a) { a.scores = other.scores; }) == at + "scores has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.ids = other.ids; }) == at + "ids has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.gates = a.gates.columns(0, 3); }) ==
        at + "gates has 3 columns, config as top_k has 4");
  CHECK(forward([&](auto& a) { a.load = other.load; }) == at + "load has 13 experts, config has 12");
  CHECK(forward([&](auto& a) { a.x = view<const float, 2>(nullptr, 4, 8); }) ==
        at + "x has 32 elements and a null pointer");

  const auto data = [&](auto&& change) {
    auto args = f.data_args();
    change(args);
    return args.check().message();
  };
  const std::string back = "router.backward_data: ";
  CHECK(data([](auto&) {}) == "");
  CHECK(data([&](auto& a) { a.dgates = other.dgates; }) ==
        back + "dgates has 5 columns, config as top_k has 4");
  CHECK(data([&](auto& a) { a.scores = other.scores; }) == back + "scores has 3 tokens, dgates has 4");
  CHECK(data([&](auto& a) { a.centroids = other.centroids; }) ==
        back + "centroids has 13 experts, config has 12");
  CHECK(data([&](auto& a) { a.dlogits = other.dlogits; }) == back + "dlogits has 3 tokens, dgates has 4");
  CHECK(data([&](auto& a) { a.dscores = other.dscores; }) == back + "dscores has 3 tokens, dgates has 4");
  CHECK(data([&](auto& a) { a.dx = other.dx; }) == back + "dx has 3 tokens, dgates has 4");

  auto weights = f.weights_args();
  CHECK(weights.check().message() == "");
  weights.x = other.x;
  CHECK(weights.check().message() == "router.backward_weights: x has 3 tokens, dlogits has 4");

  cpu_context<> ctx;
  auto bad = f.forward_args();
  bad.x = other.x;
  CHECK(support::raised([&] { op::router<P>::forward(ctx, bad); }) ==
        at + "x has 9 columns, config as hidden has 8");
}
