// SPDX-License-Identifier: MIT
// Text to ids and back. DSV3_TOKENIZER and DSV3_TEXT name a tokenizer.json and a text of one's own; otherwise
// the text is this repository's documentation.
#include <dsv3/text/detokenizer.hpp>
#include <dsv3/train/data.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using namespace dsv3;

std::string named(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : value;
}

const tokenizer& words() {
  static const tokenizer loaded = tokenizer::load(named("DSV3_TOKENIZER", "tests/data/tokenizers/deepseek"));
  return loaded;
}

const std::string& text() {
  static const std::string whole = [] {
    std::string joined;
    const text_corpus corpus{{named("DSV3_TEXT", "docs")}};
    for (const auto& document : corpus.documents()) joined += document.text;
    return joined;
  }();
  return whole;
}

/// The text in parts of about this many bytes, cut at ends of lines.
std::vector<std::string_view> parts(std::size_t bytes) {
  std::vector<std::string_view> found;
  for (std::string_view rest = text(); !rest.empty();) {
    const std::size_t end = rest.find('\n', std::min(bytes, rest.size()));
    found.push_back(rest.substr(0, end == rest.npos ? rest.size() : end + 1));
    rest.remove_prefix(found.back().size());
  }
  return found;
}

void count(benchmark::State& state, std::size_t tokens) {
  state.SetBytesProcessed(static_cast<std::int64_t>(text().size()) * state.iterations());
  state.counters["tokens"] = static_cast<double>(tokens);
}

/// Every text by an encoder that has met no word.
void encode_cold(benchmark::State& state) {
  const auto texts = parts(static_cast<std::size_t>(state.range(0)));
  std::vector<std::int32_t> ids;
  for (auto _ : state) {
    ids.clear();
    for (const std::string_view part : texts) words().encode(part, ids);
  }
  count(state, ids.size());
}
BENCHMARK(encode_cold)->ArgName("bytes")->Arg(1 << 10)->Arg(1 << 16)->Unit(benchmark::kMillisecond);

/// One encoder for all texts, as a corpus is encoded.
void encode(benchmark::State& state) {
  const auto texts = parts(static_cast<std::size_t>(state.range(0)));
  std::vector<std::int32_t> ids;
  for (auto _ : state) {
    ids.clear();
    tokenizer::encoder encoder{words()};
    for (const std::string_view part : texts) encoder.encode(part, ids);
  }
  count(state, ids.size());
}
BENCHMARK(encode)->ArgName("bytes")->Arg(1 << 10)->Arg(1 << 16)->Unit(benchmark::kMillisecond);

void decode(benchmark::State& state) {
  const std::vector<std::int32_t> ids = words().encode(text());
  for (auto _ : state) benchmark::DoNotOptimize(words().decode(ids).size());
  count(state, ids.size());
}
BENCHMARK(decode)->Unit(benchmark::kMillisecond);

void detokenize(benchmark::State& state) {
  const std::vector<std::int32_t> ids = words().encode(text());
  for (auto _ : state) {
    detokenizer stream{words()};
    std::size_t bytes = 0;
    for (const std::int32_t id : ids) bytes += stream.push(id).size();
    benchmark::DoNotOptimize(bytes + stream.finish().size());
  }
  count(state, ids.size());
}
BENCHMARK(detokenize)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
