// SPDX-License-Identifier: MIT
// Training steps of a model in a pipeline, alone and with data and expert ranks: those of one rank.
#include <train/rank_of_mesh.hpp>

#include <dsv3/comm/threads.hpp>
#include <dsv3/train/pipeline/model_stages.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using namespace dsv3;
using P = fp64_reference;
using L = compact_layout;

namespace {

using rank_of_mesh = support::rank_of_mesh<P>;
using support::deep_config, support::ranks_layout, support::some_options;

constexpr index_t rows = rank_of_mesh::rows, length = rank_of_mesh::length;

struct result {
  std::vector<step_report> reports;
  step_report looked;                                             // at a batch that is not learned
  std::map<std::string, std::vector<double>> gradients, weights;  // whole; of the last step
  std::vector<std::int64_t> load;
  std::vector<double> bias;
};

void put(std::map<std::string, std::vector<double>>& to, const parameter<P>& row, index_t first,
         view<const double, 1> values) {
  std::vector<double>& all = to[row.name];
  const auto begin = static_cast<std::size_t>(first), end = begin + static_cast<std::size_t>(values.size());
  if (all.size() < end) all.resize(end);
  std::copy_n(values.data(), values.size(), all.data() + begin);
}

void take(result& to, training_state<P, L>& state) {
  for (const parameter<P>& row : state.parameters) {
    put(to.gradients, row, row.first + row.part.begin(), row.g);
    put(to.weights, row, row.first, row.all_p.rows(0, row.part.elements));
  }
  to.load.assign(state.reported.load.data(), state.reported.load.data() + state.reported.load.size());
  to.bias.assign(state.routing.bias.data(), state.routing.bias.data() + state.routing.bias.size());
}

constexpr int steps = 2;

result alone(const model_config& config, index_t micro_batches) {
  host_memory memory;
  const deepseek_v3<P, L> model{config};
  training_state<P, L> state{memory, model, {.micro_batches = micro_batches, .rows = rows, .length = length}};
  cpu_context<> ctx{.threads = 1};
  ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
  initialize_state(ctx, state, 7);
  result found;
  for (int step = 0; step < steps; ++step)
    found.reports.push_back(train_step(ctx, model, state,
                                       rank_of_mesh::batches_of(state, static_cast<std::uint64_t>(step), 0),
                                       some_options()));
  const token_batch batch = rank_of_mesh::batches_of(state, 99, 0)[0];
  found.looked = evaluate(ctx, model, state, batch, some_options());
  take(found, state);
  return found;
}

std::vector<result> together(const model_config& config, const ranks_layout& of) {
  std::vector<result> found(static_cast<std::size_t>(of.shape.ranks()));
  thread_ranks{of.shape.ranks()}.run([&](const any_communicator& world) {
    rank_of_mesh rank{world, config, of};
    const std::size_t bytes = rank.memory.in_use();
    result& mine = found[static_cast<std::size_t>(world.rank())];
    for (int step = 0; step < steps; ++step)
      mine.reports.push_back(rank.step(static_cast<std::uint64_t>(step), some_options()));
    const token_batch batch = rank_of_mesh::batches_of(rank.state, 99, 0)[0];
    mine.looked = evaluate(rank.ctx, rank.model, rank.state, batch, some_options(), rank.stages);
    if (rank.memory.in_use() != bytes || !rank.stages.idle())
      raise("a step took memory, or left something under way");
    const auto most = rank.schedules.cost(of.shape.pipeline, {}).activations;
    if (static_cast<int>(rank.stages.saved_rooms()) > most)
      raise("activations of " + std::to_string(rank.stages.saved_rooms()) +
            " micro-batches are kept, expected " + std::to_string(most));
    take(mine, rank.state);
  });
  return found;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    worst = std::max(worst, std::fabs(a[i] - b[i])), scale = std::max(scale, std::fabs(b[i]));
  return worst / scale;
}

void compare(const std::vector<result>& ranks, const result& expected) {
  result whole;
  for (const result& rank : ranks) {
    for (std::size_t step = 0; step < steps; ++step) {
      CHECK(rank.reports[step].updated);
      CHECK(rank.reports[step].loss == doctest::Approx(expected.reports[step].loss).epsilon(1e-12));
      CHECK(rank.reports[step].mtp == doctest::Approx(expected.reports[step].mtp).epsilon(1e-12));
      CHECK(rank.reports[step].balance == doctest::Approx(expected.reports[step].balance).epsilon(1e-12));
      CHECK(rank.reports[step].grad_norm == doctest::Approx(expected.reports[step].grad_norm).epsilon(1e-12));
    }
    CHECK(rank.looked.ce == doctest::Approx(expected.looked.ce).epsilon(1e-11));
    CHECK(rank.looked.loss == doctest::Approx(expected.looked.loss).epsilon(1e-11));
    CHECK(rank.load == expected.load);
    CHECK(rank.bias == expected.bias);
    for (const auto& [name, values] : rank.weights) {
      std::vector<double>& all = whole.weights[name];
      all.resize(std::max(all.size(), values.size()));
      for (std::size_t i = 0; i < values.size(); ++i) all[i] = values[i] != 0 ? values[i] : all[i];
    }
    for (const auto& [name, values] : rank.gradients) {
      std::vector<double>& all = whole.gradients[name];
      all.resize(std::max(all.size(), values.size()));
      for (std::size_t i = 0; i < values.size(); ++i) all[i] = values[i] != 0 ? values[i] : all[i];
    }
  }
  REQUIRE(whole.gradients.size() == expected.gradients.size());
  for (const auto& [name, values] : expected.gradients) {
    CAPTURE(name);
    REQUIRE(whole.gradients[name].size() == values.size());
    CHECK(distance(whole.gradients[name], values) <= 1e-12);
    CHECK(distance(whole.weights[name], expected.weights.at(name)) <= 1e-11);
  }
}

}  // namespace

