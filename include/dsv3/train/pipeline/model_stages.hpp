// SPDX-License-Identifier: MIT
// A rank's stages of the network under a pipeline schedule: what they compute, and what they keep of
// micro-batches that are under way.
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/model/stage_split.hpp>
#include <dsv3/train/pipeline/execute.hpp>
#include <dsv3/train/pipeline/methods.hpp>
#include <dsv3/train/step.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

/// The stages of a rank, chunk by chunk: what model_config::held is to be.
inline std::vector<model_stage> stages_of(const placement& places, int rank,
                                          const std::vector<model_stage>& split) {
  std::vector<model_stage> held;
  for (int chunk = 0; chunk < places.chunks(); ++chunk)
    held.push_back(split.at(static_cast<std::size_t>(places.stage_of({rank, chunk}))));
  return held;
}

namespace detail {

/// Rooms that units take and leave: as many are made as are ever taken at once.
template <class Room>
class rooms {
 public:
  /// The unit's room: the one it has, else a free one, else one that is made.
  template <class Make>
  Room& of(const unit& u, Make&& make) {
    for (auto& [taker, room] : taken_)
      if (taker == u) return *room;
    if (free_.empty()) {
      all_.push_back(std::make_unique<Room>(make()));
      free_.push_back(all_.back().get());
    }
    taken_.emplace_back(u, free_.back());
    free_.pop_back();
    return *taken_.back().second;
  }
  void leave(const unit& u) {
    const auto found =
        std::find_if(taken_.begin(), taken_.end(), [&](const auto& t) { return t.first == u; });
    free_.push_back(found->second);
    taken_.erase(found);
  }
  /// Of a step that was broken off.
  void leave_all() {
    for (auto& [taker, room] : taken_) free_.push_back(room);
    taken_.clear();
  }

  std::size_t made() const { return all_.size(); }
  std::size_t taken() const { return taken_.size(); }

 private:
  std::vector<std::unique_ptr<Room>> all_;
  std::vector<Room*> free_;
  std::vector<std::pair<unit, Room*>> taken_;
};

}  // namespace detail

/// Takes the micro-batches of a step through this rank's stages, in the order of a schedule: a `Passes` of
/// train_step. Memory for what micro-batches keep is taken when it is first needed and kept; scratch_bytes,
/// which goes through the schedule once, makes all of it.
template <precision P, layout_policy L = default_layout>
class model_stages {
 public:
  /// `ranks` are those of the pipeline, `split` the blocks of all its stages.
  model_stages(memory_resource& memory, const method& schedules, any_communicator ranks,
               const std::vector<model_stage>& split)
      : memory_(memory),
        schedules_(schedules),
        ranks_(std::move(ranks)),
        stages_(stages_of(schedules.places(ranks_.size()), ranks_.rank(), split)),
        written_(stages_.size()) {}

  const std::vector<model_stage>& stages() const { return stages_; }

  template <execution_context Ctx>
  void operator()(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state,
                  std::span<const micro_batch> batches, double mtp_weight) {
    const plan& made = plan_for(static_cast<int>(batches.size()));
    step_ = {&model, &state, batches, mtp_weight, &made};
    saved_.leave_all(), deltas_.leave_all(), arrived_.leave_all(), leaving_.leave_all();
    written_.assign(stages_.size(), {});
    if (model.config.holds_embedding())
      op::fill<gradient<P>>::constant(ctx, {.y = state.gradients.embedding.flat(), .value = 0});
    made.run.run(ctx, ranks_, *this);
  }

  /// The losses of one micro-batch on every rank of the pipeline, in the first row of the step's; nothing is
  /// kept and no load counted.
  template <execution_context Ctx>
  void look(Ctx& ctx, const deepseek_v3<P, L>& model, training_state<P, L>& state, const micro_batch& of) {
    step_ = {&model, &state, {&of, 1}, 0, nullptr};
    const view<double, 1> losses = state.numbers.losses[0];
    op::fill<double>::constant(ctx, {.y = losses, .value = 0});
    const placement places = schedules_.places(ranks_.size());
    for (int stage = 0; stage < places.stages(); ++stage) {
      const location here = places.at(0, stage);
      if (here.rank != ranks_.rank()) continue;
      const unit u{0, here.chunk};
      if (stage > 0 && places.before(here).rank != here.rank)
        ranks_.receive(ctx, room(arrived_, u).flat(), places.before(here).rank);
      go_forward(ctx, u, {});
      if (stage + 1 < places.stages()) {
        const location next = places.after(here);
        const auto out = saved(u).output();
        if (next.rank == here.rank)
          copy_rows(ctx, out, room(arrived_, {0, next.chunk}));
        else
          ranks_.send(ctx, view<const activation<P>, 1>{out.flat()}, next.rank);
      }
      saved_.leave(u);
    }
    ranks_.all_reduce(ctx, losses, reduction::sum);
  }

