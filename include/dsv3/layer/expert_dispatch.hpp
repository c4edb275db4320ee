// SPDX-License-Identifier: MIT
// Tokens to experts and back, on one rank or among several: the plan of a batch, and the moves it describes.
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/layer/operand.hpp>
#include <dsv3/op/expert/expert_ranks.hpp>
#include <dsv3/op/quant/dispatch_quantizer.hpp>
#include <dsv3/tensor/layout_policy.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Which rows travel between ranks that share experts. Those to one rank lie together, with room for all
/// tokens.
/// counted   as many as there are. The host must know how many, so this is for ranks that compute on it
/// padded    all that there is room for: nobody waits, and a graph can record it. Ranks of GPUs always do
/// this
enum class exchanged_rows { counted, padded };

/// narrow    in 8 bits where products multiply 8 bits (report, section 3.3.3)
/// wide      as activations
/// What comes back from the experts is wide.
enum class exchanged_format { narrow, wide };

struct expert_exchange_options {
  exchanged_rows rows = exchanged_rows::counted;
  exchanged_format format = exchanged_format::narrow;
  /// Rows that a rank's experts have room for, as a multiple of what balanced experts get; 0: any choice
  /// fits. A choice that does not fit raises; on a GPU it is reported, and the step's numbers are none.
  double capacity_factor = 0;
};

/// Which rows go to which rank, and how many came from each. Nothing on a single rank.
struct rank_plan {
  permutation_config config;  // of ranks in the place of experts
  permutation sent;
  view<std::int32_t, 1> received;  // [ranks]

  static permutation_config config_of(index_t tokens, index_t top_k, index_t ranks) {
    if (ranks == 1) return {};
    return {.tokens = tokens, .top_k = std::min(top_k, ranks), .experts = ranks, .masked = true};
  }
  template <class Visit, class... Self>
  static void each_field(const permutation_config& c, Visit&& visit, Self&... self) {
    if (c.experts < 2) return;
    each_part("sent.", c, visit, self.sent...);
    visit("received", shape{c.experts}, self.received...);
  }
};

/// The layout policy decides how the experts' rows lie; everything else reads offsets and counts. Among
/// ranks, each has the same number of tokens, and experts / ranks of the experts. A token is sent to a rank
/// once, and a rank's experts of a token are summed before the sum is sent back. Rows of an expert stand in
/// the order of their ranks, then tokens.
template <precision P, layout_policy L = default_layout>
struct expert_dispatch {
  index_t experts = 0, top_k = 0;  // of the layer
  index_t ranks = 1;
  expert_exchange_options options = {};
  any_communicator among = {};

  index_t per_rank() const { return experts / ranks; }

  /// Of this rank's experts, over the rows of all ranks.
  permutation_config plan_config(index_t tokens) const {
    using layout = typename L::experts;
    permutation_config c{
        .tokens = ranks * tokens, .top_k = std::min(top_k, per_rank()), .experts = per_rank()};
    if constexpr (requires { layout::alignment; }) {
      c.alignment = layout::alignment;
      if (ranks > 1 && options.capacity_factor > 0)
        c.room = std::min(
            c.tokens * c.top_k,
            static_cast<index_t>(std::ceil(options.capacity_factor * static_cast<double>(tokens * top_k))));
    } else {
      c.masked = true;
    }
    return c;
  }

  /// Which rows go where, and the gates of those that this rank's experts get.
  template <execution_context Ctx>
  void plan(Ctx& ctx, view<const std::int32_t, 2> ids, view<const accumulator<P>, 2> gates,
            const rank_plan& to, const permutation& plan, view<accumulator<P>, 1> row_gates) const {
    const scratch_frame frame{ctx.scratch};
    if (ranks > 1) {
      const index_t tokens = ids.extent(0), rows = ranks * tokens, slots = std::min(top_k, per_rank());
      const auto labels = [&] { return ctx.scratch.template tensor<std::int32_t>(rows, slots); };
      const auto numbers = [&] { return ctx.scratch.template tensor<accumulator<P>>(rows, slots); };
      const auto sent_ids = labels(), own_ids = labels();
      const auto sent_gates = numbers(), own_gates = numbers();
      const auto chosen = ctx.scratch.template tensor<std::int32_t>(tokens, std::min(top_k, ranks));
      op::expert_ranks<P>::choose(ctx, {.ids = ids, .experts = experts, .ranks = ranks, .chosen = chosen});
      op::permute<P>::plan(ctx, {.ids = chosen, .plan = to.sent});
      op::expert_ranks<P>::label(ctx, {.ids = ids,
                                       .gates = gates,
                                       .sent = to.sent,
                                       .per_rank = per_rank(),
                                       .row_experts = sent_ids,
                                       .row_gates = sent_gates});
      trade(ctx,
            {whole(to.sent.counts, to.received), whole(sent_ids, own_ids), whole(sent_gates, own_gates)});
      ids = own_ids, gates = own_gates;
    }
    op::permute<P>::plan(ctx, {.ids = ids, .plan = plan});
    op::permute<P>::dispatch_gates(ctx, {.gates = gates, .plan = plan, .row_gates = row_gates});
  }

