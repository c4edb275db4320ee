// SPDX-License-Identifier: MIT
// The run as one sees it: a line that lives on a terminal, plain lines elsewhere.
#pragma once

#include "trainer.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <string>

namespace dsv3_train {

class console {
  using clock = std::chrono::steady_clock;

 public:
  console(index_t steps, index_t print_every, index_t first_step)
      : live_(::isatty(STDOUT_FILENO) == 1),
        steps_(steps),
        print_every_(print_every),
        first_step_(first_step) {}

  void step(const step_record& record, index_t step) {
    const dsv3::step_report& r = record.report;
    if (!r.updated)
      say("step %lld is skipped: %s is not finite", static_cast<long long>(step), r.bad.c_str());
    double worst = 0;
    for (const double violation : record.max_vio) worst = std::max(worst, violation);
    seconds_ = seconds_ == 0 ? record.seconds : 0.9 * seconds_ + 0.1 * record.seconds;
    const std::string line = text(
        "step %lld/%lld  loss %.4f  ce %.4f  mtp %.4f  balance %.1e  lr %.2e  norm %.2f  max_vio %.2f  %.0f "
        "tokens/s  left %s",
        static_cast<long long>(step), static_cast<long long>(steps_), r.loss, r.ce, r.mtp, r.balance,
        record.learning_rate, r.grad_norm, worst, static_cast<double>(record.tokens) / seconds_,
        duration(seconds_ * static_cast<double>(steps_ - step)).c_str());
    if (live_) {
      std::printf("\r%s\033[K", line.substr(0, columns()).c_str());
      open_ = true;
    } else if (step == first_step_ + 1 || step % print_every_ == 0 || step == steps_) {
      std::printf("%s\n", line.c_str());
    }
    std::fflush(stdout);
  }

  /// A line of its own.
  [[gnu::format(printf, 2, 3)]] void say(const char* format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    if (open_) std::printf("\n");
    open_ = false;
    std::vprintf(format, arguments);
    std::printf("\n");
    std::fflush(stdout);
    va_end(arguments);
  }

 private:
  [[gnu::format(printf, 1, 2)]] static std::string text(const char* format, ...) {
    char line[512];
    std::va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return line;
  }
  static std::string duration(double seconds) {
    const auto whole = static_cast<long long>(seconds + 0.5);
    return whole < 3600 ? text("%lld:%02lld", whole / 60, whole % 60)
                        : text("%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  }
  static std::size_t columns() {
    ::winsize window = {};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col < 2) return 512;
    return window.ws_col - 1u;
  }

  bool live_, open_ = false;
  index_t steps_, print_every_, first_step_;
  double seconds_ = 0;  // of a step, smoothed
};

}  // namespace dsv3_train
