// SPDX-License-Identifier: MIT
// The safetensors format: element types, and the header read from memory with everything in it checked.
//
//     8 bytes      n, the header's length, little-endian
//     n bytes      {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...} and spaces
//     the rest     row-major data; offsets count from here and leave no gap
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/io/json.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

static_assert(std::endian::native == std::endian::little,
              "the files hold little-endian numbers, read in place");

/// The element types of the format.
// clang-format off
enum class dtype : std::uint8_t {
  f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u64, u32, u16, u8, boolean
};
// clang-format on

namespace detail {
struct dtype_facts {
  std::string_view name;
  index_t bytes;
};
// In the order of the enumeration.
inline constexpr dtype_facts dtypes[] = {{"F64", 8},     {"F32", 4},     {"F16", 2},     {"BF16", 2},
                                         {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I64", 8},
                                         {"I32", 4},     {"I16", 2},     {"I8", 1},      {"U64", 8},
                                         {"U32", 4},     {"U16", 2},     {"U8", 1},      {"BOOL", 1}};
}  // namespace detail

/// The spelling in the file: "BF16".
constexpr std::string_view to_string(dtype type) { return detail::dtypes[static_cast<int>(type)].name; }
/// Bytes of one element.
constexpr index_t bytes_of(dtype type) { return detail::dtypes[static_cast<int>(type)].bytes; }

/// The type with this spelling, if there is one.
constexpr std::optional<dtype> find_dtype(std::string_view name) {
  for (std::size_t i = 0; i < std::size(detail::dtypes); ++i)
    if (detail::dtypes[i].name == name) return static_cast<dtype>(i);
  return std::nullopt;
}

/// "[3, 4]"; "[]" for a tensor without axes, which has one element.
inline std::string to_string(const std::vector<index_t>& extents) {
  std::string text = "[";
  for (const index_t extent : extents)
    text.append(text.size() > 1 ? ", " : "").append(std::to_string(extent));
  return text + "]";
}

/// Bytes of a tensor, or nothing where 64 bits do not hold the number.
inline std::optional<index_t> bytes_of(dtype type, const std::vector<index_t>& extents) {
  index_t bytes = bytes_of(type);
  for (const index_t extent : extents)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  return bytes;
}

/// One tensor of a file. The bytes belong to the file.
struct tensor_entry {
  std::string name;
  dtype type = dtype::f32;
  std::vector<index_t> extents;
  std::span<const std::byte> bytes;
  std::shared_ptr<const std::string> source;  // the file's path

  index_t elements() const { return static_cast<index_t>(bytes.size()) / bytes_of(type); }
  /// "model.safetensors: tensor lm_head.weight", how errors begin.
  std::string where() const { return *source + ": tensor " + detail::shortened(name); }
};

/// The contents of a file: its tensors in the order of their data, and its metadata.
class safetensors_table {
 public:
  safetensors_table() = default;
  /// `tensors` in the order of their data.
  safetensors_table(std::vector<tensor_entry> tensors, std::map<std::string, std::string> metadata)
      : tensors_(std::move(tensors)), metadata_(std::move(metadata)), by_name_(tensors_.size()) {
    std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
  }

  const std::vector<tensor_entry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Null when there is no such tensor.
  const tensor_entry* find(std::string_view name) const {
    const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [&](std::size_t i, std::string_view n) { return tensors_[i].name < n; });
    return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }

 private:
  std::vector<tensor_entry> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::size_t> by_name_;
};

