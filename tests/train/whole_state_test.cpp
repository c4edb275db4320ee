// SPDX-License-Identifier: MIT
// What ranks have learned, in one state and in files, and dealt out to other ranks.
#include "rank_of_mesh.hpp"

#include <dsv3/comm/threads.hpp>
#include <dsv3/train/checkpoint.hpp>
#include <dsv3/train/whole_state.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

using namespace dsv3;
using support::deep_config, support::ranks_layout, support::some_options;

namespace {

template <class P>
using whole_state = training_state<P, compact_layout>;

// Of the smallest shape: only what is learned counts.
template <class P>
std::unique_ptr<whole_state<P>> whole_on_zero(const any_communicator& world, memory_resource& memory) {
  if (world.rank() != 0) return nullptr;
  return std::make_unique<whole_state<P>>(memory, deepseek_v3<P, compact_layout>{deep_config()},
                                          step_shape{.rows = 1, .length = 1});
}

template <class P>
std::string bytes_of_learned(const whole_state<P>& state) {
  std::string bytes;
  const auto take = [&](const auto& values) {
    bytes.append(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::size_t>(values.size()) * sizeof(*values.data()));
  };
  for (const parameter<P>& row : state.parameters) {
    take(row.p), take(row.m), take(row.v), take(row.w), take(row.tiles.values);
    for (index_t i = 0; i < row.tiles.extent(0); ++i)
      for (index_t r = 0; r < row.tiles.scales.extent(1); ++r) take(row.tiles.scales[i][r]);
  }
  take(state.routing.bias);
  return bytes;
}

// Steps first to last of a run on these ranks; begun from the checkpoint in `from` and saved to `to`, where
// they are not empty. Answers the losses and what was learned.
template <class P>
std::pair<std::vector<double>, std::string> go(const ranks_layout& of, std::uint64_t first,
                                               std::uint64_t last, const std::string& from,
                                               const std::string& to) {
  std::pair<std::vector<double>, std::string> found;
  thread_ranks{of.shape.ranks()}.run([&](const any_communicator& world) {
    support::rank_of_mesh<P> rank{world, deep_config(), of};
    host_memory memory;
    const auto whole = whole_on_zero<P>(world, memory);
    if (!from.empty()) {
      if (whole) load_checkpoint(from, rank.ctx, *whole);
      spread_state(rank.ctx, whole.get(), rank.state);
    }
    for (std::uint64_t step = first; step < last; ++step) {
      const step_report report = rank.step(step, some_options());
      if (whole) found.first.push_back(report.loss);
    }
    collect_state(rank.ctx, rank.state, whole.get());
    if (whole && !to.empty()) save_checkpoint(to, *whole);
    if (whole) found.second = bytes_of_learned(*whole);
  });
  return found;
}

const ranks_layout one_rank{{}, "1f1b", 8};
const std::vector<ranks_layout> layouts{{{.data = 4}, "1f1b", 2},
                                        {{.expert = 4, .pipeline = 2}, "zb1p", 2},
                                        {{.data = 2, .expert = 2}, "1f1b", 2},
                                        {{.expert = 2, .pipeline = 2}, "dualpipe", 4},
                                        {{.pipeline = 4}, "dualpipe_v", 8}};

}  // namespace

TEST_CASE("a run goes on with other ranks where it stopped") {
  using P = fp64_reference;
  const auto [expected, learned] = go<P>(one_rank, 0, 5, "", "");
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const ranks_layout& before = layouts[i];
    const ranks_layout& after = layouts[(i + 1) % layouts.size()];
    CAPTURE(before.shape.words());
    CAPTURE(after.shape.words());
    const support::temporary_folder folder;
    const auto [first, saved] = go<P>(before, 0, 2, "", folder.path());
    const auto [again, same] = go<P>(after, 2, 2, folder.path(), "");
    CHECK(again.empty());
    CHECK(saved == same);  // to the bit: dealt out and put together again
    const auto [second, unused] = go<P>(after, 2, 5, folder.path(), "");
    for (std::size_t step = 0; step < 2; ++step)
      CHECK(first[step] == doctest::Approx(expected[step]).epsilon(1e-12));
    for (std::size_t step = 0; step < 3; ++step)
      CHECK(second[step] == doctest::Approx(expected[step + 2]).epsilon(1e-11));
  }
}

TEST_CASE_TEMPLATE("narrow weights are made of masters again", P, bf16_mixed, fp8_tilewise) {
  const support::temporary_folder folder;
  const auto [first, saved] = go<P>(layouts[3], 0, 2, "", folder.path());
  const auto [again, same] = go<P>(layouts[2], 2, 2, folder.path(), "");
  CHECK(saved == same);
  const auto [alone, same_alone] = go<P>(one_rank, 2, 2, folder.path(), "");
  CHECK(saved == same_alone);
}

TEST_CASE("who has the state of the whole network is checked") {
  host_memory memory;
  const deepseek_v3<fp32, compact_layout> model{deep_config()};
  training_state<fp32, compact_layout> state{memory, model, {.rows = 1, .length = 4}};
  cpu_context<> ctx;
  whole_state<fp32>* none = nullptr;
  CHECK_THROWS_WITH_AS(
      collect_state(ctx, state, none),
      "training state: rank 0 lacks a state of the whole network, expected one on rank 0 alone", error);
}
