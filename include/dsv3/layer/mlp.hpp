// SPDX-License-Identifier: MIT
// The dense SwiGLU feed-forward.
#pragma once

#include <dsv3/layer/gated.hpp>
#include <dsv3/layer/keep.hpp>
#include <dsv3/layer/kept_rows.hpp>
#include <dsv3/layer/linear.hpp>
#include <dsv3/tensor/bundle.hpp>

namespace dsv3::inline DSV3_ABI {

struct mlp_config {
  index_t hidden = 0, inner = 0;
  fp8_recipe recipe = {};  // for precisions with narrow operands
};

/// Gate and up projection lie in one matrix, gate rows first; the checkpoint has them apart.
template <class Matrix>
struct mlp_tensors {
  mlp_config config;
  matrix_field<Matrix, 2> w_gate_up;  // [2 * inner, hidden]
  matrix_field<Matrix, 2> w_down;     // [hidden, inner]

  template <class Visit, class... Self>
  static void each_field(const mlp_config& c, Visit&& visit, Self&... self) {
    visit("gate_up_proj.weight", shape{2 * c.inner, c.hidden}, self.w_gate_up...);
    visit("down_proj.weight", shape{c.hidden, c.inner}, self.w_down...);
  }

  template <class M = Matrix>
    requires(!std::is_const_v<M>)
  operator mlp_tensors<const M>() const { return {config, w_gate_up, w_down}; }
};

template <precision P>
using mlp_storage = mlp_tensors<product_weight<P>>;
template <precision P>
using mlp_weights = mlp_tensors<const product_weight<P>>;
template <precision P>
using mlp_gradients = mlp_tensors<gradient<P>>;

struct mlp_activation_config {
  mlp_config layer;
  index_t tokens = 0;
  keep kept = keep::everything;

  narrow_rows_config gate_up() const {
    if (kept == keep::inputs) return {};
    return {tokens, 2 * layer.inner, layer.recipe.swiglu_input};
  }
  gated_delta_config d_gate_up() const { return {tokens, 2 * layer.inner, ceil_div(tokens, 128)}; }
};

template <precision P>
struct mlp_saved {
  mlp_activation_config config;
  kept_rows<P> gate_up;      // [tokens, 2 * inner]
  view<activation<P>, 2> a;  // [tokens, inner]       SwiGLU's output; kept by keep::everything only, and not
                             //                       where gate_up is kept in fewer bytes

  template <class Visit, class... Self>
  static void each_field(const mlp_activation_config& c, Visit&& visit, Self&... self) {
    each_part("gate_up.", c.gate_up(), visit, self.gate_up...);
    visit("a", shape_if(c.kept == keep::everything && !tilewise<P>, {c.tokens, c.layer.inner}), self.a...);
  }
};

template <precision P>
struct mlp_deltas {
  mlp_activation_config config;
  gated_delta<P> d_gate_up;  // [tokens, 2 * inner]
  kept_columns<P> dy;        // [tokens, hidden]        where the weights' product does not read it as it is

  template <class Visit, class... Self>
  static void each_field(const mlp_activation_config& c, Visit&& visit, Self&... self) {
    each_part("d_gate_up.", c.d_gate_up(), visit, self.d_gate_up...);
    each_part("dy.", kept_columns_config{c.tokens, c.layer.hidden}, visit, self.dy...);
  }
};

/// y = w_down (SiLU(w_gate x) ⊙ (w_up x))
template <precision P>
struct mlp {
  mlp_config config;

