// SPDX-License-Identifier: MIT
// Checkpoints of a training run: every bit comes back, and every kind of end leaves one that is whole.
#include <dsv3/cpu.hpp>
#include <dsv3/train/checkpoint.hpp>

#include <io/folder.hpp>
#include <model/small_model.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace dsv3;
using support::small_model;

namespace {

struct half_split_layout : compact_layout {
  static constexpr rope_layout rope = rope_layout::half_split;
};

// A run of some steps whose numbers all differ.
template <precision P, layout_policy L = compact_layout>
struct run_in_memory {
  explicit run_in_memory(const model_config& config = small_model())
      : state(memory, deepseek_v3<P, L>{config}, step_shape{.rows = 2, .length = 8}) {
    prepare_state(ctx, state);
  }
  run_in_memory& numbers(index_t step, std::uint64_t seed) {
    support::fill_with_numbers(masters(), seed);
    adopt_masters(ctx, masters(), state.weights);
    support::fill_with_numbers(static_cast<model_moments<P>&>(state.first_moments), seed + 1);
    support::fill_with_numbers(static_cast<model_moments<P>&>(state.second_moments), seed + 2);
    support::fill_with_numbers(static_cast<routing_state<P>&>(state.routing), seed + 3);
    masters().head(0, 0) = static_cast<master<P>>(1.0 / 3);  // no bf16 number
    adopt_masters(ctx, masters(), state.weights);
    state.routing.bias(0, 0) = static_cast<master<P>>(1.0 / 7);
    state.progress = {.step = step,
                      .tokens = 7 * step,
                      .seed = 0xFFFFFFFFFFFFFFFFu - seed,
                      .data_epoch = 3,
                      .data_position = 17,
                      .data_length = 128,
                      .data_sum = 0xDEADBEEF,
                      .tokenizer_sum = 0xFEEDBEEF,
                      .updates = step - 1,
                      .skipped = 1,
                      .skipped_in_row = 0};
    return *this;
  }
  model_masters<P>& masters() { return state.masters; }
  bool same(run_in_memory& other) {
    return support::same_bits(masters(), other.masters()) &&
           support::same_bits(state.weights, other.state.weights) &&
           support::same_bits<model_moments<P>>(state.first_moments, other.state.first_moments) &&
           support::same_bits<model_moments<P>>(state.second_moments, other.state.second_moments) &&
           support::same_bits<routing_state<P>>(state.routing, other.state.routing) &&
           state.progress == other.state.progress;
  }

