// SPDX-License-Identifier: MIT
// How far a training run has come: the plain numbers a stopped run needs to go on exactly as if it had not
// stopped.
#pragma once

#include <dsv3/base/index.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// Random numbers are functions of a seed and a counter, so the seed and these counts are the whole random
/// state.
struct training_progress {
  index_t step = 0;    // optimiser steps done, skipped ones included
  index_t tokens = 0;  // tokens those steps have read

  std::uint64_t seed = 0;           // of initialisation and of the order of the data
  index_t data_epoch = 0;           // passes over the data that are complete
  index_t data_position = 0;        // rows of the current pass that are used up
  index_t data_length = 0;          // tokens of a row: the position counts rows of this length
  std::uint32_t data_sum = 0;       // CRC-32C of the training text: another text cannot be gone on with
  std::uint32_t tokenizer_sum = 0;  // CRC-32C of the tokenizer.json; 0: bytes are the tokens

  index_t updates = 0;         // times the optimiser has moved the weights: the t of its bias correction
  index_t skipped = 0;         // steps whose loss or gradient was not finite
  index_t skipped_in_row = 0;  // how many of them came last, one after the other

  bool operator==(const training_progress&) const = default;
};

}  // namespace dsv3::inline DSV3_ABI
