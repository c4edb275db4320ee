// SPDX-License-Identifier: MIT
// RMSNorm whose output is the next projection's 8-bit operand.
#pragma once

#include <dsv3/op/norm/rms_norm.hpp>
#include <dsv3/op/quant/tile_quantizer.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// tile_quantizer::forward of rms_norm::forward's output, bit for bit. The output itself is written too where
/// `plain.y` is not empty: others may read it in full.
template <precision P, class Element = fp8_e4m3>
struct rms_norm_quantizer {
  struct forward_args {
    static constexpr const char* name = "rms_norm_quantizer.forward";
    typename rms_norm<P>::forward_args plain;  // as rms_norm's; y may be empty
    scaled_view<Element, row_tile> y;          // [tokens, hidden]    written
    scale_kind scales = scale_kind::real;
    status check() const {
      requirements need{name};
      detail::match_tiles(need, "x", plain.x, "y", y);
      need.equal("gain", "columns", plain.gain.extent(0), "x", plain.x.extent(1))
          .that(plain.epsilon > 0, "epsilon must be positive")
          .present("gain", plain.gain);
      if (!plain.rstd.empty()) need.equal("rstd", "tokens", plain.rstd.extent(0), "x", plain.x.extent(0));
      if (!plain.residual.empty() || !plain.sum.empty())
        need.equal("residual", "tokens", plain.residual.extent(0), "x", plain.x.extent(0))
            .equal("residual", "columns", plain.residual.extent(1), "x", plain.x.extent(1))
            .equal("sum", "tokens", plain.sum.extent(0), "x", plain.x.extent(0))
            .equal("sum", "columns", plain.sum.extent(1), "x", plain.x.extent(1));
      if (!plain.y.empty())
        need.equal("y in full", "tokens", plain.y.extent(0), "x", plain.x.extent(0))
            .equal("y in full", "columns", plain.y.extent(1), "x", plain.x.extent(1));
      return need.verdict();
    }
    void outputs(auto&& visit) const {
      plain.outputs(visit);
      visit("values", y.values), visit("scales", y.scales);
    }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
};

template <precision P, class Element>
template <execution_context Ctx>
void rms_norm_quantizer<P, Element>::forward(Ctx& ctx, const forward_args& args) {
  invoke<rms_norm_quantizer>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
