// SPDX-License-Identifier: MIT
// dsv3-plan: what a model costs, before anything is built. Parameters, cache, FLOPs, training memory.
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
  std::string preset, config, precision = fp32::name, kept = "everything";
  index_t length = 0, context = 0;
  step_shape step;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool as_json = false, explain = false;
};

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
    const bool whole = f.value.is_number_float() && std::fabs(f.value.get<double>()) < 9e15;
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
  chosen.step.kept = chosen.kept == "everything"  ? keep::everything
                     : chosen.kept == "attention" ? keep::attention
                                                  : keep::inputs;
  std::vector<plan::figure> figures =
      plan::model_figures(model_account{config}, chosen.length, chosen.context);
  const bool trainable = config.scoring == router_scoring::sigmoid;
  if (trainable) add_memory(figures, config, chosen);
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
  app.add_option("--keep", chosen.kept, "what forward keeps for backward: everything, attention or inputs")
      ->check(support::one_of({"everything", "attention", "inputs"}))
      ->capture_default_str();
  app.add_option("--threads", chosen.threads, "threads of a training step; scratch depends on it")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();
  app.add_flag("--json", chosen.as_json, "one JSON object");
  app.add_flag("--explain", chosen.explain, "the formula beside each figure");
  return support::run_program(app, argc, argv, [&] { return run(chosen); });
}
