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
                              const view<bf16, 3>& o, const view<float, 2>& lse, const sm90_plan& plan) {
  using shape = sm90_forward;
  const sm90_order order = sm90_order::of(plan, in.keys.max_length, in.q.extent(1));
  const auto map = [&](const view<const bf16, 3>& rows, int count) {
    return tensor_map(name, rows, {count, 1, 64}, box_swizzle::bytes_128);
  };
  const unsigned blocks = std::min(order.count(), static_cast<unsigned>(multiprocessors()));
  launch(name, stream, {.grid = blocks, .block = shape::threads, .shared_bytes = shape::shared_bytes},
         sm90_forward_kernel<bf16>, map(in.q, shape::rows), map(in.kv, shape::keys),
         tensor_map(name, in.k_rope, {shape::keys, 64}, box_swizzle::bytes_128), in.scale, o, lse, plan,
         order);
}

inline void sm90_backward_pass(const char* name, cudaStream_t stream, const attention_inputs<bf16, float>& in,
                               const view<const bf16, 3>& o, const attention_slopes<bf16, float>& slopes,
                               const sm90_rows& rows, const attention_gradients<bf16, float>& to,
                               const sm90_plan& plan) {
  using shape = sm90_backward;
  const index_t heads = in.q.extent(1);
  const auto row_tiles = static_cast<unsigned>(most_tiles(in.queries, shape::step));
  launch(name, stream, {.grid = {row_tiles, static_cast<unsigned>(heads)}}, sm90_rows_kernel<bf16>, o,
         slopes.d_o, slopes.lse, in.queries, rows);
  const sm90_order order = sm90_order::of(plan, in.queries.max_length, heads);
  const auto map = [&](const view<const bf16, 3>& tensor) {
    return tensor_map(name, tensor, {shape::step, 1, 64}, box_swizzle::bytes_128);
  };
  launch(name, stream,
         {.grid = 2 * order.count(), .block = shape::threads, .shared_bytes = shape::shared_bytes},
         sm90_backward_kernel<bf16>, map(in.q), map(in.kv),
         tensor_map(name, in.k_rope, {shape::step, 64}, box_swizzle::bytes_128), map(slopes.d_o), in.scale,
         rows, to, plan, order);
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

  using forward_scratch = cuda::detail::sm90_plan;
  struct backward_scratch : functional::backward_scratch {
    cuda::detail::sm90_rows rows;
    cuda::detail::sm90_plan plan;
  };
  // The same whichever kernels serve, as that depends on addresses too.
  template <class Ctx>
  static forward_scratch scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    if constexpr (functional::has_matrix_units)
      return forward_scratch::place(arena, args.sequence);
    else
      return {};
  }
  template <class Ctx>
  static backward_scratch scratch(const Ctx& ctx, scratch_arena& arena, const backward_args& args) {
    backward_scratch work{functional::scratch(ctx, arena, args), {}, {}};
    if constexpr (functional::has_matrix_units) {
      work.rows.data = arena.tensor<float>(args.q.extent(1), cuda::detail::sm90_rows::most(args.sequence), 2,
                                           cuda::detail::sm90_backward::step);
      work.plan = forward_scratch::place(arena, args.sequence);
    }
    return work;
  }

  template <class Args>
  static const char* path(const Args& args) {
    return takes(args) ? backend::hopper::path : backend::cuda::path;
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const char* name = forward_args::name;
    [[maybe_unused]] const forward_scratch work = scratch(ctx, ctx.scratch, args);
    if constexpr (functional::has_matrix_units) {
      if (takes(args)) {
        const auto in = functional::inputs_of(args, args.key_sequence());
        cuda::detail::make_sm90_plan(ctx, name, in.queries, in.keys, work);
        return cuda::detail::sm90_forward_pass(name, ctx.stream, in, args.o, args.lse, work);
      }
    }
    functional::run(ctx, args);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    const char* name = backward_args::name;
    const backward_scratch work = scratch(ctx, ctx.scratch, args);
    if constexpr (functional::has_matrix_units) {
      if (takes(args)) {
        const auto in = functional::inputs_of(args, args.sequence);
        cuda::detail::make_sm90_plan(ctx, name, in.queries, in.keys, work.plan);
        const cuda::detail::attention_slopes<bf16, float> slopes{args.d_o, args.lse, {}};
        const cuda::detail::attention_gradients<bf16, float> to{args.dq, args.dkv, work.dk_rope};
        cuda::detail::sm90_backward_pass(name, ctx.stream, in, args.o, slopes, work.rows, to, work.plan);
        return functional::sum_heads(ctx, args, work);
      }
    }
    functional::differentiate(ctx, args, work);
  }

 private:
  static bool takes(const forward_args& args) {
    if constexpr (functional::has_matrix_units)
      return cuda::detail::on_sm90(functional::inputs_of(args, args.key_sequence())) &&
             cuda::detail::rows_take_packs(args.o);
    return false;
  }
  static bool takes(const backward_args& args) {
    if constexpr (functional::has_matrix_units)
      return cuda::detail::on_sm90(functional::inputs_of(args, args.sequence)) &&
             cuda::takes_tensor_map(args.d_o) && cuda::detail::rows_take_packs(args.o) &&
             cuda::detail::rows_take_packs(args.dq) && cuda::detail::rows_take_packs(args.dkv);
    return false;
  }
};

}  // namespace dsv3::inline DSV3_ABI
