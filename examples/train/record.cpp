// SPDX-License-Identifier: MIT
// The files of a run.
#include "record.hpp"

#include <dsv3/io/report.hpp>
#include <dsv3/io/run_log.hpp>
#include <dsv3/model/config_file.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

namespace dsv3_train {

namespace {

// The most memory the process has had.
index_t peak_bytes() {
  ::rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return index_t{usage.ru_maxrss} * 1024;
}

dsv3::json described(const run_settings& settings) {
  dsv3::json flags = dsv3::json::object();
  for (const auto& [name, value] : settings.shown) flags[name] = value;
  return {{"flags", flags}, {"model", dsv3::config_json(settings.model, dsv3::dtype::f32)}};
}

dsv3::jsonl_log opened(const std::string& path, index_t last_step) {
  return last_step > 0 ? dsv3::jsonl_log::resume(path, last_step) : dsv3::jsonl_log{path};
}

}  // namespace

struct run_record::files {
  run_settings settings;
  dsv3::jsonl_log log;
  dsv3::tensorboard_log events;
  std::optional<dsv3::jsonl_log> shadow = {};  // of runs that have one
};

run_record::run_record(const run_settings& settings, index_t last_step) {
  std::error_code problem;
  std::filesystem::create_directories(settings.out, problem);
  if (problem) dsv3::raise(settings.out + ": folder cannot be made: " + problem.message());
  dsv3::write_json(settings.out + "/settings.json", described(settings));
  files_ =
      std::make_unique<files>(files{settings, opened(settings.out + "/run.jsonl", last_step),
                                    dsv3::tensorboard_log{settings.out, last_step > 0 ? last_step + 1 : 0}});
  if (settings.shadow_every > 0) files_->shadow = opened(settings.out + "/shadow.jsonl", last_step);
}

run_record::~run_record() = default;

void run_record::add(const step_record& step, const dsv3::training_progress& progress) {
  const dsv3::step_report& r = step.report;
  const double rate = static_cast<double>(step.tokens) / step.seconds;
  dsv3::json_row row;
  row.add("step", progress.step)
      .add("tokens", progress.tokens)
      .add("loss", r.loss)
      .add("ce", r.ce)
      .add("mtp", r.mtp)
      .add("balance", r.balance)
      .add("lr", step.learning_rate)
      .add("grad_norm", r.grad_norm)
      .add("tokens_per_second", rate)
      .add("max_vio", step.max_vio)
      .add("peak_bytes", peak_bytes())
      .add("skipped", progress.skipped);
  if (!r.updated) row.add("bad", r.bad);
  if (progress.step % files_->settings.load_every == 0) row.add("load", step.load);
  files_->log.append(row);
  add(step.shadow, progress);
  double worst = 0;
  for (const double violation : step.max_vio) worst = std::max(worst, violation);
  files_->events.append(progress.step, {{"loss/total", r.loss},
                                        {"loss/ce", r.ce},
                                        {"loss/mtp", r.mtp},
                                        {"loss/balance", r.balance},
                                        {"optimizer/learning_rate", step.learning_rate},
                                        {"optimizer/grad_norm", r.grad_norm},
                                        {"speed/tokens_per_second", rate},
                                        {"experts/max_vio", worst}});
}

// A row for each tensor.
void run_record::add(const shadow_record& found, const dsv3::training_progress& progress) {
  if (found.gradient_error.empty()) return;
  for (const auto& [tensor, error] : found.gradient_error) {
    dsv3::json_row row;
    row.add("step", progress.step).add("tensor", tensor).add("gradient_error", error);
    files_->shadow->append(row);
  }
  for (const auto& [operand, share] : found.operands) {
    const auto of_all = [&](index_t count) {
      return static_cast<double>(count) / static_cast<double>(std::max<index_t>(share.codes, 1));
    };
    dsv3::json_row row;
    row.add("step", progress.step)
        .add("operand", operand)
        .add("zeros", of_all(share.zeros))
        .add("largest", of_all(share.largest))
        .add("not_finite", of_all(share.not_finite));
    files_->shadow->append(row);
  }
}

void run_record::add(const evaluation& found, const dsv3::training_progress& progress) {
  dsv3::json_row row;
  row.add("step", progress.step)
      .add("tokens", progress.tokens)
      .add("eval_ce", found.ce)
      .add("eval_mtp", found.mtp)
      .add("eval_rows", found.rows);
  std::vector<std::pair<std::string, double>> named{{"eval/ce", found.ce}, {"eval/mtp", found.mtp}};
  const draft_record& drafts = found.drafts;
  for (std::size_t depth = 0; depth < drafts.accepted.size(); ++depth) {
    const std::string number = std::to_string(depth + 1);
    row.add("drafts_accepted_" + number, drafts.accepted[depth]);
    named.emplace_back("eval/drafts_accepted_" + number, drafts.accepted[depth]);
  }
  if (!drafts.accepted.empty()) {
    row.add("tokens_per_decode_step", drafts.tokens_per_step);
    named.emplace_back("eval/tokens_per_decode_step", drafts.tokens_per_step);
  }
  files_->log.append(row);
  const std::vector<dsv3::scalar> scalars(named.begin(), named.end());
  files_->events.append(progress.step, scalars);
}

std::string run_record::draw_report() const {
  const std::string& out = files_->settings.out;
  dsv3::write_report(out + "/report.html", out + "/run.jsonl", "dsv3-train " + files_->settings.model_name,
                     described(files_->settings));
  return out + "/report.html";
}

}  // namespace dsv3_train
