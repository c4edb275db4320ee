// SPDX-License-Identifier: MIT
// Data ranks with their parts of the optimiser: the steps of one rank with all their tokens.
#include "small.hpp"

#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

using namespace dsv3;

namespace {

constexpr index_t rows = 2, length = 8;

// A run whose micro-batches are those from `first` on of the step's.
template <class P>
struct rank_run {
  host_memory memory;
  deepseek_v3<P, compact_layout> model;
  training_state<P, compact_layout> state;
  cpu_context<> ctx{.threads = 1};
  step_options options{.learning_rate = 1e-2, .mtp_weight = 0.3, .balance = {.coefficient = 1e-2}};

  explicit rank_run(index_t micro_batches, const training_ranks& ranks = {},
                    const model_config& config = support::small_config())
      : model{config},
        state(memory, model, {.micro_batches = micro_batches, .rows = rows, .length = length}, ranks) {
    ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 7);
  }

  step_report step(std::uint64_t seed) {
    const auto ids = state.tokens.ids;
    const index_t first = state.ranks.tokens.rank() * ids.size();
    for (index_t i = 0; i < ids.size(); ++i)
      ids.data()[i] = static_cast<std::int32_t>(random_stream{seed, 1}.below(
          static_cast<std::uint64_t>(model.config.vocab), static_cast<std::uint64_t>(first + i)));
    std::vector<token_batch> batches;
    for (index_t m = 0; m < state.shape.micro_batches; ++m) batches.push_back(state.micro_batch(m, rows));
    return train_step(ctx, model, state, batches, options);
  }
};

double distance(view<const double, 1> a, view<const double, 1> b) {
  double worst = 0, scale = 0;
  for (index_t i = 0; i < b.size(); ++i)
    worst = std::max(worst, std::fabs(a(i) - b(i))), scale = std::max(scale, std::fabs(b(i)));
  return scale > 0 ? worst / scale : worst;
}

template <class T>
bool same_bits(view<const T, 1> a, view<const T, 1> b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

// Wide enough for blocks of 128 that parts cut through.
model_config blocky_config() {
  model_config c = support::small_config();
  c.hidden = 256, c.dense_inner = 192, c.q_rank = 128, c.kv_rank = 128, c.qk_nope = 32, c.qk_rope = 32;
  c.v_dim = 64, c.expert_inner = 64;
  return c;
}

// A backend that puts a NaN into one gradient of one rank.
struct poisoning {
  using parent = backend::cpu;
  static inline thread_local bool here = false;
};

}  // namespace

template <class Q>
struct dsv3::implementation<dsv3::op::embedding<Q>, poisoning>
    : dsv3::implementation<dsv3::op::embedding<Q>, dsv3::backend::cpu> {
  using base = dsv3::implementation<dsv3::op::embedding<Q>, dsv3::backend::cpu>;
  using base::run;
  template <class Ctx>
  static void run(Ctx& ctx, const typename dsv3::op::embedding<Q>::backward_args& args) {
    base::run(ctx, args);
    if (poisoning::here) args.dtable(3, 5) = std::numeric_limits<double>::quiet_NaN();
  }
};

TEST_CASE("parts of equal length cover a tensor") {
  for (const index_t n : {1, 63, 64, 65, 1000, 4096})
    for (const int ranks : {1, 2, 3, 8}) {
      index_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const shard part{n, ranks, rank};
        CHECK(part.begin() == next);
        CHECK(part.count() <= part.part());
        CHECK(part.padded() >= n);
        CHECK(part.padded() < n + 64 * ranks);
        next = part.end();
      }
      CHECK(next == n);
    }
  CHECK(shard{65, 1, 0}.padded() == 65);
}

TEST_CASE("losses, gradients and weights are those of one rank") {
  for (const int count : {1, 2, 4}) {
    CAPTURE(count);
    rank_run<fp64_reference> whole{4};
    std::vector<step_report> expected;
    for (std::uint64_t seed = 1; seed <= 3; ++seed) expected.push_back(whole.step(seed));
    std::mutex one_checks;
    thread_ranks{count}.run([&](const any_communicator& comm) {
      rank_run<fp64_reference> run{4 / count, training_ranks::data(comm)};
      std::vector<step_report> reports;
      for (std::uint64_t seed = 1; seed <= 3; ++seed) reports.push_back(run.step(seed));
      const std::lock_guard lock(one_checks);
      for (std::size_t i = 0; i < 3; ++i) {
        CHECK(reports[i].updated);
        CHECK(reports[i].loss == doctest::Approx(expected[i].loss).epsilon(1e-12));
        CHECK(reports[i].mtp == doctest::Approx(expected[i].mtp).epsilon(1e-12));
        CHECK(reports[i].balance == doctest::Approx(expected[i].balance).epsilon(1e-12));
        CHECK(reports[i].grad_norm == doctest::Approx(expected[i].grad_norm).epsilon(1e-12));
      }
      CHECK(run.state.progress.tokens == whole.state.progress.tokens);
      for (std::size_t i = 0; i < run.state.parameters.size(); ++i) {
        const parameter<fp64_reference>& mine = run.state.parameters[i];
        const parameter<fp64_reference>& all = whole.state.parameters[i];
        CAPTURE(mine.name);
        CHECK(mine.p.size() == mine.part.count());
        const auto own = [&](view<double, 1> of) { return of.rows(mine.part.begin(), mine.part.end()); };
        CHECK(distance(mine.g, own(all.g)) <= 1e-12);
        CHECK(distance(mine.m, own(all.m)) <= 1e-12);
        CHECK(distance(mine.all_p.rows(0, all.p.size()), all.p) <= 1e-12);
      }
      CHECK(same_bits<std::int64_t>(run.state.reported.load.flat(), whole.state.reported.load.flat()));
      CHECK(same_bits<double>(run.state.routing.bias.flat(), whole.state.routing.bias.flat()));
    });
  }
}

