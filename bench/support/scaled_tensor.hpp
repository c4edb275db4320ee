// SPDX-License-Identifier: MIT
// A matrix in scaled tiles that owns its memory, for benches.
#pragma once

#include <dsv3/number/fp8.hpp>
#include <dsv3/tensor/scaled.hpp>

#include <support/tensor.hpp>

#include <cstdint>

namespace support {

/// Random finite codes of all sizes, and scales a little different from tile to tile. Tensor is what holds
/// them.
template <class Element, class Tile, int Rank = 2, template <class, int> class Tensor = tensor>
class scaled_tensor {
 public:
  scaled_tensor(index_t rows, index_t columns, std::uint64_t stream) requires(Rank == 2)
      : scaled_tensor(rows, columns, dsv3::ceil_div(columns, Tile::columns), stream) {}
  /// With room for more tiles along the columns than they fill: those of groups.
  scaled_tensor(index_t rows, index_t columns, index_t tiles_across, std::uint64_t stream) requires(Rank == 2)
      : codes_(rows, columns), scales_(dsv3::ceil_div(rows, Tile::rows), tiles_across) {
    draw(stream);
  }
  scaled_tensor(index_t matrices, index_t rows, index_t columns, std::uint64_t stream) requires(Rank == 3)
      : codes_(matrices, rows, columns),
        scales_(matrices, dsv3::ceil_div(rows, Tile::rows), dsv3::ceil_div(columns, Tile::columns)) {
    draw(stream);
  }

  dsv3::scaled_view<const Element, Tile, Rank> get() const {
    const dsv3::view<const float, Rank> lying = scales_.get();
    dsv3::shape extents;
    if constexpr (Rank == 2)
      extents = {lying.extent(0), lying.extent(1)};
    else
      extents = {lying.extent(0), lying.extent(1), lying.extent(2)};
    return {codes_.get(), dsv3::scaled_view<const Element, Tile, Rank>::scales_at(lying.data(), extents)};
  }

 private:
  void draw(std::uint64_t stream) {
    codes_.normal(stream, 64);
    scales_.generate([](index_t i) { return 0.01f * static_cast<float>(1 + i % 3); });
  }

  Tensor<Element, Rank> codes_;
  Tensor<float, Rank> scales_;
};

}  // namespace support
