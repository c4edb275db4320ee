// SPDX-License-Identifier: MIT
// The whole network in double: gradients of main, MTP and balance losses together against central
// differences, the keep policies, causality, and what a batch's missing tokens may touch.
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

using namespace dsv3;
using P = fp64_reference;
using L = compact_layout;

namespace {

model_config small(index_t q_rank, index_t depth, mtp_input reads = mtp_input::post_final_norm) {
  return {.vocab = 11,
          .hidden = 8,
          .layers = 3,
          .dense_layers = 1,
          .mtp_depth = depth,
          .dense_inner = 9,
          .heads = 2,
          .q_rank = q_rank,
          .kv_rank = 4,
          .qk_nope = 3,
          .qk_rope = 2,
          .v_dim = 3,
          .expert_inner = 5,
          .experts = 6,
          .shared_experts = 1,
          .top_k = 2,
          .groups = 3,
          .kept_groups = 2,
          .routed_scale = 1.7,
          .rope = {.theta = 100, .factor = 2, .original_length = 4},
          .max_positions = 16,
          .mtp_reads = reads};
}

struct fixture {
  deepseek_v3<P, L> model;
  index_t rows, length;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 24}};
  support::packed_batch<P> packed;
  owned<model_weights<P>> weights;
  owned<routing_state<P>> routing;
  std::vector<std::int32_t> ids;
  token_batch batch;
  std::vector<double> losses;
  balance_options balance{.coefficient = 0.3};
  double mtp_weight = 0.6;

  fixture(const model_config& c, index_t r, index_t l)
      : model{c, 3},
        rows(r),
        length(l),
        packed(ctx, memory, c.rope, c.qk_rope, std::vector<index_t>(static_cast<std::size_t>(r), l)),
        weights(memory, c),
        routing(memory, c) {
    require(c.check());
    support::fill_random(weights, 41);
    support::zero_fields(routing);
    const random_stream random(7, 7);
    const index_t width = length + 1 + c.mtp_depth;
    for (index_t i = 0; i < rows * width; ++i)
      ids.push_back(static_cast<std::int32_t>(random.below(11, static_cast<std::uint64_t>(i))));
    const view<const std::int32_t, 2> all = view{ids.data(), rows, width};
    batch = {.inputs = all.columns(0, width - 1),
             .labels = all.columns(1, width),
             .sequence = packed.sequence(),
             .target_counts = std::vector<index_t>(static_cast<std::size_t>(1 + c.mtp_depth), rows * length)};
    losses.assign(static_cast<std::size_t>(2 + c.mtp_depth), NAN);
  }
  owned<model_saved<P>> save(keep kept) {
    owned<model_saved<P>> saved{memory, model.activation_config(rows, length, rows, kept)};
    support::poison_fields(saved);
    forward(saved);
    return saved;
  }
  void forward(model_saved<P>& saved, view<double, 2> logits = {},
               std::vector<view<double, 2>> mtp_logits = {}) {
    model.forward(ctx, {.batch = batch,
                        .weights = weights,
                        .bias = routing.bias,
                        .rope = packed.rope,
                        .balance = balance,
                        .losses = view{losses.data(), losses.size()},
                        .load = routing.load,
                        .logits = logits,
                        .mtp_logits = mtp_logits,
                        .saved = saved});
  }
  double loss() {
    save(keep::inputs);
    double mtp = 0;
    const auto depth = static_cast<std::size_t>(model.config.mtp_depth);
    for (std::size_t k = 1; k <= depth; ++k) mtp += losses[k];
    return losses[0] + losses[depth + 1] + (depth > 0 ? mtp_weight * mtp / static_cast<double>(depth) : 0);
  }
  owned<model_gradients<P>> gradients(keep kept) {
    const auto saved = save(kept);
    owned<model_gradients<P>> result{memory, model.config};
    support::zero_fields(result);
    model.backward(ctx, {.batch = batch,
                         .weights = weights,
                         .bias = routing.bias,
                         .rope = packed.rope,
                         .balance = balance,
                         .mtp_weight = mtp_weight,
                         .saved = saved,
                         .gradients = result});
    return result;
  }
};

}  // namespace

TEST_CASE("the gradient of all losses together equals central differences, for every weight") {
  for (const model_config& c :
       {small(5, 1), small(0, 2), small(5, 2, mtp_input::pre_final_norm), small(4, 0)}) {
    fixture f(c, 2, 5);
    auto gradients = f.gradients(keep::everything);
    support::check_bundle_slopes(f.weights, gradients, 4, [&] { return f.loss(); });
  }
}

