// SPDX-License-Identifier: MIT
// Tour, stop 6: the whole model learns a text, in one loop one can read. dsv3-train is this loop with care
// for files.
#include <support/tour.hpp>

#include <dsv3/train/data.hpp>
#include <dsv3/train/schedule.hpp>
#include <dsv3/train/step.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

using namespace dsv3;
using P = fp32;
using layout = compact_layout;

// A sentence that is easy to learn: what follows what never changes.
std::string verses() {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += "the latent is small, the heads are many, and the experts take turns.\n";
  return text;
}

int main() {
  // A model with every feature on, narrow enough for a few seconds.
  model_config config = model_config::tiny();
  config.vocab = byte_tokens::count;
  config.hidden = 64;
  config.layers = 2;
  config.dense_inner = 128;
  config.expert_inner = 32;
  config.init_deviation = 0.05;
  require(config.check());

  constexpr index_t steps = 60;
  const step_shape shape{.rows = 8, .length = 32};
  const deepseek_v3<P, layout> model{config};

  // All state comes from one resource, in a few allocations; scratch is exactly what a step was measured to
  // take.
  tour::place here;
  auto& memory = here.memory;
  training_state<P, layout> state{memory, model, shape};
  auto ctx = here.context();
  ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
  initialize_state(ctx, state, /*seed=*/1);
  std::size_t bytes = ctx.scratch.capacity();
  for (const memory_part& part : state.parts()) bytes += part.bytes;
  std::printf("%lld parameters, %.1f MiB\n", static_cast<long long>(elements_of<model_masters<P>>(config)),
              static_cast<double>(bytes) / (1 << 20));

  // Rows hold one token more than they predict, and one more for each MTP module.
  const std::string text = verses();
  row_reader rows{{text}, shape.length, 1 + config.mtp_depth, /*seed=*/1};
  const training_schedule schedule = training_schedule::short_run({.steps = steps,
                                                                   .sequences = shape.rows,
                                                                   .peak = 5e-3,
                                                                   .final = 5e-4,
                                                                   .warmup_steps = 5,
                                                                   .bias_rate = 0.01});

  step_report first, last;
  for (index_t step = 0; step < steps; ++step) {
    for (index_t row = 0; row < shape.rows; ++row) rows.next(state.tokens.ids[0][row]);
    const token_batch batch = state.micro_batch(0, shape.rows);
    const auto now = schedule.at({.steps = step, .tokens = state.progress.tokens});
    last = train_step(ctx, model, state, std::span(&batch, 1),
                      {.learning_rate = now.learning_rate,
                       .bias_rate = now.bias_rate,
                       .mtp_weight = now.mtp_weight,
                       .balance = {.coefficient = 1e-4}});
    if (step == 0) first = last;
    if (!last.updated)
      std::printf("step %lld is skipped: %s\n", static_cast<long long>(step), last.bad.c_str());
    if (step % 10 == 9)
      std::printf("step %3lld  cross entropy %.3f  MTP %.3f  balance %.1e  norm %.2f  load violation %.2f\n",
                  static_cast<long long>(step + 1), last.ce, last.mtp, last.balance, last.grad_norm,
                  max_violation(state.reported.load[0]));
  }

  // Every byte begins as likely as any other, and the sentence is then known almost by heart.
  const bool began_ignorant = std::fabs(first.ce - std::log(static_cast<double>(config.vocab))) < 0.5;
  return began_ignorant && last.ce < 0.5 * first.ce && last.mtp < 0.7 * first.mtp ? 0 : 1;
}
