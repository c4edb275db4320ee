// SPDX-License-Identifier: MIT
// Training a tokenizer: counting words on some threads, and learning from the counts.
#include <dsv3/exec/random.hpp>
#include <dsv3/text/bpe_trainer.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dsv3;

// Words of a made-up language by Zipf's law, with punctuation, numbers and lines.
std::string text_of(std::size_t bytes) {
  const random_stream letters{1, 1}, ranks{2, 2};
  std::vector<std::string> words(200000);
  for (std::size_t w = 0; w < words.size(); ++w) {
    const std::uint64_t at = 32 * w;
    for (std::uint64_t i = 0; i <= 1 + letters.below(4, at); ++i) {
      words[w] += "ptkbdgmnslrvfzhwx"[letters.below(17, at + 2 * i + 1)];
      words[w] += "aeiou"[letters.below(5, at + 2 * i + 2)];
    }
  }
  std::string text;
  for (std::uint64_t n = 0; text.size() < bytes; ++n) {
    const double rank = std::pow(static_cast<double>(words.size()), ranks.uniform(2 * n)) - 1;
    text += words[static_cast<std::size_t>(rank)];
    const std::uint64_t next = ranks.below(40, 2 * n + 1);
    text += next == 0 ? ".\n" : next == 1 ? ", " : next == 2 ? " 2048 " : next == 3 ? " (x) = " : " ";
  }
  return text;
}

const std::string& text() {
  static const std::string made = text_of(std::size_t{16} << 20);
  return made;
}

void count_words(benchmark::State& state) {
  const std::string_view all = text();
  for (auto _ : state) {
    bpe_trainer trainer{{.cutting = state.range(1) == 0 ? text_cutting::deepseek_v3 : text_cutting::gpt2,
                         .threads = static_cast<int>(state.range(0))}};
    trainer.add({&all, 1});
    benchmark::DoNotOptimize(trainer.distinct_words());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(all.size()));
}

void learn(benchmark::State& state) {
  const std::string_view all = text();
  bpe_trainer trainer{{.vocab = state.range(0), .threads = 2}};
  trainer.add({&all, 1});
  for (auto _ : state) benchmark::DoNotOptimize(trainer.train());
  state.counters["words"] = static_cast<double>(trainer.distinct_words());
}

BENCHMARK(count_words)->ArgNames({"threads", "gpt2"})->ArgsProduct({{1, 2}, {0, 1}})->UseRealTime();
BENCHMARK(learn)->ArgName("vocab")->Arg(4096)->Arg(32768)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