TEST_CASE("every keep policy gives the same gradients and counts the same load") {
  fixture f(small(5, 1), 2, 6);
  auto expected = f.gradients(keep::everything);
  std::vector<std::int64_t> load;
  support::each_value(f.routing.load, [&](std::int64_t& n) { load.push_back(n), n = 0; });
  for (keep kept : {keep::attention, keep::inputs}) {
    auto gradients = f.gradients(kept);
    for_each_field(
        [&](const std::string& name, const shape& s, auto& a, auto& b) {
          CAPTURE(name);
          for (index_t i = 0; i < s.elements(); ++i)
            CHECK(a.flat()(i) == doctest::Approx(b.flat()(i)).epsilon(1e-11).scale(1e-3));
        },
        gradients, expected);
    std::size_t at = 0;
    support::each_value(f.routing.load, [&](std::int64_t& n) {
      CHECK(n == load[at++]);
      n = 0;
    });
  }
}

TEST_CASE("no prediction sees its target or anything after it") {
  fixture f(small(5, 2), 1, 8);
  std::vector<double> before(3 * 88), after(3 * 88);
  const auto run = [&](std::vector<double>& to) {
    owned<model_saved<P>> saved{f.memory, f.model.activation_config(1, 8, 1, keep::attention)};
    f.forward(saved, view{to.data(), 8, 11}, {view{to.data() + 88, 8, 11}, view{to.data() + 176, 8, 11}});
  };
  run(before);
  const index_t changed = 5;  // token t_5 and all later ones
  for (std::size_t i = changed; i < f.ids.size(); ++i) f.ids[i] = (f.ids[i] + 3) % 11;
  run(after);
  // Depth k at position i has read tokens up to t_{i+k}.
  for (index_t k = 0; k <= 2; ++k)
    for (index_t i = 0; i < 8; ++i) {
      bool same = true;
      for (index_t v = 0; v < 11; ++v) {
        const auto at = static_cast<std::size_t>(k * 88 + i * 11 + v);
        same = same && before[at] == after[at];
      }
      CHECK(same == (i + k < changed));
    }
}

TEST_CASE("ignored targets carry no gradient and are not counted") {
  fixture f(small(5, 1), 2, 5);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(2 * 6), -1);
  f.batch.labels = view{labels.data(), 2, 6};
  f.batch.target_counts = {0, 0};
  f.balance.coefficient = 0;
  auto gradients = f.gradients(keep::everything);
  CHECK(f.losses[0] == 0);
  CHECK(f.losses[1] == 0);
  for_each_field([](const std::string&, const shape&,
                    auto& g) { support::each_value(g, [](double& v) { CHECK(v == 0); }); },
                 gradients);
}

TEST_CASE("scratch is exactly what measure says") {
  fixture f(small(5, 1), 2, 5);
  const auto saved_config = f.model.activation_config(2, 5, 2, keep::attention);
  owned<model_saved<P>> saved{f.memory, saved_config};
  owned<model_gradients<P>> gradients{f.memory, f.model.config};
  support::zero_fields(gradients);
  const auto work = [&](auto& ctx) {
    f.model.forward(ctx, {.batch = f.batch,
                          .weights = f.weights,
                          .bias = f.routing.bias,
                          .rope = f.packed.rope,
                          .balance = f.balance,
                          .losses = view{f.losses.data(), f.losses.size()},
                          .saved = saved});
    f.model.backward(ctx, {.batch = f.batch,
                           .weights = f.weights,
                           .bias = f.routing.bias,
                           .rope = f.packed.rope,
                           .balance = f.balance,
                           .mtp_weight = 0.3,
                           .saved = saved,
                           .gradients = gradients});
  };
  const std::size_t bytes = measure(f.ctx, work);
  cpu_context<> exact{.threads = 2, .scratch = scratch_arena{f.memory, bytes}};
  work(exact);
  CHECK(exact.scratch.peak() == bytes);
}

TEST_CASE("a tracing context names every operation") {
  fixture f(small(5, 1), 1, 4);
  trace_log log;
  cpu_context<backend::trace<backend::cpu>> ctx{
      .threads = 1, .scratch = scratch_arena{f.memory, std::size_t{1} << 22}, .state = {&log}};
  owned<model_saved<P>> saved{f.memory, f.model.activation_config(1, 4, 1, keep::everything)};
  f.model.forward(ctx, {.batch = f.batch,
                        .weights = f.weights,
                        .bias = f.routing.bias,
                        .rope = f.packed.rope,
                        .losses = view{f.losses.data(), f.losses.size()},
                        .saved = saved});
  index_t attention = 0;
  for (const trace_entry& entry : log.entries)
    attention += std::string(entry.name) == "mla_attention.forward";
  CHECK(attention == 4);  // three blocks and the MTP module
}
