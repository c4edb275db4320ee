// SPDX-License-Identifier: MIT
// A layout policy names, role by role, how things lie in memory; components with a choice take one.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/tensor/cache_row.hpp>

namespace dsv3::inline DSV3_ABI {

/// How rotary pairs lie: neighbours (2i, 2i + 1), what the released weights have, or halves (i, i + d/2).
enum class rope_layout { interleaved, half_split };

/// The latent cache is a pool of pages; a layout says how many rows a page has, and what a row is.
namespace cache_layout {
/// One page holds a whole sequence: zero stands for the longest one.
struct contiguous {
  static constexpr index_t page_rows = 0;
  using row = cache_row::plain;
};
template <int PageRows>
struct paged {
  static constexpr index_t page_rows = PageRows;
  using row = cache_row::plain;
};
/// The same pages with latents in 8 bits.
template <class Pages>
struct fp8 : Pages {
  using row = cache_row::fp8;
};
}  // namespace cache_layout

namespace expert_layout {
/// Experts one after the other, each segment padded to a multiple of Alignment rows.
template <int Alignment>
struct contiguous {
  static constexpr index_t alignment = Alignment;
};
/// Every expert has room for all tokens; counts say how many rows are live.
struct masked {};
}  // namespace expert_layout

/// Which extent of an activation's scales is contiguous: tokens (what FP8 matrix units want) or channels.
enum class scale_layout { token_minor, token_major };

struct default_layout {
  static constexpr rope_layout rope = rope_layout::interleaved;
  using cache = cache_layout::paged<64>;
  using experts = expert_layout::contiguous<128>;
  static constexpr scale_layout scales = scale_layout::token_minor;
};

/// The same without padding between experts: what loops on a CPU want.
struct compact_layout : default_layout {
  using experts = expert_layout::contiguous<1>;
};

/// The same with latents in 8 bits: a cache of little more than half the bytes.
template <class Layout>
struct with_fp8_cache : Layout {
  using cache = cache_layout::fp8<typename Layout::cache>;
};

// clang-format off
template <class L> concept names_rope_layout = requires { L::rope; };
template <class L> concept names_cache_layout = requires { typename L::cache::row; };
template <class L> concept names_expert_layout = requires { typename L::experts; };
template <class L> concept names_scale_layout = requires { L::scales; };
// clang-format on

template <class L>
concept layout_policy =
    names_rope_layout<L> && names_cache_layout<L> && names_expert_layout<L> && names_scale_layout<L>;

}  // namespace dsv3::inline DSV3_ABI
