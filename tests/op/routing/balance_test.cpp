// SPDX-License-Identifier: MIT
#include <dsv3/cpu/routing/balance.hpp>
#include <dsv3/cpu/routing/router.hpp>
#if defined(DSV3_TEST_BACKEND)
#include <dsv3/cuda/routing/router.cuh>
#endif

#include <oracle/balance.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

template <class P>
constexpr double accumulator_row =
    support::tolerance<std::conditional_t<std::is_same_v<accumulator<P>, double>, fp64_reference, fp32>>::row;

struct problem {
  std::vector<index_t> lengths;
  index_t experts, top_k;
};
const problem problems[] = {{{1}, 1, 1},           {{3}, 4, 4},   {{}, 5, 2},       {{0}, 3, 1},
                            {{7, 0, 1, 12}, 9, 3}, {{40}, 64, 8}, {{33, 31}, 17, 2}};

/// Scores in (0, 1) and a choice that has nothing to do with them, so that the two indicators differ.
template <class P>
struct fixture {
  problem p;
  index_t tokens, sequences;
  guarded<accumulator<P>> scores, fraction, dscores;
  guarded<std::int32_t> ids;
  guarded<std::int32_t, 1> offsets, positions;
  guarded<double, 1> loss;

  explicit fixture(const problem& given, index_t gap = 2)
      : p(given),
        tokens(std::accumulate(p.lengths.begin(), p.lengths.end(), index_t{0})),
        sequences(static_cast<index_t>(p.lengths.size())),
        scores(gap, tokens, p.experts),
        fraction(gap + 1, sequences, p.experts),
        dscores(gap, tokens, p.experts),
        ids(gap, tokens, p.top_k),
        offsets(0, sequences + 1),
        positions(0, tokens),
        loss(0, 1) {
    const random_stream random(20260101, 9);
    scores.fill([&](index_t i) { return random.uniform(static_cast<std::uint64_t>(i)); });
    ids.fill([&](index_t i) { return (i / p.top_k * 5 + i % p.top_k) % p.experts; });
    index_t first = 0;
    offsets.fill([&](index_t s) { return std::exchange(first, s < sequences ? first + length(s) : first); });
    positions.fill([](index_t) { return 0; });
    loss.fill([](index_t) { return 3.0; });
  }
  index_t length(index_t s) const { return p.lengths[static_cast<std::size_t>(s)]; }

  packed_sequences packed() { return {offsets, positions, tokens}; }
  typename op::sequence_balance<P>::forward_args forward_args(balance_indicator indicator) {
    return {.scores = scores,
            .ids = ids,
            .sequence = packed(),
            .indicator = indicator,
            .coefficient = 0.7,
            .fraction = fraction,
            .loss = loss};
  }
  typename op::sequence_balance<P>::backward_args backward_args() {
    return {
        .scores = scores, .fraction = fraction, .sequence = packed(), .coefficient = 0.7, .dscores = dscores};
  }
  void forward(balance_indicator indicator, int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::sequence_balance<P>::forward(ctx, forward_args(indicator)); });
  }
  void backward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::sequence_balance<P>::backward(ctx, backward_args()); });
  }

  std::vector<oracle::sequence> plain() const {
    std::vector<oracle::sequence> result;
    std::size_t first = 0;
    for (const index_t length : p.lengths) {
      result.push_back({first, first + std::size_t(length)});
      first += std::size_t(length);
    }
    return result;
  }
  std::vector<double> expected_fraction(balance_indicator indicator) {
    const auto experts = std::size_t(p.experts), top_k = std::size_t(p.top_k);
    std::vector<int> chosen;
    for (const double id : ids.values()) chosen.push_back(static_cast<int>(id));
    return oracle::balance_fraction(indicator == balance_indicator::selection
                                        ? oracle::indicate_chosen(chosen, experts, top_k)
                                        : oracle::indicate_largest(scores.values(), experts, top_k),
                                    plain(), experts, top_k);
  }
  bool intact() {
    return scores.intact() && fraction.intact() && dscores.intact() && ids.intact() && offsets.intact() &&
           positions.intact() && loss.intact();
  }
};

