// SPDX-License-Identifier: MIT
// Rows of the latent cache on the CPU, written and read in each of their formats.
#pragma once

#include <dsv3/cpu/attention/sequences.hpp>
#include <dsv3/cpu/quant/row_tiles.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/cache_row.hpp>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cpu {

template <class Activation>
void write_row(cache_row::plain, const Activation* c, index_t rank, const Activation* k_rope, index_t rope,
               Activation* row) {
  std::copy_n(c, rank, row);
  std::copy_n(k_rope, rope, row + rank);
}
template <class Activation>
void read_row(cache_row::plain, const Activation* row, index_t rank, index_t rope, Activation* c,
              Activation* k_rope) {
  std::copy_n(row, rank, c);
  std::copy_n(row + rank, rope, k_rope);
}

// Scales and keys stand at any byte, so they are copied.
template <class Activation>
void write_row(cache_row::fp8, const Activation* c, index_t rank, const Activation* k_rope, index_t rope,
               std::uint8_t* row) {
  for (index_t first = 0; first < rank; first += strip_columns)
    quantize_strip(c + first, std::min(strip_columns, rank - first), scale_kind::power_of_two,
                   reinterpret_cast<fp8_e4m3*>(row + first), [&](index_t tile, float scale) {
                     std::memcpy(row + cache_row::fp8::scales_at(rank) + 4 * (first / 128 + tile), &scale, 4);
                   });
  for (index_t i = 0; i < rope; ++i) {
    const bf16 key(k_rope[i]);
    std::memcpy(row + cache_row::fp8::rope_at(rank) + 2 * i, &key, 2);
  }
}
template <class Activation>
void read_row(cache_row::fp8, const std::uint8_t* row, index_t rank, index_t rope, Activation* c,
              Activation* k_rope) {
  for (index_t first = 0; first < rank; first += 128) {
    float scale;
    std::memcpy(&scale, row + cache_row::fp8::scales_at(rank) + first / 32, 4);
    widen(reinterpret_cast<const fp8_e4m3*>(row + first), scale, c + first,
          std::min<index_t>(128, rank - first));
  }
  for (index_t i = 0; i < rope; ++i) {
    bf16 key;
    std::memcpy(&key, row + cache_row::fp8::rope_at(rank) + 2 * i, 2);
    k_rope[i] = Activation(float(key));
  }
}

/// Rows [begin, end) of a sequence as keys (c, k_rope): where they lie, or widened into a buffer.
template <class Row, class Activation>
class key_tile {
 public:
  using element = typename Row::template element<Activation>;
  static constexpr bool widens = !std::is_same_v<Row, cache_row::plain>;

  /// `buffers` are [slots, rows of a tile, rank + rope] where the tile widens.
  key_tile(const paged_view<const element>& cache, index_t sequence, index_range rows, index_t rank,
           index_t rope, const view<Activation, 3>& buffers, index_t slot)
      : cache_(cache), sequence_(sequence), first_(rows.begin) {
    if constexpr (widens) {
      widened_ = buffers[slot];
      for (index_t j = rows.begin; j < rows.end; ++j) {
        Activation* key = widened_[j - first_].data();
        read_row(Row{}, cache.row(sequence, j).data(), rank, rope, key, key + rank);
      }
    }
  }

  index_t first() const { return first_; }

  /// As cpu::each_stretch, for rows of the tile.
  template <class Visit>
  void each_stretch(index_range rows, Visit&& visit) const {
    if constexpr (!widens)
      cpu::each_stretch(cache_, sequence_, rows.begin, rows.end, visit);
    else if (rows.count() > 0)
      visit(rows.begin, widened_.rows(rows.begin - first_, rows.end - first_));
  }

 private:
  const paged_view<const element>& cache_;
  index_t sequence_, first_;
  view<Activation, 2> widened_;
};

}  // namespace dsv3::inline DSV3_ABI::cpu
