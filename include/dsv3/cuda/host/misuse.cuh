// SPDX-License-Identifier: MIT
// How a kernel says that what it was given breaks a contract. A CPU body raises; a kernel leaves a report,
// which the next `synchronize` raises.
#pragma once

#include <dsv3/cuda/host/error.cuh>

#include <cuda_runtime.h>

#include <cstdio>
#include <string>
#include <string_view>

namespace dsv3::inline DSV3_ABI::cuda {

/// The first breach since the last look. Lies in memory that host and GPU share.
struct misuse_report {
  const char* operation;  // the host's address of what goes before the sentence with a colon, or null
  const char* sentence;   // of a literal with up to four {} for whole numbers, {f} for the bits of a double
  long long numbers[4];   // what to put there
  int complete;           // not 0: to be read
  int* taken;             // in the GPU's memory: not every bus carries atomic operations
};

/// Where a kernel reports one kind of breach; passed to it by value. Without a device in the context there is
/// no report, and the kernel traps: nothing goes unseen.
class misuse {
 public:
  /// `sentence` must be a literal: "embedding.forward: ids[{}] is {}, expected … below {}". Where several
  /// operations share it, `operation` is the literal of its name.
  misuse(misuse_report* report, const char* sentence, const char* operation = nullptr)
      : report_(report), operation_(operation), sentence_(sentence) {}

  __device__ __forceinline__ void report(long long first, long long second = 0, long long third = 0,
                                         long long fourth = 0) const {
    write(report_, operation_, sentence_, first, second, third, fourth);
  }

 private:
  // Not inlined, so that kernels need neither its registers nor its stack.
  static __device__ __noinline__ void write(misuse_report* report, const char* operation,
                                            const char* sentence, long long first, long long second,
                                            long long third, long long fourth) {
    if (report == nullptr) {
      printf("dsv3: a kernel was given what its contract excludes: %lld, %lld, %lld, %lld\n", first, second,
             third, fourth);
      __trap();
    }
    if (atomicCAS(report->taken, 0, 1) != 0) return;
    volatile misuse_report* to = report;
    to->operation = operation, to->sentence = sentence;
    to->numbers[0] = first, to->numbers[1] = second, to->numbers[2] = third, to->numbers[3] = fourth;
    __threadfence_system();
    to->complete = 1;
  }

  misuse_report* report_;
  const char *operation_, *sentence_;
};

/// Raises a complete report and frees its place. No kernel may be at work that could report.
inline void raise_misuse(misuse_report& report) {
  const volatile misuse_report& seen = report;
  if (seen.complete == 0) return;
  std::string text = seen.operation == nullptr ? "" : std::string(seen.operation) + ": ";
  int next = 0;
  for (std::string_view rest = seen.sentence; !rest.empty();)
    if (next < 4 && rest.starts_with("{}"))
      text += std::to_string(seen.numbers[next++]), rest.remove_prefix(2);
    else if (next < 4 && rest.starts_with("{f}"))
      text += std::to_string(__builtin_bit_cast(double, seen.numbers[next++])), rest.remove_prefix(3);
    else
      text += rest.front(), rest.remove_prefix(1);
  report.complete = 0;
  const int no = 0;
  require(cudaMemcpy(report.taken, &no, sizeof no, cudaMemcpyHostToDevice), "the report of a misuse");
  raise(text);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
