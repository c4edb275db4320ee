// SPDX-License-Identifier: MIT
// The trainer of one precision; included by one source file for each.
#pragma once

#include "cpu_place.hpp"
#include "operand_watch.hpp"
#include "rank_layout.hpp"
#include "shadow.hpp"
#include "state_files.hpp"
#include "text_decoder.hpp"
#include "trainer.hpp"

#include <support/gpu.hpp>

#include <dsv3/exec/counting_memory.hpp>
#include <dsv3/train/whole_state.hpp>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

namespace dsv3_train {

template <dsv3::precision P, class Place = cpu_place>
class trainer_of final : public trainer {
  using model_type = dsv3::deepseek_v3<P, typename Place::layout>;
  using state_type = dsv3::training_state<P, typename Place::layout>;
  using stages_type = dsv3::pipeline::model_stages<P, typename Place::layout>;
  // Several ranks are on the CPU, and so are steps that are watched or made in BF16 beside.
  static constexpr bool on_cpu = std::is_same_v<Place, cpu_place>;
  static constexpr bool watches = dsv3::tilewise<P> && on_cpu;

 public:
  trainer_of(const run_settings& settings, const dsv3::training_data& data,
             const dsv3::any_communicator& world)
      : settings_(settings),
        ranks_(settings, world),
        place_(threads_of(settings)),
        model_{ranks_.config, Place::head_chunk_tokens, ranks_.mesh.experts},
        state_(place_.memory(), model_, ranks_.shape, ranks_.groups),
        training_(data.training(), settings.shape.length, ahead(), settings.seed),
        held_out_(data.held_out(), settings.shape.length, ahead(), settings.seed, dsv3::row_order::as_given),
        data_sum_(data.sum()),
        ctx_(place_.make_context()) {
    if (training_.rows() == 0)
      dsv3::raise("data: " + std::to_string(training_.tokens()) + " tokens of training text, one row needs " +
                  std::to_string(settings.shape.length + ahead()) + ": give more text or a smaller --seq");
    dsv3::path_list paths;
    if constexpr (on_cpu)
      if (ranks_.pipelined())
        stages_.emplace(place_.memory().work, ranks_.schedules, ranks_.mesh.stages, ranks_.split);
    const std::size_t scratch =
        through([&](auto&& passes) { return dsv3::scratch_bytes(ctx_, model_, state_, &paths, passes); });
    ctx_.scratch = dsv3::scratch_arena{place_.memory().work, scratch};
    if (settings.on_gpu) support::print_paths(stdout, paths);
    dsv3::initialize_state(ctx_, state_, settings.seed);
    state_.progress.data_sum = data_sum_;
    state_.progress.tokenizer_sum = settings.source.tokenizer.sum;
    state_.progress.data_length = settings_.shape.length;
    options_.optimizer = settings.optimizer;
    options_.clip = settings.clip;
    options_.balance.coefficient = settings.balance;
  }

  static std::vector<dsv3::memory_part> plan(const run_settings& settings,
                                             const dsv3::any_communicator& world) {
    dsv3::counting_memory imagined;
    const rank_layout ranks{settings, world};
    const model_type model{ranks.config, Place::head_chunk_tokens, ranks.mesh.experts};
    state_type state{imagined, model, ranks.shape, ranks.groups};
    std::vector<dsv3::memory_part> parts = state.parts();
    const auto ctx = Place::plan_context(threads_of(settings));
    std::size_t scratch = 0;
    if constexpr (on_cpu)
      if (ranks.pipelined()) {
        const std::size_t before = imagined.in_use();
        stages_type stages{imagined, ranks.schedules, ranks.mesh.stages, ranks.split};
        scratch = dsv3::scratch_bytes(ctx, model, state, nullptr, stages);
        parts.push_back({"micro-batches", imagined.in_use() - before});
      }
    if (scratch == 0) scratch = dsv3::scratch_bytes(ctx, model, state);
    parts.push_back({"scratch", scratch});
    return parts;
  }
  static std::unique_ptr<trainer> make(const run_settings& settings, const dsv3::training_data& data,
                                       const dsv3::any_communicator& world) {
    return std::make_unique<trainer_of>(settings, data, world);
  }

  bool agreed(bool said) override {
    if (ranks_.alone()) return said;
    std::int32_t any = said;
    ranks_.mesh.world.all_reduce(ctx_, dsv3::view<std::int32_t, 1>{&any, 1}, dsv3::reduction::max);
    return any != 0;
  }

  const dsv3::training_progress& progress() const override { return state_.progress; }

