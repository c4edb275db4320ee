// SPDX-License-Identifier: MIT
// How threads of compute capability 9.0 wait for each other and for the copy engine: barriers in shared
// memory, named barriers, clusters, fences, and the division of registers between roles.
#pragma once

#include <dsv3/cuda/device/shared.cuh>

namespace dsv3::inline DSV3_ABI::cuda {

/// A barrier in shared memory. A phase ends when all arrivals and all announced bytes have come; its parity
/// is 0 for the first phase, then 1, 0, ...
///
/// A pipeline of S stages has one `full` and one `empty` barrier each. With `lap` the number of times that a
/// role went round all stages, consumers wait for full with parity lap & 1, the producer for empty with
/// parity (lap & 1) ^ 1, which a barrier nobody used passes at once.
struct alignas(8) mbarrier {
  std::uint64_t state;

#if DSV3_SM90A
  /// By one thread, before publish_barriers() and a barrier of all threads.
  __device__ __forceinline__ void init(unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  /// One arrival, and `bytes` more for the copy engine to bring: whole boxes, also where they reach beyond
  /// the tensor.
  __device__ __forceinline__ void arrive_and_expect(unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)),
                 "r"(bytes)
                 : "memory");
  }
  /// Announces bytes without arriving.
  __device__ __forceinline__ void expect(unsigned bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)),
                 "r"(bytes)
                 : "memory");
  }
  /// One arrival, once all copies that this thread began with copy_async have come.
  __device__ __forceinline__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(this))
                 : "memory");
  }
  /// Arrives at the same barrier of block `rank` of the cluster. Orders what this thread did with its own
  /// block's shared memory and no more: ordering for the cluster would wait for all its writes each time.
  __device__ __forceinline__ void arrive_at(unsigned rank) {
    asm volatile(
        "{ .reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(this)),
        "r"(rank)
        : "memory");
  }
  /// Whether the phase of this parity has ended; may sleep a little first.
  __device__ __forceinline__ bool passed(unsigned parity) {
    unsigned answer;
    asm volatile(
        "{ .reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(answer)
        : "r"(shared_address(this)), "r"(parity)
        : "memory");
    return answer != 0;
  }
  __device__ __forceinline__ void wait(unsigned parity) {
    while (!passed(parity)) {
    }
  }
#endif
};

#if DSV3_SM90A

/// Makes initialised barriers visible to the copy engine and the cluster; by the thread that initialised.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// What this thread wrote to shared memory with ordinary stores may be read by wgmma and the copy engine
/// after this and a barrier.
__device__ __forceinline__ void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// One lane of a converged warp, the same each time.
__device__ __forceinline__ bool elected() {
  unsigned answer;
  asm volatile(
      "{ .reg .pred p;\n"
      "elect.sync _|p, 0xFFFFFFFF;\n"
      "selp.u32 %0, 1, 0, p; }"
      : "=r"(answer));
  return answer != 0;
}

/// Waits at barrier `id` (1 to 15; 0 is that of __syncthreads) until `threads` have come, whole warps.
__device__ __forceinline__ void named_sync(unsigned id, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/// Comes to it without waiting.
__device__ __forceinline__ void named_arrive(unsigned id, unsigned threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Registers of each thread of this warpgroup from here on: a multiple of 8 from 24 to 256. Every warp of the
/// block comes to one of the two; give first, as take waits.
template <int Count>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// Blocks of the cluster along x; 1 where the launch asked for none.
__device__ __forceinline__ unsigned cluster_blocks() {
  unsigned count;
  asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(count));
  return count;
}
/// All threads of all blocks of the cluster meet.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Waits for the kernel before this one on the stream, where the launch let this one start early.
__device__ __forceinline__ void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// Lets the kernel after this one start.
__device__ __forceinline__ void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#endif

}  // namespace dsv3::inline DSV3_ABI::cuda
