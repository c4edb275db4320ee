// SPDX-License-Identifier: MIT
// What a flag's value may be; a refusal reads: --threads: found "0", expected a whole number from 1 to 4096.
#pragma once

#include <dsv3/base/index.hpp>

#include <CLI/CLI.hpp>

#include <limits>
#include <string>
#include <vector>

namespace support {

/// A whole number from `least` to `most`.
inline CLI::Validator whole_number(dsv3::index_t least,
                                   dsv3::index_t most = std::numeric_limits<dsv3::index_t>::max()) {
  const std::string expected =
      most == std::numeric_limits<dsv3::index_t>::max()
          ? "a whole number of at least " + std::to_string(least)
          : "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
  return CLI::Validator(
      [=](std::string& text) {
        dsv3::index_t value = 0;
        const bool good = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
        return good ? std::string{} : "found \"" + text + "\", expected " + expected;
      },
      "N");
}

/// A finite number from `least` to `most`; `expected` says so in words.
inline CLI::Validator number(double least, double most, const std::string& expected) {
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const bool good = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
        return good ? std::string{} : "found \"" + text + "\", expected " + expected;
      },
      "X");
}
inline CLI::Validator positive_number() {
  return number(std::numeric_limits<double>::min(), 1e300, "a positive number");
}
inline CLI::Validator not_negative() { return number(0, 1e300, "a number of at least 0"); }

/// One of these words.
inline CLI::Validator one_of(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return CLI::Validator(
      [=](std::string& text) {
        for (const std::string& word : words)
          if (text == word) return std::string{};
        return "found \"" + text + "\", expected one of " + list;
      },
      "WORD");
}

}  // namespace support
