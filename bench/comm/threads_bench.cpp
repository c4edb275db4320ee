// SPDX-License-Identifier: MIT
// What ranks as threads pay for their verbs: from a barrier to gradients of many MiB. The bytes are those
// that a rank's memory must read and write at the least.
#include <dsv3/comm/threads.hpp>

#include <support/counters.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <vector>

namespace {

using dsv3::any_communicator;
using dsv3::index_t;
using dsv3::view;

// verb(communicator, context, elements) a number of times on every rank; rank 0 reads the clock.
template <class Verb>
void measure_verb(benchmark::State& state, double bytes_per_element, Verb&& verb) {
  const int ranks = static_cast<int>(state.range(0));
  const index_t count = state.range(1);
  const int rounds = count > 100000 ? 4 : 100;
  for (auto _ : state) {
    double seconds = 0;
    dsv3::thread_ranks{ranks}.run([&](const any_communicator& comm) {
      dsv3::cpu_context<> ctx;
      std::vector<float> a(static_cast<std::size_t>(count * ranks), 1.0f), b(a.size(), 2.0f);
      verb(comm, ctx, a, b, count);
      comm.barrier();
      const auto begin = std::chrono::steady_clock::now();
      for (int round = 0; round < rounds; ++round) verb(comm, ctx, a, b, count);
      comm.barrier();
      if (comm.rank() == 0)
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    });
    state.SetIterationTime(seconds / rounds);
  }
  if (bytes_per_element > 0)
    support::count_bytes(state, bytes_per_element * static_cast<double>(count) * ranks, ranks);
}

void barrier(benchmark::State& state) {
  measure_verb(state, 0, [](const any_communicator& comm, auto&, auto&, auto&, index_t) { comm.barrier(); });
}
void all_reduce(benchmark::State& state) {  // reads and writes each rank's array
  measure_verb(state, 8, [](const any_communicator& comm, auto& ctx, auto& a, auto&, index_t n) {
    comm.all_reduce(ctx, view<float, 1>{a.data(), n}, dsv3::reduction::max);
  });
}
void reduce_scatter(benchmark::State& state) {  // reads each rank's parts, writes one of them
  measure_verb(state, 4.0 * static_cast<double>(state.range(0) + 1),
               [](const any_communicator& comm, auto& ctx, auto& a, auto& b, index_t n) {
                 comm.reduce_scatter(ctx, view<const float, 1>{a.data(), n * comm.size()},
                                     view<float, 1>{b.data(), n}, dsv3::reduction::sum);
               });
}
void all_to_all(benchmark::State& state) {
  measure_verb(state, 8.0 * static_cast<double>(state.range(0)),
               [](const any_communicator& comm, auto& ctx, auto& a, auto& b, index_t n) {
                 comm.all_to_all(ctx, view<const float, 1>{a.data(), n * comm.size()},
                                 view<float, 1>{b.data(), n * comm.size()});
               });
}
void pass_on(benchmark::State& state) {  // to the next rank, from the one before
  measure_verb(state, 8, [](const any_communicator& comm, auto& ctx, auto& a, auto& b, index_t n) {
    const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
    const dsv3::outgoing_message out{(comm.rank() + 1) % comm.size(),
                                     reinterpret_cast<const std::byte*>(a.data()), bytes};
    const dsv3::incoming_message in{(comm.rank() + comm.size() - 1) % comm.size(),
                                    reinterpret_cast<std::byte*>(b.data()), bytes};
    comm.exchange(ctx, {&out, 1}, {&in, 1});
  });
}

// Ranks and elements of each rank's part.
void sizes(benchmark::internal::Benchmark* bench) {
  for (const int ranks : {2, 4})
    for (const int count : {256, 65536, 4 << 20}) bench->Args({ranks, count});
  bench->UseManualTime()->Unit(benchmark::kMicrosecond);
}

BENCHMARK(barrier)->Args({2, 0})->Args({4, 0})->Args({8, 0})->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(all_reduce)->Apply(sizes);
BENCHMARK(reduce_scatter)->Apply(sizes);
BENCHMARK(all_to_all)->Apply(sizes);
BENCHMARK(pass_on)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