  struct forward_args {
    view<const activation<P>, 2> x;  // [tokens, hidden]
    mlp_weights<P> weights;
    view<activation<P>, 2> y;       // [tokens, hidden]   written
    mlp_saved<P>* saved = nullptr;  // written unless null
  };
  struct backward_data_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    mlp_weights<P> weights;
    const mlp_saved<P>& saved;
    view<activation<P>, 2> dx;  // [tokens, hidden]   written
    mlp_deltas<P>& deltas;      // written
  };
  struct backward_weights_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    const mlp_saved<P>& saved;
    const mlp_deltas<P>& deltas;
    mlp_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };
  struct backward_args {
    view<const activation<P>, 2> dy;  // [tokens, hidden]
    view<const activation<P>, 2> x;   // [tokens, hidden]
    mlp_weights<P> weights;
    const mlp_saved<P>& saved;
    view<activation<P>, 2> dx;    // [tokens, hidden]   written
    mlp_gradients<P>& gradients;  // added to, or written
    store into = store::add;
  };

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const index_t tokens = args.x.extent(0);
    const bool keeps = args.saved != nullptr && args.saved->config.kept != keep::inputs;
    const auto gate_up = keeps ? args.saved->gate_up.buffer(ctx) : buffer(ctx, tokens, 2 * config.inner);
    product().forward(ctx, product().operand(ctx, args.x), args.weights.w_gate_up, gate_up);  // 1
    const auto a =
        keeps ? keep_and_gate<P>(ctx, config.recipe, {.gate_up = gate_up}, args.saved->gate_up, args.saved->a)
              : swiglu_operand<P>(ctx, config.recipe, {.gate_up = gate_up});  // 2
    product().forward(ctx, a, args.weights.w_down, args.y);                   // 3
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const backward_data_args& args) const {
    const scratch_frame frame{ctx.scratch};
    const auto da = buffer(ctx, args.dy.extent(0), config.inner);
    product().backward_data(ctx, args.dy, args.weights.w_down, da, store::write, args.deltas.dy);  // 3'
    const auto d_gate_up = args.deltas.d_gate_up.rows(ctx);
    swiglu_backward<P>(ctx, config.recipe, {.dy = da}, args.saved.gate_up, d_gate_up,
                       args.deltas.d_gate_up);                                 // 2'
    product().backward_data(ctx, d_gate_up, args.weights.w_gate_up, args.dx);  // 1'
  }

  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const backward_weights_args& args) const {
    const scratch_frame frame{ctx.scratch};
    {
      const scratch_frame inner{ctx.scratch};
      const auto a = gated_again(ctx, args.saved);
      product().backward_weights(ctx, product().columns_of(args.dy, args.deltas.dy), a, args.gradients.w_down,
                                 args.into);  // 3'
    }
    product().backward_weights(ctx, args.deltas.d_gate_up.columns(),
                               product().columns(ctx, product().operand(ctx, args.x)),
                               args.gradients.w_gate_up, args.into);  // 1'
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    const scratch_frame frame{ctx.scratch};
    auto deltas = ctx.scratch.template bundle<mlp_deltas<P>>(args.saved.config);
    backward_data(
        ctx, {.dy = args.dy, .weights = args.weights, .saved = args.saved, .dx = args.dx, .deltas = deltas});
    backward_weights(ctx, {.dy = args.dy,
                           .x = args.x,
                           .saved = args.saved,
                           .deltas = deltas,
                           .gradients = args.gradients,
                           .into = args.into});
  }

 private:
  linear<P> product() const { return linear<P>{config.recipe}; }

  // What the weights' product reads of what step 2 made: kept, or made once more.
  template <class Ctx>
  operand_view<P> gated_again(Ctx& ctx, const mlp_saved<P>& saved) const {
    if constexpr (tilewise<P>) {
      return gate_again<P>(ctx, config.recipe, {}, saved.gate_up,
                           [&](const auto& rows) { return product().columns(ctx, rows); });
    } else {
      if (!saved.a.empty()) return saved.a;
      return swiglu_operand<P>(ctx, config.recipe, {.gate_up = saved.gate_up.load(ctx)});
    }
  }

  template <class Ctx>
  static auto buffer(Ctx& ctx, index_t tokens, index_t width) {
    return ctx.scratch.template tensor<activation<P>>(tokens, width);
  }
};

}  // namespace dsv3::inline DSV3_ABI
