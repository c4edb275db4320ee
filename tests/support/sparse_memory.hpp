// SPDX-License-Identifier: MIT
// Many gigabytes of addresses over little memory, for tests of tensors with more than 2^31 elements.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <stdexcept>

namespace support {

/// `bytes` of zeros that take memory only where they are written. `data()` is null where the system refuses
/// them.
class sparse_memory {
 public:
  explicit sparse_memory(std::size_t bytes) : bytes_(bytes) {
    void* start =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start != MAP_FAILED) start_ = static_cast<std::byte*>(start);
  }
  sparse_memory(const sparse_memory&) = delete;
  sparse_memory& operator=(const sparse_memory&) = delete;
  ~sparse_memory() {
    if (start_ != nullptr) munmap(start_, bytes_);
  }

  /// Lays one window of memory over the first `bytes`, again and again: all of it can be written at the price
  /// of the window. Both are multiples of the page. False where the system refuses.
  bool repeat(std::size_t bytes, std::size_t window) {
    const int file = memfd_create("window", 0);
    bool good = file >= 0 && ftruncate(file, static_cast<off_t>(window)) == 0;
    for (std::size_t at = 0; good && at < bytes; at += window)
      good = mmap(start_ + at, window < bytes - at ? window : bytes - at, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, 0) != MAP_FAILED;
    if (file >= 0) close(file);  // the mappings keep it
    return good;
  }

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(start_);
  }

 private:
  std::byte* start_ = nullptr;
  std::size_t bytes_;
};

/// The same as `count` zero elements; throws where the system refuses them.
template <class T>
class sparse : sparse_memory {
 public:
  explicit sparse(std::ptrdiff_t count) : sparse_memory(sizeof(T) * static_cast<std::size_t>(count)) {
    if (data() == nullptr)
      throw std::runtime_error("the address range for a sparse tensor could not be reserved");
  }
  T* data() const { return sparse_memory::data<T>(); }
};

}  // namespace support
