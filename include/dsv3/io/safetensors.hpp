// SPDX-License-Identifier: MIT
// Safetensors: one file (reader, writer), and folders with one file or with shards and an index beside them.
#pragma once

#include <dsv3/io/json.hpp>
#include <dsv3/io/safetensors/format.hpp>
#include <dsv3/io/safetensors/reader.hpp>
#include <dsv3/io/safetensors/writer.hpp>

#include <cstdint>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {
inline std::string single_name(const std::string& stem) { return stem + ".safetensors"; }
inline std::string index_name(const std::string& stem) { return stem + ".safetensors.index.json"; }
inline bool exists(const std::string& path) {
  std::error_code ignored;  // what cannot be examined cannot be opened either
  return std::filesystem::exists(path, ignored);
}
}  // namespace detail

/// Finds tensors by name and maps a shard when the first of its tensors is asked for. One thread at a time.
/// `<stem>.safetensors` is read where it exists, `<stem>.safetensors.index.json` otherwise.
class safetensors_folder {
 public:
  explicit safetensors_folder(std::string folder, const std::string& stem = "model")
      : folder_(std::move(folder)) {
    const std::string single = detail::single_name(stem), index = detail::index_name(stem);
    if (detail::exists(path_of(single))) {
      for (const tensor_entry& tensor : shard(single).tensors()) shard_of_[tensor.name] = single;
    } else if (detail::exists(path_of(index))) {
      read_index(path_of(index));
    } else {
      raise(folder_ + ": found neither " + single + " nor " + index);
    }
  }

  const std::string& folder() const { return folder_; }
  bool contains(const std::string& name) const { return shard_of_.contains(name); }
  /// Tensor name -> file name, sorted by tensor.
  const std::map<std::string, std::string>& names() const { return shard_of_; }

  const tensor_entry& tensor(const std::string& name) {
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) raise(folder_ + ": tensor " + name + " is missing");
    const safetensors_file& file = shard(found->second);
    if (!file.contains(name))
      raise(file.path() + ": tensor " + name + " is missing, the index says it is here");
    return file.tensor(name);
  }

  /// Maps every shard, finds every tensor and compares every checksum.
  status verify() {
    for (const auto& [name, file] : shard_of_) tensor(name);
    for (const auto& [name, file] : shards_)
      if (const status answer = file.verify(); !answer.good()) return answer;
    return {};
  }

 private:
  std::string path_of(const std::string& file) const {
    return (std::filesystem::path(folder_) / file).string();
  }

  const safetensors_file& shard(const std::string& file) {
    const auto found = shards_.find(file);
    return found != shards_.end() ? found->second : shards_.try_emplace(file, path_of(file)).first->second;
  }

  void read_index(const std::string& path) {
    const json index = read_json(path);
    json_fields fields{index, path};
    json_fields map = fields.object("weight_map");
    for (const auto& [name, value] : index["weight_map"].items()) {
      const std::string& file = map.text(name);
      if (file.empty() || file == "." || file == ".." ||
          file.find_first_of(std::string_view("/\\\0", 3)) != file.npos)
        map.refuse(name, value, "the name of a file in the same folder");
      if (!detail::exists(path_of(file))) raise(path_of(file) + ": shard is missing, the index names it");
      shard_of_[name] = file;
    }
  }

  std::string folder_;
  std::map<std::string, std::string> shard_of_;
  std::unordered_map<std::string, safetensors_file> shards_;
};

/// One file of a folder that was written.
struct written_file {
  std::string name;
  std::uint64_t bytes;
  std::uint32_t checksum;  // CRC-32C of the whole file
};

/// Writes `<stem>.safetensors`, or shards `<stem>-00001-of-000NN.safetensors` and their index where one file
/// would hold more than `max_shard_bytes` of data. Used as safetensors_writer is. The index is written last.
class safetensors_folder_writer {
 public:
  explicit safetensors_folder_writer(std::string folder, std::uint64_t max_shard_bytes = 5'000'000'000,
                                     std::string stem = "model",
                                     safetensors_metadata metadata = {{"format", "pt"}})
      : folder_(std::move(folder)),
        stem_(std::move(stem)),
        max_shard_bytes_(max_shard_bytes),
        metadata_(std::move(metadata)) {}

  void declare(const std::string& name, dtype type, std::vector<index_t> extents) {
    if (!writers_.empty())
      raise(folder_ + ": tensor " + name +
            " declared after the first data, expected all declarations before");
    const auto bytes =
        static_cast<std::uint64_t>(bytes_of(type, extents).value_or(0));  // refused when it is opened
    if (shards_ == 0 ||
        (shard_bytes_ > 0 && bytes > max_shard_bytes_ - std::min(shard_bytes_, max_shard_bytes_))) {
      ++shards_;
      shard_bytes_ = 0;
    }
    shard_bytes_ += bytes;
    total_bytes_ += bytes;
    if (!shard_of_.emplace(name, shards_ - 1).second) raise(folder_ + ": tensor " + name + " declared twice");
    declared_.push_back({name, type, std::move(extents)});
  }

  template <class Data>
  void append(const std::string& name, const Data& data) {
    if (writers_.empty()) open();
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) raise(folder_ + ": tensor " + name + " was not declared");
    writers_[found->second].append(name, data);
  }

  void commit() {
    if (writers_.empty()) open();
    for (safetensors_writer& writer : writers_) {
      writer.commit();
      files_.push_back(
          {std::filesystem::path(writer.path()).filename().string(), writer.size(), writer.checksum()});
    }
    if (writers_.size() == 1) return;
    json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", json::object()}};
    for (const auto& [name, shard] : shard_of_) index["weight_map"][name] = files_[shard].name;
    const std::string text = index.dump(2) + "\n";
    write_file(path_of(detail::index_name(stem_)), text);
    files_.push_back({detail::index_name(stem_), text.size(), crc32c_of(text)});
  }

  /// What was written; after the commit.
  const std::vector<written_file>& files() const { return files_; }

 private:
  struct declaration {
    std::string name;
    dtype type;
    std::vector<index_t> extents;
  };

  std::string path_of(const std::string& file) const {
    return (std::filesystem::path(folder_) / file).string();
  }

  void open() {
    const std::size_t count = std::max<std::size_t>(shards_, 1);
    // A reader takes the single file where both exist: a leftover of the other kind would mislead it.
    const std::string rival = path_of(count > 1 ? detail::single_name(stem_) : detail::index_name(stem_));
    if (detail::exists(rival))
      raise(rival + ": found, expected a folder without it to write " + std::to_string(count) +
            (count > 1 ? " shards" : " file") + " into");
    for (std::size_t i = 0; i < count; ++i) {
      char number[48];
      std::snprintf(number, sizeof number, "-%05zu-of-%05zu", i + 1, count);
      writers_.emplace_back(path_of(detail::single_name(stem_ + (count > 1 ? number : ""))), metadata_);
    }
    for (declaration& tensor : declared_)
      writers_[shard_of_[tensor.name]].declare(tensor.name, tensor.type, std::move(tensor.extents));
    declared_.clear();
  }

  std::string folder_, stem_;
  std::uint64_t max_shard_bytes_;
  safetensors_metadata metadata_;
  std::vector<declaration> declared_;
  std::map<std::string, std::size_t> shard_of_;
  std::size_t shards_ = 0;
  std::uint64_t shard_bytes_ = 0, total_bytes_ = 0;
  std::deque<safetensors_writer> writers_;
  std::vector<written_file> files_;
};

}  // namespace dsv3::inline DSV3_ABI
