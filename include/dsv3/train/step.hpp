// SPDX-License-Identifier: MIT
// One training step: gradients of all micro-batches, clip, AdamW, bias update; or nothing at all.
#pragma once

#include <dsv3/exec/directly.hpp>
#include <dsv3/exec/measure.hpp>
#include <dsv3/op/optim/adamw.hpp>
#include <dsv3/op/optim/global_norm.hpp>
#include <dsv3/op/quant/adamw_quantizer.hpp>
#include <dsv3/train/state.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What a step is told from outside; a schedule gives learning_rate, bias_rate and mtp_weight.
struct step_options {
  double learning_rate = 0;
  adamw_config optimizer = {};
  double clip = 1;               // largest norm of all gradients together
  double bias_rate = 0.001;      // gamma
  double mtp_weight = 0.3;       // lambda
  balance_options balance = {};  // alpha
};

/// What a step found and did. Losses are means over all targets of the step, on all ranks.
struct step_report {
  double loss = 0;  // ce + mtp_weight * mtp + balance
  double ce = 0;
  double mtp = 0;      // mean over the depths; 0 without MTP
  double balance = 0;  // alpha included
  double grad_norm = 0;
  bool updated = false;
  std::string bad = {};  // of a step that was skipped: the first thing that was not finite
};

/// Largest load over mean load, minus one; 0 where nothing was routed.
inline double max_violation(view<const std::int64_t, 1> load) {
  std::int64_t sum = 0, largest = 0;
  for (index_t e = 0; e < load.extent(0); ++e) sum += load(e), largest = std::max(largest, load(e));
  if (sum == 0) return 0;
  return static_cast<double>(largest) * static_cast<double>(load.extent(0)) / static_cast<double>(sum) - 1;
}

/// A part of a step as forward and backward of the network take it: with the number of targets of the whole
/// step, and the share of its sequences in the balance loss.
struct micro_batch {
  token_batch batch;
  balance_options balance;
};

/// Takes the micro-batches of a step through the network, one after the other. What gradients held before is
/// never read: the first micro-batch writes them.
struct in_turn {
  static constexpr bool alike = true;  // every micro-batch takes the scratch that the first does

  template <execution_context Ctx, precision P, layout_policy L>
  void operator()(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
                  std::span<const micro_batch> batches, double mtp_weight) const {
    for (std::size_t m = 0; m < batches.size(); ++m) {
      model.forward(ctx, {.batch = batches[m].batch,
                          .weights = state.weights,
                          .bias = state.routing.bias,
                          .rope = state.rope,
                          .balance = batches[m].balance,
                          .losses = state.numbers.losses[static_cast<index_t>(m)],
                          .load = state.routing.load,
                          .saved = state.saved});
      model.backward(ctx, {.batch = batches[m].batch,
                           .weights = state.weights,
                           .bias = state.routing.bias,
                           .rope = state.rope,
                           .balance = batches[m].balance,
                           .mtp_weight = mtp_weight,
                           .saved = state.saved,
                           .gradients = state.gradients,
                           .into = m == 0 ? store::write : store::add});
    }
  }

  /// The losses of one micro-batch, in the first row of the step's; no load is counted.
  template <execution_context Ctx, precision P, layout_policy L>
  void look(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
            const micro_batch& of) const {
    model.forward(ctx, {.batch = of.batch,
                        .weights = state.weights,
                        .bias = state.routing.bias,
                        .rope = state.rope,
                        .balance = of.balance,
                        .losses = state.numbers.losses[0],
                        .saved = state.saved});
  }
};

namespace detail {

// Of all tensors of the network, what other ranks hold included.
inline std::vector<std::string> tensor_names(model_config config) {
  config.held.clear();
  model_tensors<float> tensors;
  tensors.config = config;
  std::vector<std::string> names;
  for_each_field([&](const std::string& name, const shape&, auto&) { names.push_back(name); }, tensors);
  return names;
}

/// The phases of a step. None reads on the host what it computes, so all can be measured.
template <precision P, layout_policy L>
struct step_phases {
  const deepseek_v3<P, L>& model;
  training_state<P, L>& state;
  const step_options& options;

  using gradient_norm = op::global_norm<gradient<P>>;

  view<double, 1> number(index_t i) const { return state.numbers.norm.rows(i, i + 1); }

  // What the host wrote, to where operations read it.
  template <class Ctx>
  void take_tokens(Ctx& ctx) const {
    const view<const std::int32_t, 1> ids = state.tokens.ids.flat();
    op::copy<std::int32_t, std::int32_t>::forward(ctx,
                                                  {.x = as_row(ids), .y = as_row(state.placed.ids.flat())});
  }
  template <class Ctx>
  void take_pace(Ctx& ctx) const {
    copy_numbers(ctx, state.reported.pace, state.numbers.pace);
  }

