// SPDX-License-Identifier: MIT
// Tour, stop 4: a mixture of experts, and how a bias balances it without touching the loss.
#include <support/tour.hpp>

#include <algorithm>
#include <cstdio>

using namespace dsv3;
using P = fp32;
using layout = compact_layout;  // experts' rows without padding between them

int main() {
  // 16 experts in 4 groups; each token uses 4 experts out of at most 2 groups, and the shared expert.
  const moe<P, layout> experts{
      {.router = {.hidden = 32, .experts = 16, .top_k = 4, .groups = 4, .kept_groups = 2},
       .inner = 24,
       .shared_experts = 1}};
  const index_t tokens = 256, hidden = experts.config.hidden(), count = experts.config.experts();
  tour::place here;
  auto positions = here.array<std::int32_t>(tokens);
  for (index_t t = 0; t < tokens; ++t) positions[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t);
  const auto offsets = here.array<std::int32_t>({0, static_cast<std::int32_t>(tokens)});
  const packed_sequences sequence{view{offsets.data(), 2},
                                  view<const std::int32_t, 1>{positions.data(), tokens}, tokens};

  owned<moe_storage<P>> weights{here.memory, experts.config};
  auto x_data = here.array<float>(tokens * hidden), y_data = here.array<float>(tokens * hidden),
       bias_data = here.array<float>(count);
  auto load_data = here.array<std::int64_t>(count);
  const view x{x_data.data(), tokens, hidden}, y{y_data.data(), tokens, hidden};
  const view bias{bias_data.data(), count};
  const view load{load_data.data(), count};
  auto balance_loss = here.array<double>(1);

  const auto forward = [&](auto& ctx) {
    experts.forward(ctx, {.x = x,
                          .weights = weights,
                          .bias = bias,
                          .sequence = sequence,
                          .balance = {.coefficient = 1e-4},
                          .y = y,
                          .balance_loss = view{balance_loss.data(), 1},
                          .load = load});  // no saved state is asked for: nothing is kept
  };
  auto ctx = here.context();
  ctx.scratch = scratch_arena{here.memory, measure(ctx, forward)};

  for_each_field(
      [&](const std::string& name, const shape&, auto& field) {
        op::fill<float>::normal(
            ctx, {.y = field.flat(), .random = random_stream::named(3, name), .deviation = 0.2});
      },
      static_cast<moe_storage<P>&>(weights));
  // Tokens that have a direction in common favour the same experts.
  op::fill<float>::normal(ctx, {.y = x.flat(), .random = random_stream{3, 1}, .mean = 0.5});

  // After each batch, experts that got more than the mean lose a little bias, the others gain as much. The
  // bias decides who is chosen and never enters the gates, so no gradient pulls against it.
  double first = 0, last = 0;
  for (int step = 0; step <= 200; ++step) {
    op::fill<std::int64_t>::constant(ctx, {.y = load, .value = 0});
    balance_loss[0] = 0;
    forward(ctx);
    synchronize(ctx);
    const auto largest = *std::max_element(load_data.begin(), load_data.end());
    last = static_cast<double>(largest) * static_cast<double>(count) / static_cast<double>(tokens * 4) - 1;
    if (step == 0) first = last;
    if (step % 50 == 0) {
      std::printf("step %3d  largest load over mean, minus one: %.3f   load", step, last);
      for (const auto assignments : load_data) std::printf(" %3lld", static_cast<long long>(assignments));
      std::printf("\n");
    }
    op::routing_bias<P>::update(ctx, {.load = load, .bias = bias, .rate = 0.005});
  }
  const auto least = *std::min_element(load_data.begin(), load_data.end());
  return last < 0.5 * first && least > 0 ? 0 : 1;
}
