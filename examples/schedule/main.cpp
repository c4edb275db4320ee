// SPDX-License-Identifier: MIT
// dsv3-schedule: what a pipeline schedule costs, rank by rank, against the published formulas; and how it
// looks.
#include "drawing.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>

#include <dsv3/io/file.hpp>
#include <dsv3/train/pipeline/methods.hpp>
#include <dsv3/train/pipeline/simulate.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

using namespace dsv3;
using namespace dsv3::pipeline;

namespace {

struct options {
  std::string method_name, svg, trace;
  int ranks = 8, micro_batches = 20;
  durations time;
  double backward = -1, overlapped = -1;  // negative: the sum of the parts
  bool blocking = false, lists = false;

  durations times() const {
    durations d = time;
    d.backward = backward < 0 ? d.input_gradient + d.weight_gradient : backward;
    d.overlapped = overlapped < 0 ? d.forward + d.backward : overlapped;
    return d;
  }
  transfer_mode mode() const { return blocking ? transfer_mode::blocking : transfer_mode::posted; }
};

struct result {
  schedule s;
  simulation run;
  std::vector<peak_storage> peak;
  published_cost formula;

  result(const method& m, const options& o)
      : s(m.make(o.ranks, o.micro_batches)),
        run(simulate(s, o.times(), o.mode())),
        peak(peaks(s)),
        formula(m.cost(o.ranks, o.times())) {}

  double bubble() const {
    double most = 0;
    for (int rank = 0; rank < s.places.ranks(); ++rank) most = std::max(most, run.bubble(rank));
    return most;
  }
  int activations() const {
    int most = 0;
    for (const peak_storage& each : peak) most = std::max(most, each.activations);
    return most;
  }
};

// All schedules side by side; those that the counts do not allow say why.
void compare(const options& o) {
  std::printf("%d ranks, %d micro-batches; most of any rank, formula in brackets\n\n", o.ranks,
              o.micro_batches);
  std::printf("%-11s %6s %10s %20s %8s %14s %13s\n", "", "stages", "makespan", "bubble", "busy",
              "activations", "model copies");
  for (const method& m : methods) {
    if (const status can = m.check(o.ranks, o.micro_batches); !can) {
      std::printf("%-11s %s\n", m.name, can.message().substr(can.message().find(':') + 2).c_str());
      continue;
    }
    const result r{m, o};
    char bubble[64], activations[64];
    std::snprintf(bubble, sizeof bubble, "%.6g (%.6g)", r.bubble(), r.formula.bubble);
    std::snprintf(activations, sizeof activations, "%d (%d)", r.activations(), r.formula.activations);
    std::printf("%-11s %6d %10.6g %20s %6.1f %% %14s %13d\n", m.name, r.s.places.stages(), r.run.makespan,
                bubble, 100 * r.run.busy_share(), activations, r.formula.model_copies);
  }
}

void tell(const result& r, const options& o) {
  std::printf("%s: %d ranks, %d stages, %d micro-batches\n\n", r.s.name.c_str(), r.s.places.ranks(),
              r.s.places.stages(), r.s.micro_batches);
  std::printf("%-26s %12s %12s\n", "", "simulated", "formula");
  std::printf("%-26s %12.6g\n", "makespan", r.run.makespan);
  std::printf("%-26s %12.6g %12.6g\n", "bubble, most of a rank", r.bubble(), r.formula.bubble);
  std::printf("%-26s %12.1f %%\n", "busy, of all ranks", 100 * r.run.busy_share());
  std::printf("%-26s %12d %12d\n", "activations, most", r.activations(), r.formula.activations);
  std::printf("%-26s %12s %12d\n\n", "model copies", "", r.formula.model_copies);
  std::printf("rank  stages %10s %10s %12s %16s %9s\n", "busy", "bubble", "activations", "weights owed",
              "received");
  for (int rank = 0; rank < r.s.places.ranks(); ++rank) {
    const std::size_t n = static_cast<std::size_t>(rank);
    std::string stages;
    for (int chunk = 0; chunk < r.s.places.chunks(); ++chunk)
      stages += (chunk ? ", " : "") + std::to_string(r.s.places.stage_of({rank, chunk}));
    std::printf("%4d  %6s %10.6g %10.6g %12d %16d %9d\n", rank, stages.c_str(), r.run.busy[n],
                r.run.bubble(rank), r.peak[n].activations, r.peak[n].weight_gradients, r.peak[n].received);
  }
  if (!o.lists) return;
  std::printf("\n");
  for (int rank = 0; rank < r.s.places.ranks(); ++rank)
    std::printf("rank %d: %s\n", rank, notation(r.s.ranks[static_cast<std::size_t>(rank)]).c_str());
}

void write(const std::string& path, const std::string& text) {
  atomic_file file{path};
  file.append(text);
  file.commit();
}

int run(const options& o) {
  constexpr index_t most = 1 << 21;  // a list of that many takes seconds and about a gigabyte
  if (index_t{o.ranks} * o.micro_batches > most)
    throw support::usage_error("--ranks times --micro-batches is " +
                               std::to_string(index_t{o.ranks} * o.micro_batches) + ", expected at most " +
                               std::to_string(most));
  if (o.method_name.empty()) {
    for (const auto& [flag, given] :
         {std::pair{"--svg", !o.svg.empty()}, {"--trace", !o.trace.empty()}, {"--lists", o.lists}})
      if (given) throw support::usage_error(std::string(flag) + " shows one schedule, expected --method");
    compare(o);
    return 0;
  }
  const method& m = method_named(o.method_name);
  support::given_by_user([&] { return require(m.check(o.ranks, o.micro_batches)); });
  const result r{m, o};
  tell(r, o);
  if (!o.svg.empty()) write(o.svg, drawing::svg(r.s, r.run));
  if (!o.trace.empty()) write(o.trace, drawing::chrome_trace(r.s, r.run));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What pipeline schedules cost: makespan, bubbles and stored activations against the formulas.",
               "dsv3-schedule"};
  options o;
  std::vector<std::string> names;
  for (const method& m : methods) names.push_back(m.name);
  app.add_option("--method", o.method_name, "one schedule, rank by rank: 1f1b, zb1p, dualpipe or dualpipe_v")
      ->check(support::one_of(names));
  app.add_option("--ranks", o.ranks, "ranks of the pipeline")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();
  app.add_option("--micro-batches", o.micro_batches, "micro-batches of a step")
      ->check(support::whole_number(1, 1 << 16))
      ->capture_default_str();
  const auto duration = [&](const char* flag, double& value, const char* words) {
    return app.add_option(flag, value, words)->check(support::not_negative());
  };
  duration("--forward", o.time.forward, "time of a micro-batch forward in a stage")->capture_default_str();
  duration("--input-gradient", o.time.input_gradient, "of the half of backward that others wait for")
      ->capture_default_str();
  duration("--weight-gradient", o.time.weight_gradient, "of the other half")->capture_default_str();
  duration("--backward", o.backward, "of both halves at once; default: their sum");
  duration("--overlapped", o.overlapped, "of a forward and a backward together; default: their sum");
  duration("--transfer", o.time.transfer, "of a message from rank to rank")->capture_default_str();
  app.add_flag("--blocking", o.blocking, "ranks stand while a message is under way");
  app.add_flag("--lists", o.lists, "what every rank does, in order");
  app.add_option("--svg", o.svg, "the picture to write");
  app.add_option("--trace", o.trace, "the trace to write, for chrome://tracing or Perfetto");
  return support::run_program(app, argc, argv, [&] { return run(o); });
}