  // What operations found, to where the host reads it.
  template <class Ctx>
  void report_losses(Ctx& ctx) const {
    copy_numbers(ctx, state.numbers.losses.flat(), state.reported.losses.flat());
  }
  template <class Ctx>
  void report_norm(Ctx& ctx) const {
    copy_numbers(ctx, state.numbers.norm, state.reported.norm);
  }

  template <class Ctx>
  static void copy_numbers(Ctx& ctx, view<double, 1> from, view<double, 1> to) {
    op::copy<double, double>::forward(ctx, {.x = as_row(from), .y = as_row(to)});
  }
  template <class T>
  static view<T, 2> as_row(view<T, 1> values) {
    return view<T, 2>{values.data(), 1, values.size()};
  }

  // Every loss is a mean over the targets of the whole step; the balance loss one over its sequences.
  template <class Ctx, class Passes = in_turn>
  void gradients(Ctx& ctx, std::span<const token_batch> batches, const std::vector<index_t>& target_counts,
                 index_t sequences, Passes&& passes = {}) const {
    std::vector<micro_batch> all;
    for (const token_batch& batch : batches) {
      micro_batch& each = all.emplace_back(micro_batch{batch, options.balance});
      each.batch.target_counts = target_counts;
      each.balance.coefficient *= static_cast<double>(batch.sequence.sequences()) /
                                  static_cast<double>(std::max<index_t>(sequences, 1));
    }
    passes(ctx, model, state, std::span<const micro_batch>(all), options.mtp_weight);
  }

  // Of all ranks: every tensor's gradient among those that have a copy, each ending with its part; of losses
  // and load all end with the sums.
  template <class Ctx>
  void reduce(Ctx& ctx) const {
    for (const parameter<P>& row : state.parameters) reduce_gradient(ctx, state.ranks, row);
    state.ranks.all.all_reduce(ctx, state.numbers.losses.flat(), reduction::sum);
    state.ranks.all.all_reduce(ctx, state.routing.load.flat(), reduction::sum);
  }

  // Every number of every gradient is in one rank's part.
  template <class Ctx>
  void norm(Ctx& ctx) const {
    op::fill<double>::constant(ctx, {.y = number(0), .value = 0});
    std::vector<view<const gradient<P>, 1>> all;
    for (const parameter<P>& row : state.parameters) all.push_back(row.g);
    gradient_norm::accumulate_all(ctx, {.tensors = all, .sum = number(0)});
    state.ranks.all.all_reduce(ctx, number(0), reduction::sum);
    gradient_norm::finish(ctx, {.sum = number(0),
                                .limit = options.clip,
                                .finite = state.numbers.losses.flat(),
                                .norm = number(1),
                                .scale = number(2)});
  }

  // Leaves everything as it is where the clip factor is not finite. Matrices decay, norm gains do not.
  template <class Ctx>
  void update(Ctx& ctx) const {
    std::vector<typename op::adamw<P, master<P>>::tensor> alone;   // forward reads the masters
    std::vector<typename op::adamw<P, weight<P>>::tensor> beside;  // or weights beside them
    for (const parameter<P>& row : state.parameters) {
      if (row.p.empty()) continue;
      if (moves_tiles(row))
        move_tiles(ctx, row);
      else if (row.all_w.empty())
        alone.push_back({row.g, row.p, row.p, row.m, row.v, row.is_matrix});
      else
        beside.push_back({row.g, row.p, row.w, row.m, row.v, row.is_matrix});
    }
    move_all<master<P>>(ctx, alone);
    move_all<weight<P>>(ctx, beside);
    for (const parameter<P>& row : state.parameters) {
      if (moves_tiles(row)) continue;
      // Weights in tiles are quantised here, once for all products that read them until the next update.
      if (in_tiles(row)) adopt_master<Ctx, master<P>, fp8_e4m3>(ctx, row.p, row.tiles, model.config.recipe);
      gather_weights(ctx, state.ranks, row, model.config.recipe);
    }
    for (index_t r = 0; r < state.routing.bias.extent(0); ++r)
      op::routing_bias<P>::update(ctx, {.load = state.routing.load[r],
                                        .bias = state.routing.bias[r],
                                        .rate = options.bias_rate,
                                        .scale = number(2)});
  }

  template <class Weight, class Ctx>
  void move_all(Ctx& ctx, std::span<const typename op::adamw<P, Weight>::tensor> tensors) const {
    op::adamw<P, Weight>::step_all(
        ctx,
        {.tensors = tensors, .scale = number(2), .config = options.optimizer, .pace = state.numbers.pace});
  }

