// SPDX-License-Identifier: MIT
// Ranks on GPUs: what every engine must do, with one rank and, where there are several GPUs, with a thread
// for each; collectives inside a recorded graph; and how they end.
#define DOCTEST_CONFIG_IMPLEMENT
#include <dsv3/comm/cuda/nccl.hpp>
#include <dsv3/comm/threads.hpp>
#include <dsv3/exec/cuda_context.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator_cases.hpp"

using dsv3::any_communicator;
using dsv3::index_t;
using dsv3::reduction;
using dsv3::view;

namespace {

void good(cudaError_t answer) {
  if (answer != cudaSuccess) dsv3::raise(cudaGetErrorString(answer));
}

// The GPU's copy of an array of the host.
struct copied {
  copied(const void* host, std::size_t count) : bytes(count) {
    good(cudaMalloc(&data, std::max<std::size_t>(bytes, 1)));
    good(cudaMemcpy(data, host, bytes, cudaMemcpyHostToDevice));
  }
  copied(copied&& other) noexcept : data(std::exchange(other.data, nullptr)), bytes(other.bytes) {}
  ~copied() { cudaFree(data); }
  void back(void* host) const { good(cudaMemcpy(host, data, bytes, cudaMemcpyDeviceToHost)); }
  template <class T>
  view<T, 1> as() const {
    return view<T, 1>{static_cast<T*>(data), static_cast<index_t>(bytes / sizeof(T))};
  }
  void* data = nullptr;
  std::size_t bytes;
};

// A communicator of GPUs for arrays of the host: there and back around each verb.
class staged {
 public:
  using own_order = void;  // of sums

  explicit staged(any_communicator gpus) : gpus_(std::move(gpus)) {}
  int rank() const { return gpus_.rank(); }
  int size() const { return gpus_.size(); }

  template <class Ctx, class T>
  void all_reduce(Ctx&, view<T, 1> data, reduction how) const {
    in_place(data, [&](auto& ctx, view<T, 1> there) { gpus_.all_reduce(ctx, there, how); });
  }
  template <class Ctx, class T>
  void broadcast(Ctx&, view<T, 1> data, int root) const {
    in_place(data, [&](auto& ctx, view<T, 1> there) { gpus_.broadcast(ctx, there, root); });
  }
  template <class Ctx, class T>
  void reduce_scatter(Ctx&, view<const T, 1> from, view<T, 1> to, reduction how) const {
    between(from, to,
            [&](auto& ctx, view<const T, 1> a, view<T, 1> b) { gpus_.reduce_scatter(ctx, a, b, how); });
  }
  template <class Ctx, class T>
  void all_gather(Ctx&, view<const T, 1> from, view<T, 1> to) const {
    between(from, to, [&](auto& ctx, view<const T, 1> a, view<T, 1> b) { gpus_.all_gather(ctx, a, b); });
  }
  template <class Ctx, class T>
  void all_to_all(Ctx&, view<const T, 1> from, view<T, 1> to) const {
    between(from, to, [&](auto& ctx, view<const T, 1> a, view<T, 1> b) { gpus_.all_to_all(ctx, a, b); });
  }
  template <class Ctx, class T>
  void send(Ctx&, view<const T, 1> data, int peer) const {
    const copied there(data.data(), bytes(data));
    on_stream([&](auto& ctx) { gpus_.send(ctx, view<const T, 1>(there.as<T>()), peer); });
  }
  template <class Ctx, class T>
  void receive(Ctx&, view<T, 1> data, int peer) const {
    in_place(data, [&](auto& ctx, view<T, 1> there) { gpus_.receive(ctx, there, peer); });
  }
  template <class Ctx>
  void exchange(Ctx&, std::span<const dsv3::outgoing_message> out,
                std::span<const dsv3::incoming_message> in) const {
    std::vector<copied> room;
    std::vector<dsv3::outgoing_message> there_out;
    std::vector<dsv3::incoming_message> there_in;
    for (const auto& m : out) {
      room.emplace_back(m.data, m.bytes);
      there_out.push_back({m.peer, room.back().as<const std::byte>().data(), m.bytes});
    }
    for (const auto& m : in) {
      room.emplace_back(m.data, m.bytes);
      there_in.push_back({m.peer, room.back().as<std::byte>().data(), m.bytes});
    }
    on_stream([&](auto& ctx) { gpus_.exchange(ctx, there_out, there_in); });
    for (std::size_t i = 0; i < in.size(); ++i) room[out.size() + i].back(in[i].data);
  }
  void barrier() const { gpus_.barrier(); }
  staged split(int color, int key) const { return staged{gpus_.split(color, key)}; }

