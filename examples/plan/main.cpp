// SPDX-License-Identifier: MIT
// dsv3-plan: what a model costs, before anything is built. Parameters, cache, FLOPs, training memory; on one
// machine or on many GPUs.
#include "figures.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>

#include <dsv3/model/config_file.hpp>
#include <dsv3/model/named_config.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <string>
#include <thread>

using namespace dsv3;

namespace {

struct options {
  std::string preset, config, precision = fp32::name, kept;
  index_t length = 0, context = 0;
  step_shape step;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool as_json = false, explain = false;
  index_t gpus = 0;  // 0: no cluster is planned
  cluster_layout layout;
  std::string gpu = "h800";
  double fp8_tflops = 0, bf16_tflops = 0, memory_gb = 0, memory_gbs = 0, link_gbs = 0, network_gbs = 0;
  double hour_price = 2;
  cost_assumptions assumed;
  plan::training_run training;
};

// Stated by the makers, dense and one way; a flag wins.
gpu_figures figures_of(const options& chosen) {
  gpu_figures gpu;
  if (chosen.gpu == "h100") gpu.link_rate = 450e9;
  if (chosen.gpu == "h200") gpu.link_rate = 450e9, gpu.memory_rate = 4.8e12, gpu.memory = 141e9;
  const auto take = [](double& figure, double given, double unit) {
    if (given > 0) figure = given * unit;
  };
  take(gpu.fp8_rate, chosen.fp8_tflops, 1e12);
  take(gpu.bf16_rate, chosen.bf16_tflops, 1e12);
  take(gpu.memory, chosen.memory_gb, 1e9);
  take(gpu.memory_rate, chosen.memory_gbs, 1e9);
  take(gpu.link_rate, chosen.link_gbs, 1e9);
  take(gpu.network_rate, chosen.network_gbs, 1e9);
  gpu.hour_price = chosen.hour_price;
  return gpu;
}

// 11610068224 -> "11,610,068,224"; a figure with a fraction keeps it.
std::string grouped(const json& value) {
  std::string digits = value.is_number_float() && std::fabs(value.get<double>()) < 1e18 &&
                               value.get<double>() == std::floor(value.get<double>())
                           ? std::to_string(static_cast<index_t>(value.get<double>()))
                           : value.dump();
  const std::size_t whole = std::min(digits.size(), digits.find_first_of(".e"));
  for (std::size_t at = whole; at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

void print(const std::vector<plan::figure>& figures, bool explain) {
  std::string group;
  for (const plan::figure& f : figures) {
    if (f.group != group) std::printf("%s%s\n", group.empty() ? "" : "\n", f.group.c_str());
    group = f.group;
    std::printf("  %-34s %24s %-10s%s%s\n", f.name.c_str(), grouped(f.value).c_str(), f.unit.c_str(),
                explain ? "  = " : "", explain ? f.formula.c_str() : "");
  }
}

json nested(const std::vector<plan::figure>& figures, const model_config& config) {
  json tree = {{"config", config_json(config)}};
  for (const plan::figure& f : figures) {
    const bool whole = f.value.is_number_float() && std::fabs(f.value.get<double>()) < 9e15 &&
                       f.value.get<double>() == std::floor(f.value.get<double>());
    tree[f.group][f.name] = whole ? json(static_cast<index_t>(std::llround(f.value.get<double>()))) : f.value;
  }
  return tree;
}

void add_memory(std::vector<plan::figure>& figures, const model_config& config, const options& chosen) {
  const std::map<std::string, std::string> how{
      {"masters", "parameters.total without bias + mtp.unique without bias, each in the master's type"},
      {"weights", "matrices beside their masters, where their types differ"},
      {"gradients", "as masters, in the gradient's type"},
      {"moments", "twice as masters, in the moment's type"},
      {"activations", "saved for backward: --keep, --batch, --seq"},
      {"scratch", "peak of one step on --threads threads, measured"}};
  index_t sum = 0;
  for (const memory_part& part :
       plan::training_memory(config, chosen.precision, chosen.step, chosen.threads)) {
    const auto found = how.find(part.name);
    const auto bytes = static_cast<index_t>(part.bytes);
    figures.push_back(
        {"training_memory", part.name, bytes, "bytes", found == how.end() ? "" : found->second});
    sum += bytes;
  }
  figures.push_back({"training_memory", "total", sum, "bytes", "sum of the above"});
}

int run(options chosen) {
  const model_config config = support::given_by_user(
      [&] { return chosen.config.empty() ? named_config(chosen.preset) : read_config(chosen.config).model; });
  if (chosen.length == 0) chosen.length = std::min<index_t>(4096, config.max_positions);
  if (chosen.context == 0) chosen.context = chosen.length;
  chosen.step.length = chosen.length;
  if (chosen.length > std::numeric_limits<std::int32_t>::max() / chosen.step.rows)
    throw support::usage_error(
        "--batch times --seq is more than 2147483647 tokens, expected at most that many");
  if (chosen.kept.empty()) chosen.kept = chosen.gpus > 0 ? "attention" : "everything";
  chosen.step.kept = chosen.kept == "everything"  ? keep::everything
                     : chosen.kept == "attention" ? keep::attention
                                                  : keep::inputs;
  std::vector<plan::figure> figures =
      plan::model_figures(model_account{config}, chosen.length, chosen.context);
  const bool trainable = config.scoring == router_scoring::sigmoid;
  if (chosen.gpus > 0) {
    if (!trainable)
      throw support::usage_error(
          "--gpus plans training: models with softmax routers can be planned, not run");
    chosen.layout.gpus = chosen.gpus;
    chosen.layout.length = chosen.length;
    chosen.layout.rows = chosen.step.rows;
    chosen.layout.kept = chosen.step.kept;
    const std::vector<plan::figure> more = support::given_by_user([&] {
      return plan::cluster_figures(config, chosen.layout, figures_of(chosen), chosen.assumed,
                                   chosen.training);
    });
    figures.insert(figures.end(), more.begin(), more.end());
  } else if (trainable)
    add_memory(figures, config, chosen);
  if (chosen.as_json) {
    std::printf("%s\n", nested(figures, config).dump(2).c_str());
    return 0;
  }
  print(figures, chosen.explain);
  if (!trainable) std::printf("\nno training memory: models with softmax routers can be planned, not run\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What a model costs: parameters, cache bytes and FLOPs per token, training memory.",
               "dsv3-plan"};
  options chosen;
  auto* size = app.add_option_group("model");
  size->add_option("--preset", chosen.preset,
                   "a named size: tiny, midi, mini, small, bench-3b, moonlight, v2-lite, v2, v3");
  size->add_option("--config", chosen.config, "a config.json, or a folder with one");
  size->require_option(1);
  app.add_option("--seq", chosen.length, "tokens of a row; 4096, or the model's longest if that is less")
      ->check(support::whole_number(1, index_t{1} << 40));
  app.add_option("--context", chosen.context, "cached tokens when decoding; --seq unless given")
      ->check(support::whole_number(1, index_t{1} << 40));
  app.add_option("--batch", chosen.step.rows, "rows of a training step")
      ->check(support::whole_number(1, index_t{1} << 30))
      ->capture_default_str();
  app.add_option("--precision", chosen.precision, "of training: fp32, bf16 or fp64")
      ->check(support::one_of({"fp32", "bf16", "fp64"}))
      ->capture_default_str();
  app.add_option(
         "--keep", chosen.kept,
         "what forward keeps for backward: everything (one machine), attention (with --gpus) or inputs")
      ->check(support::one_of({"everything", "attention", "inputs"}));
  app.add_option("--threads", chosen.threads, "threads of a training step; scratch depends on it")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();
  const auto positive = support::whole_number(1, index_t{1} << 30);
  auto* cluster = app.add_option_group("cluster", "training in 8 bits on many GPUs, as the report does");
  cluster->add_option("--gpus", chosen.gpus, "plans for so many, instead of one machine's memory")
      ->check(positive);
  cluster->add_option("--pp", chosen.layout.pipeline_ranks, "pipeline ranks, of DualPipe")
      ->check(positive)
      ->capture_default_str();
  cluster->add_option("--ep", chosen.layout.expert_ranks, "ranks that share the experts of a layer")
      ->check(positive)
      ->capture_default_str();
  cluster->add_option("--dp", chosen.layout.expert_replicas, "groups that hold the same experts")
      ->check(positive)
      ->capture_default_str();
  cluster
      ->add_option("--sequences", chosen.layout.sequences, "rows of a whole step; --batch of a micro-batch")
      ->check(positive)
      ->capture_default_str();
  cluster->add_option("--gpus-per-node", chosen.layout.gpus_per_node, "that a link connects")
      ->check(positive)
      ->capture_default_str();
  cluster->add_option("--gpu", chosen.gpu, "whose stated figures: h800, h100 or h200")
      ->check(support::one_of({"h800", "h100", "h200"}))
      ->capture_default_str();
  const auto above_zero = support::positive_number();
  cluster->add_option("--fp8-tflops", chosen.fp8_tflops, "instead of the GPU's")->check(above_zero);
  cluster->add_option("--bf16-tflops", chosen.bf16_tflops, "instead of the GPU's")->check(above_zero);
  cluster->add_option("--memory-gb", chosen.memory_gb, "instead of the GPU's")->check(above_zero);
  cluster->add_option("--memory-gbs", chosen.memory_gbs, "GB/s, instead of the GPU's")->check(above_zero);
  cluster->add_option("--link-gbs", chosen.link_gbs, "GB/s one way within a node")->check(above_zero);
  cluster->add_option("--network-gbs", chosen.network_gbs, "GB/s one way between nodes; 50")
      ->check(above_zero);
  cluster->add_option("--hour-price", chosen.hour_price, "USD for a GPU hour")
      ->check(above_zero)
      ->capture_default_str();
  cluster->add_option("--tokens", chosen.training.tokens, "of the whole run")
      ->check(above_zero)
      ->capture_default_str();
  cluster
      ->add_option("--further-hours", chosen.training.further_hours, "GPU hours of what follows pre-training")
      ->check(support::not_negative())
      ->capture_default_str();
  cluster
      ->add_option("--hours-per-trillion", chosen.training.hours_per_trillion,
                   "GPU hours for 10^12 tokens that were measured, beside the estimate")
      ->check(above_zero)
      ->capture_default_str();
  const auto share = support::number(1e-6, 1, "a share, above 0 and at most 1");
  cluster->add_option("--product-share", chosen.assumed.product_share, "of the FP8 peak")
      ->check(share)
      ->capture_default_str();
  cluster->add_option("--attention-share", chosen.assumed.attention_share, "of the BF16 peak")
      ->check(share)
      ->capture_default_str();
  cluster->add_option("--memory-share", chosen.assumed.memory_share, "of the memory's rate")
      ->check(share)
      ->capture_default_str();
  cluster->add_option("--passes", chosen.assumed.passes, "over a token's hidden state, in one block")
      ->check(above_zero)
      ->capture_default_str();
  app.add_flag("--json", chosen.as_json, "one JSON object");
  app.add_flag("--explain", chosen.explain, "the formula beside each figure");
  return support::run_program(app, argc, argv, [&] { return run(chosen); });
}
