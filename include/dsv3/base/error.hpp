// SPDX-License-Identifier: MIT
// How the library reports what went wrong: `status` for questions, `error` for acts, one funnel for raising.
#pragma once

#include <dsv3/base/config.hpp>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Thrown by every failing act. The text says what was found, what was expected, and where.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The answer of a `check`: good, or one sentence that says what is wrong.
class [[nodiscard]] status {
 public:
  status() = default;
  explicit status(std::string sentence) : message_(std::move(sentence)) {}

  bool good() const { return message_.empty(); }
  explicit operator bool() const { return good(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

/// The only place that raises. With DSV3_NO_EXCEPTIONS it prints the sentence and aborts.
[[noreturn]] inline void raise(const std::string& sentence) {
#if defined(DSV3_NO_EXCEPTIONS)
  std::fprintf(stderr, "dsv3: %s\n", sentence.c_str());
  std::abort();
#else
  throw error(sentence);
#endif
}

/// The only place that catches: what `act` raises, as an answer. With DSV3_NO_EXCEPTIONS nothing comes back.
template <class Act>
status attempt(Act&& act) {
#if defined(DSV3_NO_EXCEPTIONS)
  act();
#else
  try {
    act();
  } catch (const error& failure) {
    return status{failure.what()};
  }
#endif
  return {};
}

/// Turns a bad status into `dsv3::error`.
inline void require(const status& answer) {
  if (!answer.good()) raise(answer.message());
}

}  // namespace dsv3::inline DSV3_ABI
