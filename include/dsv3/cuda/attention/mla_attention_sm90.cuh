// SPDX-License-Identifier: MIT
// Latent attention on Hopper, in the widths of the model it was designed for.
#pragma once

#include <dsv3/cuda/attention/mla_attention.cuh>
#include <dsv3/cuda/attention/mla_attention/forward_sm90.cuh>
#include <dsv3/cuda/host/tensor_map.cuh>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- selection
// -----------------------------------------------------------------------------------------------------------

/// Whether the kernels for Hopper take these operands: k = 128 + 64 and v = 128 columns of bf16, rows that
/// the copy engine can walk, and a scale that keeps the order of scores. The functional body serves the
/// others.
template <class Acc>
bool on_sm90(const attention_inputs<bf16, Acc>& in) {
  return in.nope() == sm90_attention::nope && in.rope() == sm90_attention::rope &&
         in.v_dim() == sm90_attention::v_dim && in.scale > 0 && takes_tensor_map(in.q) &&
         takes_tensor_map(in.kv) && takes_tensor_map(in.k_rope);
}

// ---- launch
// -----------------------------------------------------------------------------------------------------------

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

}  // namespace cuda::detail

// ---- the specialisation
// -----------------------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::mla_attention<P>, backend::hopper>
    : implementation<op::mla_attention<P>, backend::cuda> {
  using functional = implementation<op::mla_attention<P>, backend::cuda>;
  using functional::run;
  using typename functional::forward_args;

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
};

}  // namespace dsv3::inline DSV3_ABI
