// SPDX-License-Identifier: MIT
// Tour, stop 3: a multi-head latent attention layer, forward and backward, and its gradient against
// differences.
#include <support/tour.hpp>

#include <cmath>
#include <cstdio>

using namespace dsv3;
using P = fp64_reference;  // double everywhere, so that differences are sharp; fp32 and bf16_mixed work alike

int main() {
  // Two sequences of 5 and 3 tokens in one batch. Keys and values come from a latent of 8 numbers a token,
  // and the rotary part of the key, 4 numbers, is shared by the heads: 12 numbers a token is all a cache
  // would hold.
  const mla<P> attention{{.hidden = 24,
                          .heads = 3,
                          .qk_nope = 8,
                          .qk_rope = 4,
                          .v_dim = 8,
                          .kv_rank = 8,
                          .q_rank = 12,
                          .rope = {}}};
  const index_t tokens = 8, hidden = attention.config.hidden;
  tour::place here;
  const auto offsets = here.array<std::int32_t>({0, 5, 8}),
             positions = here.array<std::int32_t>({0, 1, 2, 3, 4, 0, 1, 2});
  const packed_sequences sequence{view{offsets.data(), 3}, view{positions.data(), tokens}, 5};

  // State is a bundle: a plain struct of views. `owned` gives a bundle its memory.
  auto& memory = here.memory;
  owned<mla_storage<P>> weights{memory, attention.config};
  owned<mla_gradients<P>> gradients{memory, attention.config};
  owned<mla_saved<P>> saved{memory, mla_activation_config{attention.config, tokens}};
  owned<rope_table<double>> rope{memory, rope_table<double>::config_type{5, attention.config.qk_rope}};
  const memory_block rows{memory, 4 * static_cast<std::size_t>(tokens * hidden) * sizeof(double)};
  auto* data = reinterpret_cast<double*>(rows.data());
  const view x{data, tokens, hidden}, y{data + x.size(), tokens, hidden},
      dy{data + 2 * x.size(), tokens, hidden}, dx{data + 3 * x.size(), tokens, hidden};

  // A context owns scratch; what a call needs is measured by running it without computing.
  const auto forward = [&](auto& ctx) {
    attention.forward(
        ctx, {.x = x, .weights = weights, .sequence = sequence, .rope = rope, .y = y, .saved = &saved});
  };
  const auto backward = [&](auto& ctx) {
    attention.backward(ctx, {.dy = dy,
                             .x = x,
                             .weights = weights,
                             .sequence = sequence,
                             .rope = rope,
                             .saved = saved,
                             .dx = dx,
                             .gradients = gradients});
  };
  auto ctx = here.context();
  const std::size_t bytes = measure(ctx, [&](auto& probe) { forward(probe), backward(probe); });
  ctx.scratch = scratch_arena{memory, bytes};
  std::printf("scratch: %zu bytes\n", bytes);

  // One table of contents serves to fill, zero, save, reduce or optimise a bundle.
  op::decoupled_rope<P>::table(ctx, {.rope = attention.config.rope, .table = rope});
  for_each_field(
      [&](const std::string& name, const shape& s, auto& field) {
        std::printf("  %-26s %s\n", name.c_str(), to_string(s).c_str());
        op::fill<double>::normal(ctx, {.y = field.flat(),
                                       .random = random_stream::named(1, name),
                                       .mean = s.rank() == 1 ? 1.0 : 0.0,
                                       .deviation = 0.3});
      },
      static_cast<mla_storage<P>&>(weights));
  op::fill<double>::normal(ctx, {.y = x.flat(), .random = random_stream{1, 1}});
  op::fill<double>::normal(ctx, {.y = dy.flat(), .random = random_stream{1, 2}});
  zero(ctx, static_cast<mla_gradients<P>&>(gradients));

  forward(ctx);
  backward(ctx);
  synchronize(ctx);

  // The slope of L = sum(dy * y) along one number, by differences and by backward.
  const auto loss = [&] {
    forward(ctx);
    synchronize(ctx);
    double sum = 0;
    for (index_t i = 0; i < y.size(); ++i) sum += dy.flat()(i) * y.flat()(i);
    return sum;
  };
  const auto agrees = [&](const char* name, double& number, double slope) {
    const double at = number, step = 1e-5;
    number = at + step;
    const double above = loss();
    number = at - step;
    const double below = loss();
    number = at;
    const double difference = (above - below) / (2 * step);
    std::printf("d %-10s backward %+.9f, differences %+.9f\n", name, slope, difference);
    return std::fabs(slope - difference) < 1e-7;
  };
  const bool good = agrees("x", x(3, 7), dx(3, 7)) &
                    agrees("w_dkv", weights.w_dkv(9, 2), gradients.w_dkv(9, 2)) &
                    agrees("w_uq", weights.w_uq(5, 4), gradients.w_uq(5, 4)) &
                    agrees("w_o", weights.w_o(0, 11), gradients.w_o(0, 11));
  return good ? 0 : 1;
}
