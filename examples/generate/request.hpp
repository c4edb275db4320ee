// SPDX-License-Identifier: MIT
// What dsv3-generate is asked for.
#pragma once

#include <dsv3/layer/cached_tokens.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/sample/sampling_options.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace generate {

using dsv3::index_t;

enum class output { text, json };

struct request {
  std::string model;      // folder with config.json and weights, or a run's folder
  std::string tokenizer;  // tokenizer.json or its folder; empty: the model's
  std::vector<std::string> prompts;
  index_t samples = 1;    // answers to each prompt
  index_t max_new = 128;  // tokens of one answer
  dsv3::sampling_options sampling;
  std::uint64_t seed = 0;
  index_t draft = 0;         // tokens that the MTP module proposes per step
  index_t batch = 0;         // sequences at a time; 0: all answers, eight at most
  index_t cache_tokens = 0;  // rows of the latent cache; 0: what the batch may need
  index_t prefill_tokens = 256;
  bool fp8_cache = false;  // latents in 8 bits
  dsv3::attention_form prefill_form = dsv3::attention_form::by_cost;
  std::vector<std::string> stop;  // texts that end an answer and are no part of it
  bool past_end = false;          // go on behind the end token
  bool echo = false;              // print the prompt before the answer
  bool stream = true;             // print what there is, as it comes
  output form = output::text;
  bool on_gpu = false;
  bool records = true;  // decoding steps of a GPU: launches those of a known shape as one graph
  int threads = 1;
};

/// Answers the prompts: text to standard output, figures to standard error.
template <dsv3::precision P>
void run_on_cpu(const request& asked);
template <dsv3::precision P>
void run_on_gpu(const request& asked);
template <dsv3::precision P>
void run(const request& asked) {
  asked.on_gpu ? run_on_gpu<P>(asked) : run_on_cpu<P>(asked);
}

}  // namespace generate