constexpr balance_indicator indicators[] = {balance_indicator::unbiased_top_k, balance_indicator::selection};

double max_violation(const std::vector<double>& load) {
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / double(load.size());
  return (*std::max_element(load.begin(), load.end()) - mean) / mean;
}

}  // namespace

TEST_CASE_TEMPLATE("the balance loss agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  for (const problem& p : problems)
    for (const balance_indicator indicator : indicators)
      for (const index_t gap : {0, 3}) {
        CAPTURE(p.lengths.size());
        CAPTURE(p.experts);
        fixture<P> f(p, gap);
        f.forward(indicator);
        const auto experts = std::size_t(p.experts);
        CHECK(support::worst_row(f.fraction.values(), f.expected_fraction(indicator), p.experts) <=
              accumulator_row<P>);
        const std::vector<double> scores = f.scores.values(), fraction = f.fraction.values();
        const double loss = 3 + oracle::balance_loss(scores, fraction, f.plain(), experts, 0.7);
        CHECK(std::fabs(f.loss.get()(0) - loss) <= 1e-12 * loss);
        f.forward(indicator);
        CHECK(std::fabs(f.loss.get()(0) - (2 * loss - 3)) <= 1e-12 * loss);  // added to

        f.backward();
        CHECK(support::worst_row(f.dscores.values(),
                                 oracle::balance_backward(scores, fraction, f.plain(), experts, 0.7),
                                 p.experts, 0.1) <= accumulator_row<P>);
        const auto once = f.dscores;
        f.backward();
        CHECK(f.dscores.same_bits(once));
        CHECK(f.intact());
      }
}

TEST_CASE("the balance loss has the slope that backward says, with f held") {
  using P = fp64_reference;
  for (const balance_indicator indicator : indicators) {
    fixture<P> f({{4, 0, 3}, 6, 2});
    f.forward(indicator), f.backward();
    std::vector<double> scores = f.scores.values();
    const std::vector<double> fraction = f.fraction.values();
    const auto loss = [&] { return oracle::balance_loss(scores, fraction, f.plain(), 6, 0.7); };
    std::vector<double> slopes;
    for (double& number : scores)
      slopes.push_back(support::central_difference(number, support::difference_step, loss));
    CHECK(support::worst_row(f.dscores.values(), slopes, 6) <= support::difference_tolerance);
  }
}

TEST_CASE_TEMPLATE("a balanced sequence costs the coefficient, a collapsed one more", P, fp64_reference, fp32,
                   bf16_mixed) {
  const problem p{{8}, 8, 2};
  fixture<P> f(p);
  f.scores.fill(
      [](index_t i) { return (i / 8 - i % 8 + 8) % 8 < 2 ? 0.9 : 0.1; });  // every expert leads twice
  f.loss.fill([](index_t) { return 0.0; });
  f.forward(balance_indicator::unbiased_top_k);
  for (const double share : f.fraction.values()) CHECK(share == 1);
  CHECK(f.loss.get()(0) == doctest::Approx(0.7));
  f.backward();  // and it is no one's fault
  for (const double ds : f.dscores.values()) CHECK(std::fabs(ds) <= 1e-7);

  f.scores.fill([](index_t i) { return i % 8 < 2 ? 0.9 : 0.1; });
  f.loss.fill([](index_t) { return 0.0; });
  f.forward(balance_indicator::unbiased_top_k);
  CHECK(f.loss.get()(0) == doctest::Approx(0.7 * 4 * 1.8 / 2.4));
  f.backward();
  for (index_t t = 0; t < 8; ++t) CHECK((f.dscores.get()(t, 0) > 0 && f.dscores.get()(t, 5) < 0));
}

