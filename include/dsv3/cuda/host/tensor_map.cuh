// SPDX-License-Identifier: MIT
// Descriptions of tensors for the copy engine.
#pragma once

#include <dsv3/cuda/host/error.cuh>
#include <dsv3/number/bf16.hpp>
#include <dsv3/tensor/view.hpp>

#include <cuda.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda {

/// How a box lies in shared memory. A swizzled box is at most so many bytes wide and starts at a multiple of
/// eight times as many.
enum class box_swizzle { none, bytes_32, bytes_64, bytes_128 };

namespace detail {

// Elements of one byte are copied, whatever they mean.
template <class T>
constexpr CUtensorMapDataType map_type() {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, float> || std::is_same_v<T, std::int32_t> ||
                    sizeof(T) == 1,
                "the copy engine is given bf16, float, int32 or elements of one byte");
  if constexpr (std::is_same_v<T, bf16>)
    return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  else if constexpr (std::is_same_v<T, float>)
    return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return CU_TENSOR_MAP_DATA_TYPE_INT32;
  else
    return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

// The driver's encoder, found through the runtime so that nothing more is linked.
inline decltype(&cuTensorMapEncodeTiled) map_encoder() {
  static const auto encoder = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult answer;
    require(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer),
        "the driver's encoder of tensor maps");
    if (answer != cudaDriverEntryPointSuccess) raise("the driver has no encoder of tensor maps");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return encoder;
}

}  // namespace detail

/// Whether the copy engine can walk this tensor: address and strides are multiples of 16 bytes.
template <class T, int Rank>
bool takes_tensor_map(const view<T, Rank>& tensor) {
  if (tensor.empty() || reinterpret_cast<std::uintptr_t>(tensor.data()) % 16 != 0) return false;
  for (int axis = 0; axis < Rank; ++axis) {
    const bool walked = axis < Rank - 1;
    const index_t bytes = tensor.stride(axis) * static_cast<index_t>(sizeof(T));
    if (walked && (bytes % 16 != 0 || bytes <= 0 || bytes >= index_t{1} << 40)) return false;
    if (tensor.extent(axis) > index_t{1} << 31) return false;
  }
  return true;
}

/// The map of a tensor that is copied box by box. `box` has the order of the view: {rows, columns}; the
/// coordinates of a copy have the opposite, columns first. `name` is the operation, for the error.
template <class T, int Rank>
CUtensorMap tensor_map(const char* name, const view<T, Rank>& tensor, const int (&box)[Rank],
                       box_swizzle swizzle) {
  static_assert(Rank >= 2 && Rank <= 5);
  cuuint64_t extents[Rank], strides[Rank];
  cuuint32_t boxes[Rank], steps[Rank];
  for (int axis = 0; axis < Rank; ++axis) {
    const int from = Rank - 1 - axis;
    extents[axis] = static_cast<cuuint64_t>(tensor.extent(from));
    strides[axis] = static_cast<cuuint64_t>(tensor.stride(from)) * sizeof(T);
    boxes[axis] = static_cast<cuuint32_t>(box[from]);
    steps[axis] = 1;
  }
  constexpr CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                             CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  CUtensorMap map;
  const CUresult answer =
      detail::map_encoder()(&map, detail::map_type<std::remove_const_t<T>>(), Rank,
                            const_cast<std::remove_const_t<T>*>(tensor.data()), extents, strides + 1, boxes,
                            steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[static_cast<int>(swizzle)],
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (answer == CUDA_SUCCESS) return map;
  std::string numbers;
  for (int axis = 0; axis < Rank; ++axis)
    numbers += (axis == 0 ? "" : ", ") + std::to_string(tensor.extent(axis)) + " by " +
               std::to_string(tensor.stride(axis)) + " in boxes of " + std::to_string(box[axis]);
  raise(std::string(name) + ": the driver makes no map of extents and strides " + numbers + ", elements of " +
        std::to_string(sizeof(T)) + " bytes at " +
        std::to_string(reinterpret_cast<std::uintptr_t>(tensor.data()) % 1024) +
        " beyond a multiple of 1024 (error " + std::to_string(static_cast<int>(answer)) + ")");
}

}  // namespace dsv3::inline DSV3_ABI::cuda
