// SPDX-License-Identifier: MIT
// What the library needs to know of an element type: its name, its spacing and its largest value.
#pragma once

#include <dsv3/number/bf16.hpp>
#include <dsv3/number/e5m6.hpp>
#include <dsv3/number/fp8.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// `name` is the spelling of the checkpoint format; `epsilon` the spacing after one.
template <class Element>
struct number_traits;

template <>
struct number_traits<double> {
  static constexpr const char* name = "F64";
  static constexpr double epsilon = 2.220446049250313e-16, max = 1.7976931348623157e308;
};
template <>
struct number_traits<float> {
  static constexpr const char* name = "F32";
  static constexpr double epsilon = 1.1920928955078125e-7, max = 3.4028234663852886e38;
};
template <>
struct number_traits<bf16> {
  static constexpr const char* name = "BF16";
  static constexpr double epsilon = 0.0078125, max = 3.3895313892515355e38;
};
template <>
struct number_traits<fp8_e4m3> {
  static constexpr const char* name = "F8_E4M3";
  static constexpr double epsilon = 0.125, max = 448;
};
template <>
struct number_traits<fp8_e5m2> {
  static constexpr const char* name = "F8_E5M2";
  static constexpr double epsilon = 0.25, max = 57344;
};
template <>
struct number_traits<e5m6> {
  static constexpr const char* name = "E5M6";
  static constexpr double epsilon = 0.015625, max = e5m6::largest;
};
template <>
struct number_traits<std::int32_t> {
  static constexpr const char* name = "I32";
};
template <>
struct number_traits<std::int64_t> {
  static constexpr const char* name = "I64";
};

}  // namespace dsv3::inline DSV3_ABI
