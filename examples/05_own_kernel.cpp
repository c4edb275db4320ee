// SPDX-License-Identifier: MIT
// Tour, stop 5: one kernel replaced by another, for one context, without editing or registering anything.
#include <support/tour.hpp>

#include <cmath>
#include <cstdio>

// A backend is a type. Naming a parent inherits every body that is not replaced.
struct counting {
  using parent = tour::place::backend;
};

static int replaced_calls = 0;

// RMSNorm's forward with plain loops of the host; backward stays the parent's. Specialise before the first
// use.
template <class P>
struct dsv3::implementation<dsv3::op::rms_norm<P>, counting>
    : dsv3::implementation<dsv3::op::rms_norm<P>, tour::place::backend> {
  using base = dsv3::implementation<dsv3::op::rms_norm<P>, tour::place::backend>;
  using base::run;

  template <class Ctx>
  static void run(Ctx& ctx, const typename dsv3::op::rms_norm<P>::forward_args& args) {
    ++replaced_calls;
    synchronize(ctx);  // a kernel of a GPU would follow what came before by itself
    for (dsv3::index_t t = 0; t < args.x.extent(0); ++t) {
      double squares = 0;
      for (dsv3::index_t i = 0; i < args.x.extent(1); ++i) {
        double value = args.x(t, i);
        if (!args.residual.empty()) value += args.residual(t, i);
        if (!args.sum.empty()) args.sum(t, i) = static_cast<dsv3::activation<P>>(value);
        squares += value * value;
      }
      const double r = 1 / std::sqrt(squares / static_cast<double>(args.x.extent(1)) + args.epsilon);
      for (dsv3::index_t i = 0; i < args.x.extent(1); ++i) {
        const double value = args.residual.empty() ? args.x(t, i) : args.x(t, i) + args.residual(t, i);
        args.y(t, i) = static_cast<dsv3::activation<P>>(value * r * args.gain(i));
      }
      if (!args.rstd.empty()) args.rstd(t) = static_cast<dsv3::accumulator<P>>(r);
    }
  }
};

using namespace dsv3;
using P = fp32;

// The same block runs through any context: it knows contracts, not backends.
template <class Ctx>
shared_array<float> run_block(tour::place& here, Ctx ctx) {
  const model_config config = model_config::tiny();
  const block<P, compact_layout> layer{config.block(0)};
  const index_t tokens = 16, hidden = config.hidden;
  auto& memory = here.memory;
  owned<block_storage<P>> weights{memory, layer.config};
  owned<rope_table<float>> rope{memory, rope_table<float>::config_type{tokens, config.qk_rope}};
  auto x = here.array<float>(tokens * hidden), y = here.array<float>(tokens * hidden);
  auto positions = here.array<std::int32_t>(tokens);
  for (index_t t = 0; t < tokens; ++t) positions[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t);
  const auto offsets = here.array<std::int32_t>({0, static_cast<std::int32_t>(tokens)});
  auto balance_loss = here.array<double>(1);
  const typename block<P, compact_layout>::batch_args batch{
      .sequence = {view{offsets.data(), 2}, view<const std::int32_t, 1>{positions.data(), tokens}, tokens},
      .rope = rope};
  const auto forward = [&](auto& any) {
    layer.forward(any, {.x = view{x.data(), tokens, hidden},
                        .weights = weights,
                        .batch = batch,
                        .y = view{y.data(), tokens, hidden},
                        .balance_loss = view{balance_loss.data(), 1}});
  };
  ctx.scratch = scratch_arena{memory, measure(ctx, forward)};
  op::decoupled_rope<P>::table(ctx, {.rope = config.rope, .table = rope});
  for_each_field(
      [&](const std::string& name, const shape&, auto& field) {
        op::fill<float>::normal(
            ctx, {.y = field.flat(), .random = random_stream::named(5, name), .deviation = 0.1});
      },
      static_cast<block_storage<P>&>(weights));
  op::fill<float>::normal(ctx, {.y = view{x.data(), tokens * hidden}, .random = random_stream{5, 1}});
  forward(ctx);
  synchronize(ctx);
  return y;
}

int main() {
  tour::place here;
  const auto expected = run_block(here, here.context()), found = run_block(here, here.context<counting>());
  double scale = 0, error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    scale = std::fmax(scale, std::fabs(expected[i]));
    error = std::fmax(error, std::fabs(expected[i] - found[i]));
  }
  std::printf("the replaced kernel ran %d times; largest difference %.1e of %.2f\n", replaced_calls, error,
              scale);
  return replaced_calls > 0 && error < 1e-4 * scale ? 0 : 1;
}
