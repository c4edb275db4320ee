// SPDX-License-Identifier: MIT
// The router on compute capability 9.0a: the products of its planes by wgmma, that for dx by cuBLASLt.
#pragma once

#include <dsv3/cuda/linear/dense_product.cuh>
#include <dsv3/cuda/routing/router.cuh>
#include <dsv3/cuda/routing/split_product_sm90.cuh>

#include <algorithm>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Two planes of x as three blocks of y, `step` elements apart: the first plane where Second has no bit. All
/// of `rows` by `columns`, multiples of 8, are written, with zeros beyond x.
template <unsigned Second>
__global__ void stack_planes_kernel(view<const float, 2> x, bool packs, index_t rows, index_t columns,
                                    bf16* y, index_t stride, index_t step) {
  const index_t count = rows * columns / 8, all = static_cast<index_t>(gridDim.x) * blockDim.x;
  const auto across = static_cast<unsigned>(columns / 8);
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += all) {
    const index_t row = i / across, column = (i - row * across) * 8;
    pack<bf16, 8> plane[2];
    split(load_eight(x.data() + row * x.stride(0), column, row < x.extent(0) ? x.extent(1) : 0, packs),
          plane);
#pragma unroll
    for (int block = 0; block < 3; ++block)
      store_pack(y + row * stride + column + block * step, plane[Second >> block & 1]);
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

/// Activations in bf16 whose rows lie multiples of 16 bytes apart; the parent takes all others.
template <class P>
struct implementation<op::router<P>, backend::hopper> : implementation<op::router<P>, backend::cuda> {
  using parent = implementation<op::router<P>, backend::cuda>;
  using typename parent::acc;
  using typename parent::backward_data_args;
  using typename parent::backward_weights_args;
  using typename parent::forward_args;

  template <class Args>
  static const char* path(const Args& args) {
    return takes(args) ? backend::hopper::path : backend::cuda::path;
  }

  /// Room for either product.
  template <class Ctx>
  static auto scratch(const Ctx& ctx, scratch_arena& arena, const forward_args& args) {
    if constexpr (parent::has_planes)
      return typename parent::workspace{
          parent::take_planes(arena, 3, args.centroids), nullptr,
          take_parts<forward_product, typename parent::forward_product>(arena, parent::extents_of(args))};
    else
      return parent::scratch(ctx, arena, args);
  }
  template <class Ctx>
  static auto scratch(const Ctx& ctx, scratch_arena& arena, const backward_weights_args& args) {
    if constexpr (parent::has_planes)
      return typename parent::workspace{
          parent::take_planes(arena, 2, args.dlogits), nullptr,
          take_parts<weights_product, typename parent::weights_product>(arena, parent::extents_of(args))};
    else
      return parent::scratch(ctx, arena, args);
  }
  struct data_workspace {
    bf16 *dz = nullptr, *centroids = nullptr;
    void* library = nullptr;
  };
  template <class Ctx>
  static auto scratch(const Ctx& ctx, scratch_arena& arena, const backward_data_args& args) {
    if constexpr (parent::has_planes) {
      const index_t depth = 3 * round_up(args.config.experts, 8);
      return data_workspace{arena.take<bf16>(args.dx.extent(0) * depth),
                            arena.take<bf16>(depth * round_up(args.dx.extent(1), 8)),
                            cuda::detail::library_workspace(arena)};
    } else {
      return parent::scratch(ctx, arena, args);
    }
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const auto work = scratch(ctx, ctx.scratch, args);
    if constexpr (parent::has_planes) {
      if (takes(args)) {
        const cuda::product_extents e = parent::extents_of(args);
        const index_t parts = forward_product::parts(e);
        const cuda::product_result<acc> z = parent::result_of(work.parts, parts, e, args.scores);
        forward_product::run(args.name, ctx.stream, {args.x.data(), args.x.stride(0)},
                             cuda::split_planes<3>(args.name, ctx.stream, args.centroids, work.planes), e,
                             parts, z);
        return parent::choose(ctx, args, z, parts);
      }
    }
    parent::forward(ctx, args, work);
  }

  /// dx = dz · centroids, each of two planes: dz₀ c₀ + dz₀ c₁ + dz₁ c₀ as one product, three times as deep.
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    const auto work = scratch(ctx, ctx.scratch, args);
    if constexpr (parent::has_planes) {
      using namespace cuda::detail;
      const index_t tokens = args.dx.extent(0), hidden = args.dx.extent(1);
      const index_t experts = round_up(args.config.experts, 8), columns = round_up(hidden, 8);
      parent::backward_choice(ctx, args);
      if (args.dx.empty()) return;
      stack<0b100>(ctx, args.dlogits, tokens, experts, work.dz, 3 * experts, experts);
      stack<0b010>(ctx, args.centroids, experts, columns, work.centroids, columns, experts * columns);
      multiply_dense<acc>(ctx, args.name,
                          dense_operand_of<const bf16>(view<const bf16, 2>(work.dz, tokens, 3 * experts)),
                          dense_operand_of<const bf16>(
                              view<const bf16, 2>(work.centroids, {3 * experts, hidden}, {columns, 1})),
                          view<bf16, 3>(args.dx.data(), {1, tokens, hidden}, {0, args.dx.stride(0), 1}),
                          args.into, work.library);
    } else {
      parent::backward_data(ctx, args, work);
    }
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    const auto work = scratch(ctx, ctx.scratch, args);
    if constexpr (parent::has_planes) {
      if (takes(args)) {
        const cuda::product_extents e = parent::extents_of(args);
        const index_t parts = weights_product::parts(e);
        const auto multiply = [&](const auto& to) {
          weights_product::run(args.name, ctx.stream,
                               cuda::split_planes<2>(args.name, ctx.stream, args.dlogits, work.planes),
                               {args.x.data(), args.x.stride(0)}, e, parts, to);
        };
        if (parts == 1)
          return multiply(cuda::product_result<gradient<P>>{args.dcentroids.data(), args.dcentroids.stride(0),
                                                            0, args.into});
        multiply(parent::result_of(work.parts, parts, e, view<acc, 2>{}));
        return cuda::add_parts(args.name, ctx.stream, view<acc, 3>{work.parts, parts, e.m, e.n},
                               args.dcentroids, args.into);
      }
    }
    parent::backward_weights(ctx, args, work);
  }

 private:
  using forward_product = cuda::split_product_sm90<1, cuda::contiguous::depth, 3, cuda::contiguous::depth>;
  using weights_product = cuda::split_product_sm90<2, cuda::contiguous::rows, 1, cuda::contiguous::rows>;

  static bool takes(const forward_args& args) { return takes(args.x, args.config.experts); }
  static bool takes(const backward_data_args&) { return parent::has_planes; }
  static bool takes(const backward_weights_args& args) { return takes(args.x, args.dlogits.extent(1)); }
  static bool takes([[maybe_unused]] const view<const activation<P>, 2>& x, index_t experts) {
    if constexpr (parent::has_planes)
      return experts > 0 && cuda::takes_tensor_map(x);
    else
      return false;
  }

  template <class Own, class Other>
  static acc* take_parts(scratch_arena& arena, const cuda::product_extents& e) {
    const index_t parts = std::max({cuda::product_parts<acc>(e), Other::parts(e), Own::parts(e)});
    return parts == 1 ? nullptr : arena.take<acc>(parts * e.m * e.n);
  }
  template <unsigned Second, class Ctx>
  static void stack(Ctx& ctx, const view<const float, 2>& x, index_t rows, index_t columns, bf16* y,
                    index_t stride, index_t step) {
    cuda::launch(backward_data_args::name, ctx.stream, {.grid = cuda::grid_for(rows * columns, 8 * 256)},
                 cuda::detail::stack_planes_kernel<Second>, x, cuda::takes_packs<4>(x.data(), x.stride(0)),
                 rows, columns, y, stride, step);
  }
};

}  // namespace dsv3::inline DSV3_ABI
