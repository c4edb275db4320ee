// SPDX-License-Identifier: MIT
// Verification of drafts on the GPU: a thread block to a sequence, whole numbers throughout.
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/sample/running_sum.cuh>
#include <dsv3/op/sample/accept_draft.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// The sentences of the CPU.
struct accept_draft_misuse {
  misuse offset, last_offset, total, id, weight, sum;
};

/// Reports the first thing wrong with the numbers of sequence b; by one thread. What an offset before it says
/// is another block's to report.
__device__ inline bool inputs_hold(const op::accept_draft::forward_args& args, index_t b,
                                   const accept_draft_misuse& wrong) {
  const index_t sequences = args.accepted.extent(0), drafts = args.drafted.extent(0);
  const index_t begin = args.offsets(b), end = args.offsets(b + 1);
  if (b == 0 && begin != 0) return wrong.offset.report(0, begin, 0, 0), false;
  if (begin < 0 || begin > drafts) return false;
  if (end < begin || end > drafts) return wrong.offset.report(b + 1, end, begin, drafts), false;
  if (b == sequences - 1 && end != drafts) return wrong.last_offset.report(end, drafts), false;
  for (index_t row = begin + b; row <= end + b; ++row)
    if (args.target_totals(row) == 0) return wrong.total.report(row), false;
  for (index_t d = begin; d < end; ++d) {
    const std::int32_t y = args.drafted(d);
    if (y < 0 || y >= args.draft.extent(1)) return wrong.id.report(d, y, args.draft.extent(1)), false;
    if (args.draft(d, y) == 0 || args.draft_totals(d) == 0) return wrong.weight.report(d, y), false;
  }
  return true;
}

__device__ inline bool accepts(const op::accept_draft::forward_args& args, index_t d, index_t row) {
  const std::int32_t y = args.drafted(d);
  const uint128 p = wide_product(args.target(row, y), args.draft_totals(d));
  const uint128 q = wide_product(args.draft(d, y), args.target_totals(row));
  return scale_bits_wide(args.bits(2 * row), q) < p;
}

/// A sequence with wrong numbers commits nothing and is followed by token 0.
template <class Args>
__global__ void __launch_bounds__(32 * weight_warps)
    accept_drafts_kernel(Args args, accept_draft_misuse wrong) {
  __shared__ uint128 residuals[weight_warps];
  __shared__ std::uint64_t stretches[weight_warps];
  __shared__ index_t found;
  __shared__ index_t stays;  // -1: wrong numbers
  const index_t b = blockIdx.x, first = args.offsets(b), drafts = args.offsets(b + 1) - first;
  if (threadIdx.x == 0) {
    index_t i = -1;
    if (inputs_hold(args, b, wrong))
      for (i = 0; i < drafts && accepts(args, first + i, first + i + b);) ++i;
    stays = i;
  }
  __syncthreads();
  index_t next = -1;
  if (stays >= 0) {
    const index_t d = first + stays, row = d + b, vocab = args.target.extent(1);
    const std::uint64_t* p = args.target[row].data();
    if (stays < drafts) {
      const std::uint64_t* q = args.draft[d].data();
      const std::uint64_t p_total = args.target_totals(row), q_total = args.draft_totals(d);
      const auto residual = [=](index_t v) {
        const uint128 more = wide_product(p[v], q_total), less = wide_product(q[v], p_total);
        return more > less ? more - less : uint128{0};
      };
      const uint128 total = sum_stretches(vocab, residual, residuals);
      next = first_above(scale_bits_wide(args.bits(2 * row + 1), total), vocab, residual, residuals, &found);
    } else {
      const auto weight = [=](index_t v) { return p[v]; };
      sum_stretches(vocab, weight, stretches);
      next = first_above(scale_bits(args.bits(2 * row + 1), args.target_totals(row)), vocab, weight,
                         stretches, &found);
    }
  }
  if (threadIdx.x != 0) return;
  if (stays >= 0 && next < 0) wrong.sum.report(b, first + stays + b);
  args.accepted(b) = static_cast<std::int32_t>(next < 0 ? 0 : stays);
  args.next(b) = static_cast<std::int32_t>(next < 0 ? 0 : next);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <>
struct implementation<op::accept_draft, backend::cuda> {
  using forward_args = op::accept_draft::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const auto sentence = [&](const char* text) { return cuda::misuse_of(ctx, text, forward_args::name); };
    const cuda::detail::accept_draft_misuse wrong{
        sentence("offsets[{}] is {}, expected {} to {}"),
        sentence("the last offset is {}, expected the {} drafts"),
        sentence("the total of target row {} is 0, expected a positive one"),
        sentence("drafted token {} is {}, expected an id below {}"),
        sentence("drafted token {}, {}, has no weight in its draft distribution, expected one that was drawn "
                 "from it"),
        sentence("the weights of sequence {} in target row {} do not sum to the row's total")};
    cuda::launch(forward_args::name, ctx.stream,
                 {.grid = static_cast<unsigned>(args.accepted.extent(0)), .block = 32 * cuda::weight_warps},
                 cuda::detail::accept_drafts_kernel<forward_args>, args, wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