TEST_CASE_TEMPLATE("every rank ends a step with the same weights, made of the masters' parts", P, fp32,
                   bf16_mixed, fp8_tilewise) {
  constexpr int count = 4;
  const model_config config = tilewise<P> ? blocky_config() : support::small_config();
  rank_run<P> whole{1, {}, config};  // gets the parts
  std::vector<std::string> weights(count);
  std::mutex one_writes;
  std::size_t masters = 0;
  thread_ranks{count}.run([&](const any_communicator& comm) {
    rank_run<P> run{1, training_ranks::data(comm), config};
    for (std::size_t i = 0; i < run.state.parameters.size(); ++i)  // as they begin
      CHECK(same_bits<master<P>>(run.state.parameters[i].p,
                                 whole.state.parameters[i].p.rows(run.state.parameters[i].part.begin(),
                                                                  run.state.parameters[i].part.end())));
    comm.barrier();
    for (std::uint64_t seed = 1; seed <= 2; ++seed) CHECK(run.step(seed).updated);
    const std::lock_guard lock(one_writes);
    for (std::size_t i = 0; i < run.state.parameters.size(); ++i) {
      const parameter<P>& mine = run.state.parameters[i];
      std::copy_n(mine.p.data(), mine.p.size(), whole.state.parameters[i].p.data() + mine.part.begin());
    }
    std::string& bytes = weights[static_cast<std::size_t>(comm.rank())];
    const auto take = [&](const auto& values) {
      bytes.append(reinterpret_cast<const char*>(values.data()),
                   static_cast<std::size_t>(values.size()) * sizeof(*values.data()));
    };
    for_each_field(
        [&](const std::string&, const shape&, auto& field) {
          if constexpr (requires { field.scales; })
            take(field.values), take(field.scales);
          else
            take(field);
        },
        run.state.weights);
    masters += run.state.parts()[0].bytes;
  });
  CHECK(weights[0].size() > 0);
  for (int rank = 1; rank < count; ++rank) CHECK(weights[static_cast<std::size_t>(rank)] == weights[0]);
  // One rank with these masters has these weights.
  for (const parameter<P>& row : whole.state.parameters) adopt_master(whole.ctx, row, config.recipe);
  std::string alone;
  for_each_field(
      [&](const std::string&, const shape&, auto& field) {
        const auto take = [&](const auto& values) {
          alone.append(reinterpret_cast<const char*>(values.data()),
                       static_cast<std::size_t>(values.size()) * sizeof(*values.data()));
        };
        if constexpr (requires { field.scales; })
          take(field.values), take(field.scales);
        else
          take(field);
      },
      whole.state.weights);
  CHECK(alone == weights[0]);
  // Masters that no forward reads are stored once, and what fills up the parts.
  if constexpr (tilewise<P>) CHECK(masters < 2 * whole.state.parts()[0].bytes);
}

TEST_CASE("what is not finite on one rank stops all of them, and all name it") {
  thread_ranks{3}.run([&](const any_communicator& comm) {
    rank_run<fp32> run{1, training_ranks::data(comm)};
    run.step(1);
    const auto head = [&] {
      const auto weights = run.state.weights.head;
      return std::vector<float>(weights.data(), weights.data() + weights.size());
    };
    const std::vector<float> before = head();
    auto bad = run.ctx.with_backend<poisoning>();
    bad.scratch = std::move(run.ctx.scratch);
    poisoning::here = comm.rank() == 1;
    const token_batch batch = run.state.micro_batch(0, rows);
    step_report report = train_step(bad, run.model, run.state, std::span(&batch, 1), run.options);
    CHECK_FALSE(report.updated);
    CHECK(report.bad == "the gradient of model.embed_tokens.weight");
    run.ctx.scratch = std::move(bad.scratch);
    if (comm.rank() == 1) run.state.weights.g_final(0) = std::numeric_limits<float>::infinity();
    report = run.step(2);
    CHECK_FALSE(report.updated);
    CHECK(report.bad == "the cross entropy");
    CHECK(head() == before);
    CHECK(run.state.progress.skipped == 2);
  });
}
