// SPDX-License-Identifier: MIT
// The CPU as the place where a program computes.
#pragma once

#include <dsv3/cpu.hpp>
#include <dsv3/exec/directly.hpp>

#include <utility>

namespace support {

/// What a program asks of the place where it computes. Here host and operations share one memory.
class cpu_place {
 public:
  /// Rows of experts lie without padding between them: what loops on a CPU want.
  using layout = dsv3::compact_layout;
  using context = dsv3::cpu_context<>;
  using decoding = dsv3::directly;  // execution of decoding steps
  /// Rows of logits that exist at a time: as many as the caches like.
  static constexpr dsv3::index_t head_chunk_tokens = 512;

  explicit cpu_place(int threads) : threads_(threads) {}

  dsv3::memory_sources memory() { return host_; }
  context make_context() const { return plan_context(threads_); }
  /// Enough to measure with, where nothing runs.
  static context plan_context(int threads) { return {.threads = threads}; }

  /// Where files are read into and written from.
  dsv3::host_memory& host() { return host_; }
  /// A bundle that the host filled, where operations read it; and one that they wrote, where the host reads
  /// it.
  template <class Bundle>
  dsv3::owned<Bundle> placed(context&, dsv3::owned<Bundle> from) {
    return from;
  }
  template <class Bundle>
  dsv3::owned<Bundle> fetched(context&, dsv3::owned<Bundle> from) {
    return from;
  }

 private:
  int threads_;
  dsv3::host_memory host_;
};

}  // namespace support
