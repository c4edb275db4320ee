// SPDX-License-Identifier: MIT
// DeepSeekMoE (report, section 2.1.2): router, shared expert, routed experts.
#pragma once

#include <dsv3/layer/expert_dispatch.hpp>
#include <dsv3/layer/grouped_linear.hpp>
#include <dsv3/layer/mlp.hpp>
#include <dsv3/op/routing/balance.hpp>
#include <dsv3/op/routing/router.hpp>

namespace dsv3::inline DSV3_ABI {

struct moe_config {
  router_config router;
  index_t inner = 0;           // inner width of one expert
  index_t shared_experts = 0;  // stored as one expert of that many times the inner width

  fp8_recipe recipe = {};  // for precisions with narrow operands

  index_t expert_ranks = 1, expert_rank = 0;  // how many ranks share the experts, and which this one is
  expert_exchange_options exchange = {};      // between them

  index_t hidden() const { return router.hidden; }
  index_t experts() const { return router.experts; }
  /// Those of this rank, and which is the first of them.
  index_t own_experts() const { return experts() / expert_ranks; }
  index_t first_expert() const { return expert_rank * own_experts(); }
  mlp_config shared() const { return {router.hidden, shared_experts * inner, recipe}; }
};

/// Weights of a rank's experts lie in one tensor per projection; the checkpoint has one tensor per expert.
template <class Matrix, class Vector = Matrix>
struct moe_tensors {
  moe_config config;
  view<Vector, 2> centroids;          // [experts, hidden]
  matrix_field<Matrix, 3> w_gate_up;  // [own experts, 2 * inner, hidden]
  matrix_field<Matrix, 3> w_down;     // [own experts, hidden, inner]
  mlp_tensors<Matrix> shared;         // inner width shared_experts * inner

  template <class Visit, class... Self>
  static void each_field(const moe_config& c, Visit&& visit, Self&... self) {
    visit("gate.weight", shape{c.experts(), c.hidden()}, self.centroids...);
    visit("experts.gate_up_proj.weight", shape{c.own_experts(), 2 * c.inner, c.hidden()}, self.w_gate_up...);
    visit("experts.down_proj.weight", shape{c.own_experts(), c.hidden(), c.inner}, self.w_down...);
    if (c.shared_experts > 0) each_part("shared_experts.", c.shared(), visit, self.shared...);
  }

  template <class M = Matrix>
    requires(!std::is_const_v<M>)
  operator moe_tensors<const M, const Vector>() const {
    return {config, centroids, w_gate_up, w_down, shared};
  }
};

template <precision P>
using moe_storage = moe_tensors<product_weight<P>, master<P>>;
template <precision P>
using moe_weights = moe_tensors<const product_weight<P>, const master<P>>;
template <precision P>
using moe_gradients = moe_tensors<gradient<P>>;

struct moe_activation_config {
  moe_config layer;
  permutation_config plan;  // from expert_dispatch::plan_config
  index_t sequences = 0;
  keep kept = keep::everything;

  /// Of this rank; the plan is for those of all ranks.
  index_t tokens() const { return plan.tokens / layer.expert_ranks; }
  permutation_config ranks() const {
    return rank_plan::config_of(tokens(), layer.router.top_k, layer.expert_ranks);
  }
  mlp_activation_config shared() const { return {layer.shared(), tokens(), kept}; }
  narrow_rows_config gate_up() const {
    if (kept == keep::inputs) return {};
    return {plan.row_capacity(), 2 * layer.inner, layer.recipe.swiglu_input};
  }
  gated_delta_config d_gate_up() const {
    const index_t rows = plan.row_capacity();
    return {rows, 2 * layer.inner, row_groups::tiles(rows, plan.experts)};
  }
};

template <precision P>
struct moe_saved {
  moe_activation_config config;
  view<accumulator<P>, 2> scores;    // [tokens, experts]
  view<std::int32_t, 2> ids;         // [tokens, top_k]
  view<accumulator<P>, 2> gates;     // [tokens, top_k]
  view<accumulator<P>, 2> fraction;  // [sequences, experts]
  rank_plan ranks;                   // where experts are shared
  permutation plan;
  view<accumulator<P>, 1> row_gates;  // [row capacity]
  operand_rows<P> x_rows;             // [row capacity, hidden]      kept by keep::everything only
  kept_rows<P> gate_up;               // [row capacity, 2 * inner]
  view<activation<P>, 2> a;           // [row capacity, inner]       kept by keep::everything only, and not
                                      //                             where gate_up is kept in fewer bytes
  mlp_saved<P> shared;

