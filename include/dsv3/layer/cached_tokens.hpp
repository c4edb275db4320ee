// SPDX-License-Identifier: MIT
// What a decoding step means to a layer: the tokens it adds, and the cached rows they see.
#pragma once

#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/layout_policy.hpp>
#include <dsv3/tensor/packed_sequences.hpp>
#include <dsv3/tensor/paged.hpp>

namespace dsv3::inline DSV3_ABI {

/// What rows of the latent cache consist of.
template <precision P, layout_policy L>
using cache_element = typename L::cache::row::template element<activation<P>>;

/// How cached keys and values are used: by_cost takes the form that needs fewer multiplications (report,
/// section 2.1.1; equal but for rounding).
enum class attention_form { by_cost, absorbed, expanded };

/// The same for every layer with the same cache lengths. Lives where the data lives, except the two
/// `max_length`, which the host knows.
struct cached_tokens {
  packed_sequences queries;             // the tokens of this step, positions counted in their sequences
  packed_sequences keys;                // the rows of the cache after it, packed by sequence
  view<const std::int32_t, 2> table;    // [sequences, pages of the longest]
  view<const std::int32_t, 1> lengths;  // [sequences]      rows in use after the step: keys.offsets apart
  attention_form form = attention_form::by_cost;

  template <class T>
  paged_view<T> rows_of(const view<T, 3>& pages) const {
    return {pages, table, lengths};
  }
};

}  // namespace dsv3::inline DSV3_ABI