 private:
  template <class T>
  static std::size_t bytes(view<T, 1> data) {
    return static_cast<std::size_t>(data.size()) * sizeof(T);
  }
  template <class Work>
  static void on_stream(Work&& work) {
    cudaStream_t stream = nullptr;
    good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    dsv3::cuda_context<> ctx{.stream = stream};
    work(ctx);
    good(cudaStreamSynchronize(stream));
    good(cudaStreamDestroy(stream));
  }
  template <class T, class Work>
  static void in_place(view<T, 1> data, Work&& work) {
    const copied there(data.data(), bytes(data));
    on_stream([&](auto& ctx) { work(ctx, there.as<T>()); });
    there.back(data.data());
  }
  // One rank's collective between two arrays is the caller's copy to make, so it is made here.
  template <class T, class Work>
  void between(view<const T, 1> from, view<T, 1> to, Work&& work) const {
    if (gpus_.size() == 1) {
      std::copy_n(from.data(), from.data() == to.data() ? 0 : to.size(), to.data());
      return;
    }
    const copied there(from.data(), bytes(from)), here(to.data(), bytes(to));
    on_stream([&](auto& ctx) { work(ctx, view<const T, 1>(there.as<T>()), here.as<T>()); });
    here.back(to.data());
  }

  any_communicator gpus_;
};

int gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// work(communicator, host communicator) on a thread for each rank, with a GPU each.
template <class Work>
void with_ranks(int ranks, Work&& work, std::chrono::milliseconds limit = std::chrono::minutes(2)) {
  dsv3::thread_ranks{ranks}.run([&](const any_communicator& host) {
    good(cudaSetDevice(host.rank()));
    work(dsv3::nccl_communicator(
             {.rank = host.rank(), .size = host.size(), .share = dsv3::shares_by(host), .limit = limit}),
         host);
  });
}

}  // namespace

TEST_CASE("every verb, with as many ranks as there are GPUs") {
  for (int ranks = 1; ranks <= std::min(gpus(), 8); ++ranks) {
    CAPTURE(ranks);
    with_ranks(ranks, [](const any_communicator& world, const any_communicator&) {
      cases::every_verb(staged{world});
      cases::random_exchanges(staged{world}, 100, 3);
    });
  }
}

TEST_CASE("one rank among itself reaches NCCL") {
  const any_communicator world = dsv3::nccl_communicator();
  CHECK(std::string(world.name()) == "nccl");
  cudaStream_t stream = nullptr;
  good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const std::vector<float> x{1, 2, 3, 4};
  std::vector<float> y(4);
  const copied there(x.data(), 16), here(y.data(), 16);
  const dsv3::comm_engine& engine = *world.engine();
  const auto found = [&] {
    good(cudaStreamSynchronize(stream));
    here.back(y.data());
    good(cudaMemset(here.data, 0, 16));
    return y;
  };
  engine.all_gather(stream, there.data, here.data, 16);
  CHECK(found() == x);
  engine.reduce_scatter(stream, there.data, here.data, 4, dsv3::reduced_element::float32, reduction::sum);
  CHECK(found() == x);
  engine.all_to_all(stream, there.data, here.data, 16);
  CHECK(found() == x);
  const dsv3::outgoing_message out[] = {{0, static_cast<const std::byte*>(there.data), 8},
                                        {0, static_cast<const std::byte*>(there.data) + 8, 8}};
  const dsv3::incoming_message in[] = {{0, static_cast<std::byte*>(here.data), 8},
                                       {0, static_cast<std::byte*>(here.data) + 8, 8}};
  dsv3::cuda_context<> ctx{.stream = stream};
  world.exchange(ctx, out, in);
  CHECK(found() == x);
  auto under_way = world.begin_exchange(ctx, out, in);
  under_way.finish(ctx);
  CHECK(found() == x);
  good(cudaStreamDestroy(stream));
}

