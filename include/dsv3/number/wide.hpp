// SPDX-License-Identifier: MIT
// 128-bit unsigned integers, where products of two 64-bit numbers must stay whole.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

__extension__ typedef unsigned __int128 uint128;

/// a · b, all of it.
DSV3_HOST_DEVICE constexpr uint128 wide_product(std::uint64_t a, std::uint64_t b) { return uint128{a} * b; }

/// floor(bits · bound / 2^64): 64 uniform bits become a number below the bound, each with a probability
/// within 2^-64 of the others'.
DSV3_HOST_DEVICE constexpr std::uint64_t scale_bits(std::uint64_t bits, std::uint64_t bound) {
  return static_cast<std::uint64_t>(wide_product(bits, bound) >> 64);
}
DSV3_HOST_DEVICE constexpr uint128 scale_bits_wide(std::uint64_t bits, uint128 bound) {
  return wide_product(bits, static_cast<std::uint64_t>(bound >> 64)) +
         scale_bits(bits, static_cast<std::uint64_t>(bound));
}

}  // namespace dsv3::inline DSV3_ABI
