// SPDX-License-Identifier: MIT
// Checkpoints: the checksum against the rate of reading memory, writing to a file, and opening a long header.
#include <dsv3/io/safetensors.hpp>

#include <io/folder.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace dsv3;

std::string name_of(index_t tensor) {
  return std::string("model.layers.3.mlp.experts.")
      .append(std::to_string(tensor))
      .append(".gate_proj.weight");
}

// Reading without computing: what no checksum can beat.
void memory_read(benchmark::State& state) {
  const std::vector<std::uint64_t> words(static_cast<std::size_t>(state.range(0)) / 8, 3);
  for (auto _ : state) {
    std::uint64_t sum = 0;
    for (const std::uint64_t word : words) sum += word;
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void checksum(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)), std::byte{3});
  for (auto _ : state) benchmark::DoNotOptimize(crc32c_of(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void checksum_by_table(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)), std::byte{3});
  for (auto _ : state) benchmark::DoNotOptimize(detail::crc32c_by_table(~0u, bytes.data(), bytes.size()));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

// Everything a checkpoint pays: checksums, the write, the sync to the disk, the name.
void write_and_sync(benchmark::State& state) {
  const support::temporary_folder folder;
  const index_t rows = state.range(0) / (64 * 4 * 256);
  const std::vector<float> values(static_cast<std::size_t>(rows * 256), 0.5f);
  for (auto _ : state) {
    safetensors_writer writer{folder / "model.safetensors"};
    for (int i = 0; i < 64; ++i) writer.declare(name_of(i), dtype::f32, {rows, 256});
    for (int i = 0; i < 64; ++i) writer.append(name_of(i), view<const float, 2>{values.data(), rows, 256});
    writer.commit();
  }
  state.SetBytesProcessed(state.iterations() * 64 * rows * 256 * 4);
}

void verify(benchmark::State& state) {
  const support::temporary_folder folder;
  const std::vector<float> values(static_cast<std::size_t>(state.range(0)) / 4, 0.5f);
  {
    safetensors_writer writer{folder / "model.safetensors"};
    writer.declare("t", dtype::f32, {static_cast<index_t>(values.size())});
    writer.append("t", view<const float, 1>{values.data(), values.size()});
    writer.commit();
  }
  const safetensors_file file{folder / "model.safetensors"};
  for (auto _ : state)
    if (!file.verify().good()) state.SkipWithError("the file is damaged");
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

// Parsing and checking the header; the real model has 91 thousand tensors in 163 files.
void open_header(benchmark::State& state) {
  const support::temporary_folder folder;
  {
    safetensors_writer writer{folder / "model.safetensors"};
    for (index_t i = 0; i < state.range(0); ++i) writer.declare(name_of(i), dtype::u8, {0, 7168});
    writer.commit();
  }
  for (auto _ : state)
    benchmark::DoNotOptimize(safetensors_file{folder / "model.safetensors"}.tensors().size());
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

constexpr std::int64_t mega = 1 << 20;
BENCHMARK(memory_read)->Arg(64 * mega);
BENCHMARK(checksum)->Arg(mega / 64)->Arg(64 * mega);
BENCHMARK(checksum_by_table)->Arg(64 * mega);
BENCHMARK(verify)->Arg(64 * mega);
BENCHMARK(write_and_sync)->Arg(64 * mega)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(open_header)->Arg(600)->Arg(91'000)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
