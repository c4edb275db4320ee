// SPDX-License-Identifier: MIT
// What layer tests share: random bundles, a packed batch, and gradients against central differences.
#pragma once

#include "support/compare.hpp"
#include "support/tolerances.hpp"

#include <doctest/doctest.h>
#include <dsv3/dsv3.hpp>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace support {

using dsv3::fp64_reference;
using dsv3::host_memory;
using dsv3::index_t;
using dsv3::owned;
using dsv3::shape;
using dsv3::view;

/// Calls visit(element) for every element of a contiguous field.
template <class Field, class Visit>
void each_value(Field& field, Visit&& visit) {
  auto flat = field.flat();
  for (index_t i = 0; i < flat.extent(0); ++i) visit(flat(i));
}

/// Matrices normal with a deviation that keeps activations of order one, vectors (gains) near one.
template <class Bundle>
void fill_random(Bundle& bundle, std::uint64_t seed) {
  std::uint64_t stream = 0;
  dsv3::for_each_field(
      [&](const std::string&, const shape& s, auto& field) {
        const dsv3::random_stream random(seed, ++stream);
        const double deviation = s.rank() == 1 ? 0.2 : 1.2 / std::sqrt(static_cast<double>(s[s.rank() - 1]));
        const double mean = s.rank() == 1 ? 1 : 0;
        std::uint64_t at = 0;
        each_value(field, [&](auto& value) {
          value =
              static_cast<std::remove_reference_t<decltype(value)>>(mean + deviation * random.normal(at++));
        });
      },
      bundle);
}

inline std::vector<double> random_values(index_t count, std::uint64_t seed, double deviation = 1) {
  const dsv3::random_stream random(seed, 77);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = deviation * random.normal(i);
  return values;
}

/// Sets every field, padding between fields included, to bytes that read as NaN.
template <class Bundle>
void poison_fields(Bundle& bundle) {
  dsv3::for_each_field(
      [](const std::string&, const shape&, auto& field) {
        if (field.size() > 0)
          std::memset(static_cast<void*>(field.data()), 0xFF,
                      static_cast<std::size_t>(field.size()) * sizeof(*field.data()));
      },
      bundle);
}

template <class Bundle>
void zero_fields(Bundle& bundle) {
  dsv3::for_each_field([](const std::string&, const shape&,
                          auto& field) { each_value(field, [](auto& value) { value = {}; }); },
                       bundle);
}

/// True when two bundles of one table hold the same bits.
template <class Bundle>
bool same_bits(Bundle& a, Bundle& b) {
  bool same = true;
  dsv3::for_each_field(
      [&](const std::string&, const shape&, auto& x, auto& y) {
        if (x.size() > 0)
          same = same &&
                 std::memcmp(x.data(), y.data(), static_cast<std::size_t>(x.size()) * sizeof(*x.data())) == 0;
      },
      a, b);
  return same;
}

/// Sequences of the given lengths packed into one row, their positions, and a rope table for them.
template <class P>
struct packed_batch {
  std::vector<std::int32_t> offsets = {0}, positions;
  owned<dsv3::rope_table<dsv3::accumulator<P>>> rope;
  index_t longest = 0;

  template <class Ctx>
  packed_batch(Ctx& ctx, host_memory& memory, const dsv3::rope_config& config, index_t qk_rope,
               const std::vector<index_t>& lengths) {
    for (index_t length : lengths) {
      for (index_t i = 0; i < length; ++i) positions.push_back(static_cast<std::int32_t>(i));
      offsets.push_back(static_cast<std::int32_t>(positions.size()));
      longest = std::max(longest, length);
    }
    rope = owned<dsv3::rope_table<dsv3::accumulator<P>>>{
        memory,
        typename dsv3::rope_table<dsv3::accumulator<P>>::config_type{std::max<index_t>(longest, 1), qk_rope}};
    dsv3::op::decoupled_rope<P>::table(ctx, {.rope = config, .table = rope});
  }

  index_t tokens() const { return static_cast<index_t>(positions.size()); }
  dsv3::packed_sequences sequence() const {
    return {.offsets = view{offsets.data(), offsets.size()},
            .positions = view{positions.data(), positions.size()},
            .max_length = longest};
  }
};

/// Compares a gradient with central differences of `loss` at up to `samples` elements of the array. The error
/// is relative to the largest slope of the field, so that tiny slopes are not measured against rounding.
template <class Loss>
void check_slopes(const std::string& name, double* numbers, const double* slopes, index_t count,
                  index_t samples, Loss&& loss) {
  const dsv3::random_stream pick(5, 5);
  double largest = 1e-3;
  for (index_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(slopes[i]));
  for (index_t n = 0; n < std::min(count, samples); ++n) {
    const index_t i = count <= samples ? n
                                       : static_cast<index_t>(pick.below(static_cast<std::uint64_t>(count),
                                                                         static_cast<std::uint64_t>(n)));
    const double expected = central_difference(numbers[i], difference_step, loss);
    CAPTURE(name);
    CAPTURE(i);
    CAPTURE(expected);
    CAPTURE(slopes[i]);
    CHECK(std::fabs(slopes[i] - expected) <= difference_tolerance * largest);
  }
}

/// The same for every field of a bundle.
template <class Weights, class Gradients, class Loss>
void check_bundle_slopes(Weights& weights, Gradients& gradients, index_t samples, Loss&& loss) {
  dsv3::for_each_field([&](const std::string& name, const shape& s, auto& w,
                           auto& g) { check_slopes(name, w.data(), g.data(), s.elements(), samples, loss); },
                       weights, gradients);
}

}  // namespace support
