// SPDX-License-Identifier: MIT
// The eight steps of a rank in DualPipe and DualPipeV, which differ only in where the two phases lead.
#pragma once

#include <dsv3/train/pipeline/writer.hpp>

namespace dsv3::inline DSV3_ABI::pipeline {

/// Phase 0 is the chunk that micro-batches reach first. `depth` counts ranks from where they enter, `half`
/// how many ranks there are until they turn or meet; the innermost one has depth half - 1. Each phase has
/// `micro_batches`.
struct eight_steps {
  int half = 1, depth = 0, micro_batches = 0;
  int phase0 = 0, phase1 = 1;  // chunks

  void write(list_writer& list) const {
    const auto times = [](int count, auto&& body) {
      for (int i = 0; i < count; ++i) body(i);
    };
    const int outward = half - depth - 1;
    // 1, 2: until backward comes back.
    times(2 * outward, [&](int) { list.forward(phase0); });
    times(depth + 1, [&](int) { list.forward(phase0), list.forward(phase1); });
    // 3: the first backwards; their rank before waits, so in halves.
    times(outward, [&](int) { list.input_gradient(phase1), list.weight_gradient(), list.forward(phase1); });
    // 4: both ways, overlapped. In the middle the first backward is of what has just gone forward elsewhere.
    times(micro_batches - 2 * half + depth + 1, [&](int i) {
      if (i == 0 && outward == 0)
        list.forward(phase0), list.backward(phase1);
      else
        list.overlapped(phase0, phase1);
      list.overlapped(phase1, phase0);
    });
    // 5: phase 0 has gone forward everywhere.
    times(outward, [&](int) { list.backward(phase1), list.overlapped(phase1, phase0); });
    // 6: backwards, from its middle on in halves: what is owed fills the gaps to come.
    bool halves = false;
    const auto backward = [&](int phase) { halves ? list.input_gradient(phase) : list.backward(phase); };
    times(depth + 1, [&](int i) {
      const bool turns = i == (depth + 1) / 2;
      halves = halves || (turns && depth % 2 == 1);
      backward(phase1);
      halves = halves || (turns && depth % 2 == 0);
      backward(phase0);
    });
    // 7, 8: the gaps, and what is still owed.
    times(outward, [&](int) { list.weight_gradient(), list.input_gradient(phase0); });
    times(depth + 1, [&](int) { list.weight_gradient(); });
  }
};

}  // namespace dsv3::inline DSV3_ABI::pipeline
