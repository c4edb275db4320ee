// SPDX-License-Identifier: MIT
// dsv3-forward: a model of a folder over given tokens; logits, losses, hidden states and gradients into one
// file.
#include "request.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>
#include <support/gpu.hpp>

#include <algorithm>
#include <string>
#include <thread>

int main(int argc, char** argv) {
  CLI::App app{"Runs a model over given tokens and writes what comes out.", "dsv3-forward"};
  forward::request asked;
  std::string device = "auto", precision = dsv3::fp32::name;
  bool backward = false;
  asked.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  app.add_option("--model", asked.model,
                 "folder with config.json and model.safetensors, or shards with an index")
      ->required();
  app.add_option("--ids", asked.ids, "safetensors file with input_ids, I64 [rows, tokens]")->required();
  app.add_option("--out", asked.out,
                 "safetensors file to write: logits, loss, hidden.<i>, mtp.<k>.logits, mtp.<k>.loss")
      ->required();
  app.add_flag("--grad", backward, "also write grad.<name>, the gradient of the loss, for every weight");
  app.add_option("--mtp-weight", asked.mtp_weight,
                 "how much the mean of the MTP losses counts in the gradient")
      ->check(support::not_negative())
      ->capture_default_str();
  app.add_option("--precision", precision,
                 "fp32, bf16, fp64, or fp8: matrices in 8-bit tiles, as the file has them or else quantised")
      ->check(support::one_of({"fp32", "bf16", "fp64", "fp8"}))
      ->capture_default_str();
  app.add_option("--device", device, "cpu, cuda, or auto: cuda where this program has it and there is a GPU")
      ->check(support::one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", asked.threads, "results depend on it")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();
  return support::run_program(app, argc, argv, [&] {
    asked.on_gpu = support::chooses_gpu(device);
    if (asked.on_gpu)
      asked.tell_paths = [](const dsv3::path_list& paths) { support::print_paths(stderr, paths); };
    if (backward) asked.wanted = forward::gradients::all;
    if (precision == dsv3::fp32::name)
      forward::run<dsv3::fp32>(asked);
    else if (precision == dsv3::bf16_mixed::name)
      forward::run<dsv3::bf16_mixed>(asked);
    else if (precision == dsv3::fp8_tilewise::name)
      forward::run<dsv3::fp8_tilewise>(asked);
    else
      forward::run<dsv3::fp64_reference>(asked);
    return 0;
  });
}
