// SPDX-License-Identifier: MIT
// A training step as a whole: what it changes, what it must not, and that it repeats to the bit.
#include "small.hpp"

#include <dsv3/exec/counting_memory.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

using namespace dsv3;
using support::small_run;

namespace {

std::int64_t sum(view<const std::int64_t, 2> load) {
  std::int64_t total = 0;
  for (index_t i = 0; i < load.size(); ++i) total += load.flat()(i);
  return total;
}

template <class Bundle, class Visit>
void each_number(Bundle& bundle, Visit&& visit) {
  for_each_field(
      [&](const std::string& name, const shape&, auto& field) {
        for (index_t i = 0; i < field.size(); ++i) visit(name, field.flat()(i));
      },
      bundle);
}

// A backend that puts a NaN into one gradient, to see that a step notices and names it.
struct poisoning {
  using parent = backend::cpu;
};

}  // namespace

template <class P>
struct dsv3::implementation<dsv3::op::embedding<P>, poisoning>
    : dsv3::implementation<dsv3::op::embedding<P>, dsv3::backend::cpu> {
  using base = dsv3::implementation<dsv3::op::embedding<P>, dsv3::backend::cpu>;
  using base::run;
  template <class Ctx>
  static void run(Ctx& ctx, const typename dsv3::op::embedding<P>::backward_args& args) {
    base::run(ctx, args);
    args.dtable(3, 5) = std::numeric_limits<double>::quiet_NaN();
  }
};

TEST_CASE_TEMPLATE("the loss falls on a repeated batch and the load is counted once", P, fp64_reference, fp32,
                   bf16_mixed) {
  small_run<P> run{{.rows = 3, .length = 8}};
  const step_report first = run.step(1);
  CHECK(first.updated);
  CHECK(first.loss == doctest::Approx(first.ce + 0.3 * first.mtp + first.balance));
  CHECK(std::fabs(first.ce - std::log(19.0)) < 1.5);
  CHECK(first.grad_norm > 0);
  const index_t routers = run.model.config.routers(), top_k = run.model.config.top_k;
  CHECK(sum(run.state.reported.load) == routers * top_k * 24);
  CHECK(sum(run.state.routing.load) == 0);
  step_report last;
  for (int i = 0; i < 60; ++i) last = run.step(1);
  CHECK(last.ce < 0.6 * first.ce);
  CHECK(last.mtp < first.mtp);
  CHECK(run.state.progress.step == 61);
  CHECK(run.state.progress.updates == 61);
  CHECK(run.state.progress.tokens == 61 * 24);
  CHECK(run.ctx.scratch.peak() == run.ctx.scratch.capacity());
}

TEST_CASE("the bias follows the load, one rate a step") {
  small_run<fp64_reference> run{{.rows = 3, .length = 8}};
  run.options.bias_rate = 0.125;
  run.step(1);
  const auto load = run.state.reported.load;
  for (index_t r = 0; r < load.extent(0); ++r)
    for (index_t e = 0; e < load.extent(1); ++e) {
      const double mean = static_cast<double>(sum(load)) / static_cast<double>(load.size());
      const double difference = mean - static_cast<double>(load(r, e));
      CHECK(run.state.routing.bias(r, e) == 0.125 * ((difference > 0) - (difference < 0)));
    }
}

