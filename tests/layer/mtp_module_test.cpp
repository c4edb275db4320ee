// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/infer/step_rows.hpp>

#include <numeric>

using namespace dsv3;
using P = fp64_reference;
using L = compact_layout;

namespace {

constexpr index_t hidden = 6, vocab = 9;

struct fixture {
  mtp_module<P, L> layer{
      {.attention = {.hidden = hidden,
                     .heads = 2,
                     .qk_nope = 3,
                     .qk_rope = 2,
                     .v_dim = 4,
                     .kv_rank = 5,
                     .q_rank = 4,
                     .rope = {.theta = 50}},
       .kind = feed_forward::experts,
       .dense = {},
       .experts = {.router = {.hidden = hidden, .experts = 4, .top_k = 2}, .inner = 3, .shared_experts = 1}}};
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  support::packed_batch<P> batch{ctx, memory, layer.config.attention.rope, 2, {4, 3}};
  owned<mtp_storage<P>> weights{memory, layer.config};
  std::vector<double> bias = std::vector<double>(4, 0.0), h = support::random_values(7 * hidden, 1),
                      table = support::random_values(vocab * hidden, 2),
                      on_normed = support::random_values(7 * hidden, 3),
                      on_y = support::random_values(7 * hidden, 4), dh = std::vector<double>(h.size(), NAN),
                      dtable = std::vector<double>(table.size(), 0.0);
  std::vector<std::int32_t> ids{3, 0, 3, 8, -1, 2, 2};
  double balance_loss = 0;

  fixture() { support::fill_random(weights, 51); }
  view<double, 2> rows(std::vector<double>& v) { return view{v.data(), 7, hidden}; }
  mtp_module<P, L>::batch_args batch_args() {
    return {.sequence = batch.sequence(),
            .rope = batch.rope,
            .bias = view{bias.data(), 4},
            .balance = {.coefficient = 0.2}};
  }
  owned<mtp_saved<P>> save(keep kept) {
    owned<mtp_saved<P>> saved{memory, block<P, L>{layer.config}.activation_config(7, 2, kept)};
    balance_loss = 0;
    layer.forward(ctx, {.h = rows(h),
                        .ids = view{ids.data(), 7},
                        .embedding = view{table.data(), vocab, hidden},
                        .weights = weights,
                        .batch = batch_args(),
                        .balance_loss = view{&balance_loss, 1},
                        .saved = saved});
    return saved;
  }
  // Both results feed a loss: the normed rows the head, the raw ones the next depth.
  double loss() {
    const auto saved = save(keep::inputs);
    double sum = balance_loss;
    for (index_t t = 0; t < 7; ++t)
      for (index_t i = 0; i < hidden; ++i)
        sum += saved.normed(t, i) * rows(on_normed)(t, i) + saved.y(t, i) * rows(on_y)(t, i);
    return sum;
  }
  owned<mtp_gradients<P>> blank() {
    owned<mtp_gradients<P>> result{memory, layer.config};
    support::zero_fields(result);
    dtable.assign(table.size(), 0.0);
    return result;
  }
};

}  // namespace

TEST_CASE("gradients equal central differences, embedding and previous depth included") {
  fixture f;
  const auto saved = f.save(keep::everything);
  auto gradients = f.blank();
  f.layer.backward(f.ctx, {.d_normed = f.rows(f.on_normed),
                           .dy = f.rows(f.on_y),
                           .h = f.rows(f.h),
                           .ids = view{f.ids.data(), 7},
                           .weights = f.weights,
                           .batch = f.batch_args(),
                           .saved = saved,
                           .dh = f.rows(f.dh),
                           .gradients = gradients,
                           .d_embedding = view{f.dtable.data(), vocab, hidden}});
  support::check_slopes("h", f.h.data(), f.dh.data(), 7 * hidden, 42, [&] { return f.loss(); });
  support::check_slopes("table", f.table.data(), f.dtable.data(), vocab * hidden, 54,
                        [&] { return f.loss(); });
  support::check_bundle_slopes(f.weights, gradients, 15, [&] { return f.loss(); });
}

