// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/infer/step_rows.hpp>

#include <numeric>

using namespace dsv3;
using P = fp64_reference;
using L = compact_layout;

namespace {

block_config config(feed_forward kind) {
  block_config c{.attention = {.hidden = 6,
                               .heads = 2,
                               .qk_nope = 3,
                               .qk_rope = 2,
                               .v_dim = 4,
                               .kv_rank = 5,
                               .q_rank = 4,
                               .rope = {.theta = 50}},
                 .kind = kind,
                 .dense = {},
                 .experts = {},
                 .epsilon = 1e-5};
  if (kind == feed_forward::dense)
    c.dense = {6, 7};
  else
    c.experts = {
        .router = {.hidden = 6, .experts = 4, .top_k = 2, .groups = 2, .kept_groups = 1, .scale = 1.5},
        .inner = 3,
        .shared_experts = 1};
  return c;
}

struct fixture {
  block<P, L> layer;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  support::packed_batch<P> batch;
  owned<block_storage<P>> weights;
  std::vector<double> bias{0.1, -0.2, 0.3, 0.05}, x, y, probe, dx;
  std::vector<std::int64_t> load = std::vector<std::int64_t>(4, 0);
  double balance_loss = 0;

  explicit fixture(feed_forward kind)
      : layer{config(kind)},
        batch(ctx, memory, config(kind).attention.rope, 2, {4, 3}),
        weights(memory, layer.config) {
    support::fill_random(weights, 31);
    x = support::random_values(batch.tokens() * 6, 1);
    probe = support::random_values(batch.tokens() * 6, 2);
    y.assign(x.size(), NAN);
    dx.assign(x.size(), NAN);
  }
  view<double, 2> rows(std::vector<double>& v) { return view{v.data(), batch.tokens(), 6}; }
  block<P, L>::batch_args batch_args() {
    return {.sequence = batch.sequence(),
            .rope = batch.rope,
            .bias = view{bias.data(), 4},
            .balance = {.coefficient = 0.21}};
  }
  void forward(block_saved<P>* saved, view<std::int64_t, 1> counts = {}) {
    balance_loss = 0;
    layer.forward(ctx, {.x = rows(x),
                        .weights = weights,
                        .batch = batch_args(),
                        .y = rows(y),
                        .balance_loss = view{&balance_loss, 1},
                        .load = counts,
                        .saved = saved});
  }
  double loss() {
    forward(nullptr);
    return std::inner_product(y.begin(), y.end(), probe.begin(), balance_loss);
  }
  owned<block_saved<P>> save(keep kept) {
    owned<block_saved<P>> saved{memory,
                                layer.activation_config(batch.tokens(), batch.sequence().sequences(), kept)};
    support::poison_fields(saved);
    forward(&saved);
    return saved;
  }
  owned<block_gradients<P>> blank() {
    owned<block_gradients<P>> result{memory, layer.config};
    support::zero_fields(result);
    return result;
  }
  owned<block_gradients<P>> gradients(const block_saved<P>& saved) {
    auto result = blank();
    layer.backward(ctx, {.dy = rows(probe),
                         .x = rows(x),
                         .weights = weights,
                         .batch = batch_args(),
                         .saved = saved,
                         .dx = rows(dx),
                         .gradients = result});
    return result;
  }
  /// Written over poison.
  owned<block_gradients<P>> gradients_by_halves(const block_saved<P>& saved) {
    auto result = blank();
    support::poison_fields(result);
    owned<block_deltas<P>> deltas{memory, saved.config};
    layer.backward_data(ctx, {.dy = rows(probe),
                              .x = rows(x),
                              .weights = weights,
                              .batch = batch_args(),
                              .saved = saved,
                              .dx = rows(dx),
                              .deltas = deltas});
    layer.backward_weights(ctx, {.dy = rows(probe),
                                 .x = rows(x),
                                 .weights = weights,
                                 .batch = batch_args(),
                                 .saved = saved,
                                 .deltas = deltas,
                                 .gradients = result,
                                 .into = store::write});
    return result;
  }
};

}  // namespace

