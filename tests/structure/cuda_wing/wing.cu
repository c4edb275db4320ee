// SPDX-License-Identifier: MIT
// What training and generating ask of the wing, on the backend DSV3_WING: every kernel that they start is
// compiled, nothing is run.
#include <dsv3/cuda.cuh>
#include <dsv3/infer/speculative.hpp>
#include <dsv3/train/step.hpp>

namespace wing {

using namespace dsv3;
using context = cuda_context<backend::DSV3_WING>;

template <class P>
void train(context& ctx, const deepseek_v3<P>& model, training_state<P>& state,
           const std::vector<token_batch>& batches) {
  train_step(ctx, model, state, batches, step_options{});
}
template <class P>
void generate(context& ctx, speculative_decoder<P>& decoder, decoding_state<P>& state,
              std::span<const index_t> slots) {
  decoder.prefill(ctx, state, slots[0]);
  decoder.verify(ctx, state, slots);
  decoder.propose(ctx, state, slots);
}

template void train(context&, const deepseek_v3<bf16_mixed>&, training_state<bf16_mixed>&,
                    const std::vector<token_batch>&);
template void train(context&, const deepseek_v3<fp8_tilewise>&, training_state<fp8_tilewise>&,
                    const std::vector<token_batch>&);
template void generate(context&, speculative_decoder<bf16_mixed>&, decoding_state<bf16_mixed>&,
                       std::span<const index_t>);

}  // namespace wing
