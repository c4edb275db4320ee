// SPDX-License-Identifier: MIT
// Training on the CPU: files are written from the run's own memory, and read into it.
#pragma once

#include "state_files.hpp"

#include <support/cpu_place.hpp>

namespace dsv3_train {

class cpu_place : public support::cpu_place {
 public:
  using support::cpu_place::cpu_place;
  using execution = dsv3::directly;  // of steps

  /// The state as files are written from it and read into it. `bring` first makes it what was learned, `send`
  /// makes the run go on from it.
  template <dsv3::precision P>
  dsv3::training_state<P, layout>& filed(dsv3::training_state<P, layout>& state) {
    return state;
  }
  template <dsv3::precision P>
  void bring(context&, dsv3::training_state<P, layout>&) {}
  template <dsv3::precision P>
  void send(context&, dsv3::training_state<P, layout>&) {}
};

}  // namespace dsv3_train