TEST_CASE("gradients equal central differences") {
  for (feed_forward kind : {feed_forward::dense, feed_forward::experts}) {
    fixture f(kind);
    auto gradients = f.gradients(f.save(keep::everything));
    support::check_slopes("x", f.x.data(), f.dx.data(), static_cast<index_t>(f.x.size()), 60,
                          [&] { return f.loss(); });
    support::check_bundle_slopes(f.weights, gradients, 20, [&] { return f.loss(); });
  }
}

TEST_CASE("every keep policy and both ways of going back give the same bits") {
  for (feed_forward kind : {feed_forward::dense, feed_forward::experts}) {
    fixture f(kind);
    auto expected = f.gradients(f.save(keep::everything));
    const auto dx = f.dx;
    for (keep kept : {keep::everything, keep::attention, keep::inputs}) {
      const auto saved = f.save(kept);
      auto whole = f.gradients(saved);
      CHECK(f.dx == dx);
      CHECK(support::same_bits(whole, expected));
      auto halves = f.gradients_by_halves(saved);
      CHECK(f.dx == dx);
      CHECK(support::same_bits(halves, expected));
    }
  }
}

TEST_CASE("a policy keeps no more than it says") {
  const fixture f(feed_forward::experts);
  const auto bytes = [&](keep kept) {
    return bytes_of<block_saved<P>>(f.layer.activation_config(7, 2, kept));
  };
  CHECK(bytes(keep::inputs) == 0);
  CHECK(bytes(keep::attention) > 0);
  CHECK(bytes(keep::attention) < bytes(keep::everything));
}

TEST_CASE("recomputation does not count tokens twice") {
  fixture f(feed_forward::experts);
  owned<block_saved<P>> saved{f.memory, f.layer.activation_config(7, 2, keep::inputs)};
  f.forward(&saved, view{f.load.data(), 4});
  f.gradients(saved);
  CHECK(std::accumulate(f.load.begin(), f.load.end(), std::int64_t{0}) == 14);
}

TEST_CASE("decoding is forward, dense and with experts") {
  for (feed_forward kind : {feed_forward::dense, feed_forward::experts}) {
    fixture f(kind);
    f.forward(nullptr);
    const index_t width = f.layer.config.attention.cache_width();
    std::vector<double> pool(static_cast<std::size_t>(4 * 2 * width), NAN), y(f.y.size(), NAN);
    // The sequences of 4 and 3 tokens lie in pages 2, 0 and 3, 1; a step has tokens 0 to 2 of one and 0 of
    // the other, the next one the rest.
    const std::vector<std::int32_t> first_pages{2, 0}, second_pages{3, 1};
    const struct { index_t first, first_end, second, second_end; } steps[] = {{0, 3, 0, 1}, {3, 4, 1, 3}};
    for (const auto& step : steps) {
      const auto first = step.first_end - step.first, second = step.second_end - step.second;
      step_rows tokens{f.memory};
      tokens.add(first_pages, step.first, std::vector<std::int32_t>(static_cast<std::size_t>(first)));
      tokens.add(second_pages, step.second, std::vector<std::int32_t>(static_cast<std::size_t>(second)));
      std::vector<double> step_x, step_y(static_cast<std::size_t>((first + second) * 6), NAN);
      step_x.insert(step_x.end(), f.x.begin() + step.first * 6, f.x.begin() + step.first_end * 6);
      step_x.insert(step_x.end(), f.x.begin() + (4 + step.second) * 6,
                    f.x.begin() + (4 + step.second_end) * 6);
      f.layer.decode(f.ctx, {.x = view<const double, 2>{step_x.data(), first + second, 6},
                             .weights = f.weights,
                             .tokens = tokens.tokens(attention_form::absorbed),
                             .cache = view{pool.data(), 4, 2, width},
                             .rope = f.batch.rope,
                             .bias = view{f.bias.data(), 4},
                             .y = view{step_y.data(), first + second, 6}});
      std::copy_n(step_y.begin(), first * 6, y.begin() + step.first * 6);
      std::copy_n(step_y.begin() + first * 6, second * 6, y.begin() + (4 + step.second) * 6);
    }
    CHECK(support::worst_row(y, f.y, 6) < 1e-12);
  }
}
