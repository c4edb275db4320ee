// SPDX-License-Identifier: MIT
// One small product per head on the CPU: weights are read once, as they lie.
#pragma once

#include <dsv3/cpu/attention/rows.hpp>
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/linear/few_rows.hpp>
#include <dsv3/op/linear/batched_gemm.hpp>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

/// A row's bits depend on its numbers alone: not on other tokens, nor on the number of threads.
template <class P>
struct implementation<op::batched_gemm<P>, backend::cpu> {
  using acc = accumulator<P>;
  using forward_args = typename op::batched_gemm<P>::forward_args;
  using transposed_args = typename op::batched_gemm<P>::transposed_args;

  struct workspace {
    view<acc, 3> x, y;  // [slots, rows, in or out]      of one head
  };

  template <class Ctx, class Args>
  static workspace scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    const index_t slots = std::max(ctx.threads, 1), rows = std::min(args.x.extent(0), block_rows);
    return {.x = arena.tensor<acc>(slots, rows, args.x.extent(2)),
            .y = arena.tensor<acc>(slots, rows, args.y.extent(2))};
  }

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    const workspace work = scratch(ctx, ctx.scratch, args);
    const index_t heads = args.w.extent(0), tokens = args.x.extent(0);
    // Heads with little work are handed out several at a time.
    const index_t parts = std::clamp<index_t>(args.w.size() / worthwhile, 1, std::max<index_t>(heads, 1));
    cpu::parallel_slots(ctx.threads, parts, [&](index_t slot, index_t part) {
      const index_range group = split_range(heads, part, parts);
      const view<acc, 2> x = work.x[slot], y = work.y[slot];
      for (index_t head = group.begin; head < group.end; ++head)
        for (index_t first = 0; first < tokens; first += block_rows) {
          const index_t rows = std::min(block_rows, tokens - first);
          for (index_t r = 0; r < rows; ++r)
            cpu::copy_row<acc>(args.x[first + r][head].data(), x.extent(1), x[r].data());
          multiply(args, args.w[head], rows, x, y);
          for (index_t r = 0; r < rows; ++r)
            cpu::copy_row<acc>(y[r].data(), y.extent(1), args.y[first + r][head].data());
        }
    });
  }

 private:
  static constexpr index_t block_rows = 64;                // of tokens in scratch at a time
  static constexpr index_t worthwhile = index_t{1} << 16;  // weights worth handing to a thread

  static void multiply(const forward_args&, const view<const weight<P>, 2>& w, index_t rows,
                       const view<acc, 2>& x, const view<acc, 2>& y) {
    cpu::dot_rows(rows, w.extent(0), w.extent(1), x.data(), x.stride(0), w.data(), w.stride(0),
                  [&](index_t r, index_t o, acc sum) { y(r, o) = sum; });
  }
  static void multiply(const transposed_args&, const view<const weight<P>, 2>& w, index_t rows,
                       const view<acc, 2>& x, const view<acc, 2>& y) {
    cpu::weighted_rows(rows, w.extent(0), w.extent(1), x.data(), x.stride(0), w.data(), w.stride(0), false,
                       y.data(), y.stride(0));
  }
};

}  // namespace dsv3::inline DSV3_ABI