TEST_CASE_TEMPLATE("the balance loss gives the same bits on any number of threads", P, fp64_reference, fp32,
                   bf16_mixed) {
  const problem p{{700, 3, 1500}, 24, 4};
  for (const balance_indicator indicator : indicators) {
    fixture<P> one(p);
    one.forward(indicator, 1), one.backward(1);
    for (const int threads : {1, 2, 3, 7}) {
      fixture<P> other(p);
      other.forward(indicator, threads), other.backward(threads);
      CHECK(other.fraction.same_bits(one.fraction));
      CHECK(other.loss.same_bits(one.loss));
      CHECK(other.dscores.same_bits(one.dscores));
    }
  }
}

TEST_CASE_TEMPLATE("a NaN score makes the loss a NaN and stays in its token", P, fp64_reference, fp32) {
  fixture<P> f({{3, 4}, 6, 2});
  f.scores.get()(5, 1) = NAN;
  f.forward(balance_indicator::unbiased_top_k), f.backward();
  CHECK(std::isnan(f.loss.get()(0)));
  for (const double share : f.fraction.values()) CHECK(std::isfinite(share));
  for (index_t t = 0; t < 7; ++t)
    for (index_t e = 0; e < 6; ++e) CHECK(std::isnan(f.dscores.get()(t, e)) == (t == 5));
}

TEST_CASE_TEMPLATE("the bias moves by the sign of what is missing", P, fp64_reference, fp32, bf16_mixed) {
  const auto moved = [](std::vector<double> load, double rate) {
    guarded<std::int64_t, 1> n(0, load.size());
    guarded<master<P>, 1> bias(0, load.size());
    n.assign(load), bias.fill([](index_t) { return 1.0; });
    support::run(
        2, [&](auto& ctx) { op::routing_bias<P>::update(ctx, {.load = n, .bias = bias, .rate = rate}); });
    CHECK((n.intact() && bias.intact()));
    CHECK(n.values() == load);
    std::vector<double> steps = bias.values();
    for (double& step : steps) step -= 1;
    return steps;
  };
  using list = std::vector<double>;
  CHECK(moved({}, 0.25) == list{});
  CHECK(moved({7}, 0.25) == list{0});
  CHECK(moved({0, 0, 0}, 0.25) == list{0, 0, 0});
  CHECK(moved({5, 6, 7}, 0.25) == list{0.25, 0, -0.25});
  CHECK(moved({1, 0, 0}, 0.25) == list{-0.25, 0.25, 0.25});
  CHECK(moved({5, 6, 7}, 0) == list{0, 0, 0});
  // The mean is 2^51 + 1/3: no rounding can hide on which side the loads lie.
  const double large = 2251799813685248;
  CHECK(moved({large, large, large + 1}, 0.25) == list{0.25, 0.25, -0.25});
}

TEST_CASE("a skewed router with fixed logits becomes balanced") {
  using P = fp32;
  constexpr index_t tokens = 512, hidden = 8, experts = 16, top_k = 2;
  constexpr double rate = 1e-3;
  guarded<float> x(0, tokens, hidden), centroids(0, experts, hidden), scores(0, tokens, experts),
      gates(0, tokens, top_k);
  guarded<float, 1> bias(0, experts);
  guarded<std::int32_t> ids(0, tokens, top_k);
  guarded<std::int64_t, 1> load(0, experts);
  x.normal(1), centroids.normal(2, 0.3);
  for (index_t t = 0; t < tokens; ++t) x.get()(t, 0) = 1;
  for (index_t e = 0; e < experts; ++e)
    centroids.get()(e, 0) = e < 2 ? 3.0f : -1.0f;  // two experts win everything
  bias.fill([](index_t) { return 0.0; });

  std::vector<double> violation, first, last;
  constexpr int steps = 1500, window = 100;
  for (int step = 0; step < steps; ++step) {
    load.fill([](index_t) { return 0; });
    support::run(1, [&](auto& ctx) {
      op::router<P>::forward(ctx, {.config = {.hidden = hidden, .experts = experts, .top_k = top_k},
                                   .x = x,
                                   .centroids = centroids,
                                   .bias = bias,
                                   .scores = scores,
                                   .ids = ids,
                                   .gates = gates,
                                   .load = load});
      op::routing_bias<P>::update(ctx, {.load = load, .bias = bias, .rate = rate});
    });
    violation.push_back(max_violation(load.values()));
    if (step == 0) first = load.values();
    last = load.values();
  }
  CHECK(violation.front() > 6);
  CHECK(*std::min_element(first.begin(), first.end()) == 0);
  CHECK(violation.back() < 0.3);
  CHECK(*std::min_element(last.begin(), last.end()) > 0.5 * tokens * top_k / experts);
  // It falls, but for the oscillation that steps of this rate cause.
  double before = violation.front();
  for (int begin = 0; begin < steps; begin += window) {
    const double mean =
        std::accumulate(violation.begin() + begin, violation.begin() + begin + window, 0.0) / window;
    CHECK(mean <= before + 0.05);
    before = mean;
  }
}

