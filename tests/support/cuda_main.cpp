// SPDX-License-Identifier: MIT
// The main of a test that runs on a GPU. Everything that `new` gives out lies in memory which host and GPU
// reach, so that the same source tests the CPU's bodies and the GPU's.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <support/share.hpp>

#include <cuda_runtime.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace {

/// Blocks of powers of two, cut from large allocations and kept for the next that needs one.
class reachable_heap {
 public:
  void* take(std::size_t bytes) {
    const std::lock_guard hold(lock_);
    const int order = order_of(bytes);
    if (free_[order] != nullptr) {
      block* taken = free_[order];
      free_[order] = taken->next;
      return taken;
    }
    const std::size_t need = std::size_t{1} << order;
    if (need > left_) grow(need);
    void* taken = at_;
    at_ += need, left_ -= need;
    return taken;
  }
  void give_back(void* start, std::size_t bytes) {
    const std::lock_guard hold(lock_);
    const int order = order_of(bytes);
    free_[order] = new (start) block{free_[order]};
  }

 private:
  struct block {
    block* next;
  };
  static int order_of(std::size_t bytes) { return bytes <= 64 ? 6 : std::bit_width(bytes - 1); }

  void grow(std::size_t need) {
    const std::size_t bytes = need > chunk ? need : chunk;
    void* start = nullptr;
    if (cudaMallocManaged(&start, bytes) != cudaSuccess) {
      std::fprintf(stderr, "skipped: no GPU gives memory that the host reaches too\n");
      std::_Exit(77);
    }
    at_ = static_cast<char*>(start), left_ = bytes;
  }

  static constexpr std::size_t chunk = std::size_t{64} << 20;
  std::mutex lock_;
  block* free_[64] = {};
  char* at_ = nullptr;
  std::size_t left_ = 0;
};

reachable_heap& heap() {
  alignas(reachable_heap) static char room[sizeof(reachable_heap)];
  static auto* only = new (room) reachable_heap;
  return *only;
}

// Before each block stands its size, a cache line away; 0 where the runtime itself asked while the heap grew.
constexpr std::size_t head = 64;
thread_local bool growing = false;

void* obtain(std::size_t bytes) {
  const bool inner = std::exchange(growing, true);
  auto* start = static_cast<char*>(inner ? std::malloc(bytes + head) : heap().take(bytes + head));
  growing = inner;
  *reinterpret_cast<std::size_t*>(start) = inner ? 0 : bytes + head;
  return start + head;
}
void release(void* block) {
  if (block == nullptr) return;
  char* start = static_cast<char*>(block) - head;
  const std::size_t bytes = *reinterpret_cast<std::size_t*>(start);
  bytes == 0 ? std::free(start) : heap().give_back(start, bytes);
}

}  // namespace

void* operator new(std::size_t bytes) { return obtain(bytes); }
void* operator new[](std::size_t bytes) { return obtain(bytes); }
void operator delete(void* block) noexcept { release(block); }
void operator delete[](void* block) noexcept { release(block); }
void operator delete(void* block, std::size_t) noexcept { release(block); }
void operator delete[](void* block, std::size_t) noexcept { release(block); }

namespace {

/// Tells failures from cases whose share of time was spent, which doctest takes for failures too.
class share_listener final : public doctest::IReporter {
 public:
  static inline int cases = 0, ended = 0, failed = 0;

  explicit share_listener(const doctest::ContextOptions&) {}
  void test_case_start(const doctest::TestCaseData&) override {
    ++cases;
    support::share.begin_case();
  }
  void test_case_reenter(const doctest::TestCaseData&) override { support::share.begin_case(); }
  void test_case_end(const doctest::CurrentTestCaseStats&) override { ended += support::share.spent(); }
  void test_case_exception(const doctest::TestCaseException&) override { fail(); }
  void log_assert(const doctest::AssertData& data) override {
    if (data.m_failed && (data.m_at & doctest::assertType::is_warn) == 0) fail();
  }
  void log_message(const doctest::MessageData& data) override {
    if ((data.m_severity & doctest::assertType::is_warn) == 0) fail();
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}

 private:
  // What follows a run that was not made means nothing.
  static void fail() { failed += !support::share.spent(); }
};
REGISTER_LISTENER("share", 1, share_listener);

}  // namespace

int main(int count, char** words) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
    std::puts("skipped: no NVIDIA GPU was found");
    return 77;
  }
  doctest::Context context(count, words);
  int result = context.run();
  if (support::share.limited()) {
    std::printf("cases: %d, of which %d ended with their share of time; failures: %d\n",
                share_listener::cases, share_listener::ended, share_listener::failed);
    result = share_listener::failed > 0;
  }
  const cudaError_t last = cudaDeviceSynchronize();
  if (last != cudaSuccess) std::printf("the GPU ended with: %s\n", cudaGetErrorString(last));
  return last == cudaSuccess ? result : 1;
}
