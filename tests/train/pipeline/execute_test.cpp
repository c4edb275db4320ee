// SPDX-License-Identifier: MIT
// The executor on ranks that are threads: results that only the right order gives, and the simulated
// timeline.
#include <dsv3/comm/threads.hpp>
#include <dsv3/train/pipeline/execute.hpp>
#include <dsv3/train/pipeline/methods.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

using namespace dsv3;
using namespace dsv3::pipeline;

namespace {

using number = std::uint64_t;  // wraps; every operation below can be told from any other order of them

number input(int micro_batch) { return 1000003u * static_cast<number>(micro_batch + 1); }
number weight(int stage) { return 2u * static_cast<number>(stage) + 3; }
number forward_of(int stage, number x) { return weight(stage) * x + static_cast<number>(stage * stage + 7); }
number loss_gradient(number y, int micro_batch) { return y ^ (0x9e37u + static_cast<number>(micro_batch)); }
number backward_of(int stage, number x, number dy) { return weight(stage) * dy + x; }
number accumulated(number sum, number x, number dy) { return 31 * sum + x * dy; }

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
  void sent(unit u, payload p) { CHECK(out_.erase(key(u, p)) == 1); }
  void hand_on(cpu_context<>&, unit u, unit v, payload p) {
    CHECK(s_.places.stage_of({rank_, v.chunk}) ==
          s_.places.stage_of({rank_, u.chunk}) + (p == payload::activation ? 1 : -1));
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
    REQUIRE(found != in_.end());
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
    REQUIRE(k != kept_.end());
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
std::vector<std::vector<number>> one_by_one(const schedule& s) {
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

}  // namespace

TEST_CASE("every schedule computes what one micro-batch after the other does, as simulated") {
  const durations d{
      .forward = 1, .input_gradient = 1.25, .weight_gradient = 0.75, .backward = 2, .overlapped = 2.5};
  for (const method& each : methods)
    for (const int ranks : {1, 2, 4, 6})
      for (const int micro_batches : {2 * ranks, 2 * ranks + 6}) {
        if (!each.check(ranks, micro_batches)) continue;
        CAPTURE(each.name);
        CAPTURE(ranks);
        const executor run{each.make(ranks, micro_batches)};
        const schedule& s = run.of();
        const std::vector<std::vector<number>> expected = one_by_one(s);
        const simulation simulated = simulate(s, d);
        const std::vector<peak_storage> peak = peaks(s);
        thread_ranks{ranks}.run([&](const any_communicator& comm) {
          cpu_context<> ctx{};
          const std::size_t r = static_cast<std::size_t>(comm.rank());
          toy_stages stages{s, comm.rank(), d};
          run.run(ctx, comm, stages);
          for (int chunk = 0; chunk < s.places.chunks(); ++chunk) {
            const location here{comm.rank(), chunk};
            CHECK(stages.sums[std::size_t(chunk)] ==
                  expected[std::size_t(s.places.route_of(here))][std::size_t(s.places.stage_of(here))]);
          }
          CHECK(stages.empty());
          CHECK(stages.most_kept() <= std::size_t(peak[r].activations));
          std::size_t n = 0;
          for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
            if (is_message(s.ranks[r][i])) continue;
            CHECK(stages.paper[n].begin == doctest::Approx(simulated.spans[r][i].begin));
            CHECK(stages.paper[n].end == doctest::Approx(simulated.spans[r][i].end));
            ++n;
          }
          CHECK(n == stages.paper.size());
        });
      }
}

TEST_CASE("on the clock of the wall, too, everything comes in the simulated order") {
  constexpr double unit_seconds = 1e-3;
  for (const method& each : methods) {
    CAPTURE(each.name);
    const executor run{each.make(4, 8)};
    const schedule& s = run.of();
    const simulation simulated = simulate(s);
    std::vector<execution_record> records(4);
    for (execution_record& record : records) record.origin = records[0].origin;
    thread_ranks{4}.run([&](const any_communicator& comm) {
      cpu_context<> ctx{};
      toy_stages stages{s, comm.rank(), {}, std::chrono::microseconds{1000}};
      run.run(ctx, comm, stages, &records[static_cast<std::size_t>(comm.rank())]);
    });
    double earliest = records[0].spans[0].begin;
    for (const execution_record& record : records) earliest = std::min(earliest, record.spans[0].begin);
    double latest = 0;
    for (std::size_t r = 0; r < 4; ++r) {
      double before = 0;
      for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
        const time_span span = records[r].spans[i];
        latest = std::max(latest, span.end);
        if (is_message(s.ranks[r][i])) continue;
        // Nothing is early, and a rank keeps the order of its list.
        CHECK(span.begin - earliest >= unit_seconds * simulated.spans[r][i].begin - 1e-6);
        CHECK(span.begin >= before);
        before = span.end;
      }
    }
    CHECK(latest - earliest >= unit_seconds * simulated.makespan - 1e-6);
    // Whatever ended a whole unit before something else began on paper, and which that waits for.
    for (int m = 0; m < 8; ++m)
      for (int stage = 1; stage < s.places.stages(); ++stage) {
        const location to = s.places.at(s.route_of(m), stage), from = s.places.before(to);
        const auto span = [&](const location& at, bool forward) {
          const std::size_t r = static_cast<std::size_t>(at.rank);
          for (std::size_t i = 0; i < s.ranks[r].size(); ++i) {
            const instruction& n = s.ranks[r][i];
            if (forward ? goes_forward(n) && n.of == unit{m, at.chunk}
                        : goes_backward(n) && backward_unit(n) == unit{m, at.chunk})
              return records[r].spans[i];
          }
          FAIL("not in the list");
          return time_span{};
        };
        CHECK(span(from, true).end <= span(to, true).begin);
        CHECK(span(to, false).end <= span(from, false).begin);
      }
  }
}

TEST_CASE("what cannot be run is refused before anything is") {
  schedule spoiled = one_f_one_b(2, 2);
  spoiled.ranks[0].pop_back();
  CHECK(support::raised([&] { executor{spoiled}; }) == verify(spoiled).message());
  const executor run{one_f_one_b(2, 2)};
  cpu_context<> ctx{};
  toy_stages stages{run.of(), 0, {}};
  CHECK(support::raised([&] { run.run(ctx, any_communicator{}, stages); }) ==
        "1f1b has 2 ranks, the communicator has 1");
  CHECK(stages.paper.empty());
}