TEST_CASE("the norm of all gradients is clipped") {
  small_run<fp64_reference> run{{.rows = 2, .length = 8}};
  run.options.clip = 1e-3;
  const step_report report = run.step(1);
  double squares = 0;
  each_number(run.state.gradients, [&](const std::string&, double g) { squares += g * g; });
  CHECK(report.grad_norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
  CHECK(report.grad_norm > 1e-3);
  double clipped = 0;  // after one step the first moment is 0.1 times the clipped gradient
  each_number(run.state.first_moments, [&](const std::string&, double m) { clipped += m * m; });
  CHECK(std::sqrt(clipped) == doctest::Approx(1e-4).epsilon(2e-3));
}

TEST_CASE("matrices decay, norm gains do not") {
  small_run<fp64_reference> run{{.rows = 2, .length = 8}};
  run.options.learning_rate = 0.5;
  run.options.clip = 1e-300;  // nothing but the decay moves
  std::vector<double> before;
  each_number(run.state.masters, [&](const std::string&, double p) { before.push_back(p); });
  run.step(1);
  std::size_t i = 0;
  each_number(run.state.masters, [&](const std::string& name, double p) {
    const bool gain = name.find("norm") != std::string::npos;
    CHECK(p == doctest::Approx(gain ? before[i] : before[i] * (1 - 0.5 * 0.1)).epsilon(1e-9));
    ++i;
  });
}

TEST_CASE("weights lie in the masters' memory where the types agree") {
  small_run<fp32> one{{.rows = 1, .length = 4}};
  CHECK(one.state.weights.head.data() == one.state.masters.head.data());
  small_run<bf16_mixed> two{{.rows = 1, .length = 4}};
  CHECK(two.state.weights.g_final.data() == two.state.masters.g_final.data());
  CHECK(static_cast<float>(two.state.weights.head(2, 3)) ==
        static_cast<float>(bf16(two.state.masters.head(2, 3))));
  const std::size_t masters = two.state.parts()[0].bytes, weights = two.state.parts()[1].bytes;
  CHECK(weights < masters * 6 / 10);
}

TEST_CASE("a gradient that is not finite changes nothing") {
  small_run<fp32> run{{.rows = 2, .length = 8}};
  run.step(1);
  run.step(2);
  const std::string before = run.learned();
  auto bad = run.ctx.with_backend<poisoning>();
  bad.scratch = std::move(run.ctx.scratch);
  const auto batches = run.batches(3);
  const step_report report = train_step(bad, run.model, run.state, batches, run.options);
  CHECK_FALSE(report.updated);
  CHECK(report.bad == "the gradient of model.embed_tokens.weight");
  CHECK(run.learned() == before);  // the routing load is zero again, the bias has not moved
  CHECK(run.state.progress.skipped == 1);
  CHECK(run.state.progress.skipped_in_row == 1);
  CHECK(run.state.progress.updates == 2);
  CHECK(run.state.progress.step == 3);
  run.ctx.scratch = std::move(bad.scratch);
  CHECK(run.step(3).updated);
  CHECK(run.state.progress.skipped_in_row == 0);
  CHECK(run.learned() != before);
}

TEST_CASE("a loss that is not finite is named before any gradient") {
  small_run<fp32> run{{.rows = 2, .length = 8}};
  run.state.masters.g_final(0) = std::numeric_limits<float>::infinity();
  const std::string before = run.learned();
  const step_report report = run.step(1);
  CHECK_FALSE(report.updated);
  CHECK(report.bad == "the cross entropy");
  CHECK(run.learned() == before);
}

TEST_CASE("micro-batches give the gradient of the whole batch") {
  small_run<fp64_reference> whole{{.rows = 4, .length = 8}};
  small_run<fp64_reference> parts{{.micro_batches = 2, .rows = 2, .length = 8}};
  const step_report a = whole.step(5), b = parts.step(5);
  CHECK(b.ce == doctest::Approx(a.ce).epsilon(1e-13));
  CHECK(b.mtp == doctest::Approx(a.mtp).epsilon(1e-13));
  CHECK(b.balance == doctest::Approx(a.balance).epsilon(1e-13));
  CHECK(b.grad_norm == doctest::Approx(a.grad_norm).epsilon(1e-12));
  std::vector<double> expected;
  double scale = 0;
  each_number(whole.state.gradients, [&](const std::string&, double g) {
    expected.push_back(g);
    scale = std::max(scale, std::fabs(g));
  });
  double worst = 0;
  std::size_t i = 0;
  each_number(parts.state.gradients,
              [&](const std::string&, double g) { worst = std::max(worst, std::fabs(g - expected[i++])); });
  CHECK(worst <= 1e-12 * scale);
  for (index_t e = 0; e < whole.state.reported.load.size(); ++e)
    CHECK(parts.state.reported.load.flat()(e) == whole.state.reported.load.flat()(e));
}

TEST_CASE("micro-batches with unequal numbers of targets share one mean") {
  small_run<fp64_reference> run{{.micro_batches = 2, .rows = 2, .length = 8}};
  run.options.balance.coefficient = 0;
  auto batches = run.batches(5);
  const auto ids = run.state.tokens.ids;
  for (index_t column = 0; column < ids.extent(2); ++column) ids(1, 1, column) = -1;
  batches[1] = run.state.micro_batch(1, 1);
  const step_report report = train_step(run.ctx, run.model, run.state, batches, run.options);
  small_run<fp64_reference> single{{.rows = 1, .length = 8}};
  double mean = 0;
  for (index_t row = 0; row < 3; ++row) {
    for (index_t column = 0; column < ids.extent(2); ++column)
      single.state.tokens.ids(0, 0, column) = ids(row / 2, row % 2, column);
    mean +=
        evaluate(single.ctx, single.model, single.state, single.state.micro_batch(0, 1), single.options).ce /
        3;
  }
  CHECK(report.ce == doctest::Approx(mean).epsilon(1e-12));
}

TEST_CASE("evaluation changes nothing and counts no load") {
  small_run<fp32> run{{.rows = 2, .length = 8}};
  run.step(1);
  const std::string before = run.learned();
  const auto batch = run.batches(2)[0];
  const step_report report = evaluate(run.ctx, run.model, run.state, batch, run.options);
  CHECK(report.ce > 0);
  CHECK(run.learned() == before);
  CHECK(run.step(2).ce == report.ce);
}

TEST_CASE_TEMPLATE("what gradients held before a step is never read", P, fp64_reference, fp32, bf16_mixed) {
  const step_shape step{.micro_batches = 2, .rows = 1, .length = 4};  // few tokens: some experts have none
  small_run<P> clean{step}, stale{step};
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    for (const parameter<P>& row : stale.state.parameters)
      std::fill_n(row.g.data(), row.g.size(), std::numeric_limits<gradient<P>>::quiet_NaN());
    clean.step(seed);
    const step_report report = stale.step(seed);
    CHECK(report.updated);
    CHECK(report.bad == "");
    CHECK(stale.learned() == clean.learned());
  }
}

