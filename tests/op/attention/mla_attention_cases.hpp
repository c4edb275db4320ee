// SPDX-License-Identifier: MIT
// Sizes that latent attention is tested at: lengths around tile borders, empty ones, odd and zero widths.
#pragma once

#include <vector>

namespace cases {

struct attention_size {
  std::vector<int> lengths;
  int heads, qk_nope, qk_rope, v_dim;
};

inline const attention_size attention_sizes[] = {
    {{1}, 1, 1, 1, 1},
    {{5}, 1, 4, 2, 3},
    {{}, 2, 4, 2, 3},
    {{0}, 2, 4, 2, 3},
    {{0, 1, 7, 0, 3}, 2, 5, 2, 3},
    {{64, 63, 65, 2}, 3, 7, 6, 5},
    {{300}, 2, 8, 4, 6},
    {{256, 257, 1, 255}, 2, 3, 2, 17},
    {{70, 600}, 1, 9, 5, 33},
    {{41, 66}, 37, 3, 2, 4},  // more heads than backward keeps partial sums for
    {{5}, 0, 3, 2, 4},        // no head
    {{67}, 2, 6, 0, 4},       // no rotary part
    {{67}, 2, 0, 6, 4},       // nothing but
};

}  // namespace cases
