// SPDX-License-Identifier: MIT
// Experts shared out among ranks, on the GPU: a thread for each token, row or slot.
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/expert/expert_ranks.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// A token's ranks, one after the other: the smallest above the last. Its slots are few and in a cache. An
/// expert that does not exist is on no rank, and reported.
template <class Index>
__global__ void __launch_bounds__(256)
    choose_ranks_kernel(view<const Index, 2> ids, index_t experts, Index per_rank, view<Index, 2> chosen,
                        misuse no_expert) {
  const index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= ids.extent(0)) return;
  const Index* own = ids[t].data();
  const int top_k = static_cast<int>(ids.extent(1));
  const Index none = static_cast<Index>(experts);
  for (int k = 0; k < top_k; ++k)
    if (own[k] < 0 || own[k] >= experts) no_expert.report(t, k, own[k], experts - 1);
  Index last = -1;
  for (int j = 0; j < chosen.extent(1); ++j) {
    Index next = none;
    for (int k = 0; k < top_k; ++k) {
      const Index e = own[k];
      if (const Index rank = e >= 0 && e < experts ? e / per_rank : none; rank > last) next = min(next, rank);
    }
    chosen(t, j) = next == none ? Index(-1) : next;
    last = next;
  }
}

/// A thread per row that may be sent.
template <class T, class Index>
__global__ void __launch_bounds__(256)
    label_rows_kernel(view<const Index, 2> ids, view<const T, 2> gates, const Index* token_of, Index per_rank,
                      view<Index, 2> row_experts, view<T, 2> row_gates, misuse twice) {
  const index_t row = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= row_experts.extent(0)) return;
  const index_t t = token_of[row];
  const int top_k = static_cast<int>(ids.extent(1)), width = static_cast<int>(row_experts.extent(1));
  const Index first = static_cast<Index>(row / ids.extent(0)) * per_rank;
  int n = 0;
  for (int k = 0; t >= 0 && k < top_k; ++k) {
    const Index e = ids(t, k) - first;
    if (e < 0 || e >= per_rank) continue;
    if (n == width) {
      twice.report(t);
      break;
    }
    row_experts(row, n) = e, row_gates(row, n) = gates(t, k), ++n;
  }
  for (; n < width; ++n) row_experts(row, n) = -1, row_gates(row, n) = T(0);
}

/// A thread per slot: its row is that of its rank, its place the number of earlier slots of that rank.
template <class T, class Index>
__global__ void __launch_bounds__(256)
    collect_gates_kernel(view<const T, 2> row_gates, view<const Index, 2> ids, view<const Index, 2> row_of,
                         Index per_rank, view<T, 2> gates) {
  const index_t at = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= ids.size()) return;
  const index_t tokens = ids.extent(0), top_k = ids.extent(1), t = at / top_k, k = at % top_k;
  const Index rank = ids(t, k) / per_rank;
  index_t place = 0;
  for (index_t i = 0; i < k; ++i) place += ids(t, i) / per_rank == rank;
  T gate = T(0);
  for (index_t j = 0; j < row_of.extent(1); ++j)
    if (const Index row = row_of(t, j); row >= 0 && row / tokens == rank && place < row_gates.extent(1))
      gate = row_gates(row, place);
  gates(t, k) = gate;
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::expert_ranks<P>, backend::cuda> {
  using op_type = op::expert_ranks<P>;
  using acc = accumulator<P>;

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::choose_args& args) {
    cuda::launch(
        args.name, ctx.stream, threads(args.ids.extent(0)), cuda::detail::choose_ranks_kernel<std::int32_t>,
        args.ids, args.experts, static_cast<std::int32_t>(args.experts / args.ranks), args.chosen,
        cuda::misuse_of(ctx, "expert_ranks.choose: token {}, slot {} has expert {}, expected 0 to {}"));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::label_args& args) {
    cuda::launch(args.name, ctx.stream, threads(args.row_experts.extent(0)),
                 cuda::detail::label_rows_kernel<acc, std::int32_t>, args.ids, args.gates,
                 args.sent.token_of.data(), static_cast<std::int32_t>(args.per_rank), args.row_experts,
                 args.row_gates,
                 cuda::misuse_of(ctx, "expert_ranks.label: token {} chooses an expert twice"));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::collect_args& args) {
    cuda::launch(args.name, ctx.stream, threads(args.ids.size()),
                 cuda::detail::collect_gates_kernel<acc, std::int32_t>, args.row_gates, args.ids,
                 args.sent.row_of, static_cast<std::int32_t>(args.per_rank), args.gates);
  }

 private:
  static cuda::launch_shape threads(index_t count) {
    return {.grid = static_cast<unsigned>(ceil_div(count, 256)), .block = 256};
  }
};

}  // namespace dsv3::inline DSV3_ABI
