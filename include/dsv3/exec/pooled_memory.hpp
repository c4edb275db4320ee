// SPDX-License-Identifier: MIT
// Many short-lived arrays from a source whose allocations are slow, and of which a backend may still be
// reading when the host has let go of them.
#pragma once

#include <dsv3/exec/memory.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Blocks of another memory, kept for the next that asks. What is given back is given out again only after
/// `settle`: call it when the backend is done with all it was told to do.
class pooled_memory final : public memory_resource {
 public:
  explicit pooled_memory(memory_resource& source) : source_(source) {}

  void settle() {
    for (const auto& [order, block] : returned_) unused_[order].push_back(block);
    returned_.clear();
  }

 private:
  static int order_of(std::size_t bytes) { return std::bit_width(std::max(bytes, memory_alignment) - 1); }
  void* obtain(std::size_t bytes) override {
    const int order = order_of(bytes);
    std::vector<void*>& unused = unused_[order];
    if (unused.empty()) {
      blocks_.emplace_back(source_, std::size_t{1} << order);
      return blocks_.back().data();
    }
    void* block = unused.back();
    unused.pop_back();
    return block;
  }
  void give_back(void* block, std::size_t bytes) noexcept override {
    returned_.emplace_back(order_of(bytes), block);
  }

  memory_resource& source_;
  std::vector<memory_block> blocks_;
  std::vector<void*> unused_[64];
  std::vector<std::pair<int, void*>> returned_;
};

/// The standard's allocator over a memory_resource that outlives it.
template <class T>
class memory_allocator {
 public:
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_copy_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  memory_allocator(memory_resource& memory) : memory_(&memory) {}
  template <class U>
  memory_allocator(const memory_allocator<U>& other) : memory_(&other.memory()) {}

  T* allocate(std::size_t count) { return static_cast<T*>(memory_->allocate(count * sizeof(T))); }
  void deallocate(T* block, std::size_t count) noexcept { memory_->deallocate(block, count * sizeof(T)); }
  memory_resource& memory() const { return *memory_; }

  template <class U>
  friend bool operator==(const memory_allocator& a, const memory_allocator<U>& b) {
    return &a.memory() == &b.memory();
  }

 private:
  memory_resource* memory_;
};

/// An array that the host fills and operations read, or the other way round.
template <class T>
using shared_array = std::vector<T, memory_allocator<T>>;

}  // namespace dsv3::inline DSV3_ABI
