// SPDX-License-Identifier: MIT
// What all kernels of latent attention share: their operands, the sums over heads, the mean of slopes.
#pragma once

#include <dsv3/cuda/attention/sequences.cuh>
#include <dsv3/cuda/device/math.cuh>
#include <dsv3/tensor/view.hpp>

namespace dsv3::inline DSV3_ABI::cuda::detail {

/// One direction's read operands. Keys are k = (k_nope, k_rope), side by side in no memory; backward has as
/// many keys as queries.
template <class Element, class Acc>
struct attention_inputs {
  view<const Element, 3> q, kv;
  view<const Element, 2> k_rope;
  packed_sequences queries, keys;
  Acc scale;

  DSV3_HOST_DEVICE index_t rope() const { return k_rope.extent(1); }
  DSV3_HOST_DEVICE index_t qk() const { return q.extent(2); }
  DSV3_HOST_DEVICE index_t nope() const { return qk() - rope(); }
  DSV3_HOST_DEVICE index_t v_dim() const { return kv.extent(2) - nope(); }
};

/// Besides, what backward reads.
template <class Element, class Acc>
struct attention_slopes {
  view<const Element, 3> d_o;
  view<const Acc, 2> lse, projection;  // [heads, tokens]   projection is D
};
/// And writes. What a head has of dk_rope waits in `partial` for the sum.
template <class Element, class Acc>
struct attention_gradients {
  view<Element, 3> dq, dkv;
  view<Acc, 3> partial;  // [heads, tokens, qk_rope]
};

/// projection[h, t] = Σ_e o · d_o, by a warp for each head of a token.
template <class Element, class Acc>
__global__ void __launch_bounds__(256)
    project_kernel(view<const Element, 3> o, view<const Element, 3> d_o, view<Acc, 2> projection) {
  const index_t lane = threadIdx.x % 32, warps = static_cast<index_t>(gridDim.x) * 8;
  const index_t heads = o.extent(1), rows = o.extent(0) * heads;
  for (index_t row = static_cast<index_t>(blockIdx.x) * 8 + threadIdx.x / 32; row < rows; row += warps) {
    const index_t t = row / heads, h = row % heads;
    Acc sum = 0;
    for (index_t e = lane; e < o.extent(2); e += 32)
      sum += static_cast<Acc>(o(t, h, e)) * static_cast<Acc>(d_o(t, h, e));
    sum = sum_lanes(sum);
    if (lane == 0) projection(h, t) = sum;
  }
}

/// dk_rope = Σ_h partial[h], the heads in their order.
template <class Element, class Acc>
__global__ void __launch_bounds__(256)
    sum_heads_kernel(view<const Acc, 3> partial, view<Element, 2> dk_rope) {
  const index_t rope = dk_rope.extent(1), count = dk_rope.extent(0) * rope;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    Acc sum = 0;
#pragma unroll 8
    for (index_t h = 0; h < partial.extent(0); ++h) sum += partial.data()[h * count + i];
    dk_rope(i / rope, i % rope) = Element(sum);
  }
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
