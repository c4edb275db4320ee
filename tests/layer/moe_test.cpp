// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

#include <numeric>

using namespace dsv3;
using P = fp64_reference;

namespace {

moe_config config(index_t experts, index_t top_k, index_t groups, index_t kept, index_t shared,
                  gate_norm normalise = gate_norm::sum_to_one) {
  return {.router = {.hidden = 6,
                     .experts = experts,
                     .top_k = top_k,
                     .groups = groups,
                     .kept_groups = kept,
                     .normalise = normalise,
                     .scale = 2.5},
          .inner = 5,
          .shared_experts = shared};
}

template <class L>
struct fixture {
  moe<P, L> layer;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 22}};
  support::packed_batch<P> batch;
  owned<moe_storage<P>> weights;
  std::vector<double> bias, x, y, probe, dx;
  std::vector<std::int64_t> load;
  balance_options balance{.coefficient = 0.37};
  double balance_loss = 0;

  fixture(const moe_config& c, const std::vector<index_t>& lengths)
      : layer{c}, batch(ctx, memory, rope_config{}, 2, lengths), weights(memory, c) {
    support::fill_random(weights, 21);
    bias = support::random_values(c.experts(), 9, 0.2);
    x = support::random_values(batch.tokens() * c.hidden(), 1);
    probe = support::random_values(batch.tokens() * c.hidden(), 2);
    y.assign(x.size(), NAN);
    dx.assign(x.size(), NAN);
    load.assign(static_cast<std::size_t>(c.experts()), 0);
  }
  view<double, 2> rows(std::vector<double>& v) {
    return view{v.data(), batch.tokens(), layer.config.hidden()};
  }
  void forward(moe_saved<P>* saved, bool count = false) {
    balance_loss = 0;
    layer.forward(ctx, {.x = rows(x),
                        .weights = weights,
                        .bias = view{bias.data(), bias.size()},
                        .sequence = batch.sequence(),
                        .balance = balance,
                        .y = rows(y),
                        .balance_loss = view{&balance_loss, 1},
                        .load = count ? view{load.data(), load.size()} : view<std::int64_t, 1>{},
                        .saved = saved});
  }
  double loss() {
    forward(nullptr);
    return std::inner_product(y.begin(), y.end(), probe.begin(), balance_loss);
  }
  owned<moe_saved<P>> save(keep kept) {
    owned<moe_saved<P>> saved{
        memory, moe_activation_config{layer.config, layer.exchange().plan_config(batch.tokens()),
                                      batch.sequence().sequences(), kept}};
    support::poison_fields(saved);
    forward(&saved);
    return saved;
  }
  owned<moe_gradients<P>> gradients(const moe_saved<P>& saved) {
    owned<moe_gradients<P>> result{memory, layer.config};
    support::zero_fields(result);
    layer.backward(ctx, {.dy = rows(probe),
                         .x = rows(x),
                         .weights = weights,
                         .sequence = batch.sequence(),
                         .balance = balance,
                         .saved = saved,
                         .dx = rows(dx),
                         .gradients = result});
    return result;
  }
};

struct masked_layout : default_layout {
  using experts = expert_layout::masked;
};
struct aligned_layout : default_layout {
  using experts = expert_layout::contiguous<8>;
};

// The formula, expert by expert, without plan or padding.
template <class L>
std::vector<double> naive(fixture<L>& f, const moe_saved<P>& s) {
  const moe_config& c = f.layer.config;
  const index_t hidden = c.hidden();
  std::vector<double> y(f.x.size(), 0.0);
  const auto expert = [&](index_t t, double gate, auto gate_up, auto down, index_t inner) {
    for (index_t i = 0; i < inner; ++i) {
      double g = 0, u = 0;
      for (index_t j = 0; j < hidden; ++j) {
        g += gate_up(i, j) * f.rows(f.x)(t, j);
        u += gate_up(inner + i, j) * f.rows(f.x)(t, j);
      }
      const double a = gate * g / (1 + std::exp(-g)) * u;
      for (index_t j = 0; j < hidden; ++j) y[static_cast<std::size_t>(t * hidden + j)] += a * down(j, i);
    }
  };
  for (index_t t = 0; t < f.batch.tokens(); ++t) {
    for (index_t k = 0; k < c.router.top_k; ++k)
      expert(t, s.gates(t, k), f.weights.w_gate_up[s.ids(t, k)], f.weights.w_down[s.ids(t, k)], c.inner);
    if (c.shared_experts > 0)
      expert(t, 1, f.weights.shared.w_gate_up, f.weights.shared.w_down, c.shared().inner);
  }
  return y;
}

template <class L>
void check_layer(const moe_config& c, const std::vector<index_t>& lengths) {
  fixture<L> f(c, lengths);
  const auto saved = f.save(keep::everything);
  CHECK(support::worst_row(f.y, naive(f, saved), c.hidden()) < 1e-12);
  auto gradients = f.gradients(saved);
  const auto dx = f.dx;
  support::check_slopes("x", f.x.data(), f.dx.data(), static_cast<index_t>(f.x.size()), 40,
                        [&] { return f.loss(); });
  support::check_bundle_slopes(f.weights, gradients, 30, [&] { return f.loss(); });
  auto again = f.gradients(f.save(keep::attention));
  CHECK(f.dx == dx);
  CHECK(support::same_bits(gradients, again));
}

}  // namespace

TEST_CASE("the layer is its formula, its gradients are central differences, in every expert layout") {
  for (const moe_config& c : {config(8, 2, 4, 2, 1), config(6, 3, 1, 1, 2, gate_norm::none),
                              config(4, 1, 2, 1, 0), config(3, 3, 1, 1, 1), config(1, 1, 1, 1, 0)}) {
    check_layer<compact_layout>(c, {4, 3});
    check_layer<aligned_layout>(c, {7});
    check_layer<masked_layout>(c, {2, 5});
  }
}

TEST_CASE("all tokens on one expert, all others empty") {
  fixture<default_layout> f(config(8, 1, 1, 1, 0), {9});
  f.bias.assign(8, 0.0);
  f.bias[5] = 100;
  f.forward(nullptr, true);
  CHECK(f.load == std::vector<std::int64_t>{0, 0, 0, 0, 0, 9, 0, 0});
  auto gradients = f.gradients(f.save(keep::everything));
  for (index_t e = 0; e < 8; ++e) {
    double magnitude = 0;
    for (index_t i = 0; i < 10; ++i)
      for (index_t j = 0; j < 6; ++j) magnitude += std::fabs(gradients.w_gate_up(e, i, j));
    CHECK((magnitude > 0) == (e == 5));
  }
}

TEST_CASE("load is added to, once per forward that asks for it") {
  fixture<default_layout> f(config(8, 2, 4, 2, 1), {6, 6});
  f.forward(nullptr, true);
  f.forward(nullptr, false);
  CHECK(std::accumulate(f.load.begin(), f.load.end(), std::int64_t{0}) == 24);
  f.forward(nullptr, true);
  CHECK(std::accumulate(f.load.begin(), f.load.end(), std::int64_t{0}) == 48);
}

TEST_CASE("no tokens") {
  fixture<default_layout> f(config(8, 2, 4, 2, 1), {});
  auto gradients = f.gradients(f.save(keep::everything));
  for_each_field([](const std::string&, const shape&,
                    auto& g) { support::each_value(g, [](double& v) { CHECK(v == 0); }); },
                 gradients);
}