  /// Rows under way to the experts of all ranks, and where they arrive, in scratch of the caller's frame.
  /// Between sending and placing there is time for what needs no other rank.
  struct rows_sent {
    view<const activation<P>, 2> wide = {};            // [ranks * tokens, width]
    scaled_view<const fp8_e4m3, row_tile> codes = {};  // the same in 8 bits,
    bool narrow = false;                               // where that is how they travel
    pending_exchange pending = {};
  };
  /// x [tokens, width], and a gradient of that shape.
  template <execution_context Ctx>
  rows_sent send(Ctx& ctx, view<const activation<P>, 2> x, const rank_plan& to,
                 const fp8_recipe& recipe) const {
    return send_as<fp8_e4m3>(ctx, x, to, recipe.exchanged_scales, recipe.inputs);
  }
  template <execution_context Ctx>
  rows_sent send_gradient(Ctx& ctx, view<const activation<P>, 2> dy, const rank_plan& to,
                          const fp8_recipe& recipe) const {
    rows_sent sent;
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      sent = send_as<Gradient>(ctx, dy, to, recipe.exchanged_scales, recipe.gradients);
    });
    return sent;
  }
  /// Into the experts' rows, as products read them: [row capacity, width].
  template <execution_context Ctx>
  void place(Ctx& ctx, rows_sent x, const permutation_view& plan, const operand_rows<P>& rows,
             const fp8_recipe& recipe) const {
    place_as<fp8_e4m3>(ctx, x, plan, rows, recipe.exchanged_scales, recipe.inputs);
  }
  template <execution_context Ctx>
  void place_gradient(Ctx& ctx, rows_sent dy, const permutation_view& plan, const operand_rows<P>& rows,
                      const fp8_recipe& recipe) const {
    with_gradient_format(recipe, [&]<class Gradient>(Gradient) {
      place_as<Gradient>(ctx, dy, plan, rows, recipe.exchanged_scales, recipe.gradients);
    });
  }

  /// rows [row capacity, width], added to `add` [tokens, width] when it is not empty → y [tokens, width].
  /// Sums over a rank's experts come first, then those over ranks.
  template <execution_context Ctx>
  void combine(Ctx& ctx, view<const activation<P>, 2> rows, const rank_plan& from,
               const permutation_view& plan, view<const activation<P>, 2> add,
               view<activation<P>, 2> y) const {
    if (ranks == 1) return op::permute<P>::combine(ctx, {.rows = rows, .plan = plan, .add = add, .y = y});
    const scratch_frame frame{ctx.scratch};
    const auto sums = room_for<activation<P>>(ctx, from, y.extent(1));
    const auto back = room_for<activation<P>>(ctx, from, y.extent(1));
    op::permute<P>::combine(ctx, {.rows = rows, .plan = plan, .y = sums});
    trade(ctx, {rows_of(sums, back)}, live<Ctx>(from.received), live<Ctx>(from.sent.counts));
    op::permute<P>::combine(ctx, {.rows = back, .plan = from.sent, .add = add, .y = y});
  }

  /// row_gates [row capacity] → gates [tokens, top_k]
  template <execution_context Ctx>
  void combine_gates(Ctx& ctx, view<const accumulator<P>, 1> row_gates, view<const std::int32_t, 2> ids,
                     const rank_plan& from, const permutation_view& plan,
                     view<accumulator<P>, 2> gates) const {
    if (ranks == 1)
      return op::permute<P>::combine_gates(ctx, {.row_gates = row_gates, .plan = plan, .gates = gates});
    const scratch_frame frame{ctx.scratch};
    const auto own = room_for<accumulator<P>>(ctx, from, plan.config.top_k);
    const auto back = room_for<accumulator<P>>(ctx, from, plan.config.top_k);
    op::permute<P>::combine_gates(ctx, {.row_gates = row_gates, .plan = plan, .gates = own});
    trade(ctx, {rows_of(own, back)}, live<Ctx>(from.received), live<Ctx>(from.sent.counts));
    op::expert_ranks<P>::collect(
        ctx, {.row_gates = back, .ids = ids, .sent = from.sent, .per_rank = per_rank(), .gates = gates});
  }

 private:
  // What goes to every rank and comes from every rank, in segments of as many rows.
  struct parcel {
    const void* from;
    void* to;
    index_t segment, row_bytes;
  };
  template <class T>
  parcel rows_of(view<T, 2> from, view<T, 2> to) const {
    return {from.data(), to.data(), from.extent(0) / ranks, from.extent(1) * index_t{sizeof(T)}};
  }
  // In one row, so that its segments always travel whole.
  template <class T, int Rank>
  parcel whole(view<T, Rank> from, view<T, Rank> to) const {
    return {from.data(), to.data(), 1, from.size() / ranks * index_t{sizeof(T)}};
  }

  template <class T, class Ctx>
  static view<T, 2> room_for(Ctx& ctx, const rank_plan& to, index_t width) {
    return ctx.scratch.template tensor<T>(to.config.row_capacity(), width);
  }

  // Counts where the host may look at them and shall; none stand for whole segments.
  template <class Ctx>
  view<const std::int32_t, 1> live(view<const std::int32_t, 1> counts) const {
    constexpr bool on_device = requires(Ctx ctx) { ctx.stream; };
    return on_device || options.rows == exchanged_rows::padded ? view<const std::int32_t, 1>{} : counts;
  }

  // The first `out` rows of every segment to its rank, the first `in` rows of every segment from it.
  template <class Ctx>
  pending_exchange begin(Ctx& ctx, std::initializer_list<parcel> parcels,
                         view<const std::int32_t, 1> out = {}, view<const std::int32_t, 1> in = {}) const {
    if constexpr (computes<Ctx>) {
      if (among.size() != ranks)
        raise("expert_dispatch: the experts are shared by " + std::to_string(ranks) +
              " ranks, the communicator has " + std::to_string(among.size()));
      std::vector<outgoing_message> sent;
      std::vector<incoming_message> received;
      for (int rank = 0; rank < among.size(); ++rank)
        for (const parcel& p : parcels) {
          const index_t at = rank * p.segment * p.row_bytes;
          const auto bytes = [&](view<const std::int32_t, 1> rows) {
            return static_cast<std::size_t>((rows.empty() ? p.segment : rows(rank)) * p.row_bytes);
          };
          if (bytes(out) > 0) sent.push_back({rank, static_cast<const std::byte*>(p.from) + at, bytes(out)});
          if (bytes(in) > 0) received.push_back({rank, static_cast<std::byte*>(p.to) + at, bytes(in)});
        }
      return among.begin_exchange(ctx, sent, received);
    } else {
      return {};
    }
  }
  template <class Ctx>
  void trade(Ctx& ctx, std::initializer_list<parcel> parcels, view<const std::int32_t, 1> out = {},
             view<const std::int32_t, 1> in = {}) const {
    begin(ctx, parcels, out, in).finish(ctx);
  }

  // Codes are of Element, where rows travel in 8 bits: where the recipe lets tokens of one rank share a
  // scale, only that rank can find it.
  template <class Element, class Ctx>
  rows_sent send_as(Ctx& ctx, view<const activation<P>, 2> x, const rank_plan& to, scale_kind scales,
                    scale_group group) const {
    if (ranks == 1) return {.wide = x};
    const auto out = live<Ctx>(to.sent.counts), in = live<Ctx>(to.received);
    const auto rows = [&]<class T>(T, index_t width) { return room_for<T>(ctx, to, width); };
    const index_t width = x.extent(1);
    if constexpr (tilewise<P>)
      if (options.format == exchanged_format::narrow || group != scale_group::tile) {
        const auto arriving = rows(fp8_e4m3{}, width), leaving = rows(fp8_e4m3{}, width);
        const auto arriving_scales = rows(0.0f, ceil_div(width, 128)),
                   leaving_scales = rows(0.0f, ceil_div(width, 128));
        const scaled_view<fp8_e4m3, row_tile> codes{leaving, any_stride(leaving_scales)};
        op::dispatch_quantizer<P, Element>::forward(
            ctx,
            {.x = x, .plan = to.sent, .rows = as_codes<Element>(codes), .scales = scales, .group = group});
        return {.codes = {arriving, any_stride(arriving_scales)},
                .narrow = true,
                .pending = begin(ctx, {rows_of(leaving, arriving), rows_of(leaving_scales, arriving_scales)},
                                 out, in)};
      }
    const auto arriving = rows(activation<P>{}, width), leaving = rows(activation<P>{}, width);
    op::permute<P>::dispatch(ctx, {.x = x, .plan = to.sent, .rows = leaving});
    return {.wide = arriving, .pending = begin(ctx, {rows_of(leaving, arriving)}, out, in)};
  }
  template <class Element, class Ctx>
  void place_as(Ctx& ctx, rows_sent& x, const permutation_view& plan, const operand_rows<P>& rows,
                scale_kind scales, scale_group group) const {
    x.pending.finish(ctx);
    if constexpr (tilewise<P>) {
      using quantizer = op::dispatch_quantizer<P, Element>;
      const auto to = as_codes<Element>(rows);
      if (x.narrow)
        quantizer::place(ctx, {.x = as_codes<Element>(x.codes), .plan = plan, .rows = to});
      else
        quantizer::forward(ctx, {.x = x.wide, .plan = plan, .rows = to, .scales = scales, .group = group});
    } else {
      op::permute<P>::dispatch(ctx, {.x = x.wide, .plan = plan, .rows = rows});
    }
  }
  // Scales that travel lie row by row.
  static view<float, 2, strided> any_stride(const view<float, 2>& scales) {
    return {scales.data(), {scales.extent(0), scales.extent(1)}, {scales.stride(0), 1}};
  }
};

}  // namespace dsv3::inline DSV3_ABI
