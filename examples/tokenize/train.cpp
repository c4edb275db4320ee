// SPDX-License-Identifier: MIT
// Training a tokenizer on text files.
#include "requests.hpp"
#include "text_batches.hpp"

#include <support/command_line.hpp>

#include <dsv3/text/tokenizer_file.hpp>

#include <chrono>
#include <filesystem>

namespace dsv3_tokenize {

namespace {
double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
}  // namespace

int train(train_request asked) {
  const auto begin = std::chrono::steady_clock::now();
  progress_line line;
  if (asked.cutting == "gpt2") asked.options.cutting = dsv3::text_cutting::gpt2;
  asked.options.progress = [&](index_t tokens) {
    line.show(std::to_string(tokens) + " of " + std::to_string(asked.options.vocab) + " tokens");
  };
  support::given_by_user([&] { dsv3::require(asked.options.check()); });
  const auto files = support::given_by_user([&] { return dsv3::files_of(asked.data); });

  dsv3::bpe_trainer trainer{asked.options};
  std::size_t bytes = 0, texts = 0, skipped = 0;
  each_batch(files, std::size_t{64} << 20, [&](const text_batch& batch) {
    trainer.add(batch.texts);
    for (const std::string_view text : batch.texts) bytes += text.size();
    texts += batch.texts.size();
    skipped = batch.skipped;
    line.show(mebibytes(bytes) + " counted, " + std::to_string(trainer.distinct_words()) + " words");
  });
  if (texts == 0)
    throw support::usage_error(
        "--data: no text found, expected at least one file that is not empty and has no "
        "zero byte");
  const dsv3::tokenizer_definition trained = trainer.train();
  const std::string folder = std::filesystem::path(asked.to).parent_path().string();
  std::error_code problem;
  if (!folder.empty()) std::filesystem::create_directories(folder, problem);
  if (problem) dsv3::raise(folder + ": folder cannot be made: " + problem.message());
  dsv3::write_tokenizer(asked.to, trained);
  line.show("");
  std::fprintf(stderr, "%s: %zu tokens from %s in %zu files (%zu left out), %lld words, %.1f s\n",
               asked.to.c_str(), trained.vocabulary.size(), mebibytes(bytes).c_str(), texts, skipped,
               static_cast<long long>(trainer.distinct_words()), seconds_since(begin));
  return 0;
}

}  // namespace dsv3_tokenize
