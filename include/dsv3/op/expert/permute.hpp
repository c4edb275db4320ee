// SPDX-License-Identifier: MIT
// Token order to expert order and back, on one rank (report, section 2.1.2; nothing is dropped).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/bundle.hpp>
#include <dsv3/tensor/ragged.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// How many rows the experts' buffers have, and where each expert's rows start.
struct permutation_config {
  index_t tokens = 0, top_k = 0, experts = 0;
  index_t alignment = 1;  // contiguous layout: segments are padded to a multiple of this
  bool masked = false;    // masked layout: every expert has room for all tokens
  index_t room = 0;       // contiguous layout: rows, padding apart, that there is room for; 0: all slots

  index_t row_capacity() const {
    const index_t rows = room > 0 ? room : tokens * top_k;
    return masked ? experts * tokens : round_up(rows + experts * (alignment - 1), alignment);
  }
};

/// What a plan has in row_of for a slot that chose no expert, and for one whose row no room was left for.
inline constexpr std::int32_t no_row = -1, lost_row = -2;

/// The exchange plan of one batch: which row each (token, slot) goes to. Forward hands it to backward.
template <class Index>
struct permutation_tensors {
  permutation_config config;
  view<Index, 1> offsets;   // [experts + 1]     first row of each expert's segment
  view<Index, 1> counts;    // [experts]         live rows of each expert
  view<Index, 2> row_of;    // [tokens, top_k]   row of each (token, slot), or no_row
  view<Index, 1> token_of;  // [row capacity]    token of each row, -1 for padding

  template <class Visit, class... Self>
  static void each_field(const permutation_config& c, Visit&& visit, Self&... self) {
    visit("offsets", shape{c.experts + 1}, self.offsets...);
    visit("counts", shape{c.experts}, self.counts...);
    visit("row_of", shape{c.tokens, c.top_k}, self.row_of...);
    visit("token_of", shape{c.row_capacity()}, self.token_of...);
  }

  template <class U = Index>
    requires(!std::is_const_v<U>)
  operator permutation_tensors<const U>() const { return {config, offsets, counts, row_of, token_of}; }

  /// Expert-ordered rows of any element as a ragged view.
  template <class T>
  ragged_view<T> ragged(view<T, 2> rows) const {
    return {rows, offsets, counts};
  }
};
using permutation = permutation_tensors<std::int32_t>;
using permutation_view = permutation_tensors<const std::int32_t>;

namespace op {

/// plan:      rows of an expert in (token, slot) order, so the same choice gives the same plan
/// dispatch:  rows[row_of(t,k)] = x[t]                       padding rows stay untouched
/// combine:   y[t] (+)= Σ_k rows[row_of(t,k)]                in slot order, summed in the accumulator
/// dispatch_gates and combine_gates move one number per (token, slot) the same two ways.
/// combine is the backward of dispatch, dispatch the backward of combine. A slot without a row is skipped,
/// its gate comes back as 0. Where the experts are given more rows than there is room for, plan raises; a GPU
/// reports it, and what is combined of a row that was lost is not a number.
template <precision P>
struct permute {
  struct plan_args {
    static constexpr const char* name = "permute.plan";
    view<const std::int32_t, 2> ids;  // [tokens, top_k]    expert of each slot, -1 for none
    permutation plan;                 // written
    status check() const {
      const index_t capacity = plan.config.alignment > 0 ? plan.config.row_capacity() : 0;
      return requirements{name}
          .equal("ids", "tokens", ids.extent(0), "plan", plan.config.tokens)
          .equal("ids", "columns", ids.extent(1), "plan as top_k", plan.config.top_k)
          .that(plan.config.alignment > 0, "the alignment must be positive")
          .that(plan.config.room == 0 || !plan.config.masked, "the masked layout has room for all tokens")
          .that(capacity < (index_t{1} << 31), "more than 2^31 rows")
          .equal("offsets", "elements", plan.offsets.extent(0), "plan", plan.config.experts + 1)
          .equal("counts", "experts", plan.counts.extent(0), "plan", plan.config.experts)
          .equal("row_of", "tokens", plan.row_of.extent(0), "plan", plan.config.tokens)
          .equal("row_of", "columns", plan.row_of.extent(1), "plan as top_k", plan.config.top_k)
          .equal("token_of", "rows", plan.token_of.extent(0), "plan", capacity)
          .present("ids", ids)
          .present("offsets", plan.offsets)
          .present("counts", plan.counts)
          .present("row_of", plan.row_of)
          .present("token_of", plan.token_of)
          .verdict();
    }
    void outputs(auto&& visit) const {
      visit("offsets", plan.offsets), visit("counts", plan.counts), visit("row_of", plan.row_of),
          visit("token_of", plan.token_of);
    }
  };

