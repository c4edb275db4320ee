// SPDX-License-Identifier: MIT
// How evenly the experts were used over many steps.
#pragma once

#include "trainer.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dsv3_train {

class expert_summary {
 public:
  void add(const step_record& step) {
    if (step.load.empty()) return;
    if (load_.empty())
      load_ = std::vector(step.load.size(), std::vector<std::int64_t>(step.load[0].size(), 0));
    for (std::size_t router = 0; router < load_.size(); ++router)
      for (std::size_t e = 0; e < load_[router].size(); ++e) load_[router][e] += step.load[router][e];
    double sum = 0;
    for (const double violation : step.max_vio) sum += violation;
    violation_ += sum / static_cast<double>(step.max_vio.size());
    ++steps_;
  }

  /// Empty where the model has no experts or no step was added.
  std::string text() const {
    if (steps_ == 0) return {};
    std::size_t experts = 0, idle = 0;
    double summed = 0;
    for (const auto& router : load_) {
      experts += router.size();
      idle += static_cast<std::size_t>(std::count(router.begin(), router.end(), 0));
      summed += dsv3::max_violation(dsv3::view{router.data(), static_cast<index_t>(router.size())});
    }
    char line[256];
    std::snprintf(
        line, sizeof line,
        "experts over the last %lld steps: %zu of %zu empty; MaxVio %.2f of single steps, %.2f of all "
        "together, means of %zu layers",
        static_cast<long long>(steps_), idle, experts, violation_ / static_cast<double>(steps_),
        summed / static_cast<double>(load_.size()), load_.size());
    return line;
  }

 private:
  std::vector<std::vector<std::int64_t>> load_;  // [router][expert]
  double violation_ = 0;
  index_t steps_ = 0;
};

}  // namespace dsv3_train
