// SPDX-License-Identifier: MIT
// What dsv3-tokenize is asked to do, and who does it.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/text/bpe_trainer.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace dsv3_tokenize {

using dsv3::index_t;

struct train_request {
  std::vector<std::string> data;
  std::string to;
  std::string cutting = "deepseek-v3";
  dsv3::bpe_options options;
};

struct encode_request {
  std::string tokenizer, file;  // no file: standard input
  bool json = false, frame = false, ordinary = false;
};

struct decode_request {
  std::string tokenizer, file;
  bool without_special = false;
};

struct pack_request {
  std::string tokenizer, to;
  std::vector<std::string> data;
  double fim_rate = 0;
  std::uint64_t seed = 1;
  int threads = 1;
};

// Each answers the exit code.
int train(train_request asked);
int encode(const encode_request& asked);
int decode(const decode_request& asked);
int pack(const pack_request& asked);

}  // namespace dsv3_tokenize
