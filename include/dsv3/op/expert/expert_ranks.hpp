// SPDX-License-Identifier: MIT
// Experts shared out among ranks: which ranks a token goes to, and what goes beside its row.
#pragma once

#include <dsv3/op/expert/permute.hpp>

namespace dsv3::inline DSV3_ABI::op {

/// Rank r has the experts [r · per_rank, (r + 1) · per_rank). A token is sent to a rank once, however many of
/// its experts live there (report, section 3.2.2): permute's plan for the choice below, masked, with ranks in
/// the place of experts, gives the rows to send. Those to rank r are the rows [r · tokens, (r + 1) · tokens).
///   choose:   ranks(t, ·) = the ranks that t's experts live on, each once, ascending, then -1
///   label:    for a sent row, in the order of the token's slots: which experts it is for, counted from its
///             rank's first, and with which gates; -1 and 0 where there are no more, and in rows not sent
///   collect:  the numbers of a label to the token's slots they came from: label's transpose, for gradients
template <precision P>
struct expert_ranks {
  struct choose_args {
    static constexpr const char* name = "expert_ranks.choose";
    view<const std::int32_t, 2> ids;  // [tokens, top_k]                 expert of each slot
    index_t experts = 0, ranks = 0;
    view<std::int32_t, 2> chosen;  // [tokens, min(top_k, ranks)]     written
    status check() const {
      return requirements{name}
          .that(ranks > 0 && experts > 0 && experts % ranks == 0, "the ranks must divide the experts",
                {{"experts", experts}, {"ranks", ranks}})
          .equal("chosen", "tokens", chosen.extent(0), "ids", ids.extent(0))
          .equal("chosen", "columns", chosen.extent(1), "the smaller of top_k and ranks",
                 ids.extent(1) < ranks ? ids.extent(1) : ranks)
          .present("ids", ids)
          .present("chosen", chosen)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("chosen", chosen); }
  };

  struct label_args {
    static constexpr const char* name = "expert_ranks.label";
    view<const std::int32_t, 2> ids;      // [tokens, top_k]
    view<const accumulator<P>, 2> gates;  // [tokens, top_k]
    permutation_view sent;                // of ranks
    index_t per_rank = 0;                 // experts of a rank
    view<std::int32_t, 2> row_experts;    // [ranks * tokens, min(top_k, per_rank)]     all written
    view<accumulator<P>, 2> row_gates;    // [ranks * tokens, min(top_k, per_rank)]     all written
    status check() const {
      return labels(requirements{name}, ids, sent, per_rank, row_experts.extent(0), row_experts.extent(1))
          .equal("gates", "tokens", gates.extent(0), "ids", ids.extent(0))
          .equal("gates", "columns", gates.extent(1), "ids", ids.extent(1))
          .equal("row_gates", "rows", row_gates.extent(0), "row_experts", row_experts.extent(0))
          .equal("row_gates", "columns", row_gates.extent(1), "row_experts", row_experts.extent(1))
          .present("ids", ids)
          .present("gates", gates)
          .present("row_experts", row_experts)
          .present("row_gates", row_gates)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("row_experts", row_experts), visit("row_gates", row_gates); }
  };

  struct collect_args {
    static constexpr const char* name = "expert_ranks.collect";
    view<const accumulator<P>, 2> row_gates;  // [ranks * tokens, min(top_k, per_rank)]
    view<const std::int32_t, 2> ids;          // [tokens, top_k]
    permutation_view sent;
    index_t per_rank = 0;
    view<accumulator<P>, 2> gates;  // [tokens, top_k]     written
    status check() const {
      return labels(requirements{name}, ids, sent, per_rank, row_gates.extent(0), row_gates.extent(1))
          .equal("gates", "tokens", gates.extent(0), "ids", ids.extent(0))
          .equal("gates", "columns", gates.extent(1), "ids", ids.extent(1))
          .present("row_gates", row_gates)
          .present("ids", ids)
          .present("gates", gates)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("gates", gates); }
  };

  template <execution_context Ctx>
  static void choose(Ctx&, const choose_args&);
  template <execution_context Ctx>
  static void label(Ctx&, const label_args&);
  template <execution_context Ctx>
  static void collect(Ctx&, const collect_args&);

 private:
  // What every record with labels demands.
  static requirements labels(requirements need, const view<const std::int32_t, 2>& ids,
                             const permutation_view& sent, index_t per_rank, index_t rows, index_t columns) {
    need.that(sent.config.masked, "the plan of ranks must have the masked layout")
        .that(per_rank > 0, "a rank must have experts")
        .equal("ids", "tokens", ids.extent(0), "plan", sent.config.tokens)
        .equal("a label", "rows", rows, "plan", sent.config.row_capacity())
        .equal("a label", "columns", columns, "the smaller of top_k and the experts of a rank",
               ids.extent(1) < per_rank ? ids.extent(1) : per_rank);
    return need;
  }
};

template <precision P>
template <execution_context Ctx>
void expert_ranks<P>::choose(Ctx& ctx, const choose_args& args) {
  invoke<expert_ranks>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void expert_ranks<P>::label(Ctx& ctx, const label_args& args) {
  invoke<expert_ranks>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void expert_ranks<P>::collect(Ctx& ctx, const collect_args& args) {
  invoke<expert_ranks>(ctx, args);
}

}  // namespace dsv3::inline DSV3_ABI::op
