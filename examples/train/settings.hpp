// SPDX-License-Identifier: MIT
// Everything a training run is told.
#pragma once

#include <dsv3/comm/launch.hpp>
#include <dsv3/comm/mesh.hpp>
#include <dsv3/layer/keep.hpp>
#include <dsv3/model/config.hpp>
#include <dsv3/op/optim/adamw.hpp>
#include <dsv3/train/data.hpp>
#include <dsv3/train/schedule.hpp>
#include <dsv3/train/state.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dsv3_train {

using dsv3::index_t;

struct run_settings {
  std::string model_name = "tiny";
  dsv3::model_config model;
  std::vector<std::string> data;
  double held_out = 0.05;  // share of the text
  dsv3::token_source source;
  std::string out = "runs/train";
  std::string resume;  // folder of a checkpoint or of a run; empty: the run begins

  index_t steps = 1000;
  dsv3::step_shape shape{.rows = 16, .length = 128};
  std::uint64_t seed = 1;
  std::string precision = "fp32";
  bool on_gpu = false;
  int threads = 1;        // of all ranks together
  dsv3::mesh_shape mesh;  // data x expert x pipeline ranks
  dsv3::launch started;   // by a launcher, if it says more than one process
  std::string pipeline_schedule = "1f1b";

  dsv3::training_schedule schedule;
  dsv3::adamw_config optimizer;
  double clip = 1, balance = 1e-4;
  index_t max_bad_steps = 10;

  index_t save_every = 200, checkpoints_kept = 2;
  index_t eval_every = 100, eval_rows = 256;
  index_t eval_draft =
      2;  // tokens that the MTP module proposes per step when held-out text goes on; 0: not tried
  index_t print_every = 10, load_every = 10;
  index_t shadow_every = 100;  // steps between those that are made in bf16 too; 0: none
  std::string prompt = "The ";
  index_t sample_bytes = 300;
  double temperature = 0.8;
  bool dry_run = false;

  // Every value by its flag's name, in order; what the report and settings.json show.
  std::vector<std::pair<std::string, std::string>> shown;
};

}  // namespace dsv3_train