  struct dispatch_args {
    static constexpr const char* name = "permute.dispatch";
    view<const activation<P>, 2> x;  // [tokens, width]
    permutation_view plan;
    view<activation<P>, 2> rows;  // [row capacity, width]    live rows written
    status check() const {
      return requirements{name}
          .equal("x", "tokens", x.extent(0), "plan", plan.config.tokens)
          .equal("rows", "rows", rows.extent(0), "plan", plan.config.row_capacity())
          .equal("rows", "columns", rows.extent(1), "x", x.extent(1))
          .present("x", x)
          .present("rows", rows)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("rows", rows); }
  };

  struct combine_args {
    static constexpr const char* name = "permute.combine";
    view<const activation<P>, 2> rows;  // [row capacity, width]
    permutation_view plan;
    view<const activation<P>, 2> add = {};  // [tokens, width]    added when not empty: the shared expert
    view<activation<P>, 2> y;               // [tokens, width]    written; may be `add`
    status check() const {
      requirements need{name};
      need.equal("rows", "rows", rows.extent(0), "plan", plan.config.row_capacity())
          .equal("y", "tokens", y.extent(0), "plan", plan.config.tokens)
          .equal("y", "columns", y.extent(1), "rows", rows.extent(1))
          .present("rows", rows)
          .present("y", y);
      if (!add.empty())
        need.equal("add", "tokens", add.extent(0), "y", y.extent(0))
            .equal("add", "columns", add.extent(1), "y", y.extent(1));
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("y", y); }
  };

  struct dispatch_gates_args {
    static constexpr const char* name = "permute.dispatch_gates";
    view<const accumulator<P>, 2> gates;  // [tokens, top_k]
    permutation_view plan;
    view<accumulator<P>, 1> row_gates;  // [row capacity]       live rows written
    status check() const {
      return requirements{name}
          .equal("gates", "tokens", gates.extent(0), "plan", plan.config.tokens)
          .equal("gates", "columns", gates.extent(1), "plan as top_k", plan.config.top_k)
          .equal("row_gates", "rows", row_gates.extent(0), "plan", plan.config.row_capacity())
          .present("gates", gates)
          .present("row_gates", row_gates)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("row_gates", row_gates); }
  };

  struct combine_gates_args {
    static constexpr const char* name = "permute.combine_gates";
    view<const accumulator<P>, 1> row_gates;  // [row capacity]
    permutation_view plan;
    view<accumulator<P>, 2> gates;  // [tokens, top_k]     written
    status check() const {
      return requirements{name}
          .equal("gates", "tokens", gates.extent(0), "plan", plan.config.tokens)
          .equal("gates", "columns", gates.extent(1), "plan as top_k", plan.config.top_k)
          .equal("row_gates", "rows", row_gates.extent(0), "plan", plan.config.row_capacity())
          .present("gates", gates)
          .present("row_gates", row_gates)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("gates", gates); }
  };

  template <execution_context Ctx>
  static void plan(Ctx&, const plan_args&);
  template <execution_context Ctx>
  static void dispatch(Ctx&, const dispatch_args&);
  template <execution_context Ctx>
  static void combine(Ctx&, const combine_args&);
  template <execution_context Ctx>
  static void dispatch_gates(Ctx&, const dispatch_gates_args&);
  template <execution_context Ctx>
  static void combine_gates(Ctx&, const combine_gates_args&);
};

template <precision P>
template <execution_context Ctx>
void permute<P>::plan(Ctx& ctx, const plan_args& args) {
  invoke<permute>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void permute<P>::dispatch(Ctx& ctx, const dispatch_args& args) {
  invoke<permute>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void permute<P>::combine(Ctx& ctx, const combine_args& args) {
  invoke<permute>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void permute<P>::dispatch_gates(Ctx& ctx, const dispatch_gates_args& args) {
  invoke<permute>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void permute<P>::combine_gates(Ctx& ctx, const combine_gates_args& args) {
  invoke<permute>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
