// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

using namespace dsv3;
using support::packed_batch;
using P = fp64_reference;

namespace {

// Odd numbers everywhere; with and without query compression, with and without YaRN.
std::vector<mla_config> configs() {
  const rope_config plain{.theta = 100}, stretched{.theta = 100, .factor = 4, .original_length = 8};
  return {
      {.hidden = 10,
       .heads = 3,
       .qk_nope = 5,
       .qk_rope = 4,
       .v_dim = 7,
       .kv_rank = 6,
       .q_rank = 9,
       .rope = plain},
      {.hidden = 7,
       .heads = 1,
       .qk_nope = 3,
       .qk_rope = 2,
       .v_dim = 1,
       .kv_rank = 5,
       .q_rank = 0,
       .rope = stretched},
      {.hidden = 8,
       .heads = 2,
       .qk_nope = 4,
       .qk_rope = 6,
       .v_dim = 4,
       .kv_rank = 3,
       .q_rank = 2,
       .rope = stretched},
  };
}

struct fixture {
  mla<P> layer;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  packed_batch<P> batch;
  owned<mla_storage<P>> weights;
  std::vector<double> x, y, probe, dx;

  fixture(const mla_config& c, const std::vector<index_t>& lengths)
      : layer{c}, batch(ctx, memory, c.rope, c.qk_rope, lengths), weights(memory, c) {
    support::fill_random(weights, 11);
    x = support::random_values(batch.tokens() * c.hidden, 1);
    probe = support::random_values(batch.tokens() * c.hidden, 2);
    y.assign(x.size(), NAN);
    dx.assign(x.size(), NAN);
  }
  view<double, 2> rows(std::vector<double>& values) {
    return view{values.data(), batch.tokens(), layer.config.hidden};
  }
  void forward(mla_saved<P>* saved) {
    layer.forward(ctx, {.x = rows(x),
                        .weights = weights,
                        .sequence = batch.sequence(),
                        .rope = batch.rope,
                        .y = rows(y),
                        .saved = saved});
  }
  double loss() {
    forward(nullptr);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * probe[i];
    return sum;
  }
  owned<mla_saved<P>> save(keep kept) {
    owned<mla_saved<P>> saved{memory, mla_activation_config{layer.config, batch.tokens(), kept}};
    support::poison_fields(saved);
    forward(&saved);
    return saved;
  }
  owned<mla_gradients<P>> blank_gradients() {
    owned<mla_gradients<P>> gradients{memory, layer.config};
    support::zero_fields(gradients);
    return gradients;
  }
  void backward(const mla_saved<P>& saved, mla_gradients<P>& gradients) {
    layer.backward(ctx, {.dy = rows(probe),
                         .x = rows(x),
                         .weights = weights,
                         .sequence = batch.sequence(),
                         .rope = batch.rope,
                         .saved = saved,
                         .dx = rows(dx),
                         .gradients = gradients});
  }
};

}  // namespace

TEST_CASE("gradients equal central differences") {
  for (const mla_config& c : configs()) {
    fixture f(c, {5, 1, 3});
    const auto saved = f.save(keep::everything);
    auto gradients = f.blank_gradients();
    f.backward(saved, gradients);
    support::check_slopes("x", f.x.data(), f.dx.data(), static_cast<index_t>(f.x.size()), 40,
                          [&] { return f.loss(); });
    support::check_bundle_slopes(f.weights, gradients, 25, [&] { return f.loss(); });
  }
}

TEST_CASE("what is not kept is computed again, bit for bit") {
  for (const mla_config& c : configs()) {
    fixture f(c, {4, 6});
    auto first = f.blank_gradients(), second = f.blank_gradients();
    f.backward(f.save(keep::everything), first);
    const auto dx = f.dx;
    f.backward(f.save(keep::attention), second);
    CHECK(f.dx == dx);
    CHECK(support::same_bits(first, second));
  }
}

TEST_CASE("the halves together are the whole; weight gradients are added to, activation gradients written") {
  for (const mla_config& c : configs()) {
    for (keep kept : {keep::everything, keep::attention}) {
      fixture f(c, {4, 2});
      auto whole = f.blank_gradients(), halves = f.blank_gradients();
      const auto saved = f.save(kept);
      f.backward(saved, whole);
      const auto dx = f.dx;
      owned<mla_deltas<P>> deltas{f.memory, saved.config};
      f.layer.backward_data(f.ctx, {.dy = f.rows(f.probe),
                                    .weights = f.weights,
                                    .sequence = f.batch.sequence(),
                                    .rope = f.batch.rope,
                                    .saved = saved,
                                    .dx = f.rows(f.dx),
                                    .deltas = deltas});
      f.layer.backward_weights(f.ctx, {.dy = f.rows(f.probe),
                                       .x = f.rows(f.x),
                                       .weights = f.weights,
                                       .saved = saved,
                                       .deltas = deltas,
                                       .gradients = halves});
      CHECK(f.dx == dx);
      CHECK(support::same_bits(whole, halves));
      f.backward(saved, whole);
      CHECK(f.dx == dx);
      for_each_field(
          [](const std::string&, const shape& s, auto& twice, auto& once) {
            for (index_t i = 0; i < s.elements(); ++i)
              CHECK(twice.flat()(i) == doctest::Approx(2 * once.flat()(i)).epsilon(1e-12));
          },
          whole, halves);
    }
  }
}

TEST_CASE("packed sequences equal each sequence alone") {
  const mla_config c = configs()[0];
  fixture packed(c, {3, 5});
  packed.forward(nullptr);
  fixture alone(c, {5});
  std::copy(packed.x.begin() + 3 * c.hidden, packed.x.end(), alone.x.begin());
  alone.forward(nullptr);
  const std::vector<double> tail(packed.y.begin() + 3 * c.hidden, packed.y.end());
  CHECK(support::worst_row(alone.y, tail, c.hidden) < 1e-12);
}

TEST_CASE("scratch is exactly what measure says") {
  fixture f(configs()[0], {6, 2});
  const auto saved = f.save(keep::attention);
  auto gradients = f.blank_gradients();
  const auto work = [&](auto& ctx) {
    f.layer.forward(ctx, {.x = f.rows(f.x),
                          .weights = f.weights,
                          .sequence = f.batch.sequence(),
                          .rope = f.batch.rope,
                          .y = f.rows(f.y)});
    f.layer.backward(ctx, {.dy = f.rows(f.probe),
                           .x = f.rows(f.x),
                           .weights = f.weights,
                           .sequence = f.batch.sequence(),
                           .rope = f.batch.rope,
                           .saved = saved,
                           .dx = f.rows(f.dx),
                           .gradients = gradients});
  };
  const std::size_t bytes = measure(f.ctx, work);
  cpu_context<> exact{.threads = 2, .scratch = scratch_arena{f.memory, bytes}};
  work(exact);
  CHECK(exact.scratch.peak() == bytes);
  cpu_context<> tight{.threads = 2, .scratch = scratch_arena{f.memory, bytes - 64}};
  CHECK_THROWS_AS(work(tight), error);
}

TEST_CASE("no tokens") {
  fixture f(configs()[0], {});
  const auto saved = f.save(keep::everything);
  auto gradients = f.blank_gradients();
  f.backward(saved, gradients);
  for_each_field([](const std::string&, const shape&,
                    auto& g) { support::each_value(g, [](double& v) { CHECK(v == 0); }); },
                 gradients);
}
