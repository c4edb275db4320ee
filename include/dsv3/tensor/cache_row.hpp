// SPDX-License-Identifier: MIT
// What a row of the latent cache consists of: the latent c and the rotated key k_rope of one token.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI::cache_row {

/// c and k_rope one after the other, as activations.
struct plain {
  template <class Activation>
  using element = Activation;

  static constexpr const char* extent = "kv_rank + qk_rope";
  DSV3_HOST_DEVICE static constexpr index_t width(index_t kv_rank, index_t qk_rope) {
    return kv_rank + qk_rope;
  }
};

/// Bytes: c as E4M3 codes, then a float scale for every 128 of them, then k_rope in BF16, gapless and in the
/// machine's byte order. With kv_rank 512 and qk_rope 64 these are the 656 bytes that FlashMLA reads.
struct fp8 {
  template <class Activation>
  using element = std::uint8_t;

  static constexpr const char* extent = "a row in bytes";
  DSV3_HOST_DEVICE static constexpr index_t width(index_t kv_rank, index_t qk_rope) {
    return rope_at(kv_rank) + 2 * qk_rope;
  }
  DSV3_HOST_DEVICE static constexpr index_t scales_at(index_t kv_rank) { return kv_rank; }
  DSV3_HOST_DEVICE static constexpr index_t rope_at(index_t kv_rank) {
    return scales_at(kv_rank) + 4 * ceil_div(kv_rank, 128);
  }
};

static_assert(fp8::width(512, 64) == 656);

}  // namespace dsv3::inline DSV3_ABI::cache_row
