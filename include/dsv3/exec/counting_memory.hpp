// SPDX-License-Identifier: MIT
// Memory that does not exist: whatever is built on it learns how many bytes it would take.
#pragma once

#include <dsv3/exec/memory.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// Gives out distinct addresses that must not be used. Together with `measure` it plans a whole training
/// state without allocating it: `peak()` is what a real resource would have given.
class counting_memory final : public memory_resource {
  void* obtain(std::size_t bytes) override {
    const std::uintptr_t address = next_;
    next_ += (bytes + memory_alignment - 1) / memory_alignment * memory_alignment;
    return reinterpret_cast<void*>(address);
  }
  void give_back(void*, std::size_t) noexcept override {}

  std::uintptr_t next_ = memory_alignment;
};

}  // namespace dsv3::inline DSV3_ABI
