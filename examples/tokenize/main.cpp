// SPDX-License-Identifier: MIT
// dsv3-tokenize: trains a tokenizer, encodes and decodes with one, and packs text into files of tokens.
#include "requests.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>

#include <algorithm>
#include <thread>

using namespace dsv3_tokenize;

int main(int argc, char** argv) {
  CLI::App app{"Trains byte-level BPE, encodes, decodes, and packs text into files of tokens.",
               "dsv3-tokenize"};
  app.set_help_flag();
  app.set_help_all_flag("-h,--help", "Print this help and exit");
  app.require_subcommand(1);
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

  train_request training;
  training.options.threads = cores;
  auto* train_command = app.add_subcommand("train", "learn a vocabulary from text");
  train_command->add_option("--data", training.data, "files or folders of text")->required();
  train_command->add_option("--to", training.to, "tokenizer.json to write; its folder is made")->required();
  train_command
      ->add_option("--vocab", training.options.vocab, "tokens, special ones and the 256 bytes included")
      ->check(support::whole_number(256, 0x3FFFFFFF))
      ->capture_default_str();
  train_command
      ->add_option("--special", training.options.special_tokens,
                   "special tokens, ids from 0 on, in place of DeepSeek-V3's begin, end, padding and "
                   "fill-in-the-middle")
      ->expected(1, -1);
  train_command->add_option("--cut", training.cutting, "how text is cut into words: deepseek-v3 or gpt2")
      ->check(support::one_of({"deepseek-v3", "gpt2"}))
      ->capture_default_str();
  train_command
      ->add_option("--min-frequency", training.options.min_frequency, "of a pair, so that it becomes a token")
      ->check(support::whole_number(1))
      ->capture_default_str();
  train_command->add_option("--threads", training.options.threads, "the result does not depend on them")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();

  encode_request encoding;
  auto* encode_command = app.add_subcommand("encode", "text to ids, one line");
  encode_command->add_option("--tokenizer", encoding.tokenizer, "tokenizer.json, or a folder with one")
      ->required();
  encode_command->add_option("--file", encoding.file, "text; standard input when not given");
  encode_command->add_flag("--json", encoding.json, "one JSON object: ids, tokens, bytes");
  encode_command->add_flag("--frame", encoding.frame, "with what the tokenizer puts before and after a text");
  encode_command->add_flag("--ordinary", encoding.ordinary,
                           "special tokens in the text are text like any other");

  decode_request decoding;
  auto* decode_command = app.add_subcommand("decode", "ids to text");
  decode_command->add_option("--tokenizer", decoding.tokenizer, "tokenizer.json, or a folder with one")
      ->required();
  decode_command->add_option(
      "--file", decoding.file,
      "ids separated by white space, or a .dsv3tok or .bin file; standard input when not "
      "given");
  decode_command->add_flag("--skip-special", decoding.without_special, "leave special tokens out");

  pack_request packing;
  packing.threads = cores;
  auto* pack_command = app.add_subcommand("pack", "text files to one file of tokens, a document a file");
  pack_command->add_option("--tokenizer", packing.tokenizer,
                           "tokenizer.json, or a folder with one; without it a byte is a token");
  pack_command->add_option("--data", packing.data, "files or folders of text")->required();
  pack_command->add_option("--to", packing.to, "file to write: .dsv3tok, or .bin as llm.c reads")->required();
  pack_command
      ->add_option("--fim-rate", packing.fim_rate,
                   "share of the documents that are told with their middle last (the report's: 0.1)")
      ->check(support::number(0, 1, "a share from 0 to 1"))
      ->capture_default_str();
  pack_command
      ->add_option("--seed", packing.seed, "decides which documents those are, and where they are cut")
      ->check(support::whole_number(0))
      ->capture_default_str();
  pack_command->add_option("--threads", packing.threads, "the result does not depend on them")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();

  return support::run_program(app, argc, argv, [&] {
    if (train_command->parsed()) return train(std::move(training));
    if (encode_command->parsed()) return encode(encoding);
    if (decode_command->parsed()) return decode(decoding);
    return pack(packing);
  });
}