  static bool in_tiles(const parameter<P>& row) { return !row.tiles.empty() && row.part.whole(); }
  bool moves_tiles(const parameter<P>& row) const {
    return in_tiles(row) && model.config.recipe.weights == scale_group::block;
  }

  // The same of matrices whose weights are tiles that share no scale; these are matrices that decay.
  template <class Ctx>
  void move_tiles(Ctx& ctx, const parameter<P>& row) const {
    op::adamw_quantizer<P>::step(ctx, {.g = row.g,
                                       .scale = number(2),
                                       .p = row.p,
                                       .w = row.tiles,
                                       .m = row.m,
                                       .v = row.v,
                                       .config = options.optimizer,
                                       .pace = state.numbers.pace,
                                       .scales = model.config.recipe.scales});
  }

  // The load of a step is reported and forgotten, whether the step counted or not.
  template <class Ctx>
  void take_load(Ctx& ctx) const {
    op::copy<std::int64_t, std::int64_t>::forward(ctx, {.x = state.routing.load, .y = state.reported.load});
    op::fill<std::int64_t>::constant(ctx, {.y = state.routing.load.flat(), .value = 0});
  }

  // All of a step that is not the host's.
  template <class Ctx, class Passes>
  void run(Ctx& ctx, std::span<const token_batch> batches, const std::vector<index_t>& target_counts,
           index_t sequences, Passes&& passes) const {
    take_tokens(ctx);
    take_pace(ctx);
    op::fill<double>::constant(ctx, {.y = state.numbers.losses.flat(), .value = 0});
    gradients(ctx, batches, target_counts, sequences, passes);
    reduce(ctx);
    norm(ctx);
    update(ctx);
    take_load(ctx);
    report_losses(ctx);
    report_norm(ctx);
  }

  // The first thing that is not finite: the losses, then the gradients in the order of the table of contents.
  template <class Ctx>
  std::string first_bad(Ctx& ctx) const {
    const index_t depths = state.reported.config.depths;
    for (index_t k = 0; k <= depths; ++k)
      if (!std::isfinite(state.reported.sum_of_losses(k)))
        return k == 0        ? std::string("the cross entropy")
               : k == depths ? std::string("the balance loss")
                             : "the MTP loss of depth " + std::to_string(k);
    const std::vector<std::string> names = tensor_names(model.config);
    auto first = names.size();
    for (const parameter<P>& row : state.parameters) {
      if (row.g.empty()) continue;
      op::fill<double>::constant(ctx, {.y = number(0), .value = 0});
      gradient_norm::accumulate(ctx, {.x = row.g, .sum = number(0)});
      report_norm(ctx);
      synchronize(ctx);
      if (std::isfinite(state.reported.norm(0))) continue;
      first = static_cast<std::size_t>(std::find(names.begin(), names.end(), row.name) - names.begin());
      break;
    }
    // The first of any rank.
    state.reported.norm(0) = static_cast<double>(first);
    state.ranks.all.all_reduce(ctx, state.reported.norm.rows(0, 1), reduction::min);
    synchronize(ctx);
    first = static_cast<std::size_t>(state.reported.norm(0));
    if (first < names.size()) return "the gradient of " + names[first];
    return "the norm of all gradients";
  }
};

// What the work of a step depends on besides memory that stays where it is.
inline std::vector<double> numbers_of(std::span<const token_batch> batches, const step_options& options,
                                      const std::vector<index_t>& target_counts, index_t sequences) {
  const adamw_config& adam = options.optimizer;
  std::vector<double> numbers{adam.beta1,
                              adam.beta2,
                              adam.epsilon,
                              adam.weight_decay,
                              options.clip,
                              options.bias_rate,
                              options.mtp_weight,
                              options.balance.coefficient,
                              static_cast<double>(options.balance.indicator),
                              static_cast<double>(sequences)};
  for (const index_t count : target_counts) numbers.push_back(static_cast<double>(count));
  for (const token_batch& batch : batches) {
    numbers.push_back(__builtin_bit_cast(double, batch.inputs.data()));
    numbers.push_back(static_cast<double>(batch.inputs.extent(0)));
  }
  return numbers;
}

}  // namespace detail

/// One step over `batches`, at most state.shape.micro_batches of them. With a loss or a gradient that is not
/// finite nothing is updated: weights, moments and routing bias stay as they are, the load is dropped, and
/// the step counts as skipped. The load of the step is in state.reported.load afterwards. Waits for the
/// context. Every rank of the run takes the step with micro-batches of its own, as many as the others, and
/// gets the same report; ranks of one pipeline take the same micro-batches, through `passes`.
template <execution_context Ctx, precision P, layout_policy L, class Execute = directly,
          class Passes = in_turn>
