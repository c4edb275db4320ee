// SPDX-License-Identifier: MIT
// Elements far apart in an address range that is reserved but hardly touched: offsets beyond 2^31 in little
// memory.
#pragma once

#include <dsv3/base/index.hpp>

#include <sys/mman.h>

#include <cstddef>
#include <stdexcept>

namespace support {

/// `count` elements, zero; pages take memory when they are first touched.
template <class T>
class sparse {
 public:
  explicit sparse(dsv3::index_t count) : bytes_(sizeof(T) * static_cast<std::size_t>(count)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED)
      throw std::runtime_error("the address range for a sparse tensor could not be reserved");
  }
  sparse(const sparse&) = delete;
  sparse& operator=(const sparse&) = delete;
  ~sparse() { munmap(data_, bytes_); }

  T* data() const { return static_cast<T*>(data_); }

 private:
  std::size_t bytes_;
  void* data_;
};

}  // namespace support
