// SPDX-License-Identifier: MIT
// Down to a narrow latent, norm, up again: the pathway of MLA's queries and, jointly, of its keys and values
// (report, section 2.1.1, eq. 1-8).
#pragma once

#include <dsv3/layer/linear.hpp>
#include <dsv3/op/norm/rms_norm.hpp>

namespace dsv3::inline DSV3_ABI {

/// a = x · w_downᵀ        c = RMSNorm(a[:, :rank]; gain)        up = c · w_upᵀ
/// Columns of `a` beyond the rank bypass norm and up-projection: the shared rotary key travels there.
template <precision P>
struct latent_compression {
  struct weights {
    matrix_field<const product_weight<P>, 2> w_down;  // [rank + extra, hidden]
    view<const master<P>, 1> gain;                    // [rank]
    matrix_field<const product_weight<P>, 2> w_up;    // [out, rank]
  };
  struct gradients {
    view<gradient<P>, 2> w_down;  // [rank + extra, hidden]
    view<gradient<P>, 1> gain;    // [rank]
    view<gradient<P>, 2> w_up;    // [out, rank]
  };
  struct state {
    view<activation<P>, 2> a;      // [tokens, rank + extra]
    view<accumulator<P>, 1> rstd;  // [tokens]
    view<activation<P>, 2> c;      // [tokens, rank]
    view<activation<P>, 2> up;     // [tokens, out]
  };
  struct deltas {
    view<activation<P>, 2> d_up;  // [tokens, out]            given
    view<activation<P>, 2> dc;    // [tokens, rank]           written by the data half
    view<activation<P>, 2> da;    // [tokens, rank + extra]   first rank columns written, the extra ones given
    kept_columns<P> d_up_kept = {}, da_kept = {};  // the two as the weights' products read them; written
  };

  double epsilon = 1e-6;
  linear<P> product{fp8_recipe{}};

  /// x as the product reads it, in scratch of the caller's frame like everything that `product` makes.
  template <execution_context Ctx>
  void forward(Ctx& ctx, const operand_view<P>& x, const weights& w, const state& s) const {
    product.forward(ctx, x, w.w_down, s.a);                  // 1
    expand(ctx, w, s, product.normalized(ctx, norm(w, s)));  // 2, 3
  }

  /// Step 2 alone, for those who kept `a` and need c.
  template <execution_context Ctx>
  void normalize(Ctx& ctx, const weights& w, const state& s) const {
    op::rms_norm<P>::forward(ctx, norm(w, s));
  }
  /// Step 3 alone.
  template <execution_context Ctx>
  void expand(Ctx& ctx, const weights& w, const state& s, const operand_view<P>& c) const {
    product.forward(ctx, c, w.w_up, s.up);
  }

  template <execution_context Ctx>
  void backward_data(Ctx& ctx, const weights& w, const state& s, const deltas& d, view<activation<P>, 2> dx,
                     store into) const {
    const index_t rank = w.gain.extent(0);
    product.backward_data(ctx, d.d_up, w.w_up, d.dc, store::write, d.d_up_kept);  // 3'
    op::rms_norm<P>::backward(ctx, {.dy = d.dc,
                                    .x = s.a.columns(0, rank),
                                    .gain = w.gain,
                                    .rstd = s.rstd,
                                    .dx = d.da.columns(0, rank)});    // 2'
    product.backward_data(ctx, d.da, w.w_down, dx, into, d.da_kept);  // 1'
  }

  /// x as the weights' product reads it.
  template <execution_context Ctx>
  void backward_weights(Ctx& ctx, const operand_view<P>& x, const weights& w, const state& s, const deltas& d,
                        const gradients& g, store into) const {
    const scratch_frame frame{ctx.scratch};
    product.backward_weights(ctx, product.columns_of(d.d_up, d.d_up_kept),
                             product.columns(ctx, product.operand(ctx, s.c)), g.w_up, into);  // 3'
    op::rms_norm<P>::backward(ctx, {.dy = d.dc,
                                    .x = s.a.columns(0, w.gain.extent(0)),
                                    .gain = w.gain,
                                    .rstd = s.rstd,
                                    .dgain = g.gain,
                                    .into = into});                                         // 2'
    product.backward_weights(ctx, product.columns_of(d.da, d.da_kept), x, g.w_down, into);  // 1'
  }

 private:
  auto norm(const weights& w, const state& s) const {
    return typename op::rms_norm<P>::forward_args{
        .x = s.a.columns(0, w.gain.extent(0)), .gain = w.gain, .y = s.c, .rstd = s.rstd, .epsilon = epsilon};
  }
};

}  // namespace dsv3::inline DSV3_ABI
