// SPDX-License-Identifier: MIT
// What dsv3-convert will make of a folder: known, and checked, before the first byte is written.
#pragma once

#include <dsv3/io/json.hpp>
#include <dsv3/io/safetensors.hpp>

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace dsv3_convert {

using dsv3::index_t;

struct request {
  std::string from, to;
  std::string type;  // fp8, bf16 or fp32
  int threads = 1;
  bool unscaled_codes = false, dry_run = false;
};

/// A tensor of the new folder, and what it is made of.
struct planned_tensor {
  dsv3::tensor_entry from;
  std::optional<dsv3::tensor_entry> scales;  // of a source in 8 bits
  dsv3::dtype type;

  /// Codes and scales are made here; elsewhere codes only come with those of the source.
  bool quantized() const { return type == dsv3::dtype::f8_e4m3 && from.type != type; }
  std::uint64_t bytes() const;  // with the scales made here
};

/// A file of the new folder; it has the name of the one it is made of.
struct planned_shard {
  std::string name;
  std::vector<planned_tensor> tensors;  // by name
  dsv3::safetensors_metadata metadata;
  std::uint64_t source_bytes = 0, bytes = 0;  // of data
};

struct plan {
  std::deque<dsv3::safetensors_file> files;  // mapped: the tensors point into them
  std::vector<planned_shard> shards;
  dsv3::json config;
  dsv3::json record;  // of what, and into what: conversion.json
  bool indexed = false;
  std::uint64_t source_bytes = 0, bytes = 0;
};

/// Raises, naming file and tensor, for everything that would stop the conversion but the values of weights
/// and scales.
plan make_plan(const request& asked);

}  // namespace dsv3_convert
