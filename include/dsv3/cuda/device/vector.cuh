// SPDX-License-Identifier: MIT
// Several neighbouring elements moved by one instruction.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cuda {

/// Count elements of T, as wide and as aligned as they are together.
template <class T, int Count>
struct alignas(sizeof(T) * Count) pack {
  static_assert((sizeof(T) * Count & (sizeof(T) * Count - 1)) == 0 && sizeof(T) * Count <= 32);
  T value[Count];

  __device__ T& operator[](int i) { return value[i]; }
  __device__ const T& operator[](int i) const { return value[i]; }
};

/// How many T fill 16 bytes, the widest load.
template <class T>
inline constexpr int widest = 16 / static_cast<int>(sizeof(T));

/// The pack at `from`, whose address is a multiple of the pack's size.
template <int Count, class T>
__device__ __forceinline__ pack<std::remove_const_t<T>, Count> load_pack(const T* from) {
  return *reinterpret_cast<const pack<std::remove_const_t<T>, Count>*>(from);
}
template <int Count, class T>
__device__ __forceinline__ void store_pack(T* to, const pack<T, Count>& values) {
  *reinterpret_cast<pack<T, Count>*>(to) = values;
}

/// Whether rows that start at `data` and lie `stride` elements apart can be moved in packs of Count.
template <int Count, class T>
bool takes_packs(const T* data, index_t stride) {
  constexpr std::uintptr_t bytes = sizeof(T) * Count;
  return reinterpret_cast<std::uintptr_t>(data) % bytes == 0 && stride % Count == 0;
}

}  // namespace dsv3::inline DSV3_ABI::cuda
