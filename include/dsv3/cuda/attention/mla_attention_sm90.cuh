// SPDX-License-Identifier: MIT
// Latent attention on Hopper, in the widths of the model it was designed for.
#pragma once

#include <dsv3/cuda/attention/mla_attention.cuh>
#include <dsv3/cuda/attention/mla_attention/backward_sm90.cuh>
#include <dsv3/cuda/attention/mla_attention/forward_sm90.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- selection --------------------------------------------------------------------------------------------

/// Whether the kernels for Hopper take these operands: k = 128 + 64 and v = 128 columns of bf16, rows that
/// the copy engine can walk, and a scale that keeps the order of scores. The functional body serves the
/// others.
template <class Acc>
bool on_sm90(const attention_inputs<bf16, Acc>& in) {
  return in.nope() == sm90_attention::nope && in.rope() == sm90_attention::rope &&
         in.v_dim() == sm90_attention::v_dim && in.scale > 0 && takes_tensor_map(in.q) &&
         takes_tensor_map(in.kv) && takes_tensor_map(in.k_rope);
}

// ---- launch -----------------------------------------------------------------------------------------------

inline void sm90_forward_pass(const char* name, cudaStream_t stream, const attention_inputs<bf16, float>& in,
                              const view<bf16, 3>& o, const view<float, 2>& lse) {
  using shape = sm90_forward;
  const sm90_order order = sm90_order::of(in.queries, in.keys.max_length, in.q.extent(1));
  const auto map = [&](const view<const bf16, 3>& rows, int count) {
    return tensor_map(name, rows, {count, 1, 64}, box_swizzle::bytes_128);
  };
  launch(name, stream, {.grid = order.blocks(), .block = shape::threads, .shared_bytes = shape::shared_bytes},
         sm90_forward_kernel<bf16>, map(in.q, shape::rows), map(in.kv, shape::keys),
         tensor_map(name, in.k_rope, {shape::keys, 64}, box_swizzle::bytes_128), in, o, lse, order);
}

inline void sm90_backward_pass(const char* name, cudaStream_t stream, const attention_inputs<bf16, float>& in,
                               const view<const bf16, 3>& o, const attention_slopes<bf16, float>& slopes,
                               const sm90_rows& rows, const attention_gradients<bf16, float>& to) {
  using shape = sm90_backward;
  const index_t heads = in.q.extent(1);
  const auto rows_tiles = static_cast<unsigned>(most_tiles(in.queries, shape::step));
  launch(name, stream, {.grid = {rows_tiles, static_cast<unsigned>(heads)}}, sm90_rows_kernel<bf16>, o,
         slopes.d_o, slopes.lse, in.queries, rows);
  const sm90_order order = sm90_order::of(in.queries, in.queries.max_length, heads);
  const auto map = [&](const view<const bf16, 3>& tensor) {
    return tensor_map(name, tensor, {shape::step, 1, 64}, box_swizzle::bytes_128);
  };
  const CUtensorMap q = map(in.q), kv = map(in.kv), d_o = map(slopes.d_o),
                    rope = tensor_map(name, in.k_rope, {shape::step, 64}, box_swizzle::bytes_128);
  const launch_shape blocks{
      .grid = order.blocks(), .block = shape::threads, .shared_bytes = shape::shared_bytes};
  launch(name, stream, blocks, sm90_keys_kernel<bf16>, q, kv, rope, d_o, in.queries, in.scale, rows, to,
         order);
  launch(name, stream, blocks, sm90_queries_kernel<bf16>, q, kv, rope, d_o, in.queries, in.scale, rows, to.dq,
         order);
}

}  // namespace cuda::detail

// ---- the specialisation -----------------------------------------------------------------------------------

template <class P>
struct implementation<op::mla_attention<P>, backend::hopper>
    : implementation<op::mla_attention<P>, backend::cuda> {
  using functional = implementation<op::mla_attention<P>, backend::cuda>;
  using functional::run;
  using typename functional::backward_args;
  using typename functional::forward_args;
  using acc = accumulator<P>;

  struct backward_scratch : functional::backward_scratch {
    cuda::detail::sm90_rows rows;
  };
  /// The same whichever kernels serve, as that depends on addresses too.
  template <class Ctx>
  static backward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const backward_args& args) {
    backward_scratch work{functional::scratch(ctx, arena, args), {}};
    if constexpr (functional::has_matrix_units)
      work.rows.data = arena.tensor<float>(args.q.extent(1), cuda::detail::sm90_rows::most(args.sequence), 2,
                                           cuda::detail::sm90_backward::step);
    return work;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    if constexpr (functional::has_matrix_units) {
      const auto in = functional::inputs_of(args, args.key_sequence());
      if (cuda::detail::on_sm90(in) && cuda::detail::rows_take_packs(args.o)) {
        cuda::check_keys(ctx, forward_args::name, args.sequence, args.key_sequence());
        return cuda::detail::sm90_forward_pass(forward_args::name, ctx.stream, in, args.o, args.lse);
      }
    }
    functional::run(ctx, args);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    const backward_scratch work = scratch(ctx, ctx.scratch, args);
    if constexpr (functional::has_matrix_units) {
      const auto in = functional::inputs_of(args, args.sequence);
      if (cuda::detail::on_sm90(in) && cuda::takes_tensor_map(args.d_o) &&
          cuda::detail::rows_take_packs(args.o) && cuda::detail::rows_take_packs(args.dq) &&
          cuda::detail::rows_take_packs(args.dkv)) {
        cuda::check_offsets(ctx, backward_args::name, args.sequence);
        const cuda::detail::attention_slopes<bf16, float> slopes{args.d_o, args.lse, {}};
        const cuda::detail::attention_gradients<bf16, float> to{args.dq, args.dkv, work.dk_rope};
        cuda::detail::sm90_backward_pass(backward_args::name, ctx.stream, in, args.o, slopes, work.rows, to);
        return functional::sum_heads(ctx, args, work);
      }
    }
    functional::differentiate(ctx, args, work);
  }
};

}  // namespace dsv3::inline DSV3_ABI
