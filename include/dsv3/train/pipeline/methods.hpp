// SPDX-License-Identifier: MIT
// The schedules by name.
#pragma once

#include <dsv3/train/pipeline/dualpipe.hpp>
#include <dsv3/train/pipeline/dualpipe_v.hpp>
#include <dsv3/train/pipeline/one_f_one_b.hpp>
#include <dsv3/train/pipeline/zb1p.hpp>

#include <array>
#include <string>

namespace dsv3::inline DSV3_ABI::pipeline {

/// How to make a schedule of `ranks` and `micro_batches`, whether one can, and what it is said to cost.
struct method {
  const char* name;
  status (*check)(int ranks, int micro_batches);
  schedule (*make)(int ranks, int micro_batches);
  placement (*places)(int ranks);  // of what it makes
  published_cost (*cost)(int ranks, const durations&);
};

inline constexpr std::array methods{
    method{"1f1b", check_one_f_one_b, one_f_one_b, placement::one_way, one_f_one_b_cost},
    method{"zb1p", check_zb1p, zb1p, placement::one_way, zb1p_cost},
    method{"dualpipe", check_dualpipe, dualpipe, placement::both_ways, dualpipe_cost},
    method{"dualpipe_v", check_dualpipe_v, dualpipe_v, placement::folded, dualpipe_v_cost}};

inline const method& method_named(const std::string& name) {
  std::string known;
  for (const method& each : methods) {
    if (name == each.name) return each;
    known.append(known.empty() ? "" : ", ").append(each.name);
  }
  raise("no pipeline schedule is named \"" + name + "\", expected one of " + known);
}

}  // namespace dsv3::inline DSV3_ABI::pipeline
