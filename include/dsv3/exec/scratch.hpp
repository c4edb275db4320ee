// SPDX-License-Identifier: MIT
// Scratch memory: a stack of bytes that belongs to a context; a counting mode learns how many are needed.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/exec/memory.hpp>
#include <dsv3/tensor/view.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// Bump allocation over one block. Take inside a scratch_frame; the frame's end gives everything back.
class scratch_arena {
 public:
  /// No bytes at all: enough for operations that need none.
  scratch_arena() = default;

  scratch_arena(memory_resource& memory, std::size_t bytes)
      : block_(memory, bytes), base_(block_.data()), capacity_(bytes) {}

  /// Gives out addresses that must not be used, and remembers how far it got.
  static scratch_arena counting() {
    scratch_arena arena;
    arena.base_ = reinterpret_cast<std::byte*>(memory_alignment);
    arena.capacity_ = std::numeric_limits<std::size_t>::max() / 2;
    return arena;
  }

  /// Uninitialised elements, aligned to a cache line.
  template <class T>
  T* take(index_t count) {
    if (count < 0) raise("scratch: " + std::to_string(count) + " elements asked for");
    const std::size_t bytes = detail::field_bytes(sizeof(T), shape{count});
    if (bytes > capacity_ - used_)
      raise("scratch: " + std::to_string(bytes) + " bytes asked for, " + std::to_string(capacity_ - used_) +
            " of " + std::to_string(capacity_) + " left; measure() tells what the arena must hold");
    T* data = reinterpret_cast<T*>(base_ + used_);
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return data;
  }

  /// A contiguous view of uninitialised elements.
  template <class T, std::integral... Extent>
  view<T, sizeof...(Extent)> tensor(Extent... extents) {
    return view<T, sizeof...(Extent)>{take<T>((index_t{1} * ... * static_cast<index_t>(extents))),
                                      extents...};
  }

  /// A bundle of this config, its fields uninitialised.
  template <class Bundle, class Config>
  Bundle bundle(const Config& config) {
    Bundle result;
    result.config = config;
    place(result, take<std::byte>(static_cast<index_t>(bytes_of<Bundle>(config))));
    return result;
  }

  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  std::size_t capacity() const { return capacity_; }

 private:
  friend class scratch_frame;

  memory_block block_;
  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0, peak_ = 0;
};

/// Marks the arena and releases to the mark at the end of the scope.
class scratch_frame {
 public:
  explicit scratch_frame(scratch_arena& arena) : arena_(arena), mark_(arena.used_) {}
  scratch_frame(const scratch_frame&) = delete;
  scratch_frame& operator=(const scratch_frame&) = delete;
  ~scratch_frame() { arena_.used_ = mark_; }

 private:
  scratch_arena& arena_;
  std::size_t mark_;
};

}  // namespace dsv3::inline DSV3_ABI