TEST_CASE("balancing says what does not fit") {
  using P = fp32;
  fixture<P> f({{4, 3}, 6, 2}), other({{5}, 7, 3});
  const auto forward = [&](auto&& change) {
    auto args = f.forward_args(balance_indicator::selection);
    change(args);
    return args.check().message();
  };
  const std::string at = "sequence_balance.forward: ";
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.sequence = other.packed(); }) == at + "sequence has 5 tokens, scores has 7");
  CHECK(forward([&](auto& a) { a.ids = other.ids; }) == at + "ids has 5 tokens, scores has 7");
  CHECK(forward([&](auto& a) { a.ids = a.ids.columns(0, 0); }) == at + "ids has no columns");
  CHECK(forward([&](auto& a) { a.scores = a.scores.columns(0, 1); }) ==
        at + "ids has more columns than there are experts");
  CHECK(forward([&](auto& a) { a.fraction = other.fraction; }) ==
        at + "fraction has 1 sequences, sequence has 2");
  CHECK(forward([&](auto& a) { a.fraction = a.fraction.columns(0, 5); }) ==
        at + "fraction has 5 experts, scores has 6");
  CHECK(forward([&](auto& a) { a.loss = {}; }) == at + "loss has 0 elements, a scalar has 1");

  const auto backward = [&](auto&& change) {
    auto args = f.backward_args();
    change(args);
    return args.check().message();
  };
  const std::string back = "sequence_balance.backward: ";
  CHECK(backward([](auto&) {}) == "");
  CHECK(backward([&](auto& a) { a.scores = other.scores; }) == back + "sequence has 7 tokens, scores has 5");
  CHECK(backward([&](auto& a) { a.fraction = other.fraction; }) ==
        back + "fraction has 1 sequences, sequence has 2");
  CHECK(backward([&](auto& a) { a.dscores = other.dscores; }) == back + "dscores has 5 tokens, scores has 7");

  guarded<std::int64_t, 1> load(0, 3);
  guarded<float, 1> bias(0, 4);
  cpu_context<> ctx;
  CHECK(support::raised([&] { op::routing_bias<P>::update(ctx, {.load = load, .bias = bias, .rate = 1}); }) ==
        "routing_bias.update: bias has 4 experts, load has 3");
  CHECK(support::raised([&] {
          op::routing_bias<P>::update(ctx, {.load = load, .bias = bias.get().rows(0, 3), .rate = -1});
        }) == "routing_bias.update: the rate must not be negative");
}

TEST_CASE_TEMPLATE("routing_bias moves nothing where the clip factor is not finite", P, fp64_reference,
                   fp32) {
  for (const double factor : {double(NAN), double(INFINITY), 0.5}) {
    guarded<std::int64_t, 1> load(0, 4);
    guarded<master<P>, 1> bias(0, 4);
    guarded<double, 1> scale(0, 1);
    load.fill([](index_t e) { return 3 * e; }), bias.fill([](index_t) { return 0.0; });
    scale.fill([&](index_t) { return factor; });
    support::run(1, [&](auto& ctx) {
      op::routing_bias<P>::update(ctx, {.load = load, .bias = bias, .rate = 1, .scale = scale});
    });
    CHECK(bias.values() ==
          (std::isfinite(factor) ? std::vector<double>{1, 1, -1, -1} : std::vector<double>{0, 0, 0, 0}));
  }
}
