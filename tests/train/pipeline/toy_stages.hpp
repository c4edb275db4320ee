// SPDX-License-Identifier: MIT
// Stages of one multiplication each, whose results only the right order gives.
#pragma once

#include <dsv3/exec/context.hpp>
#include <dsv3/train/pipeline/execute.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace toy {

using namespace dsv3;
using namespace dsv3::pipeline;

using number = std::uint64_t;  // wraps; every operation below can be told from any other order of them

inline number input(int micro_batch) { return 1000003u * static_cast<number>(micro_batch + 1); }
inline number weight(int stage) { return 2u * static_cast<number>(stage) + 3; }
inline number forward_of(int stage, number x) {
  return weight(stage) * x + static_cast<number>(stage * stage + 7);
}
inline number loss_gradient(number y, int micro_batch) {
  return y ^ (0x9e37u + static_cast<number>(micro_batch));
}
inline number backward_of(int stage, number x, number dy) { return weight(stage) * dy + x; }
inline number accumulated(number sum, number x, number dy) { return 31 * sum + x * dy; }

// What crosses between stages: a value, and the time on paper at which it left.
struct parcel {
  number value = 0;
  double time = 0;
};

// Stages of one multiplication, on a clock of their own that computing moves by its duration.
class toy_stages {
 public:
  toy_stages(const schedule& s, int rank, const durations& d, std::chrono::microseconds sleep = {})
      : s_(s), rank_(rank), d_(d), sleep_(sleep), sums(static_cast<std::size_t>(s.places.chunks())) {}

  void forward(cpu_context<>&, unit u) {
    timed(d_.forward, {input_of(u)}, [&] { go_forward(u); });
  }
  void backward(cpu_context<>&, unit u) {
    timed(d_.backward, {gradient_of(u)}, [&] { go_backward(u), add_weight_gradient(u); });
  }
  void input_gradient(cpu_context<>&, unit u) {
    timed(d_.input_gradient, {gradient_of(u)}, [&] { go_backward(u); });
  }
  void weight_gradient(cpu_context<>&, unit u) {
    timed(d_.weight_gradient, {}, [&] { add_weight_gradient(u); });
  }
  void overlapped(cpu_context<>&, unit u, unit back) {
    timed(d_.overlapped, {input_of(u), gradient_of(back)},
          [&] { go_backward(back), add_weight_gradient(back), go_forward(u); });
  }

  std::span<std::byte> incoming(unit u, payload p) { return bytes(in_[key(u, p)]); }
  std::span<const std::byte> outgoing(unit u, payload p) { return bytes(out_.at(key(u, p))); }
  void sent(unit u, payload p) {
    if (out_.erase(key(u, p)) != 1) raise("toy stages: sent what was never made");
  }
  void hand_on(cpu_context<>&, unit u, unit v, payload p) {
    if (s_.places.stage_of({rank_, v.chunk}) !=
        s_.places.stage_of({rank_, u.chunk}) + (p == payload::activation ? 1 : -1))
      raise("toy stages: handed on to a stage that is not the next");
    in_[key(v, p)] = out_.at(key(u, p));
    out_.erase(key(u, p));
  }

  bool empty() const { return in_.empty() && out_.empty() && kept_.empty(); }
  std::size_t most_kept() const { return most_kept_; }

 private:
  using name = std::tuple<int, int, payload>;
  struct kept {
    number x = 0, dy = 0;
  };

  static name key(unit u, payload p) { return {u.micro_batch, u.chunk, p}; }
  static std::span<std::byte> bytes(parcel& p) { return std::as_writable_bytes(std::span{&p, 1}); }
  int stage(unit u) const { return s_.places.stage_of({rank_, u.chunk}); }

  parcel take(unit u, payload p) {
    const auto found = in_.find(key(u, p));
    if (found == in_.end()) raise("toy stages: used what has not come");
    const parcel taken = found->second;
    in_.erase(found);
    return taken;
  }
  // When what a unit needs is here.
  double input_of(unit u) { return stage(u) == 0 ? 0 : in_.at(key(u, payload::activation)).time; }
  double gradient_of(unit u) {
    return stage(u) == s_.places.stages() - 1 ? 0 : in_.at(key(u, payload::gradient)).time;
  }