TEST_CASE("collectives are recorded in a graph and run again") {
  with_ranks(std::min(gpus(), 8), [](const any_communicator& world, const any_communicator& host) {
    cudaStream_t stream = nullptr;
    good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    dsv3::cuda_context<> ctx{.stream = stream};
    std::vector<float> x(1000);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(i % 7) + static_cast<float>(world.rank());
    const copied there(x.data(), x.size() * sizeof(float)), here(x.data(), x.size() * sizeof(float));
    const int next = (world.rank() + 1) % world.size();
    const int previous = (world.rank() + world.size() - 1) % world.size();
    const dsv3::outgoing_message out{next, static_cast<const std::byte*>(there.data), there.bytes};
    const dsv3::incoming_message in{previous, static_cast<std::byte*>(here.data), here.bytes};
    const auto step = [&] {
      auto under_way = world.begin_exchange(ctx, {&out, 1}, {&in, 1});  // a branch of the graph
      under_way.finish(ctx);
      world.engine()->all_reduce(stream, here.data, 1000, dsv3::reduced_element::float32, reduction::sum);
    };
    step();  // NCCL may set something up for messages of this size
    good(cudaStreamSynchronize(stream));
    host.barrier();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recorded = nullptr;
    good(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    step();
    good(cudaStreamEndCapture(stream, &graph));
    good(cudaGraphInstantiate(&recorded, graph, 0));
    for (int round = 0; round < 3; ++round) {
      good(cudaMemset(here.data, 0, here.bytes));
      host.barrier();
      good(cudaGraphLaunch(recorded, stream));
      good(cudaStreamSynchronize(stream));
      std::vector<float> found(x.size());
      here.back(found.data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        float expected = 0;
        for (int r = 0; r < world.size(); ++r) expected += static_cast<float>(i % 7) + static_cast<float>(r);
        cases::expect(found[i], expected, "element " + std::to_string(i) + " of a recorded step");
      }
    }
    good(cudaGraphExecDestroy(recorded));
    good(cudaGraphDestroy(graph));
    good(cudaStreamDestroy(stream));
  });
}

TEST_CASE("who is told to stop says why") {
  const any_communicator world = dsv3::nccl_communicator();
  const any_communicator group = world.split(3, 0);
  CHECK(group.size() == 1);
  group.engine()->abort("the disk is full");
  CHECK_THROWS_WITH_AS(world.engine()->barrier(),
                       "nccl: rank 0 of 1 is stopped in all_reduce: the disk is full", dsv3::error);
  CHECK_THROWS_WITH_AS(group.engine()->split(0, 0),
                       "nccl: rank 0 of 1 is stopped in all_gather: the disk is full", dsv3::error);
}

TEST_CASE("what cannot be is refused") {
  CHECK_THROWS_WITH_AS(dsv3::nccl_communicator({.rank = 2, .size = 2}), "nccl: found rank 2 of 2",
                       dsv3::error);
  CHECK_THROWS_WITH_AS(dsv3::nccl_communicator({.rank = 0, .size = 2}),
                       "nccl: 2 ranks need a way to share the first bytes, there is none", dsv3::error);
  // The other rank never comes.
  const auto nobody = [](std::span<std::byte>) {};
  const dsv3::status answer = dsv3::attempt([&] {
    dsv3::nccl_communicator({.rank = 0, .size = 2, .share = nobody, .limit = std::chrono::milliseconds(500)});
  });
  CHECK(answer.message() == "nccl: rank 0 of 2 waits in the first meeting since 0.5 s for the other ranks");
  dsv3::cpu_context<> ctx;
  std::vector<float> x(4);
  const any_communicator world = dsv3::nccl_communicator();
  const std::vector<std::byte> bytes(4);
  const dsv3::outgoing_message out = cases::to(0, bytes);
  CHECK_THROWS_WITH_AS(world.exchange(ctx, {&out, 1}, {}),
                       "nccl: carries device memory, the context works on the host", dsv3::error);
}

// Not the main of other tests on a GPU: what NCCL itself allocates stays the host's.
int main(int count, char** words) {
  if (gpus() == 0) {
    std::puts("skipped: no NVIDIA GPU was found");
    return 77;
  }
  std::printf("NCCL %d on %d GPUs\n", NCCL_VERSION_CODE, gpus());
  return doctest::Context(count, words).run();
}
