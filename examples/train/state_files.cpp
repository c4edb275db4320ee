// SPDX-License-Identifier: MIT
// Checkpoints of every precision.
#include "state_files.hpp"

#include <dsv3/cpu/memory/copy.hpp>
#include <dsv3/cpu/memory/fill.hpp>
#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/cpu/rope/decoupled_rope.hpp>
#include <dsv3/train/checkpoint.hpp>

namespace dsv3_train {

bool holds_checkpoint(const std::string& run) { return dsv3::has_checkpoint(run); }
void remove_unfinished(const std::string& run) { dsv3::remove_unfinished(run); }

template <dsv3::precision P>
void save_state(const std::string& run, dsv3::training_state<P, layout>& state, dsv3::index_t kept,
                const std::string& tokenizer) {
  dsv3::save_checkpoint(run, state, kept, tokenizer);
}

template <dsv3::precision P>
std::string load_state(const std::string& path, dsv3::training_state<P, layout>& state) {
  dsv3::cpu_context<> ctx;
  const auto [folder, remark] = dsv3::load_checkpoint(path, ctx, state);
  return folder + (remark.empty() ? "" : ": " + remark);
}

template void save_state(const std::string&, dsv3::training_state<dsv3::fp32, layout>&, dsv3::index_t,
                         const std::string&);
template std::string load_state(const std::string&, dsv3::training_state<dsv3::fp32, layout>&);
template void save_state(const std::string&, dsv3::training_state<dsv3::bf16_mixed, layout>&, dsv3::index_t,
                         const std::string&);
template std::string load_state(const std::string&, dsv3::training_state<dsv3::bf16_mixed, layout>&);
template void save_state(const std::string&, dsv3::training_state<dsv3::fp8_tilewise, layout>&, dsv3::index_t,
                         const std::string&);
template std::string load_state(const std::string&, dsv3::training_state<dsv3::fp8_tilewise, layout>&);
template void save_state(const std::string&, dsv3::training_state<dsv3::fp64_reference, layout>&,
                         dsv3::index_t, const std::string&);
template std::string load_state(const std::string&, dsv3::training_state<dsv3::fp64_reference, layout>&);

}  // namespace dsv3_train
