// SPDX-License-Identifier: MIT
// Sizes that absorbed attention is tested at: contexts around the borders of tiles and splits, one to many
// queries, sequences without queries and queries without rows.
#pragma once

#include <vector>

namespace cases {

struct decode_size {
  std::vector<int> queries, lengths;
  int heads, rank, rope;
  int page_rows = 64;
  bool aligned = false;  // all rows begin at multiples of 16 bytes
};

inline const decode_size decode_sizes[] = {
    {{1}, {1}, 1, 1, 1},
    {{1}, {5}, 2, 16, 8},
    {{}, {}, 2, 4, 2},
    {{0, 0}, {0, 7}, 2, 4, 2},
    {{1, 1, 1, 1, 1, 1}, {62, 63, 64, 65, 127, 129}, 3, 7, 5},
    {{1, 1, 1, 1, 1, 1}, {255, 256, 257, 511, 512, 513}, 2, 20, 6, 48},
    {{3, 0, 8, 1}, {64, 9, 300, 1}, 4, 17, 3, 7},
    {{2, 5}, {1, 258}, 3, 9, 4, 100},  // a query that sees nothing
    {{8}, {770}, 19, 33, 7},           // more than one block of rows
    {{1, 2}, {4097, 1030}, 2, 5, 2},   // the first of the longer splits
    {{200, 70}, {200, 400}, 2, 6, 2},  // many queries
    {{1, 2}, {70, 65}, 9, 16, 0},      // no rotary part
    {{2}, {70}, 2, 0, 6},              // nothing but
    {{2}, {70}, 0, 6, 2},              // no head
    {{3}, {130}, 2, 6, 2, 1},          // a row to a page
    // The rows that a large model caches, with few and with many heads; sequences that are split between
    // thread blocks and such that share one.
    {{1}, {1}, 1, 512, 64, 64, true},
    {{1, 2, 0, 3, 1, 1}, {70, 257, 9, 130, 0, 64}, 16, 512, 64, 64, true},
    {{2, 1, 5}, {1111, 640, 4}, 40, 512, 64, 128, true},
    {{1, 1}, {129, 2500}, 128, 512, 64, 64, true},
};

}  // namespace cases
