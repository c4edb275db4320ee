// SPDX-License-Identifier: MIT
// A rank of MPI's, run by mpi_test.sh: trains the small model on a mesh of processes and compares losses,
// gradients and weights with one rank's, which every process makes for itself.
//   mpi_program DATA EXPERT PIPELINE SCHEDULE MICRO_BATCHES
#include "rank_of_mesh.hpp"

#include <dsv3/comm/mpi.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

using P = fp64_reference;
using rank_of_mesh = support::rank_of_mesh<P>;
constexpr std::uint64_t steps = 3;

struct one_rank {
  host_memory memory;
  deepseek_v3<P, compact_layout> model{support::deep_config()};
  training_state<P, compact_layout> state;
  cpu_context<> ctx{.threads = 1};

  explicit one_rank(index_t micro_batches)
      : state(memory, model,
              {.micro_batches = micro_batches, .rows = rank_of_mesh::rows, .length = rank_of_mesh::length}) {
    ctx.scratch = scratch_arena{memory, scratch_bytes(ctx, model, state)};
    initialize_state(ctx, state, 7);
  }
  step_report step(std::uint64_t seed) {
    return train_step(ctx, model, state, rank_of_mesh::batches_of(state, seed, 0), support::some_options());
  }
  const parameter<P>& named(const std::string& name) const {
    return *std::find_if(state.parameters.begin(), state.parameters.end(),
                         [&](const parameter<P>& row) { return row.name == name; });
  }
};

void close(double found, double expected, double scale, const std::string& what) {
  if (!(std::fabs(found - expected) <= 1e-12 * scale))
    raise(what + " is " + std::to_string(found) + ", expected " + std::to_string(expected));
}

// The largest of `expected` is what differences are measured by.
void close(view<const double, 1> found, view<const double, 1> expected, double scale,
           const std::string& what) {
  if (found.size() != expected.size()) raise(what + " has another length than one rank's");
  for (index_t i = 0; i < found.size(); ++i) close(found(i), expected(i), scale, what);
}

void train(const any_communicator& world, const support::ranks_layout& of) {
  rank_of_mesh rank{world, support::deep_config(), of};
  one_rank alone{of.micro_batches * of.shape.data * of.shape.expert};
  for (std::uint64_t step = 0; step < steps; ++step) {
    const step_report found = rank.step(step, support::some_options()), expected = alone.step(step);
    if (!found.updated || !expected.updated) raise("a step was skipped");
    close(found.loss, expected.loss, expected.loss, "the loss");
    close(found.grad_norm, expected.grad_norm, expected.grad_norm, "the norm");
  }
  for (const parameter<P>& mine : rank.state.parameters) {
    const parameter<P>& whole = alone.named(mine.name);
    const auto largest = [](view<const double, 1> values) {
      double most = 0;
      for (index_t i = 0; i < values.size(); ++i) most = std::max(most, std::fabs(values(i)));
      return most;
    };
    const index_t begin = mine.first + mine.part.begin();
    close(mine.g, whole.g.rows(begin, begin + mine.part.count()), largest(whole.g),
          "the gradient of " + mine.name);
    close(mine.all_p.rows(0, mine.part.elements), whole.p.rows(mine.first, mine.first + mine.part.elements),
          10 * largest(whole.p), mine.name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const mpi_ranks ranks;
  const status answer = attempt([&] {
    ranks.run([&](const any_communicator& world) {
      train(world, {.shape = {.data = std::atoi(argv[1]),
                              .expert = std::atoi(argv[2]),
                              .pipeline = std::atoi(argv[3])},
                    .schedule = argv[4],
                    .micro_batches = std::atoi(argv[5])});
      world.barrier();
      if (world.rank() == 0) std::printf("%d ranks train as one\n", world.size());
    });
  });
  if (answer) return 0;
  std::fprintf(stderr, "%s\n", answer.message().c_str());
  return 1;
}
