// SPDX-License-Identifier: MIT
// A model whose ranks share every layer's experts: losses and gradients are those of one rank with all rows.
#include "small_model.hpp"

#include <dsv3/comm/threads.hpp>
#include <dsv3/cpu.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/model/initialize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

using namespace dsv3;
using P = fp64_reference;

namespace {

constexpr index_t all_rows = 4, length = 6;

model_config model_of_ranks(index_t ranks, index_t rank) {
  model_config c = support::small_model();
  c.experts = 8, c.groups = 4, c.kept_groups = 2, c.top_k = 3, c.init_deviation = 0.2;
  c.expert_ranks = ranks, c.expert_rank = rank;
  return c;
}

struct outcome {
  std::vector<double> losses;
  std::vector<std::int64_t> load;
  std::map<std::string, std::vector<double>> weights, gradients;
};

// A rank's part of the batch; initialised, forward, backward.
outcome run_rank(index_t ranks, const any_communicator& comm, keep kept) {
  const model_config c = model_of_ranks(ranks, comm.rank());
  const deepseek_v3<P, compact_layout> model{.config = c, .experts_among = comm};
  const index_t rows = all_rows / ranks, width = length + 1 + c.mtp_depth;
  host_memory memory;
  cpu_context<> ctx{.threads = 1, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  owned<model_weights<P>> weights{memory, c};
  owned<model_gradients<P>> gradients{memory, c};
  owned<routing_state<P>> routing{memory, c};
  owned<rope_table<double>> rope{memory, rope_table<double>::config_type{length, c.qk_rope}};
  model_masters<P>& masters = weights;
  initialize(ctx, masters, 3);
  zero(ctx, static_cast<model_gradients<P>&>(gradients));
  support::fill_with_numbers(static_cast<routing_state<P>&>(routing), 4);
  op::fill<std::int64_t>::constant(ctx, {.y = routing.load.flat(), .value = 0});
  op::decoupled_rope<P, compact_layout::rope>::table(
      ctx, {.rope = c.attention().rope, .table = static_cast<rope_table<double>&>(rope)});
  std::vector<std::int32_t> ids, offsets, positions;
  for (index_t i = 0; i < all_rows * width; ++i)
    ids.push_back(static_cast<std::int32_t>(
        random_stream{1, 2}.below(static_cast<std::uint64_t>(c.vocab), static_cast<std::uint64_t>(i))));
  for (index_t r = 0; r <= rows; ++r) offsets.push_back(static_cast<std::int32_t>(r * length));
  for (index_t t = 0; t < rows * length; ++t) positions.push_back(static_cast<std::int32_t>(t % length));
  const view<const std::int32_t, 2> own{ids.data() + comm.rank() * rows * width, rows, width};
  const token_batch batch{
      .inputs = own.columns(0, width - 1),
      .labels = own.columns(1, width),
      .sequence = {.offsets = view{offsets.data(), rows + 1},
                   .positions = view{positions.data(), rows * length},
                   .max_length = length},
      .target_counts = std::vector<index_t>(static_cast<std::size_t>(1 + c.mtp_depth), all_rows * length)};
  const balance_options balance{.coefficient = 0.01 / static_cast<double>(ranks)};
  outcome result;
  result.losses.assign(static_cast<std::size_t>(2 + c.mtp_depth), 0);
  owned<model_saved<P>> saved{memory, model.activation_config(rows, length, rows, kept)};
  model.forward(ctx, {.batch = batch,
                      .weights = weights,
                      .bias = routing.bias,
                      .rope = rope,
                      .balance = balance,
                      .losses = view{result.losses.data(), result.losses.size()},
                      .load = routing.load,
                      .saved = saved});
  model.backward(ctx, {.batch = batch,
                       .weights = weights,
                       .bias = routing.bias,
                       .rope = rope,
                       .balance = balance,
                       .mtp_weight = 0.3,
                       .saved = saved,
                       .gradients = gradients,
                       .into = store::write});
  const auto list = [](auto& bundle, auto& to) {
    for_each_field([&](const std::string& name, const shape& s,
                       auto& field) { to[name].assign(field.data(), field.data() + s.elements()); },
                   bundle);
  };
  list(weights, result.weights), list(gradients, result.gradients);
  result.load.assign(routing.load.data(), routing.load.data() + routing.load.size());
  return result;
}

bool of_experts(const std::string& name) { return name.find(".mlp.experts.") != name.npos; }

// Parts of experts side by side, everything else summed; weights but experts' are everywhere the same.
outcome run(index_t ranks, keep kept) {
  std::vector<outcome> parts(static_cast<std::size_t>(ranks));
  thread_ranks{static_cast<int>(ranks)}.run([&](const any_communicator& comm) {
    parts[static_cast<std::size_t>(comm.rank())] = run_rank(ranks, comm, kept);
  });
  outcome all = parts[0];
  for (std::size_t r = 1; r < parts.size(); ++r) {
    for (std::size_t i = 0; i < all.losses.size(); ++i) all.losses[i] += parts[r].losses[i];
    for (std::size_t i = 0; i < all.load.size(); ++i) all.load[i] += parts[r].load[i];
    for (auto& [name, values] : all.weights) {
      const auto& more = parts[r].weights[name];
      if (of_experts(name))
        values.insert(values.end(), more.begin(), more.end());
      else
        CHECK(values == more);
    }
    for (auto& [name, values] : all.gradients) {
      const auto& more = parts[r].gradients[name];
      if (of_experts(name))
        values.insert(values.end(), more.begin(), more.end());
      else
        for (std::size_t i = 0; i < values.size(); ++i) values[i] += more[i];
    }
  }
  return all;
}

double distance(const std::vector<double>& found, const std::vector<double>& expected) {
  if (found.size() != expected.size()) return INFINITY;
  double scale = 1e-30, error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    scale = std::max(scale, std::fabs(expected[i]));
    error = std::max(error, std::fabs(found[i] - expected[i]));
  }
  return error / scale;
}

}  // namespace

