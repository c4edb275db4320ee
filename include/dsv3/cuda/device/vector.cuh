// SPDX-License-Identifier: MIT
// Several neighbouring elements moved by one instruction.
#pragma once

#include <dsv3/tensor/view.hpp>

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

namespace detail {

/// What instructions move at once: 16 bytes, or all where there are fewer.
template <int Bytes>
struct moved {
  using type = uint4;
};
template <>
struct moved<8> {
  using type = uint2;
};
template <>
struct moved<4> {
  using type = std::uint32_t;
};
template <>
struct moved<2> {
  using type = std::uint16_t;
};
template <>
struct moved<1> {
  using type = std::uint8_t;
};

/// The bits of a pack as that. A pack of classes would be copied member by member, which compilers do not
/// always join again.
template <class Pack>
struct bits_of {
  using unit = typename moved<(sizeof(Pack) < 16 ? sizeof(Pack) : 16)>::type;
  static constexpr int count = sizeof(Pack) / sizeof(unit);
  unit part[count];
};

}  // namespace detail

/// The pack at `from`, whose address is a multiple of the pack's size.
template <int Count, class T>
__device__ __forceinline__ pack<std::remove_const_t<T>, Count> load_pack(const T* from) {
  using bits = detail::bits_of<pack<std::remove_const_t<T>, Count>>;
  bits values;
#pragma unroll
  for (int i = 0; i < bits::count; ++i)
    values.part[i] = reinterpret_cast<const typename bits::unit*>(from)[i];
  return __builtin_bit_cast(pack<std::remove_const_t<T>, Count>, values);
}
/// In assembly, as compilers now and then make several small stores of one.
template <int Count, class T>
__device__ __forceinline__ void store_pack(T* to, const pack<T, Count>& values) {
  using bits = detail::bits_of<pack<T, Count>>;
  const auto moved = __builtin_bit_cast(bits, values);
  auto* place = reinterpret_cast<typename bits::unit*>(to);
#pragma unroll
  for (int i = 0; i < bits::count; ++i)
    if constexpr (std::is_same_v<typename bits::unit, uint4>)
      asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(place + i), "r"(moved.part[i].x),
                   "r"(moved.part[i].y), "r"(moved.part[i].z), "r"(moved.part[i].w)
                   : "memory");
    else if constexpr (std::is_same_v<typename bits::unit, uint2>)
      asm volatile("st.v2.u32 [%0], {%1, %2};" ::"l"(place + i), "r"(moved.part[i].x), "r"(moved.part[i].y)
                   : "memory");
    else
      place[i] = moved.part[i];
}

/// A pack that stays in registers while other things happen. Compilers give each 16-bit element a register of
/// its own as soon as one is used, and keep it; here words stay words, which every `get` takes apart anew.
template <class T, int Count>
class kept_pack {
 public:
  kept_pack() = default;
  __device__ explicit kept_pack(const pack<T, Count>& values)
      : words_(__builtin_bit_cast(pack<word, count>, values)) {}
  /// See load_pack.
  __device__ explicit kept_pack(const T* from)
      : words_(load_pack<count>(reinterpret_cast<const word*>(from))) {}

  __device__ __forceinline__ pack<T, Count> get() const {
    auto words = words_;
    if constexpr (!std::is_same_v<word, T>)
#pragma unroll
      for (int i = 0; i < count; ++i) asm volatile("" : "+r"(words[i]));
    return __builtin_bit_cast(pack<T, Count>, words);
  }

 private:
  using word = std::conditional_t<sizeof(T) == 2 && Count % 2 == 0, std::uint32_t, T>;
  static constexpr int count = sizeof(T) * Count / sizeof(word);
  pack<word, count> words_;
};

/// Whether rows that start at `data` and lie `stride` elements apart can be moved in packs of Count.
template <int Count, class T>
bool takes_packs(const T* data, index_t stride) {
  constexpr std::uintptr_t bytes = sizeof(T) * Count;
  return reinterpret_cast<std::uintptr_t>(data) % bytes == 0 && stride % Count == 0;
}

/// The same of the rows of a matrix; what their length leaves over at the end is the caller's.
template <int Count, class T>
bool takes_packs(const view<T, 2>& matrix) {
  return takes_packs<Count>(matrix.data(), matrix.extent(0) > 1 ? matrix.stride(0) : 0);
}

}  // namespace dsv3::inline DSV3_ABI::cuda
