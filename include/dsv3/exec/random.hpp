// SPDX-License-Identifier: MIT
// Counter-based random numbers (Philox 4x32, ten rounds; Salmon et al., SC 2011): the n-th number of a stream
// is a function of (seed, stream, n), so results depend on no order of execution.
#pragma once

#include <dsv3/base/config.hpp>

#include <cmath>
#include <cstdint>
#include <string_view>

namespace dsv3::inline DSV3_ABI {

class random_stream {
 public:
  struct words {
    std::uint32_t value[4];
  };

  DSV3_HOST_DEVICE constexpr random_stream(std::uint64_t seed, std::uint64_t stream)
      : seed_(seed), stream_(stream) {}

  /// The stream of a name (FNV-1a, 64 bits): what draws from it depends on no numbering.
  static constexpr random_stream named(std::uint64_t seed, std::string_view name) {
    std::uint64_t hash = 0xCBF29CE484222325u;
    for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3u;
    return {seed, hash};
  }

  /// Four independent words for one counter.
  DSV3_HOST_DEVICE constexpr words at(std::uint64_t counter) const {
    std::uint32_t c[4] = {low(counter), high(counter), low(stream_), high(stream_)};
    std::uint32_t k[2] = {low(seed_), high(seed_)};
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t a = std::uint64_t{0xD2511F53u} * c[0], b = std::uint64_t{0xCD9E8D57u} * c[2];
      const std::uint32_t next[4] = {high(b) ^ c[1] ^ k[0], low(b), high(a) ^ c[3] ^ k[1], low(a)};
      for (int i = 0; i < 4; ++i) c[i] = next[i];
      k[0] += 0x9E3779B9u;
      k[1] += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
  }

  /// Uniform in the open interval (0, 1), 53 bits.
  DSV3_HOST_DEVICE double uniform(std::uint64_t counter) const {
    const words w = at(counter);
    return to_unit(w.value[0], w.value[1]);
  }

  /// Standard normal (Box-Muller).
  DSV3_HOST_DEVICE double normal(std::uint64_t counter) const {
    const words w = at(counter);
    const double radius = std::sqrt(-2.0 * std::log(to_unit(w.value[0], w.value[1])));
    return radius * std::cos(6.283185307179586 * to_unit(w.value[2], w.value[3]));
  }

  /// Uniform integer in [0, bound), bound > 0.
  DSV3_HOST_DEVICE std::uint64_t below(std::uint64_t bound, std::uint64_t counter) const {
    const words w = at(counter);
    const std::uint64_t bits = (std::uint64_t{w.value[0]} << 32) | w.value[1];
    return high_product(bits, bound);
  }

 private:
  // The upper 64 of the 128 bits of a · b.
  DSV3_HOST_DEVICE static constexpr std::uint64_t high_product(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t a0 = low(a), a1 = high(a), b0 = low(b), b1 = high(b);
    const std::uint64_t middle = a1 * b0 + high(a0 * b0), other = a0 * b1 + low(middle);
    return a1 * b1 + high(middle) + high(other);
  }
  DSV3_HOST_DEVICE static constexpr std::uint32_t low(std::uint64_t v) {
    return static_cast<std::uint32_t>(v);
  }
  DSV3_HOST_DEVICE static constexpr std::uint32_t high(std::uint64_t v) {
    return static_cast<std::uint32_t>(v >> 32);
  }
  DSV3_HOST_DEVICE static constexpr double to_unit(std::uint32_t a, std::uint32_t b) {
    const std::uint64_t bits = ((std::uint64_t{a} << 32) | b) >> 11;
    return (static_cast<double>(bits) + 0.5) * 1.1102230246251565e-16;
  }

  std::uint64_t seed_, stream_;
};

}  // namespace dsv3::inline DSV3_ABI