step_report train_step(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
                       std::span<const token_batch> batches, const step_options& options,
                       Execute&& execute = {}, Passes&& passes = {}) {
  const index_t depths = 1 + model.config.mtp_depth;
  if (batches.empty() || static_cast<index_t>(batches.size()) > state.shape.micro_batches)
    raise("train_step: " + std::to_string(batches.size()) + " micro-batches found, expected 1 to " +
          std::to_string(state.shape.micro_batches));
  training_progress& progress = state.progress;
  const auto counts = state.reported.target_counts;
  for (index_t k = 0; k <= depths; ++k) {
    counts(k) = 0;
    for (const token_batch& batch : batches)
      counts(k) +=
          k < depths ? batch.target_counts.at(static_cast<std::size_t>(k)) : batch.sequence.sequences();
  }
  state.ranks.tokens.all_reduce(ctx, counts, reduction::sum);
  synchronize(ctx);
  const std::vector<index_t> targets(counts.data(), counts.data() + depths);
  const index_t sequences = counts(depths);
  const auto pace = options.optimizer.pace(options.learning_rate, progress.updates + 1);
  std::copy(pace.begin(), pace.end(), state.reported.pace.data());

  const detail::step_phases<P, L> phases{model, state, options};
  execute(ctx, detail::numbers_of(batches, options, targets, sequences),
          [&](auto& at) { phases.run(at, batches, targets, sequences, passes); });
  synchronize(ctx);

  step_report report;
  report.ce = state.reported.sum_of_losses(0);
  for (index_t k = 1; k < depths; ++k)
    report.mtp += state.reported.sum_of_losses(k) / static_cast<double>(depths - 1);
  report.balance = state.reported.sum_of_losses(depths);
  report.loss = report.ce + options.mtp_weight * report.mtp + report.balance;
  report.grad_norm = state.reported.norm(1);
  report.updated = std::isfinite(state.reported.norm(2));
  if (!report.updated) report.bad = phases.first_bad(ctx);

  progress.step += 1;
  progress.tokens += state.ranks.tokens.size() * static_cast<index_t>(batches.size()) * state.shape.rows *
                     state.shape.length;
  progress.updates += report.updated ? 1 : 0;
  progress.skipped += report.updated ? 0 : 1;
  progress.skipped_in_row = report.updated ? 0 : progress.skipped_in_row + 1;
  return report;
}

/// The losses of one batch, without gradients; neither the load nor anything else of the run is changed.
/// Ranks that share a network call it together with the same batch.
template <execution_context Ctx, precision P, layout_policy L, class Passes = in_turn>
step_report evaluate(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
                     const token_batch& batch, const step_options& options, Passes&& passes = {}) {
  const index_t depths = 1 + model.config.mtp_depth;
  const detail::step_phases<P, L> phases{model, state, options};
  phases.take_tokens(ctx);
  passes.look(ctx, model, state, micro_batch{batch, options.balance});
  phases.report_losses(ctx);
  synchronize(ctx);
  step_report report;
  const view<const double, 1> found = state.reported.losses[0];
  report.ce = found(0);
  for (index_t k = 1; k < depths; ++k) report.mtp += found(k) / static_cast<double>(depths - 1);
  report.balance = found(depths);
  report.loss = report.ce + options.mtp_weight * report.mtp + report.balance;
  return report;
}

/// The scratch bytes that a step, an evaluation and the initialisation take at most, and into `paths` which
/// bodies they get; the state may be a plan.
template <execution_context Ctx, precision P, layout_policy L, class Passes = in_turn>
std::size_t scratch_bytes(const Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
                          path_list* paths = nullptr, Passes&& passes = {}) {
  step_options options;
  options.balance.coefficient = 1;  // with the balance loss, whose gradient takes scratch
  const detail::step_phases<P, L> phases{model, state, options};
  // The data of the batch's views is not read.
  constexpr bool one_tells = requires { std::remove_cvref_t<Passes>::alike; };
  const std::vector<token_batch> batches(one_tells ? 1 : static_cast<std::size_t>(state.shape.micro_batches),
                                         state.micro_batch(0, state.shape.rows));
  const auto work = [&](auto& probe) {
    for (const parameter<P>& row : state.parameters) initialize_parameter(probe, row, model.config, 0);
    phases.run(probe, batches, batches.front().target_counts, state.shape.rows, passes);
  };
  return measure(ctx, work, paths);
}

}  // namespace dsv3::inline DSV3_ABI