  host_memory memory;
  cpu_context<> ctx;
  training_state<P, L> state;
};

using float_run = run_in_memory<fp32>;

std::string flip_a_bit(const std::string& path) {
  std::string bytes = support::get(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  support::put(path, bytes);
  return path;
}

std::vector<std::string> steps(std::initializer_list<int> numbers) {
  std::vector<std::string> names{"latest"};
  for (const int n : numbers) names.push_back("step-0000000" + std::to_string(n));
  return names;
}

}  // namespace

TEST_CASE_TEMPLATE("every bit comes back", P, fp32, bf16_mixed, fp64_reference) {
  const support::temporary_folder folder;
  run_in_memory<P> run, back;
  run.numbers(12, 5);
  const std::string saved = save_checkpoint(folder.path(), run.state);
  CHECK(saved == folder / "step-00000012");
  CHECK(support::get(folder / "latest") == "step-00000012\n");
  CHECK(verify_checkpoint(saved).good());
  back.numbers(1, 99);
  const found_checkpoint found = load_checkpoint(folder.path(), back.ctx, back.state);
  CHECK(found.folder == saved);
  CHECK(found.remark == "");
  CHECK(back.same(run));

  run_in_memory<P> from_folder;
  load_checkpoint(saved, from_folder.ctx, from_folder.state);
  CHECK(from_folder.same(run));

  // Anybody's reader finds the weights.
  run_in_memory<P> plain;
  checkpoint_reader{saved}.read(plain.state.weights, plain.state.routing.bias);
  CHECK(support::same_bits(plain.state.weights, run.state.weights));
}

TEST_CASE("half-split rotary rows in memory") {
  const support::temporary_folder folder;
  run_in_memory<bf16_mixed, half_split_layout> run, back;
  run.numbers(3, 6);
  const std::string saved = save_checkpoint(folder.path(), run.state, 2, "words", 4000);  // in shards
  CHECK(support::get(saved + "/tokenizer.json") == "words");
  load_checkpoint(folder.path(), back.ctx, back.state);
  CHECK(back.same(run));
  support::put(saved + "/tokenizer.json", "wards");
  CHECK(verify_checkpoint(saved).message() ==
        saved + "/tokenizer.json is damaged: it does not have the checksum that state.json names");
}

TEST_CASE("only the newest stay, and the one that latest names") {
  const support::temporary_folder folder;
  float_run run;
  for (int step = 1; step <= 4; ++step) save_checkpoint(folder.path(), run.numbers(step, 1).state);
  CHECK(folder.names() == steps({3, 4}));
  // Going back to an older one, whose successors then are beyond it.
  support::put(folder / "latest", "step-00000003\n");
  CHECK(find_latest(folder.path()).folder == folder / "step-00000003");
  load_checkpoint(folder.path(), run.ctx, run.state);
  CHECK(run.state.progress.step == 3);
  // The same step again takes the place of the one before.
  save_checkpoint(folder.path(), run.numbers(4, 77).state, 1);
  CHECK(folder.names() == steps({4}));
  float_run back;
  load_checkpoint(folder.path(), back.ctx, back.state);
  CHECK(back.same(run));
}

TEST_CASE("what a killed run left goes at the next save, and nothing else") {
  const support::temporary_folder folder;
  float_run run;
  std::filesystem::create_directories(folder / "step-00000009.tmp-123");
  support::put(folder / "step-00000009.tmp-123/model.safetensors", "half");
  support::put(folder / ".latest.77-0.dsv3-part", "step");
  support::put(folder / "notes.tmp-1", "mine");
  CHECK_FALSE(has_checkpoint(folder.path()));
  CHECK(find_latest(folder.path()).folder == "");
  save_checkpoint(folder.path(), run.numbers(2, 1).state);
  CHECK(has_checkpoint(folder.path()));
  CHECK(folder.names() == std::vector<std::string>{"latest", "notes.tmp-1", "step-00000002"});
}

TEST_CASE("damage is found and the one before is taken, with a sentence") {
  for (const std::string file : {"config.json", "model.safetensors", "state.safetensors", "state.json"}) {
    CAPTURE(file);
    const support::temporary_folder folder;
    float_run run, back;
    save_checkpoint(folder.path(), run.numbers(1, 1).state);
    save_checkpoint(folder.path(), run.numbers(2, 2).state);
    const std::string damaged = flip_a_bit(folder / ("step-00000002/" + file));
    const found_checkpoint found = load_checkpoint(folder.path(), back.ctx, back.state);
    CHECK(found.folder == folder / "step-00000001");
    CHECK(found.remark.starts_with(damaged));
    CHECK(found.remark.ends_with("; the newest whole checkpoint is step-00000001"));
    CHECK(back.same(run.numbers(1, 1)));
    CHECK(support::raised([&] {
            load_checkpoint(folder / "step-00000002", back.ctx, back.state);
          }).starts_with(damaged));

    // A file that is missing, and one that was cut short.
    std::filesystem::remove(damaged);
    CHECK(find_latest(folder.path()).folder == folder / "step-00000001");
    if (file != "state.json") {
      support::put(damaged, "");
      CHECK(find_latest(folder.path()).remark.starts_with(damaged + " has 0 bytes, expected "));
    }
    flip_a_bit(folder / ("step-00000001/" + file));
    CHECK(support::raised([&] {
            load_checkpoint(folder.path(), back.ctx, back.state);
          }).starts_with(folder.path() + ": no whole checkpoint found: "));
  }
}

TEST_CASE("a pointer that is gone or points nowhere") {
  const support::temporary_folder folder;
  float_run run;
  save_checkpoint(folder.path(), run.numbers(1, 1).state);
  save_checkpoint(folder.path(), run.numbers(2, 2).state);
  std::filesystem::remove(folder / "latest");
  CHECK(find_latest(folder.path()).folder == folder / "step-00000002");
  CHECK(find_latest(folder.path()).remark ==
        folder / "latest" + " names no checkpoint; the newest whole checkpoint is step-00000002");
  support::put(folder / "latest", "../../etc");
  CHECK(find_latest(folder.path()).folder == folder / "step-00000002");
  support::put(folder / "latest", "step-00000007\n");
  CHECK(find_latest(folder.path()).remark ==
        folder / "step-00000007/state.json" +
            ": cannot be opened: No such file or directory; the newest whole "
            "checkpoint is step-00000002");
}

TEST_CASE("a checkpoint of something else") {
  const support::temporary_folder folder;
  float_run run;
  const std::string saved = save_checkpoint(folder.path(), run.numbers(1, 1).state);
  model_config config = small_model();
  config.hidden = 32;
  float_run other{config};
  CHECK(support::raised([&] { load_checkpoint(folder.path(), other.ctx, other.state); }) ==
        saved + "/config.json: hidden_size is 16, this run has 32");
  run_in_memory<bf16_mixed> narrow;
  CHECK(support::raised([&] { load_checkpoint(folder.path(), narrow.ctx, narrow.state); }) ==
        saved + "/state.json: precision is \"fp32\", expected this run's, bf16");
  CHECK(support::raised([&] { load_checkpoint(folder / "nowhere", run.ctx, run.state); }) ==
        folder / "nowhere" + ": no whole checkpoint found: " + (folder / "nowhere/latest") +
            " names no checkpoint");
  CHECK(support::raised([&] {
          save_checkpoint("/dev/null/run", run.state);
        }).starts_with("/dev/null/run/step-00000001.tmp-"));
}

TEST_CASE("a full disk leaves the checkpoint before") {
  const support::temporary_folder folder;
  float_run run, back;
  save_checkpoint(folder.path(), run.numbers(1, 1).state);
  // Files may not grow beyond what the weights take: the writer meets the limit as it meets a full disk.
  ::rlimit before = {}, tight = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  tight = before;
  std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t bytes : {rlim_t{100}, rlim_t{5000}, rlim_t{30000}}) {
    CAPTURE(bytes);
    tight.rlim_cur = bytes;
    run.numbers(2, 2);
    ::setrlimit(RLIMIT_FSIZE, &tight);
    const std::string sentence = support::raised([&] { save_checkpoint(folder.path(), run.state); });
    ::setrlimit(RLIMIT_FSIZE, &before);
    CHECK(sentence.find("cannot be written: File too large") != std::string::npos);
    CHECK(folder.names() == steps({1}));
    load_checkpoint(folder.path(), back.ctx, back.state);
    CHECK(back.same(run.numbers(1, 1)));
  }
  save_checkpoint(folder.path(), run.numbers(2, 2).state);
  CHECK(folder.names() == steps({1, 2}));
}