  template <class Visit, class... Self>
  static void each_field(const moe_activation_config& c, Visit&& visit, Self&... self) {
    const bool any = c.kept != keep::inputs, all = c.kept == keep::everything;
    const index_t tokens = c.tokens(), rows = c.plan.row_capacity(), experts = c.layer.experts();
    const index_t top_k = c.layer.router.top_k;
    visit("scores", shape_if(any, {tokens, experts}), self.scores...);
    visit("ids", shape_if(any, {tokens, top_k}), self.ids...);
    visit("gates", shape_if(any, {tokens, top_k}), self.gates...);
    visit("fraction", shape_if(any, {c.sequences, experts}), self.fraction...);
    if (any) each_part("ranks.", c.ranks(), visit, self.ranks...);
    if (any) each_part("plan.", c.plan, visit, self.plan...);
    visit("row_gates", shape_if(any, {rows}), self.row_gates...);
    visit("x_rows", shape_if(all, {rows, c.layer.hidden()}), self.x_rows...);
    each_part("gate_up.", c.gate_up(), visit, self.gate_up...);
    visit("a", shape_if(all && !tilewise<P>, {rows, c.layer.inner}), self.a...);
    if (c.layer.shared_experts > 0) each_part("shared.", c.shared(), visit, self.shared...);
  }
};

template <precision P>
struct moe_deltas {
  moe_activation_config config;
  view<accumulator<P>, 2> dlogits;  // [tokens, experts]
  operand_rows<P> dy_rows;          // [row capacity, hidden]
  gated_delta<P> d_gate_up;         // [row capacity, 2 * inner]
  mlp_deltas<P> shared;

  template <class Visit, class... Self>
  static void each_field(const moe_activation_config& c, Visit&& visit, Self&... self) {
    const index_t rows = c.plan.row_capacity();
    visit("dlogits", shape{c.tokens(), c.layer.experts()}, self.dlogits...);
    visit("dy_rows", shape{rows, c.layer.hidden()}, self.dy_rows...);
    each_part("d_gate_up.", c.d_gate_up(), visit, self.d_gate_up...);
    if (c.layer.shared_experts > 0) each_part("shared.", c.shared(), visit, self.shared...);
  }
};

/// The complementary sequence-wise loss (report, eq. 17-20).
struct balance_options {
  double coefficient = 0;  // alpha; 0 switches the loss off
  balance_indicator indicator = balance_indicator::unbiased_top_k;
};

/// y = shared(x) + Σ_chosen gate · expert(x)
template <precision P, layout_policy L = default_layout>
struct moe {
  moe_config config;
  any_communicator among = {};  // the ranks that share the experts

  expert_dispatch<P, L> exchange() const {
    return {config.experts(), config.router.top_k, config.expert_ranks, config.exchange, among};
  }

