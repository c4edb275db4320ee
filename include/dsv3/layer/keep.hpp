// SPDX-License-Identifier: MIT
// What forward keeps for backward; the rest is computed again.
#pragma once

#include <dsv3/exec/context.hpp>
#include <dsv3/tensor/bundle.hpp>

#include <initializer_list>

namespace dsv3::inline DSV3_ABI {

/// everything  no recomputation
/// attention   the attention core's results and the narrow latents stay; norms, up-projections, SwiGLU
/// outputs and
///             expert inputs are computed again (report, section 3.2.3)
/// inputs      only a block's input stays; the whole block is computed again
enum class keep { everything, attention, inputs };

/// The shape of a field that exists only if `kept`.
inline shape shape_if(bool kept, std::initializer_list<index_t> extents) {
  return kept ? shape(extents) : shape{};
}

/// A saved bundle of config `all` with the fields that `saved` holds, and scratch in the place of those it
/// does not. Null: all of it is scratch. Call inside a scratch_frame.
template <class Saved, execution_context Ctx, class Config>
Saved complete(Ctx& ctx, const Saved* saved, const Config& all) {
  Saved result = saved == nullptr ? Saved{} : *saved;
  result.config = all;
  for_each_field(
      [&](const std::string&, const shape& s, auto& field) {
        using field_view = std::remove_reference_t<decltype(field)>;
        if (field.empty() && s.elements() > 0)
          field = detail::stored_at<field_view>(
              ctx.scratch.template take<std::byte>(static_cast<index_t>(detail::stored_bytes<field_view>(s))),
              s);
      },
      result);
  return result;
}

}  // namespace dsv3::inline DSV3_ABI