  step_record step() override {
    const auto begin = std::chrono::steady_clock::now();
    const auto& done = state_.progress;
    const auto values =
        settings_.schedule.at(dsv3::schedule_position{.steps = done.step, .tokens = done.tokens});
    options_.learning_rate = values.learning_rate;
    options_.bias_rate = values.bias_rate;
    options_.mtp_weight = values.mtp_weight;
    const index_t rows = ranks_.shape.rows;
    const index_t wanted =
        std::clamp(values.sequences / rows / ranks_.readers(), index_t{1}, ranks_.shape.micro_batches);
    // All ranks go through the same rows; each keeps its stretch of the step's.
    std::vector<dsv3::token_batch> batches;
    for (index_t m = 0; m < wanted * ranks_.readers(); ++m) {
      const index_t own = m - ranks_.reader() * wanted;
      const bool mine = 0 <= own && own < wanted;
      for (index_t row = 0; row < rows; ++row)
        training_.next(mine ? state_.tokens.ids[own][row] : passed_over());
      if (mine) batches.push_back(state_.micro_batch(own, rows));
    }
    step_record record;
    if constexpr (watches)
      if (settings_.shadow_every > 0 && (done.step + 1) % settings_.shadow_every == 0)
        record.shadow = beside(batches);
    record.report = through([&](auto&& passes) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(passes)>, dsv3::in_turn>)
        return dsv3::train_step(ctx_, model_, state_, batches, options_, execute_, passes);
      else
        return dsv3::train_step(ctx_, model_, state_, batches, options_, dsv3::directly{}, passes);
    });
    if constexpr (watches)
      if (!record.report.updated && ranks_.alone()) {
        const std::string first = watched(batches).first_not_finite();
        if (!first.empty()) record.report.bad = "a number quantised for " + first;
      }
    record.learning_rate = values.learning_rate;
    record.tokens = wanted * ranks_.readers() * rows * settings_.shape.length;
    state_.progress.data_epoch = training_.cursor().epoch;
    state_.progress.data_position = training_.cursor().row;
    const auto load = state_.reported.load;
    for (index_t r = 0; r < load.extent(0); ++r) {
      record.max_vio.push_back(dsv3::max_violation(load[r]));
      record.load.emplace_back(load[r].data(), load[r].data() + load.extent(1));
    }
    record.seconds = seconds_since(begin);
    return record;
  }

  evaluation evaluate() override {
    const index_t rows = settings_.shape.rows, total = std::min(held_out_.rows(), settings_.eval_rows);
    evaluation result{.rows = total};
    held_out_.seek({});
    for (index_t first = 0; first < total; first += rows) {
      const index_t live = std::min(rows, total - first);
      for (index_t row = 0; row < rows; ++row) {
        const auto ids = state_.tokens.ids[0][row];
        if (row < live)
          held_out_.next(ids);
        else
          for (index_t i = 0; i < ids.size(); ++i) ids(i) = -1;
      }
      const auto report = through([&](auto&& passes) {
        return dsv3::evaluate(ctx_, model_, state_, state_.micro_batch(0, live), options_, passes);
      });
      result.ce += report.ce * static_cast<double>(live) / static_cast<double>(total);
      result.mtp += report.mtp * static_cast<double>(live) / static_cast<double>(total);
    }
    if (settings_.eval_draft > 0 && settings_.model.mtp_depth > 0 && ranks_.first() && ranks_.whole())
      result.drafts = drafts();
    return result;
  }

  text_sample sample(const std::string& prompt, index_t bytes, double temperature) override {
    if (!ranks_.whole()) collect();
    if (!ranks_.first()) return {};
    return decoder().sample(settings_.source.tokenizer.words, prompt, bytes, temperature, settings_.seed);
  }

  void save() override {
    if (ranks_.alone()) {
      place_.bring(ctx_, state_);
      return save_state(settings_.out, place_.filed(state_), settings_.checkpoints_kept,
                        settings_.source.tokenizer.json);
    }
    if (whole_type* all = collect())
      save_state(settings_.out, *all, settings_.checkpoints_kept, settings_.source.tokenizer.json);
    ranks_.mesh.world.barrier();
  }

  std::string load(const std::string& path) override {
    std::string loaded;
    if (ranks_.alone()) {
      loaded = load_state(path, place_.filed(state_));
      place_.send(ctx_, state_);
    } else if constexpr (on_cpu) {
      if (whole_type* all = whole()) loaded = load_state(path, *all);
      dsv3::spread_state(ctx_, whole(), state_);
    }
    const dsv3::training_progress& found = state_.progress;
    if (found.tokenizer_sum != settings_.source.tokenizer.sum)
      dsv3::raise(path + ": the checkpoint was trained with " +
                  (found.tokenizer_sum == 0
                       ? "bytes as tokens"
                       : "the tokenizer of checksum " + std::to_string(found.tokenizer_sum)) +
                  ", this run has " +
                  (settings_.source.tokenizer.bytes()
                       ? "no --tokenizer"
                       : "the one of checksum " + std::to_string(settings_.source.tokenizer.sum)));
    if (found.data_sum != data_sum_)
      dsv3::raise(path + ": the checkpoint was trained on other text (checksum " +
                  std::to_string(found.data_sum) + ", expected " + std::to_string(data_sum_) +
                  "): give the same --data, --held-out and --fim-rate to go on with it");
    if (found.seed != settings_.seed)
      dsv3::raise(path + ": the checkpoint's seed is " + std::to_string(found.seed) + ", --seed is " +
                  std::to_string(settings_.seed));
    if (found.data_length != settings_.shape.length)
      dsv3::raise(path + ": the checkpoint's rows have " + std::to_string(found.data_length) +
                  " tokens, --seq is " + std::to_string(settings_.shape.length));
    training_.seek({.epoch = found.data_epoch, .row = found.data_position});
    return "goes on from " + loaded;
  }

 private:
  index_t ahead() const { return 1 + settings_.model.mtp_depth; }

  dsv3::quantizer_log watched(std::span<const dsv3::token_batch> batches) requires watches {
    return watch_gradients(ctx_.scratch, ctx_.threads, model_, state_, batches, options_);
  }
  shadow_record beside(std::span<const dsv3::token_batch> batches) requires watches {
    if (!shadow_) shadow_ = make_bf16_shadow(settings_);
    std::vector<dsv3::view<const float, 1>> masters;
    for (const dsv3::parameter<P>& row : state_.parameters) masters.push_back(row.p);
    shadow_->run(masters, state_.routing.bias, batches, options_);
    shadow_record record{.gradient_error = {}, .operands = watched(batches).tensors()};
    for (std::size_t i = 0; i < state_.parameters.size(); ++i) {
      const auto mine = state_.parameters[i].g;
      const auto other = shadow_->gradient(i);
      double distance = 0, whole = 0;
      for (index_t e = 0; e < mine.size(); ++e) {
        const double a = mine(e), b = other(e);
        distance += (a - b) * (a - b), whole += b * b;
      }
      record.gradient_error.emplace_back(state_.parameters[i].name,
                                         whole > 0 ? std::sqrt(distance / whole) : std::sqrt(distance));
    }
    return record;
  }

  // Made when it is first needed: not every run evaluates or samples.
  text_decoder<P, Place>& decoder() {
    if constexpr (on_cpu)
      if (!decoder_ && !ranks_.whole())
        decoder_.emplace(place_, settings_, whole()->weights, whole()->routing.bias);
    if (!decoder_) decoder_.emplace(place_, settings_, state_.weights, state_.routing.bias);
    return *decoder_;
  }

  static int threads_of(const run_settings& settings) {
    return std::max(1, settings.threads / settings.mesh.ranks());
  }
  // With the way that micro-batches take here.
  template <class Work>
  auto through(Work&& work) {
    if constexpr (on_cpu)
      if (stages_) return work(*stages_);
    return work(dsv3::in_turn{});
  }
  dsv3::view<std::int32_t, 1> passed_over() {
    other_row_.resize(static_cast<std::size_t>(settings_.shape.length + ahead()));
    return dsv3::view{other_row_.data(), static_cast<index_t>(other_row_.size())};
  }

  // Rank 0's state of the whole network, of the smallest shape: only what is learned counts. Null elsewhere.
  using whole_type = dsv3::training_state<P, layout>;
  whole_type* whole() {
    if (!whole_ && ranks_.first())
      whole_ = std::make_unique<whole_type>(place_.host(), dsv3::deepseek_v3<P, layout>{settings_.model},
                                            dsv3::step_shape{.rows = 1, .length = 1});
    return whole_.get();
  }
  whole_type* collect() {
    if constexpr (on_cpu) dsv3::collect_state(ctx_, state_, whole());
    return whole_.get();
  }

  // Answers to beginnings of the first held-out rows.
  draft_record drafts() {
    const index_t longest = std::min(settings_.shape.length, settings_.model.max_positions);
    const index_t given = std::min(draft_prompt_tokens, (longest + 1) / 2);
    std::vector<std::int32_t> row(static_cast<std::size_t>(settings_.shape.length + ahead()));
    std::vector<std::vector<std::int32_t>> prompts;
    held_out_.seek({});
    for (index_t i = 0; i < std::min(held_out_.rows(), draft_prompts); ++i) {
      held_out_.next(dsv3::view{row.data(), static_cast<index_t>(row.size())});
      prompts.emplace_back(row.begin(), row.begin() + given);
    }
    if (prompts.empty()) return {};
    return decoder().drafts(prompts, std::min(draft_answer_tokens, longest - given));
  }

  static double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  run_settings settings_;
  rank_layout ranks_;
  Place place_;
  model_type model_;
  state_type state_;
  dsv3::row_reader training_, held_out_;
  std::uint32_t data_sum_;
  typename Place::context ctx_;
  typename Place::execution execute_;
  std::optional<text_decoder<P, Place>> decoder_;
  std::unique_ptr<shadow> shadow_;
  std::optional<stages_type> stages_;
  std::unique_ptr<whole_type> whole_;
  std::vector<std::int32_t> other_row_;
  dsv3::step_options options_;
};

}  // namespace dsv3_train