TEST_CASE("the halves together are the whole, under every keep policy") {
  fixture f;
  for (keep kept : {keep::everything, keep::attention, keep::inputs}) {
    const auto saved = f.save(kept);
    auto whole = f.blank();
    f.layer.backward(f.ctx, {.d_normed = f.rows(f.on_normed),
                             .dy = f.rows(f.on_y),
                             .h = f.rows(f.h),
                             .ids = view{f.ids.data(), 7},
                             .weights = f.weights,
                             .batch = f.batch_args(),
                             .saved = saved,
                             .dh = f.rows(f.dh),
                             .gradients = whole,
                             .d_embedding = view{f.dtable.data(), vocab, hidden}});
    const auto dh = f.dh, dtable = f.dtable;
    auto halves = f.blank();
    support::poison_fields(halves);  // what is written may have held anything
    owned<mtp_deltas<P>> deltas{f.memory, saved.config};
    f.layer.backward_data(f.ctx, {.d_normed = f.rows(f.on_normed),
                                  .dy = f.rows(f.on_y),
                                  .h = f.rows(f.h),
                                  .weights = f.weights,
                                  .batch = f.batch_args(),
                                  .saved = saved,
                                  .dh = f.rows(f.dh),
                                  .deltas = deltas});
    f.layer.backward_weights(f.ctx, {.d_normed = f.rows(f.on_normed),
                                     .h = f.rows(f.h),
                                     .ids = view{f.ids.data(), 7},
                                     .weights = f.weights,
                                     .batch = f.batch_args(),
                                     .saved = saved,
                                     .deltas = deltas,
                                     .gradients = halves,
                                     .d_embedding = view{f.dtable.data(), vocab, hidden},
                                     .into = store::write});
    CHECK(f.dh == dh);
    CHECK(f.dtable == dtable);
    CHECK(support::same_bits(whole, halves));
  }
}

TEST_CASE("decoding is forward: the rows of the head and those of the next depth") {
  fixture f;
  const auto saved = f.save(keep::inputs);
  const index_t width = f.layer.config.attention.cache_width();
  std::vector<double> pool(static_cast<std::size_t>(2 * 4 * width), NAN);
  const std::vector<std::int32_t> pages[] = {{1}, {0}};
  const index_t begins[] = {0, 4}, ends[] = {4, 7};
  for (int sequence = 0; sequence < 2; ++sequence)
    for (index_t begin = begins[sequence], end; begin < ends[sequence]; begin = end) {
      end = std::min(begin + 2, ends[sequence]);
      const index_t count = end - begin;
      step_rows tokens{f.memory};
      tokens.add(pages[sequence], begin - begins[sequence],
                 std::span(f.ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
      std::vector<double> y(static_cast<std::size_t>(count * hidden), NAN), normed = y, expected_y, expected;
      f.layer.decode(f.ctx, {.h = f.rows(f.h).rows(begin, end),
                             .ids = tokens.ids(),
                             .embedding = view{f.table.data(), vocab, hidden},
                             .weights = f.weights,
                             .tokens = tokens.tokens(attention_form::absorbed),
                             .cache = view{pool.data(), 2, 4, width},
                             .rope = f.batch.rope,
                             .bias = view{f.bias.data(), 4},
                             .y = view{y.data(), count, hidden},
                             .normed = view{normed.data(), count, hidden}});
      for (index_t t = begin; t < end; ++t)
        for (index_t i = 0; i < hidden; ++i)
          expected_y.push_back(saved.y(t, i)), expected.push_back(saved.normed(t, i));
      CHECK(support::worst_row(y, expected_y, hidden) < 1e-12);
      CHECK(support::worst_row(normed, expected, hidden) < 1e-12);
    }
}
