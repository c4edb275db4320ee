// SPDX-License-Identifier: MIT
// Checkpoints of every precision, compiled in one place: the code that reads and writes files is the same for
// all.
#pragma once

#include <dsv3/tensor/layout_policy.hpp>
#include <dsv3/train/state.hpp>

#include <string>

namespace dsv3_train {

/// Of the states that files are written from and read into; see support::cpu_place.
using layout = dsv3::compact_layout;

bool holds_checkpoint(const std::string& run);
/// Removes what a killed run has left half written in its folder.
void remove_unfinished(const std::string& run);

template <dsv3::precision P>
void save_state(const std::string& run, dsv3::training_state<P, layout>& state, dsv3::index_t kept,
                const std::string& tokenizer);

/// Answers the folder that was read, and what there is to remark about it.
template <dsv3::precision P>
std::string load_state(const std::string& path, dsv3::training_state<P, layout>& state);

}  // namespace dsv3_train
