// SPDX-License-Identifier: MIT
// The router on the GPU: products as exact as the accumulator's, and each token's choice by a warp.
#pragma once

#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/routing/exact_product.cuh>
#include <dsv3/cuda/routing/held_choice.cuh>
#include <dsv3/cuda/routing/leaders.cuh>
#include <dsv3/cuda/routing/split_product.cuh>
#include <dsv3/op/routing/router.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

template <class Acc>
using rank_type = decltype(rank_of(Acc()));

/// What a warp keeps in shared memory about its token.
template <class Acc>
struct choice_room {
  Acc* scores;             // [experts]   s
  rank_type<Acc>* ranks;   // [experts]   of c; 0 where the group was dropped
  rank_type<Acc>* groups;  // [groups]    of the groups' scores
  std::int32_t* chosen;    // [top_k]

  DSV3_HOST_DEVICE static index_t bytes(const router_config& c) {
    return (2 * c.experts + c.groups) * static_cast<index_t>(sizeof(Acc)) +
           round_up(c.top_k, 2) * static_cast<index_t>(sizeof(std::int32_t));
  }
  __device__ choice_room(const router_config& c, std::byte* memory)
      : scores(reinterpret_cast<Acc*>(memory)),
        ranks(reinterpret_cast<rank_type<Acc>*>(scores + c.experts)),
        groups(ranks + c.experts),
        chosen(reinterpret_cast<std::int32_t*>(groups + c.groups)) {}
};

/// Warps of a block, each with a token and `bytes` of shared memory.
inline unsigned warps_for(index_t bytes) {
  return static_cast<unsigned>(std::clamp<index_t>(48 * 1024 / std::max<index_t>(bytes, 1), 1, 8));
}

// ---- kernels ----------------------------------------------------------------------------------------------

/// Drops the experts of all groups but the best.
template <class Acc>
__device__ __forceinline__ void drop_groups(const router_config& c, const choice_room<Acc>& room, int lane) {
  using rank = rank_type<Acc>;
  const int groups = static_cast<int>(c.groups), members = static_cast<int>(c.group_experts());
  const int summed = static_cast<int>(c.group_top());
  for (int g = 0; g < groups; ++g) {
    Acc sum = 0;
    leader<rank> best;
    for (int i = 0; i < summed; ++i) {
      best = next_leader(room.ranks, g * members, (g + 1) * members, best);
      sum += ranked(best.rank);
    }
    if (lane == 0) room.groups[g] = rank_of(sum);
  }
  __syncwarp();
  leader<rank> last;  // of those that stay
  for (index_t i = 0; i < c.kept_groups; ++i) last = next_leader(room.groups, 0, groups, last);
  for (int e = lane; e < groups * members; e += 32)
    if (last.precedes(room.groups[e / members], e / members)) room.ranks[e] = 0;
  __syncwarp();
}

/// A warp per token. The logits may lie where the scores go.
template <class Acc, class Master>
__global__ void __launch_bounds__(256)
    choose_experts_kernel(router_config c, logit_parts<Acc> logits, const Master* bias, view<Acc, 2> scores,
                          view<std::int32_t, 2> ids, view<Acc, 2> gates, unsigned long long* load) {
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const int lane = threadIdx.x % 32, experts = static_cast<int>(c.experts);
  const choice_room<Acc> room(c, dynamic_shared() + threadIdx.x / 32 * choice_room<Acc>::bytes(c));

  for (int e = lane; e < experts; e += 32) {
    Acc z = 0;
    for (index_t part = 0; part < logits.parts; ++part)
      z += logits.data[part * logits.part_stride + t * logits.stride + e];
    const Acc s = Acc(1) / (Acc(1) + exp(-z));
    scores(t, e) = s;
    room.scores[e] = s;
    room.ranks[e] = rank_of(s + Acc(bias[e]));
  }
  __syncwarp();
  if (c.kept_groups < c.groups) drop_groups(c, room, lane);

  leader<rank_type<Acc>> last;
  Acc sum = Acc(1e-20);
  for (index_t k = 0; k < c.top_k; ++k) {
    last = next_leader(room.ranks, 0, experts, last);
    sum += room.scores[last.index];
    if (lane == 0) room.chosen[k] = last.index;
  }
  __syncwarp();
  const Acc factor = Acc(c.scale) / (c.normalise == gate_norm::none ? Acc(1) : sum);
  for (index_t k = lane; k < c.top_k; k += 32) {
    const std::int32_t id = room.chosen[k];
    ids(t, k) = id;
    gates(t, k) = factor * room.scores[id];
    if (load != nullptr) atomicAdd(load + id, 1ull);
  }
}

