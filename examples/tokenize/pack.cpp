// SPDX-License-Identifier: MIT
// Text files to a file of tokens, a few at a time.
#include "requests.hpp"
#include "text_batches.hpp"

#include <support/command_line.hpp>

#include <dsv3/exec/random.hpp>
#include <dsv3/text/document_encoder.hpp>
#include <dsv3/text/packing.hpp>
#include <dsv3/text/parallel_tasks.hpp>
#include <dsv3/text/stored_tokenizer.hpp>
#include <dsv3/text/token_file_writer.hpp>

namespace dsv3_tokenize {

namespace {
// In the order in which the trainer holds documents out: the end of the file is then a sample of them all.
std::vector<std::string> shuffled_files(const std::vector<std::string>& data) {
  const std::vector<std::string> sorted = dsv3::files_of(data);
  std::vector<std::string> files;
  for (const index_t f : dsv3::detail::shuffled(static_cast<index_t>(sorted.size()),
                                                dsv3::random_stream::named(0, "data.split")))
    files.push_back(sorted[static_cast<std::size_t>(f)]);
  return files;
}
}  // namespace

int pack(const pack_request& asked) {
  if (!dsv3::is_token_file(asked.to))
    throw support::usage_error("--to is " + asked.to + ", expected the name of a file in .dsv3tok or .bin");
  const auto tokenizer = support::given_by_user([&] {
    return asked.tokenizer.empty() ? dsv3::stored_tokenizer{} : dsv3::stored_tokenizer::load(asked.tokenizer);
  });
  const dsv3::fill_in_middle fim{asked.fim_rate, asked.seed};
  std::vector<dsv3::document_encoder> encoders;
  support::given_by_user([&] {
    for (int slot = 0; slot < asked.threads; ++slot) encoders.emplace_back(tokenizer.words, fim);
  });
  const auto files = support::given_by_user([&] { return shuffled_files(asked.data); });

  progress_line line;
  dsv3::token_file_writer writer{asked.to, tokenizer.words.vocab(), tokenizer.sum};
  std::size_t bytes = 0, skipped = 0;
  each_batch(files, std::size_t{16} << 20, [&](const text_batch& batch) {
    std::vector<std::vector<std::int32_t>> documents(batch.texts.size());
    const index_t before = writer.documents();
    dsv3::parallel_tasks(asked.threads, static_cast<index_t>(documents.size()), [&](index_t slot, index_t d) {
      const auto at = static_cast<std::size_t>(d);
      documents[at] = encoders[static_cast<std::size_t>(slot)].encode(batch.texts[at], before + d);
    });
    for (const auto& document : documents) writer.add(document);
    for (const std::string_view text : batch.texts) bytes += text.size();
    skipped = batch.skipped;
    line.show(mebibytes(bytes) + " of text, " + std::to_string(writer.tokens()) + " tokens");
  });
  if (writer.documents() == 0)
    throw support::usage_error(
        "--data: no text found, expected at least one file that is not empty and has no "
        "zero byte");
  writer.commit();
  line.show("");
  std::fprintf(stderr, "%s: %lld tokens in %lld documents from %s (%zu files left out)\n", asked.to.c_str(),
               static_cast<long long>(writer.tokens()), static_cast<long long>(writer.documents()),
               mebibytes(bytes).c_str(), skipped);
  return 0;
}

}  // namespace dsv3_tokenize