TEST_CASE("killed at 200 random moments, a whole checkpoint is always there") {
  const support::temporary_folder folder;
  float_run run, back;
  save_checkpoint(folder.path(), run.numbers(1, 1).state);
  const auto begin = std::chrono::steady_clock::now();
  save_checkpoint(folder.path(), run.state);
  const std::chrono::duration<double, std::micro> once = std::chrono::steady_clock::now() - begin;
  const random_stream random{2024, 1};
  index_t step = 1, progressed = 0;
  for (std::uint64_t kill = 0; kill < 200; ++kill) {
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (index_t next = step + 1;; ++next) save_checkpoint(folder.path(), run.numbers(next, 1).state);
    }
    ::usleep(static_cast<useconds_t>(3 * once.count() * random.uniform(kill)));
    ::kill(child, SIGKILL);
    int ending = 0;
    ::waitpid(child, &ending, 0);
    REQUIRE(WIFSIGNALED(ending));
    const found_checkpoint found = load_checkpoint(folder.path(), back.ctx, back.state);
    REQUIRE(found.remark == "");
    REQUIRE(back.state.progress.step >= step);
    REQUIRE(back.same(run.numbers(back.state.progress.step, 1)));
    progressed += back.state.progress.step > step;
    step = back.state.progress.step;
  }
  CHECK(progressed > 20);  // otherwise nothing was ever being written
}
