// SPDX-License-Identifier: MIT
// Reading and writing safetensors: one file or a folder of shards.
#pragma once

#include <dsv3/io/safetensors/folder.hpp>
#include <dsv3/io/safetensors/format.hpp>
#include <dsv3/io/safetensors/reader.hpp>
#include <dsv3/io/safetensors/writer.hpp>