TEST_CASE("every schedule trains as one rank does") {
  const model_config config = deep_config();
  for (const auto& [ranks, schedule, micro_batches] :
       {std::tuple{1, "1f1b", 2}, std::tuple{2, "1f1b", 5}, std::tuple{4, "1f1b", 6},
        std::tuple{2, "zb1p", 5}, std::tuple{4, "zb1p", 8}, std::tuple{2, "dualpipe", 4},
        std::tuple{4, "dualpipe", 10}, std::tuple{2, "dualpipe_v", 5}, std::tuple{4, "dualpipe_v", 8}}) {
    CAPTURE(ranks);
    CAPTURE(schedule);
    compare(together(config, {{.pipeline = ranks}, schedule, micro_batches}), alone(config, micro_batches));
  }
}

TEST_CASE("pipelines with data and expert ranks train as one rank does") {
  const model_config config = deep_config();
  for (const auto& [shape, schedule, micro_batches] :
       {std::tuple{mesh_shape{.data = 2, .expert = 1, .pipeline = 2}, "zb1p", 3},
        std::tuple{mesh_shape{.data = 1, .expert = 2, .pipeline = 2}, "1f1b", 3},
        std::tuple{mesh_shape{.data = 2, .expert = 2, .pipeline = 1}, "1f1b", 2},
        std::tuple{mesh_shape{.data = 2, .expert = 2, .pipeline = 2}, "dualpipe", 4}}) {
    CAPTURE(shape.words());
    const index_t all = micro_batches * shape.data * shape.expert;
    compare(together(config, {shape, schedule, micro_batches}), alone(config, all));
  }
}

TEST_CASE("a schedule that would add to a gradient before it is written is refused") {
  const auto make = [](int, int) {
    pipeline::schedule s{.name = "crossed", .micro_batches = 2, .places = pipeline::placement::one_way(1)};
    s.ranks = {{{.what = pipeline::act::forward, .of = {0, 0}},
                {.what = pipeline::act::forward, .of = {1, 0}},
                {.what = pipeline::act::input_gradient, .of = {0, 0}},
                {.what = pipeline::act::backward, .of = {1, 0}},
                {.what = pipeline::act::weight_gradient, .of = {0, 0}}}};
    return s;
  };
  pipeline::method crossed = pipeline::method_named("1f1b");
  crossed.make = make;
  host_memory memory;
  model_config config = support::small_config();
  config.held = {config.whole()};
  const deepseek_v3<P, L> model{config};
  training_state<P, L> state{memory, model, {.micro_batches = 2, .rows = rows, .length = length}};
  pipeline::model_stages<P, L> stages{memory, crossed, {}, config.held};
  std::string sentence;
  try {
    (void)scratch_bytes(cpu_context<>{}, model, state, nullptr, stages);
  } catch (const error& failure) {
    sentence = failure.what();
  }
  CHECK(sentence ==
        "crossed: rank 0 has the backward of micro-batch 1 in chunk 0 while its chunk owes its first weight "
        "gradient, expected that before");
}

TEST_CASE("a schedule of another number of ranks than the mesh has is refused") {
  const mesh alone;
  CHECK_THROWS_WITH_AS((training_ranks{alone, pipeline::placement::one_way(2), true}),
                       "training: the schedule is for 2 pipeline ranks, the mesh has 1", error);
}
