// SPDX-License-Identifier: MIT
// Absorbed attention on the GPU: all heads of a few queries over rows of the latent cache, read where they
// lie.
#pragma once

#include <dsv3/cuda/attention/mla_decode/mma.cuh>
#include <dsv3/cuda/attention/mla_decode/plain.cuh>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

// ---- launch -----------------------------------------------------------------------------------------------

template <class P, class Row>
struct implementation<op::mla_decode<P, Row>, backend::cuda> {
  using acc = accumulator<P>;
  using forward_args = typename op::mla_decode<P, Row>::forward_args;

  struct workspace {
    view<acc, 3> sums;                                   // [results, rows, kv_rank]   Σ exp(S - highest) c
    view<cuda::detail::decode_softmax<acc>, 2> softmax;  // [results, rows]
  };

  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    const auto plan = cuda::detail::plan_decode(args);
    const index_t results = plan.row_blocks * args.queries.sequences() * plan.results_of_block();
    constexpr index_t rows = cuda::detail::decode_tiles.rows;
    return {.sums = arena.tensor<acc>(results, rows, args.q_latent.extent(2)),
            .softmax = arena.tensor<cuda::detail::decode_softmax<acc>>(results, rows)};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    using namespace cuda::detail;
    const workspace work = scratch(ctx, ctx.scratch, args);
    const decode_plan plan = plan_decode(args);
    const index_t sequences = args.queries.sequences(), blocks = plan.row_blocks * sequences;
    attend(ctx, args, plan, work);
    const decode_misuse wrong{cuda::sequence_misuse_of(ctx, forward_args::name),
                              cuda::cache_misuse_of(ctx, forward_args::name)};
    cuda::launch(
        forward_args::name, ctx.stream,
        {.grid = static_cast<unsigned>(std::max({blocks * decode_tiles.rows, sequences, index_t{1}})),
         .block = 128},
        combine_rows_kernel<P, Row>, args, plan, work.sums.data(), work.softmax.data(), wrong);
  }

 private:
  template <class Ctx>
  static void attend(Ctx& ctx, const forward_args& args, const cuda::detail::decode_plan& plan,
                     const workspace& work) {
    using namespace cuda::detail;
    const index_t results = work.softmax.extent(0), rank = args.q_latent.extent(2);
    const auto start = [&](index_t panels, std::size_t shared_bytes, auto kernel) {
      cuda::launch(forward_args::name, ctx.stream,
                   {.grid = dim3(static_cast<unsigned>(results), static_cast<unsigned>(panels)),
                    .block = decode_tiles.threads,
                    .shared_bytes = shared_bytes},
                   kernel, args, plan, work.sums.data(), work.softmax.data());
    };
    if constexpr (std::is_same_v<activation<P>, bf16> && std::is_same_v<acc, float>) {
      if (takes_matrix_units<Row>(args))
        return start(1, decode_operand_bytes(static_cast<int>(rank + args.q_rope.extent(2))),
                     decode_matrices_kernel<P, Row>);
    }
    start(std::max<index_t>(ceil_div(rank, decode_columns), 1), 0, decode_rows_kernel<P, Row>);
  }
};

}  // namespace dsv3::inline DSV3_ABI
