// SPDX-License-Identifier: MIT
// The training state and its scratch, built on memory that only counts.
#include "figures.hpp"

#include <dsv3/cpu.hpp>
#include <dsv3/exec/counting_memory.hpp>
#include <dsv3/train/step.hpp>

namespace plan {

using namespace dsv3;

namespace {

template <precision P>
std::vector<memory_part> memory_of(const model_config& config, const step_shape& step, int threads) {
  counting_memory nothing;
  const deepseek_v3<P, compact_layout> model{config};
  training_state<P, compact_layout> state{nothing, model, step};
  std::vector<memory_part> parts = state.parts();
  parts.push_back({"scratch", scratch_bytes(cpu_context<>{.threads = threads}, model, state)});
  return parts;
}

}  // namespace

std::vector<memory_part> training_memory(const model_config& config, const std::string& precision,
                                         const step_shape& step, int threads) {
  if (precision == fp64_reference::name) return memory_of<fp64_reference>(config, step, threads);
  if (precision == fp32::name) return memory_of<fp32>(config, step, threads);
  if (precision == bf16_mixed::name) return memory_of<bf16_mixed>(config, step, threads);
  raise("plan: no precision is named \"" + precision + "\", expected fp64, fp32 or bf16");
}

}  // namespace plan
