// SPDX-License-Identifier: MIT
// Room for numbers in a function's frame.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstddef>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cpu {

/// `count` numbers on cache lines, to be written before they are read: an array of them would begin as zeros,
/// which takes as long as writing it. Readers may take more of it than a compiler sees written: to compilers
/// it is written when made, by no instruction at all.
template <class T, index_t count>
class room {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
#if defined(__GNUC__)
  room() { asm("" : "=m"(bytes_)); }
#endif

  T* data() { return reinterpret_cast<T*>(bytes_); }
  operator T*() { return data(); }

 private:
  alignas(64) std::byte bytes_[count * index_t{sizeof(T)}];
};

}  // namespace dsv3::inline DSV3_ABI::cpu