namespace detail {

/// The reference implementation refuses longer headers too.
inline constexpr std::uint64_t longest_header = 100'000'000;

inline tensor_entry parse_tensor(const std::string& name, const json& value, std::span<const std::byte> data,
                                 const std::shared_ptr<const std::string>& source) {
  tensor_entry tensor{name, {}, {}, {}, source};
  json_fields fields{value, tensor.where()};
  const std::optional<dtype> type = find_dtype(fields.text("dtype"));
  if (!type)
    fields.refuse("dtype", value["dtype"], "one of F64, F32, F16, BF16, F8_*, I8 to I64, U8 to U64, BOOL");
  tensor.type = *type;
  tensor.extents = fields.integers("shape", not_negative);
  const std::vector<index_t> range = fields.integers("data_offsets", not_negative);
  if (range.size() != 2 || range[0] > range[1])
    fields.refuse("data_offsets", value["data_offsets"], "[begin, end] with begin not after end");
  const auto available = static_cast<index_t>(data.size());
  if (range[1] > available)
    raise(tensor.where() + " ends at byte " + std::to_string(range[1]) + " of the data, the file holds " +
          std::to_string(available));
  require(fields.unknown());
  const std::optional<index_t> bytes = bytes_of(tensor.type, tensor.extents);
  if (!bytes) fields.refuse("shape", value["shape"], "a product of extents that fits in 63 bits");
  if (*bytes != range[1] - range[0])
    raise(tensor.where() + " has " + std::to_string(range[1] - range[0]) + " bytes, its shape " +
          to_string(tensor.extents) + " of " + std::string(to_string(tensor.type)) + " needs " +
          std::to_string(*bytes));
  tensor.bytes = data.subspan(static_cast<std::size_t>(range[0]), static_cast<std::size_t>(*bytes));
  return tensor;
}

/// The tensors, sorted by offset, must tile the data: no overlap, no hole, nothing after the last.
inline void require_tiling(const std::vector<tensor_entry>& tensors, std::span<const std::byte> data,
                           const std::string& source) {
  const std::byte* end = data.data();
  const tensor_entry* previous = nullptr;
  for (const tensor_entry& tensor : tensors) {
    const auto at = std::to_string(tensor.bytes.data() - data.data()),
               expected = std::to_string(end - data.data());
    if (tensor.bytes.data() < end)
      raise(tensor.where() + " begins at byte " + at + " of the data, inside tensor " +
            shortened(previous->name) + " that ends at " + expected);
    if (tensor.bytes.data() > end)
      raise(tensor.where() + " begins at byte " + at + " of the data, expected " + expected +
            ": the bytes between belong to no tensor");
    end = tensor.bytes.data() + tensor.bytes.size();
    previous = &tensor;
  }
  const auto used = end - data.data();
  if (static_cast<std::size_t>(used) != data.size())
    raise(source + ": " + std::to_string(data.size() - static_cast<std::size_t>(used)) +
          " bytes found after the last tensor, expected none");
}

}  // namespace detail

/// Reads the header of a file that lies in memory; `path` names it in errors. The entries point into `file`.
inline safetensors_table parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  const auto source = std::make_shared<const std::string>(path);
  std::uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes)
    raise(path + ": " + std::to_string(file.size()) +
          " bytes found, expected the 8 of the header's length first");
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  file = file.subspan(sizeof header_bytes);
  if (header_bytes > file.size())
    raise(path + ": header of " + std::to_string(header_bytes) + " bytes announced, only " +
          std::to_string(file.size()) + " bytes follow");
  if (header_bytes > detail::longest_header)
    raise(path + ": header of " + std::to_string(header_bytes) + " bytes announced, expected at most " +
          std::to_string(detail::longest_header));
  const std::string_view text{reinterpret_cast<const char*>(file.data()),
                              static_cast<std::size_t>(header_bytes)};
  if (!text.starts_with('{')) raise(path + ": the header does not begin with '{', expected a JSON object");
  const std::span<const std::byte> data = file.subspan(text.size());

  std::vector<tensor_entry> tensors;
  std::map<std::string, std::string> metadata;
  const json header = parse_json(text, path + ": header", 8);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      json_fields fields{value, path + ": __metadata__"};
      for (const auto& [key, entry] : value.items()) metadata[key] = fields.text(key);
    } else {
      tensors.push_back(detail::parse_tensor(name, value, data, source));
    }
  }
  std::sort(tensors.begin(), tensors.end(), [](const tensor_entry& a, const tensor_entry& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  detail::require_tiling(tensors, data, path);
  return {std::move(tensors), std::move(metadata)};
}

}  // namespace dsv3::inline DSV3_ABI
