// SPDX-License-Identifier: MIT
// Writes one safetensors file: tensors are declared first, then their data stream through in any order.
#pragma once

#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/safetensors/format.hpp>
#include <dsv3/io/safetensors/reader.hpp>
#include <dsv3/tensor/view.hpp>

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Strings kept in a file's header. "format" is what Python loaders look at.
using safetensors_metadata = std::map<std::string, std::string>;

/// Wider element types come first in the file, then the order of declaration: every tensor lies aligned.
///
///     safetensors_writer writer{"model.safetensors"};
///     writer.declare("a", dtype::f32, {2, 3});
///     writer.append("a", view<const float, 2>{data, 2, 3});
///     writer.commit();
///
/// A tensor may come in parts, in order; nothing is held. Until the commit there is no file of that name.
/// After `begin` different tensors may come from different threads.
class safetensors_writer {
 public:
  explicit safetensors_writer(std::string path, safetensors_metadata metadata = {{"format", "pt"}})
      : file_(std::move(path)), metadata_(std::move(metadata)) {
    if (metadata_.contains(detail::checksums_key))
      raise(file_.path() + ": metadata key " + detail::checksums_key + " found, it is the writer's own");
  }

  void declare(const std::string& name, dtype type, std::vector<index_t> extents) {
    const std::string where = file_.path() + ": tensor " + name;
    if (sealed_) raise(where + " declared after the first data, expected all declarations before");
    if (name == "__metadata__") raise(where + " found, the name is reserved");
    if (json(name).dump(-1, ' ', false, json::error_handler_t::ignore) !=
        json(name).dump(-1, ' ', false, json::error_handler_t::replace))
      raise(where + " found, expected a name in UTF-8");
    const auto bytes = bytes_of(type, extents);
    if (!bytes) raise(where + " has shape " + to_string(extents) + ", expected extents that fit in 63 bits");
    if (!position_.emplace(name, tensors_.size()).second) raise(where + " declared twice");
    tensors_.push_back({name, type, std::move(extents), static_cast<std::uint64_t>(*bytes), 0, 0, {}});
  }

  /// Ends the declarations and takes the room on the disk; the first append does it otherwise.
  void begin() {
    if (!sealed_) seal();
  }

  /// The next bytes of a tensor.
  void append(const std::string& name, std::span<const std::byte> bytes) {
    const auto found = position_.find(name);
    if (found == position_.end()) raise(file_.path() + ": tensor " + name + " was not declared");
    begin();
    declared& tensor = tensors_[order_[found->second]];
    if (bytes.size() > tensor.bytes - tensor.written)
      raise(file_.path() + ": tensor " + name + " got " + std::to_string(tensor.written + bytes.size()) +
            " bytes, declared with " + std::to_string(tensor.bytes));
    file_.write_at(data_begin_ + tensor.begin + tensor.written, bytes);
    tensor.written += bytes.size();
    tensor.sum.update(bytes);
  }

  /// The next elements of a tensor, which must have their type.
  template <class T, int Rank>
  void append(const std::string& name, const view<T, Rank>& values) {
    const auto found = position_.find(name);
    if (found != position_.end()) {
      const dtype type = tensors_[sealed_ ? order_[found->second] : found->second].type;
      if (!detail::holds<std::remove_const_t<T>>(type))
        raise(file_.path() + ": tensor " + name + " was declared as " + std::string(to_string(type)) +
              ", got " + std::string(to_string(dtype_of<std::remove_const_t<T>>)));
    }
    append(name,
           std::as_bytes(std::span<const T>(values.flat().data(), static_cast<std::size_t>(values.size()))));
  }

  /// Writes the header and publishes the file; every tensor must be complete.
  void commit() {
    begin();
    for (const declared& tensor : tensors_) {
      if (tensor.written != tensor.bytes)
        raise(file_.path() + ": tensor " + tensor.name + " got " + std::to_string(tensor.written) +
              " bytes, declared with " + std::to_string(tensor.bytes));
    }
    const std::string header = header_text();
    file_.write_at(0, std::as_bytes(std::span(header)));
    checksum_ = crc32c_of(header);
    for (const declared& tensor : tensors_)
      checksum_ = crc32c_join(checksum_, tensor.sum.value(), tensor.bytes);
    file_.commit();
  }

  const std::string& path() const { return file_.path(); }
  /// Bytes of the whole file, known from the first data on.
  std::uint64_t size() const { return data_begin_ + data_bytes_; }
  /// CRC-32C of the whole file; after the commit.
  std::uint32_t checksum() const { return checksum_; }

 private:
  struct declared {
    std::string name;
    dtype type;
    std::vector<index_t> extents;
    std::uint64_t bytes, begin, written;
    crc32c sum;
  };

  // Fixes the order and the offsets. The header's checksums are zero until the commit; its length is final.
  void seal() {
    std::vector<std::size_t> from(tensors_.size());
    std::iota(from.begin(), from.end(), std::size_t{0});
    std::stable_sort(from.begin(), from.end(), [&](std::size_t a, std::size_t b) {
      return bytes_of(tensors_[a].type) > bytes_of(tensors_[b].type);
    });
    order_.resize(from.size());
    std::vector<declared> sorted;
    for (std::size_t i = 0; i < from.size(); ++i) {
      order_[from[i]] = i;
      sorted.push_back(std::move(tensors_[from[i]]));
      sorted.back().begin = data_bytes_;
      data_bytes_ += sorted.back().bytes;
    }
    tensors_ = std::move(sorted);
    sealed_ = true;
    data_begin_ = header_text().size();
    file_.reserve(size());
  }

  // The length, the JSON, and spaces up to a multiple of eight.
  std::string header_text() const {
    json header = json::object();
    json& strings = header["__metadata__"] = metadata_;
    std::string sums;
    for (const declared& tensor : tensors_) {
      header[tensor.name] = {{"dtype", to_string(tensor.type)},
                             {"shape", tensor.extents},
                             {"data_offsets", {tensor.begin, tensor.begin + tensor.bytes}}};
      char digits[9];
      std::snprintf(digits, sizeof digits, "%08x", tensor.sum.value());
      sums += digits;
    }
    strings[detail::checksums_key] = sums;
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    if (length > detail::longest_header)
      raise(file_.path() + ": header of " + std::to_string(length) + " bytes, expected at most " +
            std::to_string(detail::longest_header) + ": write several files");
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
  }

  atomic_file file_;
  safetensors_metadata metadata_;
  std::vector<declared> tensors_;  // as declared; from the first data on, as in the file
  std::unordered_map<std::string, std::size_t> position_;
  std::vector<std::size_t> order_;  // declaration -> place in the file
  bool sealed_ = false;
  std::uint64_t data_begin_ = 0, data_bytes_ = 0;
  std::uint32_t checksum_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI
