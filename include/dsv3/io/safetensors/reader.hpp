// SPDX-License-Identifier: MIT
// One safetensors file, mapped; its tensors as typed views.
#pragma once

#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/safetensors/format.hpp>
#include <dsv3/number/traits.hpp>
#include <dsv3/tensor/view.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// The metadata key of our writer: eight hexadecimal digits of CRC-32C per tensor, in the order of the data.
inline constexpr const char* checksums_key = "crc32c";

template <class T>
constexpr dtype dtype_of() {
  if constexpr (std::is_same_v<T, std::uint8_t>)
    return dtype::u8;
  else
    return find_dtype(number_traits<T>::name).value();
}

/// Bytes may be asked of any type of one byte, so that codes are readable without their type.
template <class T>
constexpr bool holds(dtype type) {
  return type == dtype_of<T>() || (std::is_same_v<T, std::uint8_t> && bytes_of(type) == 1);
}

}  // namespace detail

/// The format's name of an element type: dtype_of<bf16>() is dtype::bf16.
template <class T>
inline constexpr dtype dtype_of = detail::dtype_of<T>();

/// The values of one tensor: in the mapping where they lie aligned, in a copy where they do not.
template <class T, int Rank>
class tensor_values {
 public:
  /// Raises when the tensor's type is not T or its rank not Rank; a tensor without axes counts as one of [1].
  explicit tensor_values(const tensor_entry& tensor) : extents_(tensor.extents) {
    if (!detail::holds<T>(tensor.type))
      raise(tensor.where() + " has type " + std::string(to_string(tensor.type)) + ", expected " +
            std::string(to_string(dtype_of<T>)));
    if (extents_.empty()) extents_.push_back(1);
    if (extents_.size() != Rank)
      raise(tensor.where() + " has shape " + to_string(tensor.extents) + ", expected " +
            std::to_string(Rank) + (Rank == 1 ? " extent" : " extents"));
    data_ = reinterpret_cast<const T*>(tensor.bytes.data());
    if (tensor.bytes.empty() || reinterpret_cast<std::uintptr_t>(data_) % alignof(T) == 0) return;
    copy_.resize(tensor.bytes.size() / sizeof(T));
    std::memcpy(copy_.data(), tensor.bytes.data(), tensor.bytes.size());
    data_ = copy_.data();
  }
  tensor_values(tensor_values&&) = default;
  tensor_values& operator=(tensor_values&&) = default;

  view<const T, Rank> values() const {
    index_t extents[Rank], strides[Rank], stride = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      extents[axis] = extents_[static_cast<std::size_t>(axis)];
      strides[axis] = stride;
      stride *= extents[axis];
    }
    return {data_, extents, strides};
  }
  /// True when the values were misaligned in the file and are held twice.
  bool copied() const { return !copy_.empty(); }

 private:
  std::vector<index_t> extents_;
  std::vector<T> copy_;
  const T* data_ = nullptr;
};

/// Copies a floating-point tensor of any rank and alignment into `to`, converting F64, F32 and BF16 to T.
template <class T>
void read_converted(const tensor_entry& tensor, std::span<T> to) {
  if (static_cast<index_t>(to.size()) != tensor.elements())
    raise(tensor.where() + " has shape " + to_string(tensor.extents) + ", expected " +
          std::to_string(to.size()) + " elements");
  const auto convert = [&]<class From>(From) {
    if constexpr (std::is_same_v<From, T>) {
      if (!to.empty()) std::memcpy(to.data(), tensor.bytes.data(), tensor.bytes.size());
    } else {
      for (std::size_t i = 0; i < to.size(); ++i) {
        From value;
        std::memcpy(&value, tensor.bytes.data() + i * sizeof(From), sizeof(From));
        to[i] = static_cast<T>(value);
      }
    }
  };
  switch (tensor.type) {
    case dtype::f64:
      return convert(double{});
    case dtype::f32:
      return convert(float{});
    case dtype::bf16:
      return convert(bf16{});
    default:
      raise(tensor.where() + " has type " + std::string(to_string(tensor.type)) +
            ", expected F64, F32 or BF16");
  }
}

/// A file and what it holds. The header is checked when it is opened; the data are read when they are used.
///
///     safetensors_file file{"model.safetensors"};
///     const tensor_values<float, 2> weight{file.tensor("lm_head.weight")};
class safetensors_file {
 public:
  explicit safetensors_file(const std::string& path)
      : file_(path), table_(parse_safetensors(file_.bytes(), path)) {}

  const std::string& path() const { return file_.path(); }
  const std::vector<tensor_entry>& tensors() const { return table_.tensors(); }
  const std::map<std::string, std::string>& metadata() const { return table_.metadata(); }
  bool contains(std::string_view name) const { return table_.find(name) != nullptr; }

  const tensor_entry& tensor(std::string_view name) const {
    const tensor_entry* found = table_.find(name);
    if (found == nullptr) raise(path() + ": tensor " + std::string(name) + " is missing");
    return *found;
  }

  /// Compares the data with the checksums that our writer keeps in the metadata; names the first tensor that
  /// differs. A file of another writer has none, and says so. Little of a long file is in memory at a time.
  status verify() const {
    const auto found = metadata().find(detail::checksums_key);
    if (found == metadata().end()) return status{path() + ": no checksums found in the metadata"};
    const std::string& digits = found->second;
    if (digits.size() != 8 * tensors().size())
      return status{path() + ": " + std::to_string(digits.size()) +
                    " checksum digits found, expected eight for each of " + std::to_string(tensors().size()) +
                    " tensors"};
    for (std::size_t i = 0; i < tensors().size(); ++i) {
      std::uint32_t expected = 0;
      const char* first = digits.data() + 8 * i;
      const auto parsed = std::from_chars(first, first + 8, expected, 16);
      if (parsed.ptr != first + 8 || expected != passing_checksum(tensors()[i].bytes))
        return status{tensors()[i].where() + " is damaged: its data do not have the checksum " +
                      std::string(first, 8)};
    }
    return {};
  }

 private:
  static std::uint32_t passing_checksum(std::span<const std::byte> bytes) {
    constexpr std::size_t piece = 1 << 23;
    crc32c sum;
    for (std::size_t begin = 0; begin < bytes.size(); begin += piece) {
      const auto part = bytes.subspan(begin, std::min(piece, bytes.size() - begin));
      sum.update(part);
      let_go(part);
    }
    let_go(bytes);  // a page that is read brings its neighbours back
    return sum.value();
  }

  mapped_file file_;
  safetensors_table table_;
};

}  // namespace dsv3::inline DSV3_ABI
