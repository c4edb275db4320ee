// SPDX-License-Identifier: MIT
// Latent attention on any GPU: on matrix units where precision and layout allow it, by plain tiles otherwise.
#pragma once

#include <dsv3/cuda/attention/mla_attention/mma.cuh>
#include <dsv3/cuda/attention/mla_attention/plain.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/op/attention/mla_attention.hpp>

#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- selection --------------------------------------------------------------------------------------------

/// Whether every row of a tensor can be moved 16 bytes at a time.
template <class Element, int Rank>
bool rows_take_packs(const view<Element, Rank>& tensor) {
  for (int axis = 0; axis < Rank - 1; ++axis)
    if (tensor.extent(axis) > 1 && !takes_packs<8>(tensor.data(), tensor.stride(axis))) return false;
  return takes_packs<8>(tensor.data(), tensor.extent(Rank - 1));
}

/// Whether the kernels for matrix units take these operands: k_nope, k_rope and v in multiples of 16 bytes,
/// as do all rows begin, and rows of q no wider than 192, of v than 128.
template <class Acc>
bool on_matrix_units(const attention_inputs<bf16, Acc>& in) {
  return rows_take_packs(in.q) && rows_take_packs(in.kv) && in.v_dim() % 8 == 0 && in.rope() % 8 == 0 &&
         (in.rope() == 0 || rows_take_packs(in.k_rope)) && in.qk() <= 192 && in.v_dim() <= 128;
}
/// Whether rows of at most half that width are worth kernels of their own.
template <class Acc>
bool narrow(const attention_inputs<bf16, Acc>& in) {
  return in.qk() <= 96 && in.v_dim() <= 64;
}

}  // namespace cuda::detail

// ---- the specialisation -----------------------------------------------------------------------------------

template <class P>
struct implementation<op::mla_attention<P>, backend::cuda> {
  using op_type = op::mla_attention<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;
  using element = activation<P>;
  using acc = accumulator<P>;

  struct backward_scratch {
    view<acc, 2> projection;  // [heads, tokens]            D
    view<acc, 3> dk_rope;     // [heads, tokens, qk_rope]   what each head has of it
  };
  template <class Ctx>
  static backward_scratch scratch(const Ctx&, scratch_arena& arena, const backward_args& args) {
    const index_t heads = args.q.extent(1), tokens = args.q.extent(0);
    return {.projection = arena.tensor<acc>(heads, tokens),
            .dk_rope = arena.tensor<acc>(heads, tokens, args.k_rope.extent(1))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const char* name = forward_args::name;
    cuda::check_keys(ctx, name, args.sequence, args.key_sequence());
    const auto in = inputs_of(args, args.key_sequence());
    if constexpr (has_matrix_units)
      if (cuda::detail::on_matrix_units(in) && cuda::detail::rows_take_packs(args.o))
        return cuda::detail::narrow(in)
                   ? cuda::detail::mma_forward<96, 64>(name, ctx.stream, in, args.o, args.lse)
                   : cuda::detail::mma_forward<192, 128>(name, ctx.stream, in, args.o, args.lse);
    cuda::detail::plain_forward(name, ctx.stream, in, args.o, args.lse);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    differentiate(ctx, args, scratch(ctx, ctx.scratch, args));
  }

 protected:
  static constexpr bool has_matrix_units = std::is_same_v<element, bf16> && std::is_same_v<acc, float>;

  template <class Args>
  static cuda::detail::attention_inputs<element, acc> inputs_of(const Args& args,
                                                                const packed_sequences& keys) {
    return {args.q, args.kv, args.k_rope, args.sequence, keys, static_cast<acc>(args.scale)};
  }

  template <class Ctx>
  static void sum_heads(Ctx& ctx, const backward_args& args, const backward_scratch& work) {
    cuda::launch(backward_args::name, ctx.stream, {.grid = cuda::grid_for(args.dk_rope.size(), 256)},
                 cuda::detail::sum_heads_kernel<element, acc>, work.dk_rope, args.dk_rope);
  }

  template <class Ctx>
  static void differentiate(Ctx& ctx, const backward_args& args, const backward_scratch& work) {
    const char* name = backward_args::name;
    cuda::check_offsets(ctx, name, args.sequence);
    cuda::launch(name, ctx.stream, {.grid = cuda::grid_for(args.o.extent(0) * args.o.extent(1), 8)},
                 cuda::detail::project_kernel<element, acc>, args.o, args.d_o, work.projection);
    const auto in = inputs_of(args, args.sequence);
    const cuda::detail::attention_slopes<element, acc> slopes{args.d_o, args.lse, work.projection};
    const cuda::detail::attention_gradients<element, acc> to{args.dq, args.dkv, work.dk_rope};
    if (!differentiate_on_matrix_units(ctx, args, in, slopes, to))
      cuda::detail::plain_backward(name, ctx.stream, in, slopes, to);
    sum_heads(ctx, args, work);
  }

 private:
  template <class Ctx, class Inputs, class Slopes, class Gradients>
  static bool differentiate_on_matrix_units(Ctx& ctx, const backward_args& args, const Inputs& in,
                                            const Slopes& slopes, const Gradients& to) {
    if constexpr (has_matrix_units) {
      if (!cuda::detail::on_matrix_units(in) || !cuda::detail::rows_take_packs(args.d_o) ||
          !cuda::detail::rows_take_packs(args.dq) || !cuda::detail::rows_take_packs(args.dkv))
        return false;
      if (cuda::detail::narrow(in))
        cuda::detail::mma_backward<96, 64>(backward_args::name, ctx.stream, in, slopes, to);
      else
        cuda::detail::mma_backward<192, 128>(backward_args::name, ctx.stream, in, slopes, to);
    }
    return has_matrix_units;
  }
};

}  // namespace dsv3::inline DSV3_ABI
