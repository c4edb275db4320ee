// SPDX-License-Identifier: MIT
// Latent attention on a GPU is arithmetic: its limit is the rate of the matrix units. Only the causal half
// counts as work.
#include <dsv3/cuda/attention/mla_attention_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <cmath>

namespace {

using namespace dsv3;

struct attention_shape {
  index_t sequences, length, heads, qk_nope, qk_rope, v_dim;
};

// The shape that attention kernels are compared by; a step of a model for one GPU; a layer of the real model;
// documents in a row of tokens; and a small model.
constexpr attention_shape compared = {1, 4096, 16, 128, 64, 128}, step = {4, 4096, 16, 128, 64, 128},
                          long_row = {1, 16384, 16, 128, 64, 128}, v3 = {1, 4096, 128, 128, 64, 128},
                          documents = {24, 683, 16, 128, 64, 128}, mini = {4, 512, 8, 64, 32, 64};

template <class P>
struct tensors {
  using op_type = op::mla_attention<P>;

  attention_shape shape;
  support::device_tensor<activation<P>, 3> q, kv, o, d_o, dq, dkv;
  support::device_tensor<activation<P>, 2> k_rope, dk_rope;
  support::device_tensor<accumulator<P>, 2> lse;
  support::device_tensor<std::int32_t, 1> offsets, positions;

  explicit tensors(const attention_shape& s)
      : shape(s),
        q(tokens(), s.heads, s.qk_nope + s.qk_rope),
        kv(tokens(), s.heads, s.qk_nope + s.v_dim),
        o(tokens(), s.heads, s.v_dim),
        d_o(tokens(), s.heads, s.v_dim),
        dq(tokens(), s.heads, s.qk_nope + s.qk_rope),
        dkv(tokens(), s.heads, s.qk_nope + s.v_dim),
        k_rope(tokens(), s.qk_rope),
        dk_rope(tokens(), s.qk_rope),
        lse(s.heads, tokens()),
        offsets(s.sequences + 1),
        positions(tokens()) {
    q.normal(1), kv.normal(2), k_rope.normal(3), d_o.normal(4);
    offsets.generate([&](index_t i) { return static_cast<std::int32_t>(i * s.length); });
    positions.generate([&](index_t i) { return static_cast<std::int32_t>(i % s.length); });
  }

  index_t tokens() const { return shape.sequences * shape.length; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(shape.qk_nope + shape.qk_rope)); }
  // Query-key pairs that are not masked, over all heads.
  double scores() const {
    return static_cast<double>(tokens() * shape.heads) * static_cast<double>(shape.length + 1) / 2;
  }
  double qk() const { return static_cast<double>(shape.qk_nope + shape.qk_rope); }
  double v_dim() const { return static_cast<double>(shape.v_dim); }

  typename op_type::forward_args forward() const {
    return {.q = q,
            .kv = kv,
            .k_rope = k_rope,
            .sequence = {offsets, positions, shape.length},
            .scale = scale(),
            .o = o,
            .lse = lse};
  }
  typename op_type::backward_args backward() const {
    return {.d_o = d_o,
            .q = q,
            .kv = kv,
            .k_rope = k_rope,
            .o = o,
            .lse = lse,
            .sequence = {offsets, positions, shape.length},
            .scale = scale(),
            .dq = dq,
            .dkv = dkv,
            .dk_rope = dk_rope};
  }
};

template <class P, class Backend, const attention_shape& Shape>
void forward(benchmark::State& state) {
  const tensors<P> t(Shape);
  support::time_on<Backend>(state, [&](auto& ctx) { op::mla_attention<P>::forward(ctx, t.forward()); });
  support::count_flops<bf16>(state, t.scores() * 2 * (t.qk() + t.v_dim()));
}

template <class P, class Backend, const attention_shape& Shape>
void backward(benchmark::State& state) {
  const tensors<P> t(Shape);
  auto ctx_of_forward = support::context<>();
  op::mla_attention<P>::forward(ctx_of_forward, t.forward());
  synchronize(ctx_of_forward);
  support::time_on<Backend>(state, [&](auto& ctx) { op::mla_attention<P>::backward(ctx, t.backward()); });
  support::count_flops<bf16>(state, t.scores() * 2 * (3 * t.qk() + 2 * t.v_dim()));
}

#define DSV3_BOTH(...)                                              \
  BENCHMARK_TEMPLATE(forward, __VA_ARGS__)->Apply(support::on_gpu); \
  BENCHMARK_TEMPLATE(backward, __VA_ARGS__)->Apply(support::on_gpu)
DSV3_BOTH(bf16_mixed, backend::hopper, compared);
DSV3_BOTH(bf16_mixed, backend::hopper, step);
DSV3_BOTH(bf16_mixed, backend::hopper, long_row);
DSV3_BOTH(bf16_mixed, backend::hopper, v3);
DSV3_BOTH(bf16_mixed, backend::hopper, documents);
DSV3_BOTH(bf16_mixed, backend::cuda, compared);
DSV3_BOTH(bf16_mixed, backend::cuda, mini);
DSV3_BOTH(fp32, backend::cuda, mini);
#undef DSV3_BOTH

}  // namespace

int main(int count, char** words) { return support::bench_main(count, words); }
