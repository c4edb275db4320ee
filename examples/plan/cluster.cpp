// SPDX-License-Identifier: MIT
// Training on many GPUs: each figure with what it follows from.
#include "figures.hpp"

#include <dsv3/train/cluster_account.hpp>

namespace plan {

using namespace dsv3;

namespace {

json whole(double value) { return static_cast<index_t>(value + 0.5); }
// To so many digits after the point.
json rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

}  // namespace

std::vector<figure> cluster_figures(const model_config& model, const cluster_layout& layout,
                                    const gpu_figures& gpu, const cost_assumptions& assumed,
                                    const training_run& training) {
  const cluster_account account{model, layout, gpu, assumed};
  std::vector<figure> all;
  const auto add = [&](const char* group, const std::string& name, const json& value, const char* unit,
                       const char* formula) {
    all.push_back({group, name, value, unit, formula});
  };

  const index_t largest = account.largest_rank();
  const char* memory = "memory_of_largest_rank";
  add(memory, "pipeline_rank", largest, "", "the one that needs most");
  const std::vector<memory_part> parts = account.memory(largest);
  for (const memory_part& part : parts)
    add(memory, part.name, static_cast<index_t>(part.bytes), "bytes",
        part.name == "weights"     ? "8-bit matrices with block scales, the rest in bf16"
        : part.name == "gradients" ? "4 bytes a parameter held"
        : part.name == "masters"   ? "4 bytes a parameter, shared among all that hold it"
        : part.name == "moments"   ? "2 2 bytes a parameter, shared likewise"
                                   : "one micro-batch of a stage, pipeline_ranks + 1 times");
  add(memory, "total", static_cast<index_t>(cluster_account::total(parts)), "bytes",
      "sum; scratch is not in it");
  add(memory, "of_the_gpu", rounded(static_cast<double>(cluster_account::total(parts)) / gpu.memory, 3), "",
      "total / --memory-gb");

  const char* exchange = "exchange_per_micro_batch_and_block";
  const exchanged_bytes sent = account.exchange();
  add(exchange, "ranks_per_token", rounded(account.expected_ranks(), 2), "",
      "different ranks that hold a token's experts, for even routing");
  add(exchange, "within_node", whole(sent.link), "bytes", "tokens copies 2 (FP8 row + BF16 row)");
  add(exchange, "between_nodes", whole(sent.network), "bytes",
      "the same to other nodes, at most kept_groups");

  const char* step = "step_estimate";
  const step_seconds s = account.seconds();
  add(step, "micro_batches", layout.micro_batches(), "", "sequences / (expert_ranks replicas rows)");
  add(step, "products", rounded(s.products, 3), "s", "6 matrix parameters / (fp8 rate product_share)");
  add(step, "attention", rounded(s.attention, 3), "s", "3 causal forward / (bf16 rate attention_share)");
  add(step, "elementwise", rounded(s.elementwise, 3), "s", "passes 2 hidden / (memory rate memory_share)");
  add(step, "bubble", rounded(s.bubble, 3), "s", "(pipeline_ranks / 2 - 1) (F&B + B - 3 W)");
  add(step, "exposed_exchange", rounded(s.exposed_exchange, 3), "s", "what computing does not hide");
  add(step, "update", rounded(s.update, 3), "s", "gradients out, weights back, AdamW on the own share");
  add(step, "total", rounded(s.total(), 3), "s", "sum of the above");
  add(step, "tokens_per_second", whole(account.tokens_per_second()), "", "tokens / total, all GPUs");

  const char* cost = "training_estimate";
  const double hours = account.gpu_hours(training.tokens) + training.further_hours;
  add(cost, "gpu_hours_per_1e12_tokens", whole(account.gpu_hours(1e12)), "hours",
      "1e12 gpus / tokens_per_second");
  add(cost, "utilisation", rounded(account.utilisation(account.gpu_hours(1e12), 1e12), 4), "",
      "training_causal 1e12 / (hours bf16 rate)");
  add(cost, "gpu_hours", whole(hours), "hours", "for --tokens, and --further-hours");
  add(cost, "price", whole(hours * gpu.hour_price), "USD", "gpu_hours --hour-price");

  const char* stated = "training_at_stated_rate";
  const double measured = training.hours_per_trillion;
  const double stated_hours = measured * training.tokens / 1e12;
  add(stated, "gpu_hours_per_1e12_tokens", whole(measured), "hours", "--hours-per-trillion");
  add(stated, "tokens_per_second_and_gpu", rounded(1e12 / (measured * 3600), 1), "", "1e12 / (hours 3600)");
  add(stated, "days_per_1e12_tokens", rounded(measured / static_cast<double>(layout.gpus) / 24, 2), "days",
      "hours / gpus / 24");
  add(stated, "utilisation", rounded(account.utilisation(measured, 1e12), 4), "", "as above");
  add(stated, "pre_training_hours", whole(stated_hours), "hours", "hours --tokens / 1e12");
  add(stated, "gpu_hours", whole(stated_hours + training.further_hours), "hours", "and --further-hours");
  add(stated, "price", whole((stated_hours + training.further_hours) * gpu.hour_price), "USD",
      "gpu_hours --hour-price");

  const char* from = "assumptions_of_the_estimate";
  add(from, "product_share", assumed.product_share, "", "of the FP8 peak");
  add(from, "attention_share", assumed.attention_share, "", "of the BF16 peak");
  add(from, "memory_share", assumed.memory_share, "", "of the memory's rate");
  add(from, "exchange_multiprocessors", assumed.exchange_multiprocessors, "", "taken from computing");
  add(from, "passes", assumed.passes, "", "fitted to 180,000 hours with the defaults");
  return all;
}

}  // namespace plan
