// SPDX-License-Identifier: MIT
// The 8-bit conversions against those of the CUDA toolkit's header, which the host can call. Without the
// toolkit the test is skipped.
#include <doctest/doctest.h>

#if __has_include(<cuda_fp8.h>)

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/number/fp8.hpp>

#include <support/narrow_float.hpp>

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <atomic>
#include <bit>
#include <cmath>

using namespace dsv3;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr index_t random_floats = 2'000'000;
#else
constexpr index_t random_floats = 100'000'000;
#endif

struct e4m3 {
  using element = fp8_e4m3;
  static constexpr __nv_fp8_interpretation_t cuda = __NV_E4M3;
  static constexpr const oracle::narrow_float& format = oracle::e4m3;
};
struct e5m2 {
  using element = fp8_e5m2;
  static constexpr __nv_fp8_interpretation_t cuda = __NV_E5M2;
  static constexpr const oracle::narrow_float& format = oracle::e5m2;
};

template <class Format>
bool agrees(float x) {
  return typename Format::element(x).bits == __nv_cvt_float_to_fp8(x, __NV_SATFINITE, Format::cuda);
}

// 32 bits of n that pass for random (the finaliser of MurmurHash3): Philox would take most of the time.
std::uint32_t scatter(std::uint64_t n) {
  n = (n ^ n >> 33) * 0xFF51AFD7ED558CCDu;
  n = (n ^ n >> 33) * 0xC4CEB9FE1A85EC53u;
  return static_cast<std::uint32_t>(n >> 32);
}

}  // namespace

TEST_CASE_TEMPLATE("every code has the toolkit's value", Format, e4m3, e5m2) {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 256; ++code) {
    const auto bits = static_cast<std::uint8_t>(code);
    const float ours = Format::element::from_bits(bits);
    const float theirs = __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, Format::cuda)));
    wrong += std::isnan(ours) ? !std::isnan(theirs)
                              : std::bit_cast<std::uint32_t>(ours) != std::bit_cast<std::uint32_t>(theirs);
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("every boundary rounds as the toolkit rounds it", Format, e4m3, e5m2) {
  int wrong = 0;
  for (const float x : support::boundaries(Format::format)) wrong += !agrees<Format>(x);
  for (const std::uint32_t nan : {0x7F800001u, 0x7FC00000u, 0xFFC00000u, 0xFFFFFFFFu})
    wrong += !agrees<Format>(std::bit_cast<float>(nan));
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("random floats round as the toolkit rounds them", Format, e4m3, e5m2) {
  std::atomic<index_t> wrong{0};
  cpu::parallel_ranges(4, random_floats, 1, [&](index_t begin, index_t end) {
    index_t mine = 0;
    for (index_t i = begin; i < end; ++i) {
      const std::uint32_t bits = scatter(static_cast<std::uint64_t>(i));
      // Every other one within the format's range: 2^-24 .. 2^23.
      const std::uint32_t inside = (bits & 0x807FFFFFu) | (103u + (bits >> 23 & 255u) % 48u) << 23;
      mine += !agrees<Format>(std::bit_cast<float>(i % 2 == 0 ? bits : inside));
    }
    wrong += mine;
  });
  CHECK(wrong.load() == 0);
}

#else

#include <cstdio>
#include <cstdlib>

TEST_CASE("the CUDA toolkit's conversions") {
  std::puts("cuda_fp8.h was not found: nothing to compare with");
  std::exit(77);
}

#endif