TEST_CASE("experts on 2 and 4 ranks, a row of tokens or two on each") {
  const outcome one = run(1, keep::everything);
  for (const index_t ranks : {2, 4})
    for (const keep kept : {keep::everything, keep::attention, keep::inputs}) {
      CAPTURE(ranks);
      const outcome many = run(ranks, kept);
      CHECK(many.load == one.load);
      CHECK(many.weights == one.weights);
      for (std::size_t i = 0; i < one.losses.size(); ++i)
        CHECK(std::fabs(many.losses[i] - one.losses[i]) <= 1e-12 * std::fabs(one.losses[i]));
      for (const auto& [name, gradient] : one.gradients) {
        CAPTURE(name);
        CHECK(distance(many.gradients.at(name), gradient) < 1e-12);
      }
    }
}

TEST_CASE("a rank holds its share, an account is of the whole") {
  const model_config whole = model_of_ranks(1, 0), part = model_of_ranks(4, 3);
  CHECK(model_account(part).activated() == model_account(whole).activated());
  CHECK(model_account(part).main().routed_experts == model_account(whole).main().routed_experts);
  const index_t experts = 3 * 8 * 3 * whole.hidden * whole.expert_inner;  // two layers and the MTP module
  CHECK(elements_of<model_weights<P>>(whole) - elements_of<model_weights<P>>(part) == experts * 3 / 4);
}

TEST_CASE("ranks that do not divide the experts") {
  model_config c = model_of_ranks(3, 0);
  CHECK(c.check().message() ==
        "model config: the ranks that share experts must divide them, found n_routed_experts 8, ranks 3, "
        "rank 0");
  c = model_of_ranks(4, 4);
  CHECK(c.check().message() ==
        "model config: the ranks that share experts must divide them, found n_routed_experts 8, ranks 4, "
        "rank 4");
}
