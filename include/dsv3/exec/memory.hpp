// SPDX-License-Identifier: MIT
// Where bytes come from: an interface, the host's implementation, and `owned`, a bundle with a lifetime.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/tensor/bundle.hpp>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Every allocation of the library starts on such a boundary: a cache line, and what vector loads want.
inline constexpr std::size_t memory_alignment = 64;

/// A source of memory. `in_use` and `peak` count the bytes it has given out.
class memory_resource {
 public:
  memory_resource() = default;
  memory_resource(const memory_resource&) = delete;
  memory_resource& operator=(const memory_resource&) = delete;
  virtual ~memory_resource() = default;

  void* allocate(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    void* block = obtain(bytes);
    const std::size_t used = in_use_ += bytes;
    for (std::size_t seen = peak_; seen < used && !peak_.compare_exchange_weak(seen, used);) {
    }
    return block;
  }
  void deallocate(void* block, std::size_t bytes) noexcept {
    if (block == nullptr) return;
    give_back(block, bytes);
    in_use_ -= bytes;
  }

  std::size_t in_use() const { return in_use_; }
  std::size_t peak() const { return peak_; }

 private:
  virtual void* obtain(std::size_t bytes) = 0;
  virtual void give_back(void* block, std::size_t bytes) noexcept = 0;

  std::atomic<std::size_t> in_use_ = 0, peak_ = 0;
};

/// The host's heap.
class host_memory final : public memory_resource {
  void* obtain(std::size_t bytes) override {
    const std::size_t rounded = (bytes + memory_alignment - 1) / memory_alignment * memory_alignment;
    void* block = rounded < bytes ? nullptr : std::aligned_alloc(memory_alignment, rounded);
    if (block == nullptr) raise("host memory: " + std::to_string(bytes) + " bytes could not be allocated");
    return block;
  }
  void give_back(void* block, std::size_t) noexcept override { std::free(block); }
};

/// Where state lies that a backend works on: what operations read and write, and what the host reads and
/// writes too. On the CPU that is one memory.
struct memory_sources {
  memory_resource& work;
  memory_resource& shared;

  memory_sources(memory_resource& both) : memory_sources(both, both) {}
  memory_sources(memory_resource& work_memory, memory_resource& shared_memory)
      : work(work_memory), shared(shared_memory) {}
};

/// One allocation, freed on destruction. Move-only.
class memory_block {
 public:
  memory_block() = default;
  memory_block(memory_resource& memory, std::size_t bytes)
      : memory_(&memory), data_(static_cast<std::byte*>(memory.allocate(bytes))), bytes_(bytes) {}
  memory_block(memory_block&& other) noexcept { swap(other); }
  memory_block& operator=(memory_block&& other) noexcept {
    memory_block(std::move(other)).swap(*this);
    return *this;
  }
  ~memory_block() {
    if (memory_ != nullptr) memory_->deallocate(data_, bytes_);
  }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(memory_block& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  memory_resource* memory_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A bundle that owns its memory: one allocation, every field on its own cache line, freed on destruction,
/// move-only. It *is* its bundle, so it passes wherever the bundle or its read-only twin is expected.
/// Contents start undefined: `zero` or `initialize` them.
template <class Bundle>
struct owned : Bundle {
  owned() = default;
  template <class Config>
  owned(memory_resource& memory, const Config& config) {
    this->config = config;
    block_ = memory_block(memory, bytes_of<Bundle>(config));
    place(static_cast<Bundle&>(*this), block_.data());
  }
  owned(owned&&) noexcept = default;
  owned& operator=(owned&&) noexcept = default;

  std::size_t bytes() const { return block_.bytes(); }
  /// All of it, padding between the fields included.
  std::span<std::byte> memory() const { return {block_.data(), block_.bytes()}; }

 private:
  memory_block block_;
};

}  // namespace dsv3::inline DSV3_ABI
