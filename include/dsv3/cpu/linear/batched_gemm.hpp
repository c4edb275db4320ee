// SPDX-License-Identifier: MIT
// One small product per head on the CPU: weights are read once, as they lie.
#pragma once

#include <dsv3/cpu/attention/rows.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/linear/few_rows.hpp>
#include <dsv3/op/linear/batched_gemm.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// A row's bits depend on its numbers alone: not on other tokens, nor on the number of threads.
template <class P>
struct implementation<op::batched_gemm<P>, backend::cpu> {
  using acc = accumulator<P>;
  using forward_args = typename op::batched_gemm<P>::forward_args;
  using transposed_args = typename op::batched_gemm<P>::transposed_args;

  /// The inputs of one head as accumulators, [slots, tokens, in].
  template <class Ctx, class Args>
  static view<acc, 3> scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    return arena.tensor<acc>(std::max(ctx.threads, 1), std::min(args.x.extent(0), block_rows),
                             args.x.extent(2));
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const view<acc, 3> loaded = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.w.extent(0), tokens = args.x.extent(0), in = args.x.extent(2);
    // A head with little work is cut no further, and is taken together with others.
    const index_t work = std::max<index_t>(args.w.extent(1) * args.w.extent(2) * tokens, 1);
    const index_t parts = std::clamp<index_t>(heads * work / worthwhile, 1, std::max<index_t>(heads, 1));
    cpu::parallel_slots(ctx.threads, parts, [&](index_t slot, index_t part) {
      const index_range group = split_range(heads, part, parts);
      for (index_t head = group.begin; head < group.end; ++head)
        for (index_t first = 0; first < tokens; first += block_rows) {
          const index_t rows = std::min(block_rows, tokens - first);
          for (index_t r = 0; r < rows; ++r)
            cpu::copy_row<acc>(args.x[first + r][head].data(), in, loaded[slot][r].data());
          multiply(args, head, rows, loaded[slot], args.y.rows(first, first + rows));
        }
    });
  }

 private:
  static constexpr index_t block_rows = 64;                // of tokens in scratch at a time
  static constexpr index_t worthwhile = index_t{1} << 16;  // products worth handing to a thread

  static void multiply(const forward_args& args, index_t head, index_t rows, const view<acc, 2>& x,
                       const view<activation<P>, 3>& y) {
    cpu::dot_rows(rows, args.w.extent(1), x.extent(1), x.data(), x.stride(0), args.w[head].data(),
                  args.w.stride(1),
                  [&](index_t r, index_t o, acc sum) { y(r, head, o) = activation<P>(sum); });
  }

  static void multiply(const transposed_args& args, index_t head, index_t rows, const view<acc, 2>& x,
                       const view<activation<P>, 3>& y) {
    cpu::weighted_rows(
        rows, args.w.extent(1), args.w.extent(2), x.data(), x.stride(0), args.w[head].data(),
        args.w.stride(1), [](index_t, index_t) { return acc(0); },
        [&](index_t r, index_t e, acc sum) { y(r, head, e) = activation<P>(sum); });
  }
};

}  // namespace dsv3::inline DSV3_ABI
