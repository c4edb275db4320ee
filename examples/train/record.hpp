// SPDX-License-Identifier: MIT
// What a run leaves behind: run.jsonl, TensorBoard events, settings.json, report.html.
#pragma once

#include "trainer.hpp"

#include <memory>
#include <string>

namespace dsv3_train {

class run_record {
 public:
  /// A run that goes on after `last_step` keeps the rows up to it; 0 begins anew.
  run_record(const run_settings& settings, index_t last_step);
  ~run_record();

  void add(const step_record& step, const dsv3::training_progress& progress);
  void add(const shadow_record& found, const dsv3::training_progress& progress);
  void add(const evaluation& found, const dsv3::training_progress& progress);
  /// Draws the report from the log; answers its path.
  std::string draw_report() const;

 private:
  struct files;
  std::unique_ptr<files> files_;
};

}  // namespace dsv3_train
