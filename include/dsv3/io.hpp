// SPDX-License-Identifier: MIT
// Files: JSON, safetensors, logs of a run and its report. Needs nlohmann_json, the component dsv3::io.
#pragma once

#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/io/nearest_name.hpp>
#include <dsv3/io/safetensors.hpp>
