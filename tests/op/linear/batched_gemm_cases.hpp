// SPDX-License-Identifier: MIT
// Sizes that products per head are tested at: empty extents, single elements, odd widths around whole
// vectors, every number of rows that is multiplied at a time, and more.
#pragma once

namespace cases {

struct batched_size {
  int tokens, heads, in, out;
};

inline constexpr batched_size batched_sizes[] = {
    {0, 2, 3, 4},   {2, 0, 3, 4},   {2, 3, 0, 4},   {2, 3, 4, 0},    {1, 1, 1, 1},    {1, 8, 64, 128},
    {2, 3, 15, 17}, {3, 2, 16, 33}, {4, 2, 31, 49}, {5, 3, 33, 100}, {6, 1, 40, 65},  {7, 2, 100, 7},
    {8, 2, 64, 64}, {9, 2, 20, 81}, {16, 5, 7, 5},  {70, 2, 19, 23}, {130, 1, 9, 18},
};

}  // namespace cases
