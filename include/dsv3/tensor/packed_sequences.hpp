// SPDX-License-Identifier: MIT
// Several sequences packed into one row of tokens.
#pragma once

#include <dsv3/tensor/view.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// Sequence s owns the tokens [offsets[s], offsets[s + 1]); a token sees the tokens of its own sequence up to
/// itself. Lives where the data lives. `positions` feed the rotary embedding and restart with each sequence.
struct packed_sequences {
  view<const std::int32_t, 1> offsets;    // [sequences + 1]   first 0, last the number of tokens, ascending
  view<const std::int32_t, 1> positions;  // [tokens]
  index_t max_length = 0;                 // no sequence is longer; bounds scratch, known to the host

  DSV3_HOST_DEVICE index_t sequences() const { return offsets.extent(0) > 0 ? offsets.extent(0) - 1 : 0; }
  DSV3_HOST_DEVICE index_t tokens() const { return positions.extent(0); }
};

}  // namespace dsv3::inline DSV3_ABI