  template <class Work>
  void timed(double duration, std::vector<double> needs, Work&& work) {
    double begin = clock_;
    for (const double each : needs) begin = std::max(begin, each);
    clock_ = begin + duration;
    paper.push_back({begin, clock_});
    std::this_thread::sleep_for(sleep_ * duration);
    work();
  }
  void go_forward(unit u) {
    const int here = stage(u), last = s_.places.stages() - 1;
    const number x = here == 0 ? input(u.micro_batch) : take(u, payload::activation).value;
    const number y = forward_of(here, x);
    kept_[{u.micro_batch, u.chunk}] = kept{x, 0};
    most_kept_ = std::max(most_kept_, kept_.size());
    if (here < last)
      out_[key(u, payload::activation)] = parcel{y, clock_};
    else
      kept_[{u.micro_batch, u.chunk}].dy = loss_gradient(y, u.micro_batch);
  }
  void go_backward(unit u) {
    const int here = stage(u), last = s_.places.stages() - 1;
    kept& k = kept_.at({u.micro_batch, u.chunk});
    if (here < last) k.dy = take(u, payload::gradient).value;
    if (here > 0) out_[key(u, payload::gradient)] = parcel{backward_of(here, k.x, k.dy), clock_};
  }
  void add_weight_gradient(unit u) {
    const auto k = kept_.find({u.micro_batch, u.chunk});
    if (k == kept_.end()) raise("toy stages: a weight gradient of what is not kept");
    number& sum = sums[static_cast<std::size_t>(u.chunk)];
    sum = accumulated(sum, k->second.x, k->second.dy);
    kept_.erase(k);
  }

  const schedule& s_;
  const int rank_;
  const durations d_;
  const std::chrono::microseconds sleep_;
  std::map<name, parcel> in_, out_;
  std::map<std::pair<int, int>, kept> kept_;
  std::size_t most_kept_ = 0;
  double clock_ = 0;

 public:
  std::vector<number> sums;      // weight gradient of each chunk
  std::vector<time_span> paper;  // of each computing
};

// One micro-batch after the other through all stages: the weight gradient of each, by route and stage.
inline std::vector<std::vector<number>> one_by_one(const schedule& s) {
  const int stages = s.places.stages();
  std::vector<std::vector<number>> sums(static_cast<std::size_t>(s.places.routes()),
                                        std::vector<number>(static_cast<std::size_t>(stages), 0));
  for (int m = 0; m < s.micro_batches; ++m) {
    std::vector<number> x{input(m)};
    for (int stage = 0; stage < stages; ++stage) x.push_back(forward_of(stage, x.back()));
    number dy = loss_gradient(x.back(), m);
    for (int stage = stages; stage-- > 0;) {
      number& sum = sums[static_cast<std::size_t>(s.route_of(m))][static_cast<std::size_t>(stage)];
      sum = accumulated(sum, x[static_cast<std::size_t>(stage)], dy);
      dy = backward_of(stage, x[static_cast<std::size_t>(stage)], dy);
    }
  }
  return sums;
}

/// Runs a rank's list; raises where a weight gradient is not what one micro-batch after the other gives, or
/// where something is left over.
template <class Communicator>
void run_and_compare(const executor& run, const Communicator& comm) {
  cpu_context<> ctx{};
  const schedule& s = run.of();
  toy_stages stages{s, comm.rank(), {}};
  run.run(ctx, comm, stages);
  const std::vector<std::vector<number>> expected = one_by_one(s);
  for (int chunk = 0; chunk < s.places.chunks(); ++chunk) {
    const location here{comm.rank(), chunk};
    if (stages.sums[static_cast<std::size_t>(chunk)] !=
        expected[static_cast<std::size_t>(s.places.route_of(here))]
                [static_cast<std::size_t>(s.places.stage_of(here))])
      raise(s.name + ": the weight gradient of chunk " + std::to_string(chunk) +
            " is not that of one by one");
  }
  if (!stages.empty()) raise(s.name + ": something is left over");
}

}  // namespace toy
