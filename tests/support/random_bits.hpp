// SPDX-License-Identifier: MIT
// Uniform 64-bit numbers for tests.
#pragma once

#include <dsv3/exec/random.hpp>

#include <cstdint>

namespace support {

/// The i-th number of a stream.
inline std::uint64_t random_bits(std::uint64_t stream, std::uint64_t i) {
  const auto words = dsv3::random_stream(20260101, stream).at(i);
  return (std::uint64_t{words.value[0]} << 32) | words.value[1];
}

}  // namespace support