  // ---- what the executor asks for: see pipeline_stages

  template <class Ctx>
  void forward(Ctx& ctx, unit u) {
    go_forward(ctx, u, step_.state->routing.load);
  }
  template <class Ctx>
  void backward(Ctx& ctx, unit u) {
    const micro_batch& of = batch_of(u);
    step_.model->backward(ctx, {.batch = of.batch,
                                .weights = step_.state->weights,
                                .bias = step_.state->routing.bias,
                                .rope = step_.state->rope,
                                .balance = of.balance,
                                .mtp_weight = step_.mtp_weight,
                                .saved = saved(u),
                                .gradients = step_.state->gradients,
                                .into = first(written_of(u).data),
                                .dx = begins(u) ? view<activation<P>, 2>{} : room(leaving_, u),
                                .dy = ends(u) ? view<activation<P>, 2>{} : room(arrived_, u)});
    written_of(u).weights = true;
    if (!ends(u)) arrived_.leave(u);
    saved_.leave(u);
  }
  template <class Ctx>
  void input_gradient(Ctx& ctx, unit u) {
    const micro_batch& of = batch_of(u);
    step_.model->backward_data(ctx, {.batch = of.batch,
                                     .weights = step_.state->weights,
                                     .bias = step_.state->routing.bias,
                                     .rope = step_.state->rope,
                                     .balance = of.balance,
                                     .mtp_weight = step_.mtp_weight,
                                     .saved = saved(u),
                                     .gradients = step_.state->gradients,
                                     .into = first(written_of(u).data),
                                     .dx = begins(u) ? view<activation<P>, 2>{} : room(leaving_, u),
                                     .deltas = deltas(u)});
  }
  template <class Ctx>
  void weight_gradient(Ctx& ctx, unit u) {
    const micro_batch& of = batch_of(u);
    step_.model->backward_weights(ctx, {.batch = of.batch,
                                        .weights = step_.state->weights,
                                        .bias = step_.state->routing.bias,
                                        .rope = step_.state->rope,
                                        .balance = of.balance,
                                        .saved = saved(u),
                                        .deltas = deltas(u),
                                        .gradients = step_.state->gradients,
                                        .into = first(written_of(u).weights)});
    deltas_.leave(u);
    saved_.leave(u);
  }
  /// One after the other; the backward first, which gives back what the forward takes.
  template <class Ctx>
  void overlapped(Ctx& ctx, unit u, unit back) {
    backward(ctx, back);
    forward(ctx, u);
  }

  std::span<std::byte> incoming(unit u, payload p) { return bytes(input(u, p)); }
  std::span<const std::byte> outgoing(unit u, payload p) { return bytes(output(u, p)); }
  void sent(unit u, payload p) {
    if (p == payload::gradient) leaving_.leave(u);
  }
  template <class Ctx>
  void hand_on(Ctx& ctx, unit u, unit v, payload p) {
    copy_rows(ctx, output(u, p), input(v, p));
    sent(u, p);
  }

  /// Micro-batches whose activations were kept at once, most of all so far; and of which the weight half was
  /// owed.
  std::size_t saved_rooms() const { return saved_.made(); }
  std::size_t delta_rooms() const { return deltas_.made(); }
  /// Whether nothing is under way.
  bool idle() const { return saved_.taken() + deltas_.taken() + arrived_.taken() + leaving_.taken() == 0; }

 private:
  // A schedule, and which of this rank's units go backward in halves.
  struct plan {
    executor run;
    std::vector<char> halved;  // by chunk and micro-batch
  };
  struct tensor_room {
    memory_block block;
    view<activation<P>, 2> values;
  };
  // Long enough for any chunk's; the fields lie as the last taker's chunk wants them.
  template <class Bundle>
  struct bundle_room {
    memory_block block;
    Bundle bundle = {};
    int chunk = -1;
  };
  // Which gradients of a chunk hold a micro-batch's: until then the next one writes them.
  struct writing {
    bool data = false, weights = false;
  };
  struct step {
    const deepseek_v3<P, L>* model = nullptr;
    training_state<P, L>* state = nullptr;
    std::span<const micro_batch> batches;
    double mtp_weight = 0;
    const plan* made = nullptr;
  };

  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  std::size_t number(const unit& u) const { return at(u.chunk) * step_.batches.size() + at(u.micro_batch); }

