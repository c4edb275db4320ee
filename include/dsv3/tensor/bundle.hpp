// SPDX-License-Identifier: MIT
// The bundle protocol: plain structs of views with one table of contents each.
//
// A bundle has a `config` and one static function
//
//     template <class Visit, class... Self>
//     static void each_field(const config_type& c, Visit&& visit, Self&... self) {
//       visit("q_a_proj.weight", shape{c.q_rank, c.hidden}, self.w_dq...);   // the name is the checkpoint's
//       each_part("mlp.", c.mlp, visit, self.mlp...);                        // a bundle inside a bundle
//     }
//
// which walks any number of bundles of the same table in lockstep. Allocating, zeroing, reducing, optimising,
// saving and loading are each one generic function over it.
#pragma once

#include <dsv3/tensor/view.hpp>

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Calls visit(name, shape, field...) for every field of the bundles, in declaration order.
template <class Visit, class Bundle, class... More>
void for_each_field(Visit&& visit, Bundle& bundle, More&... more) {
  std::remove_const_t<Bundle>::each_field(bundle.config, visit, bundle, more...);
}

namespace detail {
template <class Part, class Config>
void adopt_config(Part& part, const Config& c) {
  if constexpr (!std::is_const_v<Part>) part.config = c;
}
}  // namespace detail

/// Visits a bundle inside a bundle: its field names get `prefix`, its config becomes `c`.
template <class Visit, class Config, class Part, class... More>
void each_part(const std::string& prefix, const Config& c, Visit&& visit, Part& part, More&... more) {
  detail::adopt_config(part, c);
  (detail::adopt_config(more, c), ...);
  std::remove_const_t<Part>::each_field(
      c,
      [&](const std::string& name, const shape& s, auto&... fields) { visit(prefix + name, s, fields...); },
      part, more...);
}

/// Gives a run-time number of parts their places; does nothing to a bundle that is only read.
template <class Part>
void resize_parts(std::vector<Part>& parts, index_t count) {
  parts.resize(static_cast<std::size_t>(count));
}
template <class Part>
void resize_parts(const std::vector<Part>&, index_t) {}

namespace detail {
inline constexpr std::size_t field_alignment = 64;
inline std::size_t field_bytes(std::size_t element_bytes, const shape& s) {
  const std::size_t bytes = element_bytes * static_cast<std::size_t>(s.elements());
  return (bytes + field_alignment - 1) / field_alignment * field_alignment;
}
// A field is a view, or a scaled_view, whose scales follow its values on a cache line of their own.
template <class Field>
std::size_t stored_bytes(const shape& s) {
  const std::size_t values = field_bytes(sizeof(typename Field::element), s);
  if constexpr (requires { typename Field::scale; })
    return s.rank() == 0 ? 0 : values + field_bytes(sizeof(float), Field::scale_shape(s));
  else
    return values;
}
template <class Field>
Field stored_at(std::byte* data, const shape& s) {
  using element = typename Field::element;
  if constexpr (requires { typename Field::scale; }) {
    if (s.rank() == 0) return {};
    using values = decltype(Field::values);
    std::byte* after = data == nullptr ? nullptr : data + field_bytes(sizeof(element), s);
    return {values::of_shape(reinterpret_cast<element*>(data), s),
            Field::scales_at(reinterpret_cast<typename Field::scale*>(after), Field::scale_shape(s))};
  } else {
    return Field::of_shape(reinterpret_cast<element*>(data), s);
  }
}
}  // namespace detail

/// Points every field into the memory at `data` and answers the bytes that takes, padding to cache lines
/// included. With a null pointer the fields get their extents only.
template <class Bundle>
std::size_t place(Bundle& bundle, std::byte* data) {
  std::size_t bytes = 0;
  for_each_field(
      [&](const std::string&, const shape& s, auto& field) {
        using field_view = std::remove_reference_t<decltype(field)>;
        field = detail::stored_at<field_view>(data == nullptr ? nullptr : data + bytes, s);
        bytes += detail::stored_bytes<field_view>(s);
      },
      bundle);
  return bytes;
}

/// Bytes that a bundle of this config takes.
template <class Bundle, class Config>
std::size_t bytes_of(const Config& config) {
  Bundle blank;
  blank.config = config;
  return place(blank, nullptr);
}

/// Copies the views (not the values) of one bundle into another of the same table: its twin, or a part.
template <class Twin, class Bundle>
Twin twin_of(const Bundle& bundle) {
  Twin twin;
  twin.config = bundle.config;
  for_each_field([](const std::string&, const shape&, auto& to, auto& from) { to = from; }, twin, bundle);
  return twin;
}

/// Number of elements in all fields.
template <class Bundle, class Config>
index_t elements_of(const Config& config) {
  Bundle blank;
  blank.config = config;
  index_t elements = 0;
  for_each_field([&](const std::string&, const shape& s, auto&) { elements += s.elements(); }, blank);
  return elements;
}

}  // namespace dsv3::inline DSV3_ABI
