// SPDX-License-Identifier: MIT
// Files: JSON, safetensors, the logs of a run and its report. Needs nlohmann_json, the component dsv3::io.
#pragma once

#include <dsv3/io/block_codec.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/io/json_row.hpp>
#include <dsv3/io/nearest_name.hpp>
#include <dsv3/io/report.hpp>
#include <dsv3/io/run_log.hpp>
#include <dsv3/io/safetensors.hpp>
#include <dsv3/io/safetensors/block_weight.hpp>
#include <dsv3/io/svg_plot.hpp>
#include <dsv3/io/tensorboard.hpp>
