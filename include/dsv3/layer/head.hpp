// SPDX-License-Identifier: MIT
// The output projection and its loss, token chunk by token chunk.
#pragma once

#include <dsv3/layer/keep.hpp>
#include <dsv3/op/linear/gemm.hpp>
#include <dsv3/op/loss/cross_entropy.hpp>
#include <dsv3/op/memory/copy.hpp>

#include <algorithm>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

struct head_activation_config {
  index_t tokens = 0, vocab = 0;
  keep kept = keep::everything;
};

template <precision P>
struct head_saved {
  head_activation_config config;
  view<accumulator<P>, 1> lse;     // [tokens]
  view<accumulator<P>, 2> logits;  // [tokens, vocab]    kept by keep::everything only

  template <class Visit, class... Self>
  static void each_field(const head_activation_config& c, Visit&& visit, Self&... self) {
    visit("lse", shape{c.tokens}, self.lse...);
    visit("logits", shape_if(c.kept == keep::everything, {c.tokens, c.vocab}), self.logits...);
  }
};

/// logits = x · wᵀ        loss += scale Σ cross entropy        over tokens whose target is not -1
/// No more than chunk_tokens rows of logits exist at a time, unless the caller asks for them. Their gradient
/// consists of activations, as its products multiply them.
template <precision P>
struct head {
  index_t chunk_tokens = 512;

  struct forward_args {
    view<const activation<P>, 2> x;       // [tokens, hidden]    normed
    view<const weight<P>, 2> w;           // [vocab, hidden]
    view<const std::int32_t, 1> targets;  // [tokens]            -1: no target
    double scale = 1;                     // usually 1 / number of targets
    view<double, 1> loss;                 // [1]                 added to
    view<accumulator<P>, 2> logits = {};  // [tokens, vocab]     written when not empty
    head_saved<P>* saved = nullptr;       // written unless null
  };
  struct backward_args {
    view<const activation<P>, 2> x;       // [tokens, hidden]
    view<const weight<P>, 2> w;           // [vocab, hidden]
    view<const std::int32_t, 1> targets;  // [tokens]
    double scale = 1;                     // forward's scale times the gradient that reaches the loss
    const head_saved<P>& saved;
    view<activation<P>, 2> dx;  // [tokens, hidden]    written
    view<gradient<P>, 2> dw;    // [vocab, hidden]     added to, or written
    store into = store::add;    // of dw
  };

  template <execution_context Ctx>
  void forward(Ctx& ctx, const forward_args& args) const {
    each_chunk(args.x.extent(0), [&](index_t begin, index_t end) {
      const scratch_frame frame{ctx.scratch};
      const bool keeps_logits = args.saved != nullptr && !args.saved->logits.empty();
      view<accumulator<P>, 2> logits;
      if (keeps_logits)
        logits = args.saved->logits.rows(begin, end);
      else if (!args.logits.empty())
        logits = args.logits.rows(begin, end);
      else
        logits = ctx.scratch.template tensor<accumulator<P>>(end - begin, args.w.extent(0));
      const auto lse = args.saved != nullptr ? args.saved->lse.rows(begin, end)
                                             : ctx.scratch.template tensor<accumulator<P>>(end - begin);
      product::forward(ctx, {.x = args.x.rows(begin, end), .w = args.w, .y = logits});  // 1
      loss::forward(ctx, {.logits = logits,
                          .targets = args.targets.rows(begin, end),
                          .scale = args.scale,
                          .loss = args.loss,
                          .lse = lse});  // 2
      if (keeps_logits && !args.logits.empty())
        op::copy<accumulator<P>, accumulator<P>>::forward(ctx,
                                                          {.x = logits, .y = args.logits.rows(begin, end)});
    });
  }

  template <execution_context Ctx>
  void backward(Ctx& ctx, const backward_args& args) const {
    each_chunk(args.x.extent(0), [&](index_t begin, index_t end) {
      const scratch_frame frame{ctx.scratch};
      const auto x = args.x.rows(begin, end);
      const auto room = [&]<class T>(T) {
        return ctx.scratch.template tensor<T>(end - begin, args.w.extent(0));
      };
      const auto dlogits = room(activation<P>{});
      view<const accumulator<P>, 2> logits = args.saved.logits;
      if (logits.empty()) {
        view<accumulator<P>, 2> again;
        if constexpr (std::is_same_v<activation<P>, accumulator<P>>)
          again = dlogits;
        else
          again = room(accumulator<P>{});
        product::forward(ctx, {.x = x, .w = args.w, .y = again});  // 1 again
        logits = again;
      } else {
        logits = logits.rows(begin, end);
      }
      loss::backward(ctx, {.logits = logits,
                           .targets = args.targets.rows(begin, end),
                           .lse = args.saved.lse.rows(begin, end),
                           .scale = args.scale,
                           .dlogits = dlogits});                                                      // 2'
      op::gemm<P>::backward_data(ctx, {.dy = dlogits, .w = args.w, .dx = args.dx.rows(begin, end)});  // 1'
      op::gemm<P>::backward_weights(
          ctx, {.dy = dlogits, .x = x, .dw = args.dw, .into = begin == 0 ? args.into : store::add});
    });
  }

 private:
  using product = op::gemm<P, accumulator<P>>;
  using loss = op::cross_entropy<P, activation<P>>;

  template <class Body>
  void each_chunk(index_t tokens, Body&& body) const {
    index_t begin = 0;
    do {  // once even where there are no tokens: what is written is zero then
      body(begin, std::min(begin + chunk_tokens, tokens));
      begin += chunk_tokens;
    } while (begin < tokens);
  }
};

}  // namespace dsv3::inline DSV3_ABI
