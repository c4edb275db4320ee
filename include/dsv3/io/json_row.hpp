// SPDX-License-Identifier: MIT
// One line of JSON, written without building the value first; the keys keep their order.
#pragma once

#include <dsv3/base/config.hpp>

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <ranges>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

namespace detail {

inline void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') {
      out += '\\';
      out += letter;
    } else if (static_cast<unsigned char>(letter) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(letter));
      out += escape;
    } else {
      out += letter;
    }
  }
  out += '"';
}

inline void append_json(std::string& out, bool value) { out += value ? "true" : "false"; }

template <class Number>
  requires((std::integral<Number> && !std::same_as<Number, bool>) || std::floating_point<Number>)
void append_json(std::string& out, Number value) {
  if constexpr (std::floating_point<Number>) {
    if (!std::isfinite(value)) {
      out += "null";
      return;
    }
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, end.ptr);
}

template <std::ranges::input_range Range>
  requires(!std::convertible_to<const Range&, std::string_view>)
void append_json(std::string& out, const Range& values) {
  out += '[';
  bool first = true;
  for (const auto& value : values) {
    if (!std::exchange(first, false)) out += ',';
    append_json(out, value);
  }
  out += ']';
}

}  // namespace detail

/// An object under construction.
///
///     json_row row;
///     row.add("step", step).add("loss", loss).add("max_vio", max_vio);
///
/// Values are numbers, truth values, texts in UTF-8, and ranges of these, nested as one likes. Numbers have
/// the fewest digits that give them back; JSON has no word for what is not finite, so that becomes null.
class json_row {
 public:
  template <class Value>
  json_row& add(std::string_view key, const Value& value) {
    if (!fields_.empty()) fields_ += ',';
    detail::append_json(fields_, key);
    fields_ += ':';
    if constexpr (std::convertible_to<const Value&, std::string_view>)
      detail::append_json(fields_, std::string_view(value));
    else
      detail::append_json(fields_, value);
    return *this;
  }

  std::string text() const { return '{' + fields_ + '}'; }

 private:
  std::string fields_;
};

}  // namespace dsv3::inline DSV3_ABI
