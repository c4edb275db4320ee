// SPDX-License-Identifier: MIT
// dsv3-generate: a model of a folder answers prompts.
#include "request.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>
#include <support/gpu.hpp>

#include <dsv3/io/file.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <thread>

namespace {

// A run's folder names its newest checkpoint in the file `latest`.
std::string model_folder(const std::string& given) {
  namespace fs = std::filesystem;
  if (fs::exists(fs::path(given) / "config.json") || !fs::exists(fs::path(given) / "latest")) return given;
  std::string name{dsv3::mapped_file{(fs::path(given) / "latest").string()}.text()};
  while (!name.empty() && (name.back() == '\n' || name.back() == ' ')) name.pop_back();
  return (fs::path(given) / name).string();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Answers prompts with a model: text to standard output, figures to standard error.",
               "dsv3-generate"};
  generate::request asked;
  std::vector<std::string> prompts, files;
  std::string device = "auto", precision = dsv3::fp32::name, form = "by-cost", cache = "plain";
  bool json = false;
  asked.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const auto sampling = &asked.sampling;

  app.add_option("--model", asked.model,
                 "folder with config.json, weights and tokenizer.json, Hugging Face's or ours, or a run of "
                 "dsv3-train")
      ->required();
  app.add_option("--tokenizer", asked.tokenizer, "another tokenizer.json, or a folder that has one");
  app.add_option("--prompt", prompts, "text to go on from; may be given several times")
      ->allow_extra_args(false);
  app.add_option("--prompt-file", files, "file whose whole text is a prompt; may be given several times")
      ->allow_extra_args(false);
  app.add_option("--max-new", asked.max_new, "tokens of an answer at most")
      ->check(support::whole_number(1))
      ->capture_default_str();
  app.add_option("--samples", asked.samples, "answers to each prompt, with the seeds S, S + 1, ...")
      ->check(support::whole_number(1))
      ->capture_default_str();
  app.add_option("--stop", asked.stop,
                 "text that ends an answer and is no part of it; may be given several times")
      ->allow_extra_args(false);
  app.add_flag("--past-end", asked.past_end, "go on behind the end token");

  app.add_option("--temperature", sampling->temperature, "0: always the most likely token")
      ->check(support::not_negative())
      ->capture_default_str();
  app.add_option("--top-k", sampling->top_k, "draw from so many of the most likely tokens; 0: from all")
      ->check(support::whole_number(0))
      ->capture_default_str();
  app.add_option("--top-p", sampling->top_p, "of these from the fewest whose share is so much")
      ->check(support::number(1e-9, 1, "a number above 0 and at most 1"))
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampling->repetition_penalty,
                 "above 1: tokens that were there are less likely")
      ->check(support::positive_number())
      ->capture_default_str();
  app.add_option("--seed", asked.seed, "the same seed gives the same text, whatever else runs beside it")
      ->check(support::whole_number(0))
      ->capture_default_str();

  app.add_option("--draft", asked.draft, "tokens that the model's MTP module proposes per step; 0: none")
      ->check(support::whole_number(0, 16))
      ->capture_default_str();
  app.add_option("--batch", asked.batch, "sequences at a time; 0: all answers, eight at most")
      ->check(support::whole_number(0, 4096))
      ->capture_default_str();
  app.add_option("--cache-tokens", asked.cache_tokens, "rows of the latent cache; 0: what the batch may need")
      ->check(support::whole_number(0))
      ->capture_default_str();
  app.add_option("--cache", cache, "what the latent cache keeps: plain activations, or fp8 with scales")
      ->check(support::one_of({"plain", "fp8"}))
      ->capture_default_str();
  app.add_option("--prefill-tokens", asked.prefill_tokens, "of a prompt that one step reads")
      ->check(support::whole_number(1))
      ->capture_default_str();
  app.add_option("--prefill-form", form,
                 "how a prompt's attention uses the cache: by-cost, absorbed or expanded")
      ->check(support::one_of({"by-cost", "absorbed", "expanded"}))
      ->capture_default_str();
  app.add_option("--precision", precision,
                 "fp32, bf16, fp64, or fp8: matrices in 8-bit tiles, as the file has them or else quantised")
      ->check(support::one_of({"fp32", "bf16", "fp64", "fp8"}))
      ->capture_default_str();
  app.add_option("--device", device, "cpu, cuda, or auto: cuda where this program has it and there is a GPU")
      ->check(support::one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_flag("--record,!--no-record", asked.records,
               "on a GPU: launch decoding steps of a shape that was there before as one graph (the default)");
  app.add_option("--threads", asked.threads, "of the processor")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();

  app.add_flag("--stream,!--no-stream", asked.stream,
               "print text as it comes (the default); several answers at once stream with --json only");
  app.add_flag("--echo", asked.echo, "print the prompt before its answer");
  app.add_flag("--json", json, "a line of JSON for every piece, and one for every answer with its tokens");

  return support::run_program(app, argc, argv, [&] {
    asked.on_gpu = support::chooses_gpu(device);
    if (json) asked.form = generate::output::json;
    asked.fp8_cache = cache == "fp8";
    if (form == "absorbed") asked.prefill_form = dsv3::attention_form::absorbed;
    if (form == "expanded") asked.prefill_form = dsv3::attention_form::expanded;
    asked.prompts = prompts;
    for (const std::string& file : files) asked.prompts.emplace_back(dsv3::mapped_file{file}.text());
    if (asked.prompts.empty())
      throw support::usage_error("no prompt is given, expected --prompt or --prompt-file");
    for (std::size_t i = 0; i < asked.prompts.size(); ++i)
      if (asked.prompts[i].empty())
        throw support::usage_error("prompt " + std::to_string(i + 1) + " is empty, expected some text");
    for (const std::string& text : asked.stop)
      if (text.empty()) throw support::usage_error("--stop is empty, expected some text");
    asked.model = model_folder(asked.model);
    if (precision == dsv3::fp32::name)
      generate::run<dsv3::fp32>(asked);
    else if (precision == dsv3::bf16_mixed::name)
      generate::run<dsv3::bf16_mixed>(asked);
    else if (precision == dsv3::fp8_tilewise::name)
      generate::run<dsv3::fp8_tilewise>(asked);
    else
      generate::run<dsv3::fp64_reference>(asked);
    return 0;
  });
}