  struct forward_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    moe_weights<P> weights;
    view<const master<P>, 1> bias;  // [experts]           steers the choice
    packed_sequences sequence;      // for the balance loss
    balance_options balance;
    view<activation<P>, 2> y;         // [tokens, hidden]    written
    view<double, 1> balance_loss;     // [1]                 added to when not empty
    view<std::int64_t, 1> load = {};  // [experts]           added to when not empty
    moe_saved<P>* saved = nullptr;    // written unless null
  };
  struct backward_data_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    moe_weights<P> weights;
    packed_sequences sequence;
    balance_options balance;  // coefficient times the gradient that reaches the balance loss
    const moe_saved<P>& saved;
    view<const activation<P>, 2> x;  // [tokens, hidden]
    view<activation<P>, 2> dx;       // [tokens, hidden]    written
    moe_deltas<P>& deltas;           // written
  };
  struct backward_weights_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    const moe_saved<P>& saved;
    const moe_deltas<P>& deltas;
    moe_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };
  struct backward_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    moe_weights<P> weights;
    packed_sequences sequence;
    balance_options balance;
    const moe_saved<P>& saved;
    view<activation<P>, 2> dx;    // [tokens, hidden]    written
    moe_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const moe_saved<P> s = full(ctx, args.saved, args.x.extent(0), args.sequence.sequences());
    op::router<P>::forward(ctx, {.config = config.router,
                                 .x = args.x,
                                 .centroids = w.centroids,
                                 .bias = args.bias,
                                 .scores = s.scores,
                                 .ids = s.ids,
                                 .gates = s.gates,
                                 .load = args.load});  // 1
    if (!args.balance_loss.empty())
      op::sequence_balance<P>::forward(ctx, {.scores = s.scores,
                                             .ids = s.ids,
                                             .sequence = args.sequence,
                                             .indicator = args.balance.indicator,
                                             .coefficient = args.balance.coefficient,
                                             .fraction = s.fraction,
                                             .loss = args.balance_loss});  // 2
    const expert_dispatch<P, L> experts = exchange();
    experts.plan(ctx, s.ids, s.gates, s.ranks, s.plan, s.row_gates);  // 3
    {
      const scratch_frame under_way{ctx.scratch};
      auto sent = experts.send(ctx, args.x, s.ranks, config.recipe);  // 4
      if (has_shared()) {
        mlp_saved<P> shared = s.shared;
        shared_expert().forward(ctx, {.x = args.x, .weights = w.shared, .y = args.y, .saved = &shared});  // 5
      }
      experts.place(ctx, std::move(sent), s.plan, s.x_rows, config.recipe);  // 4
    }
    const auto gate_up = s.gate_up.buffer(ctx);
    product().forward(ctx, s.x_rows, w.w_gate_up, groups(s), gate_up);  // 6
    const auto y_rows = ctx.scratch.template tensor<activation<P>>(s.x_rows.extent(0), config.hidden());
    const auto a = args.saved != nullptr
                       ? keep_and_gate<P>(ctx, config.recipe, gated(s, gate_up), s.gate_up, s.a)
                       : swiglu_operand<P>(ctx, config.recipe, gated(s, gate_up), s.a);  // 7
    product().forward(ctx, a, w.w_down, groups(s), y_rows);                              // 8
    experts.combine(ctx, y_rows, s.ranks, s.plan, has_shared() ? args.y : view<activation<P>, 2>{},
                    args.y);  // 9
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto& w = args.weights;
    const moe_saved<P>& s = args.saved;
    moe_deltas<P>& d = args.deltas;
    const index_t tokens = args.dy.extent(0), rows = s.config.plan.row_capacity();
    const expert_dispatch<P, L> experts = exchange();
    const auto dgates = ctx.scratch.template tensor<accumulator<P>>(tokens, config.router.top_k);
    const auto d_gate_up = d.d_gate_up.rows(ctx);
    {
      const scratch_frame under_way{ctx.scratch};
      auto sent = experts.send_gradient(ctx, args.dy, s.ranks, config.recipe);  // 9'
      if (has_shared())
        shared_expert().backward_data(ctx, {.dy = args.dy,
                                            .weights = w.shared,
                                            .saved = s.shared,
                                            .dx = args.dx,
                                            .deltas = d.shared});                      // 5'
      experts.place_gradient(ctx, std::move(sent), s.plan, d.dy_rows, config.recipe);  // 9'
    }
    {
      const scratch_frame inner{ctx.scratch};
      const auto da = ctx.scratch.template tensor<activation<P>>(rows, config.inner);
      const auto d_row_gates = ctx.scratch.template tensor<accumulator<P>>(rows);
      product().backward_data(ctx, d.dy_rows, w.w_down, groups(s), da);  // 8'
      swiglu_backward<P>(ctx, config.recipe,
                         {.dy = da,
                          .row_gates = s.row_gates,
                          .d_row_gates = d_row_gates,
                          .token_of = s.plan.token_of,
                          .groups = groups(s)},
                         s.gate_up, d_gate_up, d.d_gate_up);                    // 7'
      experts.combine_gates(ctx, d_row_gates, s.ids, s.ranks, s.plan, dgates);  // 3'
    }
    {
      const scratch_frame inner{ctx.scratch};
      const auto dx_rows = ctx.scratch.template tensor<activation<P>>(rows, config.hidden());
      product().backward_data(ctx, d_gate_up, w.w_gate_up, groups(s), dx_rows);  // 6'
      experts.combine(ctx, dx_rows, s.ranks, s.plan, has_shared() ? args.dx : view<activation<P>, 2>{},
                      args.dx);  // 4'
    }
    view<accumulator<P>, 2> dscores;
    if (args.balance.coefficient != 0) {
      dscores = ctx.scratch.template tensor<accumulator<P>>(tokens, config.experts());
      op::sequence_balance<P>::backward(ctx, {.scores = s.scores,
                                              .fraction = s.fraction,
                                              .sequence = args.sequence,
                                              .coefficient = args.balance.coefficient,
                                              .dscores = dscores});  // 2'
    }
    op::router<P>::backward_data(ctx, {.config = config.router,
                                       .dgates = dgates,
                                       .scores = s.scores,
                                       .ids = s.ids,
                                       .centroids = w.centroids,
                                       .dscores = dscores,
                                       .dlogits = d.dlogits,
                                       .dx = args.dx,
                                       .into = store::add});  // 1'
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const moe_saved<P>& s = args.saved;
    const moe_deltas<P>& d = args.deltas;
    moe_gradients<P>& g = args.gradients;
    {
      const scratch_frame inner{ctx.scratch};
      const auto a = gated_again(ctx, s);
      product().backward_weights(ctx, product().gradient_columns(ctx, d.dy_rows, groups(s)), a, groups(s),
                                 g.w_down, args.into);  // 8'
    }
    {
      const scratch_frame inner{ctx.scratch};
      const auto x =
          product().columns(ctx, dispatched_again(ctx, args.x, s), groups(s), config.recipe.exchanged_scales);
      product().backward_weights(ctx, d.d_gate_up.columns(), x, groups(s), g.w_gate_up, args.into);  // 6'
    }
    if (has_shared())
      shared_expert().backward_weights(ctx, {.dy = args.dy,
                                             .x = args.x,
                                             .saved = s.shared,
                                             .deltas = d.shared,
                                             .gradients = g.shared,
                                             .into = args.into});  // 5'
    op::router<P>::backward_weights(
        ctx, {.dlogits = d.dlogits, .x = args.x, .dcentroids = g.centroids, .into = args.into});  // 1'
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    auto deltas = ctx.scratch.template bundle<moe_deltas<P>>(args.saved.config);
    backward_data(ctx, {.dy = args.dy,
                        .weights = args.weights,
                        .sequence = args.sequence,
                        .balance = args.balance,
                        .saved = args.saved,
                        .x = args.x,
                        .dx = args.dx,
                        .deltas = deltas});
    backward_weights(ctx, {.dy = args.dy,
                           .x = args.x,
                           .saved = args.saved,
                           .deltas = deltas,
                           .gradients = args.gradients,
                           .into = args.into});
  }

 private:
  bool has_shared() const { return config.shared_experts > 0; }
  mlp<P> shared_expert() const { return {config.shared()}; }

  grouped_linear<P> product() const { return grouped_linear<P>{config.recipe}; }
  static row_groups groups(const moe_saved<P>& s) {
    const permutation_config& c = s.plan.config;
    return {s.plan.offsets, s.plan.counts, c.masked ? c.tokens : c.alignment};
  }

  static gated_rows<P> gated(const moe_saved<P>& s, view<const activation<P>, 2> gate_up) {
    return {.gate_up = gate_up, .row_gates = s.row_gates, .token_of = s.plan.token_of, .groups = groups(s)};
  }

  // What steps 7 and 4 made: kept, or made once more; of step 7, what the weights' product reads.
  template <class Ctx>
  operand_view<P> gated_again(Ctx& ctx, const moe_saved<P>& s) const {
    if constexpr (tilewise<P>) {
      return gate_again<P>(ctx, config.recipe, gated(s, {}), s.gate_up, [&](const auto& rows) {
        return product().columns(ctx, rows, groups(s), config.recipe.scales);
      });
    } else {
      if (!s.a.empty()) return s.a;
      return swiglu_operand<P>(ctx, config.recipe, gated(s, s.gate_up.load(ctx, groups(s))));
    }
  }
  template <class Ctx>
  operand_view<P> dispatched_again(Ctx& ctx, view<const activation<P>, 2> x, const moe_saved<P>& s) const {
    if (!s.x_rows.empty()) return s.x_rows;
    const index_t rows = s.config.plan.row_capacity();
    operand_rows<P> x_rows;
    if constexpr (tilewise<P>)
      x_rows = scratch_tiles<fp8_e4m3>(ctx, rows, config.hidden());
    else
      x_rows = ctx.scratch.template tensor<activation<P>>(rows, config.hidden());
    const scratch_frame under_way{ctx.scratch};
    exchange().place(ctx, exchange().send(ctx, x, s.ranks, config.recipe), s.plan, x_rows, config.recipe);
    return x_rows;
  }

  template <class Ctx>
  moe_saved<P> full(Ctx& ctx, const moe_saved<P>* saved, index_t tokens, index_t sequences) const {
    return complete(
        ctx, saved,
        moe_activation_config{config, exchange().plan_config(tokens), sequences, keep::everything});
  }
};

}  // namespace dsv3::inline DSV3_ABI
