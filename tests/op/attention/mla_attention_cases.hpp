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

// What matrix units of a GPU take, where rows also begin at multiples of 16 bytes.
inline const attention_size wide_attention_sizes[] = {
    {{5}, 1, 16, 8, 8},
    {{64, 63, 65, 2}, 2, 32, 16, 32},
    {{300, 0, 17}, 2, 64, 32, 64},
    {{67}, 2, 96, 0, 64},
    {{67}, 1, 0, 64, 128},
    {{70, 1, 0, 200}, 2, 72, 40, 104},
    {{1, 9}, 1, 128, 64, 128},
    {{128, 127, 0, 129, 2}, 3, 128, 64, 128},
    {{64, 256, 191, 193}, 2, 128, 64, 128},
    {{700, 45}, 2, 128, 64, 128},
};

}  // namespace cases
