// SPDX-License-Identifier: MIT
// How long a test case may begin runs. Under the sanitizers a case's whole list takes minutes, and its first
// runs, the small ones, already execute each kernel.
#pragma once

#include <chrono>
#include <cstdlib>

namespace support {

/// Ends a test case whose share is spent; nothing has failed.
struct share_spent {};

/// DSV3_TEST_SHARE seconds from the begin of each case, and without the variable no limit.
class test_share {
 public:
  bool limited() const { return seconds_ > 0; }
  bool spent() const { return spent_; }
  void begin_case() { spent_ = ran_ = false; }

  /// To be called before each run: the first of a case is always made.
  void require() {
    const auto now = clock::now();
    if (!ran_) began_ = now;
    spent_ = spent_ || (limited() && now > began_ + std::chrono::duration<double>(seconds_));
    ran_ = true;
    if (spent_) throw share_spent{};
  }

 private:
  using clock = std::chrono::steady_clock;
  static double wanted() {
    const char* text = std::getenv("DSV3_TEST_SHARE");
    return text == nullptr ? 0 : std::atof(text);
  }

  double seconds_ = wanted();
  clock::time_point began_{};
  bool ran_ = false, spent_ = false;
};

inline test_share share;

}  // namespace support
