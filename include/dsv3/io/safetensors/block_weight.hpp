// SPDX-License-Identifier: MIT
// A weight in 8 bits and its companion of scales, both as they lie in a file, checked against each other.
#pragma once

#include <dsv3/io/block_codec.hpp>
#include <dsv3/io/safetensors/reader.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// "model.layers.0.mlp.up_proj.weight" -> "model.layers.0.mlp.up_proj.weight_scale_inv". In spite of the name
/// it holds what codes are multiplied by.
inline std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }
inline constexpr std::string_view scale_suffix = ".weight_scale_inv";

/// One scale per block; those at the edges are cut off.
inline std::vector<index_t> scale_extents(const std::vector<index_t>& weight) {
  return {ceil_div(weight.at(0), block_tile::rows), ceil_div(weight.at(1), block_tile::columns)};
}

/// Codes with their scales. The entries' file must outlive it.
class block_weight {
 public:
  /// Good where the codes are a matrix of F8_E4M3, and the scales F32 and as many as it has blocks.
  static status fit(const tensor_entry& codes, const tensor_entry& scales) {
    const auto typed = [](const tensor_entry& tensor, dtype expected) {
      return tensor.type == expected
                 ? status{}
                 : status{tensor.where() + " has type " + std::string(to_string(tensor.type)) +
                          ", expected " + std::string(to_string(expected))};
    };
    if (const status answer = typed(codes, dtype::f8_e4m3); !answer) return answer;
    if (const status answer = typed(scales, dtype::f32); !answer) return answer;
    if (codes.extents.size() != 2)
      return status{codes.where() + " has shape " + to_string(codes.extents) + ", expected 2 extents"};
    if (const auto expected = scale_extents(codes.extents); scales.extents != expected)
      return status{scales.where() + " has shape " + to_string(scales.extents) + ", expected " +
                    to_string(expected) + ": one scale per 128 x 128 block of " + to_string(codes.extents)};
    return {};
  }

  /// Raises where they do not fit, and for a scale that is not positive or not finite.
  block_weight(const tensor_entry& codes, const tensor_entry& scales)
      : codes_((require(fit(codes, scales)), codes)), scales_(scales) {
    for (index_t r = 0; r < scales_.values().extent(0); ++r)
      for (index_t c = 0; c < scales_.values().extent(1); ++c)
        if (const float scale = scales_.values()(r, c); !(scale > 0) || !std::isfinite(scale))
          raise(scales.where() + "[" + std::to_string(r) + ", " + std::to_string(c) + "] is " +
                std::to_string(scale) + ", expected a positive finite scale");
  }

  scaled_view<const fp8_e4m3, block_tile> values() const { return {codes_.values(), strided_scales()}; }

 private:
  view<const float, 2, strided> strided_scales() const {
    const view<const float, 2> s = scales_.values();
    return {s.data(), {s.extent(0), s.extent(1)}, {s.stride(0), s.stride(1)}};
  }

  tensor_values<fp8_e4m3, 2> codes_;
  tensor_values<float, 2> scales_;
};

}  // namespace dsv3::inline DSV3_ABI