/// dz of a token by a warp: of all experts as if nobody chose them, then of those that were chosen.
template <class Acc>
__global__ void __launch_bounds__(256)
    backward_choice_kernel(router_config c, view<const Acc, 2> dgates, view<const Acc, 2> scores,
                           view<const std::int32_t, 2> ids, view<const Acc, 2> dscores,
                           view<Acc, 2> dlogits) {
  const index_t t = static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= scores.extent(0)) return;
  const int lane = threadIdx.x % 32;
  const Acc* s = scores[t].data();
  const auto from_loss = [&](index_t e) { return dscores.empty() ? Acc(0) : dscores(t, e); };
  const auto put = [&](index_t e, Acc ds) { dlogits(t, e) = ds * (s[e] * (1 - s[e])); };
  for (index_t e = lane; e < c.experts; e += 32) put(e, from_loss(e));

  Acc divisor = 1, mean = 0;  // Z, and A, the mean of dgates under p
  if (c.normalise == gate_norm::sum_to_one) {
    divisor = Acc(1e-20);
    for (index_t k = 0; k < c.top_k; ++k) divisor += s[ids(t, k)];
    for (index_t k = 0; k < c.top_k; ++k) mean += dgates(t, k) * (s[ids(t, k)] / divisor);
  }
  const Acc factor = Acc(c.scale) / divisor;
  __syncwarp();  // the chosen are written again, by other lanes
  for (index_t k = lane; k < c.top_k; k += 32) {
    const index_t e = ids(t, k);
    put(e, from_loss(e) + factor * (dgates(t, k) - mean));
  }
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::router<P>, backend::cuda> {
  using op_type = op::router<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_data_args = typename op_type::backward_data_args;
  using backward_weights_args = typename op_type::backward_weights_args;

  /// Room for the planes of factors that are cut into such, and for results of products in parts.
  struct workspace {
    bf16 *planes = nullptr, *more_planes = nullptr;
    acc* parts = nullptr;
  };
  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const forward_args& args) {
    return {take_planes(arena, 3, args.centroids), nullptr,
            take_parts<forward_product>(arena, extents_of(args))};
  }
  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const backward_data_args& args) {
    return {take_planes(arena, 2, args.dlogits), take_planes(arena, 2, args.centroids)};
  }
  template <class Ctx>
  static workspace scratch(const Ctx&, scratch_arena& arena, const backward_weights_args& args) {
    return {take_planes(arena, 2, args.dlogits), nullptr,
            take_parts<weights_product>(arena, extents_of(args))};
  }

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    forward(ctx, args, scratch(ctx, ctx.scratch, args));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_data_args& args) {
    backward_data(ctx, args, scratch(ctx, ctx.scratch, args));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const backward_weights_args& args) {
    backward_weights(ctx, args, scratch(ctx, ctx.scratch, args));
  }

 protected:
  template <class Ctx>
  static void forward(Ctx& ctx, const forward_args& args, const workspace& work) {
    const cuda::product_extents e = extents_of(args);
    const char* name = forward_args::name;
    const bool split = takes_planes(args.x);
    const index_t parts = split ? forward_product::parts(e) : cuda::product_parts<acc>(e);
    const cuda::product_result<acc> z = result_of(work.parts, parts, e, args.scores);
    if constexpr (has_planes)
      if (split)
        forward_product::run(name, ctx.stream, {args.x.data(), args.x.stride(0)},
                             cuda::split_planes<3>(name, ctx.stream, args.centroids, work.planes), e, parts,
                             z);
    if (!split)
      cuda::exact_product<acc>(name, ctx.stream, along_depth(args.x), along_depth(args.centroids), e, parts,
                               z);

    choose(ctx, args, z, parts);
  }

  template <class Ctx>
  static void backward_data(Ctx& ctx, const backward_data_args& args, const workspace& work) {
    const char* name = backward_data_args::name;
    const cuda::product_extents e{args.dx.extent(0), args.dx.extent(1), args.config.experts};
    const cuda::product_result<activation<P>> dx{args.dx.data(), args.dx.stride(0), 0, args.into};
    backward_choice(ctx, args);
    if constexpr (has_planes)
      data_product::run(name, ctx.stream, cuda::split_planes<2>(name, ctx.stream, args.dlogits, work.planes),
                        cuda::split_planes<2>(name, ctx.stream, args.centroids, work.more_planes), e, 1, dx);
    else
      cuda::exact_product<acc>(name, ctx.stream, along_depth<acc>(args.dlogits), along_rows(args.centroids),
                               e, 1, dx);
  }

  template <class Ctx>
  static void backward_weights(Ctx& ctx, const backward_weights_args& args, const workspace& work) {
    const char* name = backward_weights_args::name;
    const cuda::product_extents e = extents_of(args);
    const bool split = takes_planes(args.x);
    const index_t parts = split ? weights_product::parts(e) : cuda::product_parts<acc>(e);
    const auto multiply = [&](const auto& to) {
      if constexpr (has_planes)
        if (split)
          return weights_product::run(name, ctx.stream,
                                      cuda::split_planes<2>(name, ctx.stream, args.dlogits, work.planes),
                                      {args.x.data(), args.x.stride(0)}, e, parts, to);
      cuda::exact_product<acc>(name, ctx.stream, along_rows(args.dlogits), along_rows(args.x), e, parts, to);
    };
    if (parts == 1) {
      multiply(
          cuda::product_result<gradient<P>>{args.dcentroids.data(), args.dcentroids.stride(0), 0, args.into});
    } else {
      multiply(result_of(work.parts, parts, e, view<acc, 2>{}));
      cuda::add_parts(name, ctx.stream, view<acc, 3>{work.parts, parts, e.m, e.n}, args.dcentroids,
                      args.into);
    }
  }

  /// Scores, ids, gates and loads from the logits.
  template <class Ctx>
  static void choose(Ctx& ctx, const forward_args& args, const cuda::product_result<acc>& z, index_t parts) {
    using namespace cuda::detail;
    const index_t tokens = args.x.extent(0);
    const logit_parts<acc> logits{z.data, z.stride, z.part_stride, parts};
    auto* load = reinterpret_cast<unsigned long long*>(args.load.empty() ? nullptr : args.load.data());
    const auto start = [&](auto* kernel, unsigned warps, index_t room, unsigned long long* counted) {
      cuda::launch(forward_args::name, ctx.stream,
                   {.grid = static_cast<unsigned>(ceil_div(tokens, warps)),
                    .block = 32 * warps,
                    .shared_bytes = static_cast<std::size_t>(room) * warps},
                   kernel, args.config, logits, args.bias.data(), args.scores, args.ids, args.gates, counted);
    };
    if constexpr (std::is_same_v<acc, float>)
      if (takes_held_choice(args.config)) {
        const bool few = tokens < 2048;  // they are spread over the processors
        const auto kernel = args.config.experts <= 64 ? choose_held_experts_kernel<2, master<P>>
                                                      : choose_held_experts_kernel<8, master<P>>;
        start(kernel, few ? 1 : 8, 0, few ? load : nullptr);
        constexpr index_t stretch = 128;
        if (!few && load != nullptr)
          cuda::launch(forward_args::name, ctx.stream,
                       {.grid = static_cast<unsigned>(ceil_div(tokens, stretch))},
                       count_load_kernel<std::int32_t>, view<const std::int32_t, 2>(args.ids), stretch,
                       static_cast<int>(args.config.experts), load);
        return;
      }
    const index_t room = choice_room<acc>::bytes(args.config);
    start(choose_experts_kernel<acc, master<P>>, warps_for(room), room, load);
  }

  /// dz from the gates' gradients.
  template <class Ctx>
  static void backward_choice(Ctx& ctx, const backward_data_args& args) {
    cuda::launch(backward_data_args::name, ctx.stream,
                 {.grid = static_cast<unsigned>(ceil_div(args.dx.extent(0), 8))},
                 cuda::detail::backward_choice_kernel<acc>, args.config, args.dgates, args.scores, args.ids,
                 args.dscores, args.dlogits);
  }

  // Whether the products run on the matrix units, in planes of bf16: that is no less exact than float, but
  // for an infinite activation, whose scores become NaN. Gradients take two planes of three: what they are
  // multiplied by, or rounded to, has 8 bits.
  static constexpr bool has_planes =
      std::is_same_v<activation<P>, bf16> && std::is_same_v<acc, float> && std::is_same_v<master<P>, float>;
  using forward_product = cuda::split_product<1, cuda::contiguous::depth, 3, cuda::contiguous::depth,
                                              cuda::detail::split_tile<128, 64>>;
  using data_product = cuda::split_product<2, cuda::contiguous::depth, 2, cuda::contiguous::rows>;
  using weights_product = cuda::split_product<2, cuda::contiguous::rows, 1, cuda::contiguous::rows,
                                              cuda::detail::split_tile<64, 128>>;
  // Activations are planes themselves where their rows consist of 16-byte words; others are multiplied as
  // floats.
  static bool takes_planes(const view<const activation<P>, 2>& x) {
    return has_planes && x.extent(1) % 8 == 0 && cuda::takes_packs<8>(x.data(), x.stride(0));
  }

  template <class T>
  static bf16* take_planes(scratch_arena& arena, index_t planes, const view<T, 2>& x) {
    return has_planes ? arena.take<bf16>(cuda::plane_elements(planes, x.extent(0), x.extent(1))) : nullptr;
  }
  // By the extents alone, enough for either product.
  template <class Split>
  static acc* take_parts(scratch_arena& arena, const cuda::product_extents& e) {
    const index_t parts = std::max(cuda::product_parts<acc>(e), has_planes ? Split::parts(e) : index_t{1});
    return parts == 1 ? nullptr : arena.take<acc>(parts * e.m * e.n);
  }

  // z = x · centroidsᵀ
  static cuda::product_extents extents_of(const forward_args& args) {
    return {args.x.extent(0), args.config.experts, args.x.extent(1)};
  }
  // dcentroids += dzᵀ · x
  static cuda::product_extents extents_of(const backward_weights_args& args) {
    return {args.dcentroids.extent(0), args.dcentroids.extent(1), args.x.extent(0)};
  }
  template <class T>
  static auto along_depth(const view<const T, 2>& x) {
    return cuda::product_factor<T, cuda::contiguous::depth>(x);
  }
  template <class T>
  static auto along_rows(const view<const T, 2>& x) {
    return cuda::product_factor<T, cuda::contiguous::rows>(x);
  }
  // Contiguous parts where there are several, else the place itself.
  static cuda::product_result<acc> result_of(acc* memory, index_t parts, const cuda::product_extents& e,
                                             const view<acc, 2>& place) {
    return parts == 1 ? cuda::product_result<acc>{place.data(), place.stride(0)}
                      : cuda::product_result<acc>{memory, e.n, e.m * e.n};
  }
};

}  // namespace dsv3::inline DSV3_ABI
