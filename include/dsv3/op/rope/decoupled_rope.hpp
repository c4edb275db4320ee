// SPDX-License-Identifier: MIT
// The rotary embedding of the decoupled part of queries and of the shared key.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/rope/yarn.hpp>
#include <dsv3/tensor/layout_policy.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

enum class rotation { forward, inverse };

/// cos and sin of every position and pair. A bundle, so that it is allocated like one.
template <class Element>
struct rope_table {
  struct config_type {
    index_t positions = 0, qk_rope = 0;
  };
  config_type config;
  view<Element, 2> cosine;  // [positions, qk_rope / 2]
  view<Element, 2> sine;    // [positions, qk_rope / 2]

  template <class Visit, class... Self>
  static void each_field(const config_type& c, Visit&& visit, Self&... self) {
    visit("cosine", shape{c.positions, c.qk_rope / 2}, self.cosine...);
    visit("sine", shape{c.positions, c.qk_rope / 2}, self.sine...);
  }

  template <class E = Element>
    requires(!std::is_const_v<E>)
  operator rope_table<const E>() const { return {{config.positions, config.qk_rope}, cosine, sine}; }
};

namespace op {

/// With φ = position · frequency of pair i, and (a, b) the pair's two elements:
///   (a, b) → (a cos φ − b sin φ, a sin φ + b cos φ)
/// Pairs are neighbours (interleaved) or lie qk_rope / 2 apart (half_split). Backward is the inverse
/// rotation.
template <precision P, rope_layout Layout = rope_layout::interleaved>
struct decoupled_rope {
  struct table_args {
    static constexpr const char* name = "decoupled_rope.table";
    rope_config rope;
    rope_table<accumulator<P>> table;  // written for positions 0, 1, ...
    status check() const {
      return requirements{name}
          .that(table.config.qk_rope % 2 == 0, "qk_rope must be even")
          .equal("cosine", "positions", table.cosine.extent(0), "the table's config", table.config.positions)
          .equal("cosine", "rotary pairs", table.cosine.extent(1), "the table's config",
                 table.config.qk_rope / 2)
          .equal("sine", "positions", table.sine.extent(0), "cosine", table.cosine.extent(0))
          .equal("sine", "rotary pairs", table.sine.extent(1), "cosine", table.cosine.extent(1))
          .present("cosine", table.cosine)
          .present("sine", table.sine)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("cosine", table.cosine), visit("sine", table.sine); }
  };

  struct apply_args {
    static constexpr const char* name = "decoupled_rope.apply";
    view<activation<P>, 3> x;               // [tokens, heads, qk_rope]   rotated in place
    view<const std::int32_t, 1> positions;  // [tokens]                   below table.config.positions
    rope_table<const accumulator<P>> table;
    rotation direction = rotation::forward;
    status check() const {
      return requirements{name}
          .equal("positions", "tokens", positions.extent(0), "x", x.extent(0))
          .equal("x", "rotary pairs", x.extent(2) / 2, "the table", table.cosine.extent(1))
          .that(x.extent(2) % 2 == 0, "x has an odd number of rotary channels")
          .equal("sine", "positions", table.sine.extent(0), "cosine", table.cosine.extent(0))
          .equal("sine", "rotary pairs", table.sine.extent(1), "cosine", table.cosine.extent(1))
          .present("x", x)
          .present("positions", positions)
          .present("cosine", table.cosine)
          .present("sine", table.sine)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("x", x); }
  };

  template <execution_context Ctx>
  static void table(Ctx&, const table_args&);
  template <execution_context Ctx>
  static void apply(Ctx&, const apply_args&);
};

template <precision P, rope_layout Layout>
template <execution_context Ctx>
void decoupled_rope<P, Layout>::table(Ctx& ctx, const table_args& args) {
  invoke<decoupled_rope>(ctx, args);
}
template <precision P, rope_layout Layout>
template <execution_context Ctx>
void decoupled_rope<P, Layout>::apply(Ctx& ctx, const apply_args& args) {
  invoke<decoupled_rope>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
