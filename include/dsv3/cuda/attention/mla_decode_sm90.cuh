// SPDX-License-Identifier: MIT
// Absorbed attention over bf16 rows of 512 + 64 in pages on Hopper; all other sizes as on any GPU.
#pragma once

#include <dsv3/cuda/attention/mla_decode/pages_sm90.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

// ---- selection --------------------------------------------------------------------------------------------

namespace cuda::detail {

/// Rows of 512 + 64 in pages of whole tiles of keys, everything aligned to 16 bytes, and a scale above zero;
/// all else is the functional body's.
template <class Args>
bool takes_pages(const Args& args) {
  const auto aligned = [](const auto& rows) {
    return takes_packs<8>(rows.data(), rows.stride(0)) && rows.stride(1) % 8 == 0;
  };
  return args.q_latent.extent(2) == page_tiles::rank && args.q_rope.extent(2) == page_tiles::rope &&
         !args.q_latent.empty() && args.scale > 0 && args.cache.page_rows() % page_tiles::keys == 0 &&
         takes_tensor_map(args.cache.pages) && aligned(args.q_latent) && aligned(args.q_rope) &&
         aligned(args.z);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
  requires(std::is_same_v<activation<P>, bf16>&& std::is_same_v<accumulator<P>, float>)
struct implementation<op::mla_decode<P, cache_row::plain>, backend::hopper>
    : implementation<op::mla_decode<P, cache_row::plain>, backend::cuda> {
  using base = implementation<op::mla_decode<P, cache_row::plain>, backend::cuda>;
  using forward_args = typename op::mla_decode<P, cache_row::plain>::forward_args;

  struct workspace {
    view<float, 3> sums = {};        // [places, rows, kv_rank]
    view<float, 2> lse = {};         // [places, rows]              in base 2
    view<long long, 2> starts = {};  // [row blocks, sequences + 2]
    typename base::workspace other = {};
  };

  template <class Ctx>
  static workspace scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    using cuda::detail::page_tiles;
    if (!cuda::detail::takes_pages(args)) return {.other = base::scratch(ctx, arena, args)};
    const auto plan = cuda::detail::plan_pages(args);
    const index_t places = 2 * plan.row_blocks * plan.parts;
    return {.sums = arena.tensor<float>(places, page_tiles::rows, page_tiles::rank),
            .lse = arena.tensor<float>(places, page_tiles::rows),
            .starts = arena.tensor<long long>(plan.row_blocks, args.queries.sequences() + 2)};
  }

  static const char* path(const forward_args& args) {
    return cuda::detail::takes_pages(args) ? backend::hopper::path : backend::cuda::path;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    using namespace cuda::detail;
    if (!takes_pages(args)) return base::run(ctx, args);
    const workspace work = scratch(ctx, ctx.scratch, args);
    const page_plan plan = plan_pages(args);
    const index_t sequences = args.queries.sequences();
    const CUtensorMap map =
        cuda::tensor_map(forward_args::name, args.cache.pages, {1, 64, 64}, cuda::box_swizzle::bytes_128);
    cuda::launch(forward_args::name, ctx.stream,
                 {.grid = dim3(static_cast<unsigned>(plan.row_blocks), static_cast<unsigned>(plan.parts)),
                  .block = page_threads,
                  .shared_bytes = sizeof(page_room)},
                 attend_pages_kernel<forward_args>, map, args, plan, work.sums.data(), work.lse.data(),
                 work.starts.data());
    const decode_misuse wrong{cuda::sequence_misuse_of(ctx, forward_args::name),
                              cuda::cache_misuse_of(ctx, forward_args::name)};
    // Few rows are cut into pieces, so that long sequences are not joined by few warps.
    const index_t rows = sequences * plan.row_blocks * page_tiles::rows;
    const bool few = rows <= 4096;
    const index_t warps = std::max({rows * (few ? 4 : 1), sequences, index_t{1}});
    cuda::launch(forward_args::name, ctx.stream, {.grid = static_cast<unsigned>(ceil_div(warps, 8))},
                 few ? combine_parts_kernel<4, forward_args> : combine_parts_kernel<1, forward_args>, args,
                 plan, work.sums.data(), work.lse.data(), work.starts.data(), wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
