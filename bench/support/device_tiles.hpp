// SPDX-License-Identifier: MIT
// Codes of 8 bits and their scales in the GPU's memory, to be written.
#pragma once

#include <support/cuda_bench.hpp>

#include <utility>

namespace support {

/// How the scales lie: tiles of a row side by side, or of a column, as matrix units want those of
/// activations.
enum class tiles_lie { by_row, by_column };

template <class Tile>
class device_tiles {
 public:
  device_tiles(index_t rows, index_t columns, tiles_lie lie = tiles_lie::by_row)
      : by_row_(lie == tiles_lie::by_row),
        down_(dsv3::ceil_div(rows, Tile::rows)),
        across_(dsv3::ceil_div(columns, Tile::columns)),
        codes_(rows, columns),
        scales_(by_row_ ? down_ : across_, by_row_ ? across_ : down_) {}

  dsv3::scaled_view<dsv3::fp8_e4m3, Tile> get() const {
    const index_t extents[] = {down_, across_}, step = scales_.get().stride(0);
    const index_t strides[] = {by_row_ ? step : 1, by_row_ ? 1 : step};
    return {codes_, {scales_.get().data(), extents, strides}};
  }
  double bytes() const { return static_cast<double>(codes_.bytes() + scales_.bytes()); }

 private:
  bool by_row_;
  index_t down_, across_;
  device_tensor<dsv3::fp8_e4m3> codes_;
  device_tensor<float> scales_;
};

}  // namespace support