  const plan& plan_for(int micro_batches) {
    if (const auto found = plans_.find(micro_batches); found != plans_.end()) return found->second;
    plan made{executor{schedules_.make(ranks_.size(), micro_batches)}, {}};
    made.halved.resize(stages_.size() * at(micro_batches));
    std::vector<writing> written(stages_.size());
    for (const instruction& i : made.run.of().ranks[at(ranks_.rank())]) {
      if (is_message(i)) continue;
      if (i.what == act::input_gradient) {
        made.halved[at(i.of.chunk) * at(micro_batches) + at(i.of.micro_batch)] = 1;
        written[at(i.of.chunk)].data = true;
      } else if (i.what == act::weight_gradient) {
        written[at(i.of.chunk)].weights = true;
      } else if (i.what != act::forward) {
        writing& of = written[at(backward_unit(i).chunk)];
        if (of.data != of.weights)
          raise(made.run.of().name + ": rank " + std::to_string(ranks_.rank()) + " has the " + to_string(i) +
                " while its chunk owes its first weight gradient, expected that before");
        of = {true, true};
      }
    }
    return plans_.emplace(micro_batches, std::move(made)).first->second;
  }

  const micro_batch& batch_of(const unit& u) const { return step_.batches[at(u.micro_batch)]; }
  bool begins(const unit& u) const { return step_.model->config.begins(stages_[at(u.chunk)]); }
  bool ends(const unit& u) const { return step_.model->config.ends(stages_[at(u.chunk)]); }
  bool halved(const unit& u) const { return step_.made->halved[number(u)] != 0; }
  writing& written_of(const unit& u) { return written_[at(u.chunk)]; }
  static store first(bool& written) { return std::exchange(written, true) ? store::add : store::write; }

  template <class Ctx>
  void go_forward(Ctx& ctx, const unit& u, view<std::int64_t, 2> load) {
    const micro_batch& of = batch_of(u);
    if (!begins(u)) {  // it may have come before there was room for all that forward keeps
      copy_rows(ctx, room(arrived_, u), saved(u).input());
      arrived_.leave(u);
    }
    step_.model->forward(ctx, {.batch = of.batch,
                               .weights = step_.state->weights,
                               .bias = step_.state->routing.bias,
                               .rope = step_.state->rope,
                               .balance = of.balance,
                               .losses = step_.state->numbers.losses[u.micro_batch],
                               .load = load,
                               .saved = saved(u)});
  }

  model_activation_config activation_config(int chunk) const {
    const step_shape& s = step_.state->shape;
    return step_.model->activation_config(s.rows, s.length, s.rows, s.kept, stages_[at(chunk)]);
  }
  template <class Bundle>
  Bundle& bundle(detail::rooms<bundle_room<Bundle>>& rooms, const unit& u) {
    bundle_room<Bundle>& room = rooms.of(u, [&] {
      std::size_t most = 0;
      for (int chunk = 0; chunk < static_cast<int>(stages_.size()); ++chunk)
        most = std::max(most, bytes_of<Bundle>(activation_config(chunk)));
      return bundle_room<Bundle>{.block = memory_block(memory_, most)};
    });
    if (std::exchange(room.chunk, u.chunk) != u.chunk) {
      room.bundle = Bundle{};
      room.bundle.config = activation_config(u.chunk);
      place(room.bundle, room.block.data());
    }
    return room.bundle;
  }
  model_saved<P>& saved(const unit& u) { return bundle(saved_, u); }
  model_deltas<P>& deltas(const unit& u) { return bundle(deltas_, u); }
  view<activation<P>, 2> room(detail::rooms<tensor_room>& rooms, const unit& u) {
    return rooms
        .of(u,
            [&] {
              const index_t tokens = step_.state->shape.rows * step_.state->shape.length;
              const index_t hidden = step_.model->config.hidden;
              tensor_room made{
                  memory_block(memory_, static_cast<std::size_t>(tokens * hidden) * sizeof(activation<P>)),
                  {}};
              made.values = view{reinterpret_cast<activation<P>*>(made.block.data()), tokens, hidden};
              return made;
            })
        .values;
  }
  view<activation<P>, 2> input(const unit& u, payload p) {
    return p == payload::gradient && halved(u) ? deltas(u).output() : room(arrived_, u);
  }
  view<activation<P>, 2> output(const unit& u, payload p) {
    return p == payload::activation ? saved(u).output() : room(leaving_, u);
  }
  template <class Ctx>
  static void copy_rows(Ctx& ctx, view<activation<P>, 2> from, view<activation<P>, 2> to) {
    op::copy<activation<P>, activation<P>>::forward(ctx, {.x = from, .y = to});
  }
  static std::span<std::byte> bytes(view<activation<P>, 2> x) {
    return {reinterpret_cast<std::byte*>(x.data()),
            static_cast<std::size_t>(x.size()) * sizeof(activation<P>)};
  }

  memory_resource& memory_;
  const method& schedules_;
  any_communicator ranks_;
  std::vector<model_stage> stages_;  // by chunk
  std::map<int, plan> plans_;        // by the number of micro-batches
  detail::rooms<bundle_room<model_saved<P>>> saved_;
  detail::rooms<bundle_room<model_deltas<P>>> deltas_;
  detail::rooms<tensor_room> arrived_, leaving_;  // inputs of either pass; gradients for the stage before
  std::vector<writing> written_;
  step step_;
};

}  // namespace dsv3::inline DSV3_ABI::pipeline
