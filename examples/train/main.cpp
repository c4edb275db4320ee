// SPDX-License-Identifier: MIT
// dsv3-train: trains a model on text, shows how it goes, and leaves log, report and checkpoints behind.
#include "console.hpp"
#include "expert_summary.hpp"
#include "flags.hpp"
#include "gpu_trainer.hpp"
#include "processes.hpp"
#include "record.hpp"
#include "sample_text.hpp"
#include "state_files.hpp"

#include <support/gpu.hpp>

#include <dsv3/comm/handshake.hpp>
#include <dsv3/comm/threads.hpp>

#include <csignal>
#include <filesystem>
#include <optional>

namespace {

using namespace dsv3_train;

volatile std::sig_atomic_t stop_asked = 0;

// The first signal finishes the step; a second one of the same kind ends the program as usual.
void listen_for_signals() {
  struct ::sigaction action = {};
  action.sa_handler = [](int) { stop_asked = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

const trainer_kind& kind_of(const run_settings& settings) {
  const std::string& precision = settings.precision;
  if (settings.on_gpu) return gpu_trainer(precision);
  if (precision == "bf16") return bf16_trainer;
  if (precision == "fp8") return fp8_trainer;
  return precision == "fp64" ? fp64_trainer : fp32_trainer;
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

std::string described(const draft_record& drafts) {
  std::string text;
  for (const double rate : drafts.accepted)
    text += (text.empty() ? "drafts accepted: " : ", then ") + percent(rate);
  char steps[64];
  std::snprintf(steps, sizeof steps, "; %.2f tokens per decoding step", drafts.tokens_per_step);
  return text + steps;
}

// Work of every rank; answers rank 0's.
template <class Work>
int on_ranks(const run_settings& settings, Work&& work) {
  if (settings.started.size > 1) return on_processes(settings.started.size, work);
  if (settings.mesh.ranks() == 1) return work(dsv3::any_communicator{});
  int answer = 0;
  dsv3::thread_ranks{settings.mesh.ranks(), std::chrono::hours(1)}.run(
      [&](const dsv3::any_communicator& world) {
        const int own = work(world);
        if (world.rank() == 0) answer = own;
      });
  return answer;
}

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void print_plan(const run_settings& settings, const dsv3::training_data& data) {
  std::vector<dsv3::memory_part> planned;
  on_ranks(settings, [&](const dsv3::any_communicator& world) {
    std::vector<dsv3::memory_part> own = kind_of(settings).plan(settings, world);
    if (world.rank() == 0) planned = std::move(own);
    return 0;
  });
  if (settings.started.rank > 0) return;
  const auto ahead = 1 + settings.model.mtp_depth;
  const dsv3::row_reader training{data.training(), settings.shape.length, ahead, settings.seed};
  const dsv3::row_reader held_out{data.held_out(), settings.shape.length, ahead, settings.seed};
  std::printf("settings\n");
  for (const auto& [name, value] : settings.shown) std::printf("  %-18s %s\n", name.c_str(), value.c_str());
  std::printf("model\n  %lld parameters\n",
              static_cast<long long>(dsv3::elements_of<dsv3::model_tensors<float>>(settings.model)));
  std::printf(settings.mesh.ranks() > 1 ? "memory of rank 0\n" : "memory\n");
  std::size_t sum = 0;
  for (const dsv3::memory_part& part : planned) {
    std::printf("  %-22s %14.1f MiB\n", part.name.c_str(), mebibytes(part.bytes));
    sum += part.bytes;
  }
  std::printf("  %-22s %14.1f MiB\n", "together", mebibytes(sum));
  std::printf("data\n  %s; %zu files left out\n", data.description().c_str(), data.skipped().size());
  std::printf("  %lld training tokens in %lld rows, %lld held-out rows\n",
              static_cast<long long>(training.tokens()), static_cast<long long>(training.rows()),
              static_cast<long long>(held_out.rows()));
  const double wanted = static_cast<double>(settings.steps * settings.shape.tokens());
  std::printf("  %lld steps read %.1f passes\n", static_cast<long long>(settings.steps),
              wanted / static_cast<double>(std::max<index_t>(training.tokens(), 1)));
}

// What is seen and left behind of a run: rank 0's business.
struct outlet {
  console screen;
  run_record record;

  outlet(const run_settings& settings, index_t first)
      : screen{settings.steps, settings.print_every, first}, record{settings, first} {}

  void show(const evaluation& found, const run_settings& settings, const dsv3::training_progress& progress) {
    if (found.rows == 0) return;
    record.add(found, progress);
    screen.say("step %lld  held-out text: cross entropy %.4f nats per %s, MTP %.4f",
               static_cast<long long>(progress.step), found.ce,
               settings.source.tokenizer.bytes() ? "byte" : "token", found.mtp);
    if (!found.drafts.accepted.empty())
      screen.say("step %lld  %s", static_cast<long long>(progress.step), described(found.drafts).c_str());
  }
};

int train(const run_settings& settings, const dsv3::training_data& data,
          const dsv3::any_communicator& world) {
  const std::unique_ptr<trainer> run = kind_of(settings).make(settings, data, world);
  const std::string remark = settings.resume.empty() ? "" : run->load(settings.resume);
  const dsv3::training_progress& progress = run->progress();
  const index_t first = progress.step;
  std::optional<outlet> out;
  if (world.rank() == 0) {
    remove_unfinished(settings.out);
    out.emplace(settings, first);
    if (!remark.empty()) out->screen.say("%s", remark.c_str());
  }

  const auto evaluate = [&] {
    const evaluation found = run->evaluate();
    if (out) out->show(found, settings, progress);
  };
  index_t saved = settings.resume.empty() ? -1 : first;
  const auto save = [&] {
    if (saved == progress.step) return;
    run->save();
    saved = progress.step;
  };

  expert_summary experts;
  if (out || settings.started.size > 1) listen_for_signals();  // threads share their handlers
  if (first == 0) evaluate();
  bool stopped = false;
  while (progress.step < settings.steps && !(stopped = run->agreed(stop_asked != 0))) {
    const step_record step = run->step();
    if (out) out->record.add(step, progress), out->screen.step(step, progress.step);
    if (progress.step > settings.steps - std::max<index_t>(settings.steps / 10, 1)) experts.add(step);
    if (progress.skipped_in_row >= settings.max_bad_steps) {
      if (out) out->record.draw_report();
      dsv3::raise("step " + std::to_string(progress.step) + ": " + step.report.bad +
                  " is not finite, like in the " + std::to_string(progress.skipped_in_row - 1) +
                  " steps before; " +
                  (saved >= 0 ? "the last good checkpoint is that of step " + std::to_string(saved)
                              : std::string("there is no checkpoint yet")));
    }
    const bool last = progress.step == settings.steps;
    if (last || (settings.eval_every > 0 && progress.step % settings.eval_every == 0)) evaluate();
    if (settings.save_every > 0 && progress.step % settings.save_every == 0 && progress.skipped_in_row == 0)
      save();
  }
  if (progress.skipped_in_row == 0) save();
  const std::string report = out ? out->record.draw_report() : "";
  if (stopped) {
    if (out)
      out->screen.say("stopped after step %lld; the same command with --resume auto goes on",
                      static_cast<long long>(progress.step));
    return 0;
  }
  if (const std::string line = experts.text(); out && !line.empty()) out->screen.say("%s", line.c_str());
  if (settings.sample_bytes > 0) {
    const text_sample drawn = run->sample(settings.prompt, settings.sample_bytes, settings.temperature);
    const std::string drafts = drawn.drafts.accepted.empty() ? "" : "; " + described(drawn.drafts);
    if (out)
      out->screen.say("---- %zu bytes drawn after \"%s\"%s\n%s\n----", drawn.text.size(),
                      settings.prompt.c_str(), drafts.c_str(),
                      well_formed(settings.prompt + drawn.text).c_str());
  }
  if (out) out->screen.say("report: %s", std::filesystem::absolute(report).c_str());
  return 0;
}

// Before they begin, ranks compare what they were told: processes may have been told other things.
void compare_ranks(const run_settings& settings, const dsv3::training_data& data,
                   const dsv3::any_communicator& world) {
  if (world.size() == 1) return;
  dsv3::rank_beliefs beliefs;
  for (const auto& [name, value] : settings.shown) beliefs.emplace_back("--" + name, value);
  beliefs.emplace_back("text checksum", std::to_string(data.sum()));
  dsv3::handshake(world, std::move(beliefs), settings.mesh);
}

int begin(const run_settings& settings, const dsv3::training_data& data) {
  const bool speaks = settings.started.rank == 0;
  if (const auto skipped = data.skipped(); speaks && !skipped.empty())
    std::printf("%zu files left out because they hold no text, the first is %s\n", skipped.size(),
                skipped.front().c_str());
  if (settings.dry_run) {
    print_plan(settings, data);
    return 0;
  }
  const std::string where =
      settings.on_gpu ? support::gpu_name()
                      : std::to_string(settings.threads) + " threads" +
                            (settings.mesh.ranks() > 1
                                 ? ", ranks " + settings.mesh.words() + " (data x expert x pipeline)"
                                 : std::string());
  if (speaks)
    std::printf("%s, %lld parameters, %s, %s; %s; writes to %s\n", settings.model_name.c_str(),
                static_cast<long long>(dsv3::elements_of<dsv3::model_tensors<float>>(settings.model)),
                settings.precision.c_str(), where.c_str(), data.description().c_str(), settings.out.c_str());
  std::fflush(stdout);
  return on_ranks(settings, [&](const dsv3::any_communicator& world) {
    compare_ranks(settings, data, world);
    return train(settings, data, world);
  });
}

}  // namespace

int main(int argc, char** argv) { return with_settings(argc, argv, begin); }
