// SPDX-License-Identifier: MIT
// A training run behind one interface, so that each precision is compiled on its own.
#pragma once

#include "settings.hpp"
#include "shadow.hpp"

#include <dsv3/train/data.hpp>
#include <dsv3/train/progress.hpp>
#include <dsv3/train/step.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dsv3_train {

struct step_record {
  dsv3::step_report report;
  double learning_rate = 0;
  double seconds = 0;
  index_t tokens = 0;                           // of this step
  std::vector<double> max_vio;                  // by router: the MoE layers, then the MTP modules
  std::vector<std::vector<std::int64_t>> load;  // [router][expert]
  shadow_record shadow = {};                    // of steps that have one
};

/// What became of the MTP module's drafts when the model went on from beginnings of held-out rows.
struct draft_record {
  std::vector<double> accepted;  // by depth: share of the drafts that were judged
  double tokens_per_step = 0;    // of the main model
};
struct text_sample {
  std::string text;
  draft_record drafts;
};
inline constexpr index_t draft_prompts = 8, draft_prompt_tokens = 64, draft_answer_tokens = 48;

/// Means over the held-out rows.
struct evaluation {
  double ce = 0, mtp = 0;
  index_t rows = 0;
  draft_record drafts = {};
};

/// One rank's. Every rank calls the same in the same order; what is told of the run rank 0 is told.
class trainer {
 public:
  virtual ~trainer() = default;

  virtual const dsv3::training_progress& progress() const = 0;
  /// Whether any rank says so.
  virtual bool agreed(bool said) = 0;
  virtual step_record step() = 0;
  /// Without gradients and without counting load; zero rows where nothing is held out.
  virtual evaluation evaluate() = 0;
  /// At least `bytes` more bytes after the prompt, drawn at a temperature, at 0 the likeliest; fewer where
  /// the model ends its text or has no more positions.
  virtual text_sample sample(const std::string& prompt, index_t bytes, double temperature) = 0;
  /// A complete checkpoint in the run's folder; older ones beyond the number to keep go.
  virtual void save() = 0;
  /// From a checkpoint's folder, or the newest whole one of a run's folder. Answers what there is to remark.
  virtual std::string load(const std::string& folder) = 0;
};

/// One precision: what it would take, and how to make it; both are collective. `data` must outlive the
/// trainer.
struct trainer_kind {
  std::vector<dsv3::memory_part> (*plan)(const run_settings&, const dsv3::any_communicator& world);
  std::unique_ptr<trainer> (*make)(const run_settings&, const dsv3::training_data& data,
                                   const dsv3::any_communicator& world);
};

extern const trainer_kind fp32_trainer, bf16_trainer, fp8_trainer, fp64_trainer;

}  // namespace dsv3_train