TEST_CASE_TEMPLATE("five steps repeat to the bit", P, fp32, bf16_mixed) {
  const auto go = [] {
    small_run<P> run{{.rows = 3, .length = 8}};
    for (std::uint64_t seed = 0; seed < 5; ++seed) run.step(seed);
    return run.learned();
  };
  CHECK(go() == go());
}

TEST_CASE("initialisation depends on seed and name, and on the precision only by rounding") {
  small_run<fp64_reference> a{{.rows = 1, .length = 4}};
  small_run<fp32> b{{.rows = 1, .length = 4}};
  CHECK(b.state.masters.head(4, 2) == static_cast<float>(a.state.masters.head(4, 2)));
  CHECK(a.state.masters.head(4, 2) != a.state.masters.embedding(4, 2));
  CHECK(a.state.masters.g_final(3) == 1);
  double squares = 0;
  const auto table = a.state.masters.embedding;
  for (index_t i = 0; i < table.size(); ++i) squares += table.flat()(i) * table.flat()(i);
  CHECK(std::sqrt(squares / static_cast<double>(table.size())) == doctest::Approx(0.2).epsilon(0.15));
  for (index_t i = 0; i < a.state.routing.bias.size(); ++i) CHECK(a.state.routing.bias.flat()(i) == 0);
}

TEST_CASE("a plan on counting memory takes the bytes that the run takes") {
  const step_shape step{.rows = 3, .length = 8};
  counting_memory imagined;
  const deepseek_v3<bf16_mixed, compact_layout> model{support::small_config()};
  training_state<bf16_mixed, compact_layout> plan{imagined, model, step};
  const cpu_context<> ctx{.threads = 2};
  const std::size_t scratch = scratch_bytes(ctx, model, plan);
  small_run<bf16_mixed> run{step};
  CHECK(scratch == run.ctx.scratch.capacity());
  CHECK(imagined.peak() + scratch == run.memory.peak());
  std::size_t parts = 0;
  for (const memory_part& part : plan.parts()) parts += part.bytes;
  CHECK(parts == imagined.peak());
}

TEST_CASE("a step wants between one and all micro-batches") {
  small_run<fp32> run{{.micro_batches = 2, .rows = 1, .length = 4}};
  std::string sentence;
  try {
    train_step(run.ctx, run.model, run.state, {}, run.options);
  } catch (const error& failure) {
    sentence = failure.what();
  }
  CHECK(sentence == "train_step: 0 micro-batches found, expected 1 to 2");
}
