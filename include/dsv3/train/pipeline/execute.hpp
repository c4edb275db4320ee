// SPDX-License-Identifier: MIT
// Runs a rank's list of a schedule: its stages compute, a communicator carries what passes between them.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/comm/communicator.hpp>
#include <dsv3/train/pipeline/simulate.hpp>
#include <dsv3/train/pipeline/verify.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

/// The stages of one rank, chunk by chunk. Computing finds its input where `incoming` pointed or `hand_on`
/// put it; the first stage of a route has its own, and so has the backward of the last: the loss.
///   forward, backward, input_gradient, weight_gradient, overlapped     as the acts of a schedule
///   incoming(u, p)        where the input of u's forward, or the gradient for its backward, is to be
///   received outgoing(u, p)        the output of u's forward, or the gradient of its input, until `sent(u,
///   p)` hand_on(ctx, u, v, p) the same from chunk to chunk of this rank: from u just computed to v that
///   comes next
template <class Stages, class Ctx>
concept pipeline_stages = requires(Stages& stages, Ctx& ctx, unit u, unit v, payload p) {
  stages.forward(ctx, u);
  stages.backward(ctx, u);
  stages.input_gradient(ctx, u);
  stages.weight_gradient(ctx, u);
  stages.overlapped(ctx, u, v);
  stages.hand_on(ctx, u, v, p);
  stages.sent(u, p);
  { stages.outgoing(u, p) } -> std::convertible_to<std::span<const std::byte>>;
  { stages.incoming(u, p) } -> std::convertible_to<std::span<std::byte>>;
};

/// When a rank ran each entry of its list, in seconds since `origin`, which ranks that are to be compared
/// share. On a GPU: when the host had enqueued it.
struct execution_record {
  std::chrono::steady_clock::time_point origin = std::chrono::steady_clock::now();
  std::vector<time_span> spans = {};
};

/// A schedule that has been verified, to be run as often as there are steps.
class executor {
 public:
  explicit executor(schedule s) : schedule_(std::move(s)) { require(verify(schedule_)); }

  const schedule& of() const { return schedule_; }

  /// The list of rank comm.rank(). Messages that stand between two computings go in one exchange.
  template <class Ctx, class Communicator, class Stages>
    requires pipeline_stages<Stages, Ctx>
  void run(Ctx& ctx, const Communicator& comm, Stages& stages, execution_record* record = nullptr) const {
    if (comm.size() != schedule_.places.ranks())
      raise(schedule_.name + " has " + std::to_string(schedule_.places.ranks()) +
            " ranks, the communicator has " + std::to_string(comm.size()));
    const int rank = comm.rank();
    const std::vector<instruction>& list = schedule_.ranks[static_cast<std::size_t>(rank)];
    const auto now = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - record->origin).count();
    };
    if (record) record->spans.assign(list.size(), {});
    for (std::size_t n = 0, end; n < list.size(); n = end) {
      for (end = n + 1; is_message(list[n]) && end < list.size() && is_message(list[end]);) ++end;
      const double begin = record ? now() : 0;
      if (is_message(list[n]))
        exchange(ctx, comm, stages, std::span{list}.subspan(n, end - n));
      else
        compute(ctx, stages, rank, list[n]);
      if (record)
        for (std::size_t i = n; i < end; ++i) record->spans[i] = time_span{begin, now()};
    }
  }

 private:
  template <class Ctx, class Communicator, class Stages>
  static void exchange(Ctx& ctx, const Communicator& comm, Stages& stages,
                       std::span<const instruction> messages) {
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (const instruction& i : messages)
      if (i.what == act::send) {
        const std::span<const std::byte> data = stages.outgoing(i.of, i.carries);
        out.push_back({i.peer, data.data(), data.size()});
      } else {
        const std::span<std::byte> data = stages.incoming(i.of, i.carries);
        in.push_back({i.peer, data.data(), data.size()});
      }
    comm.exchange(ctx, out, in);
    for (const instruction& i : messages)
      if (i.what == act::send) stages.sent(i.of, i.carries);
  }

  template <class Ctx, class Stages>
  void compute(Ctx& ctx, Stages& stages, int rank, const instruction& i) const {
    switch (i.what) {
      case act::forward:
        stages.forward(ctx, i.of);
        break;
      case act::backward:
        stages.backward(ctx, i.of);
        break;
      case act::input_gradient:
        stages.input_gradient(ctx, i.of);
        break;
      case act::weight_gradient:
        stages.weight_gradient(ctx, i.of);
        break;
      default:
        stages.overlapped(ctx, i.of, i.back);
    }
    if (goes_forward(i)) hand_on(ctx, stages, rank, i.of, payload::activation);
    if (goes_backward(i)) hand_on(ctx, stages, rank, backward_unit(i), payload::gradient);
  }

  template <class Ctx, class Stages>
  void hand_on(Ctx& ctx, Stages& stages, int rank, const unit& u, payload carries) const {
    const placement& places = schedule_.places;
    const location here{rank, u.chunk};
    const bool forward = carries == payload::activation;
    if (forward ? places.is_last(here) : places.is_first(here)) return;
    const location next = forward ? places.after(here) : places.before(here);
    if (next.rank == rank) stages.hand_on(ctx, u, unit{u.micro_batch, next.chunk}, carries);
  }

  schedule schedule_;
};

}  // namespace dsv3::inline DSV3_ABI::pipeline
