// SPDX-License-Identifier: MIT
// Balancing the experts: the bias that moves after each step, and the small sequence-wise loss beside it.
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/tensor/packed_sequences.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// What the loss counts as "expert e was used by token t".
enum class balance_indicator {
  unbiased_top_k,  // e is among the top_k largest scores, without bias and groups (report, eq. 18)
  selection,       // e was chosen by the router
};

namespace op {

/// One step of auxiliary-loss-free balancing (report, section 2.1.2):
///   bias[e] += rate · sign(mean load − load[e])            exact equality leaves the bias as it is
template <precision P>
struct routing_bias {
  struct update_args {
    static constexpr const char* name = "routing_bias.update";
    view<const std::int64_t, 1> load;  // [experts]    assignments of the whole step, all ranks
    view<master<P>, 1> bias;           // [experts]    moved
    double rate = 0;                   // gamma
    view<const double, 1> scale = {};  // [1]          the clip factor; where it is not finite nothing moves
    status check() const {
      requirements need{name};
      need.equal("bias", "experts", bias.extent(0), "load", load.extent(0))
          .that(rate >= 0, "the rate must not be negative")
          .present("load", load)
          .present("bias", bias);
      if (!scale.empty())
        need.equal("scale", "elements", scale.extent(0), "a scalar", 1).present("scale", scale);
      return need.verdict();
    }
    void outputs(auto&& visit) const { visit("bias", bias); }
  };

  template <execution_context Ctx>
  static void update(Ctx&, const update_args&);
};

/// For each sequence of T tokens (report, eq. 17-20), with s the router's scores:
///   f[e] = E / (K T) · #{t : e is indicated}       P[e] = 1/T Σ_t s[t,e] / Σ_e' s[t,e']
///   loss += coefficient · Σ_e f[e] P[e] / sequences                     averaged over the sequences
/// Backward: f is a constant, and with s'[t,e] = s[t,e] / Σ_e' s[t,e']
///   ds[t,e] = coefficient / (sequences T) · (f[e] − Σ_e' f[e'] s'[t,e']) / Σ_e' s[t,e']
/// Sequences without tokens contribute nothing, but count in the average.
template <precision P>
struct sequence_balance {
  struct forward_args {
    static constexpr const char* name = "sequence_balance.forward";
    view<const accumulator<P>, 2> scores;  // [tokens, experts]
    view<const std::int32_t, 2> ids;       // [tokens, top_k]          the router's choice
    packed_sequences sequence;
    balance_indicator indicator = balance_indicator::unbiased_top_k;
    double coefficient = 0;            // alpha
    view<accumulator<P>, 2> fraction;  // [sequences, experts]     f, written; needed by backward
    view<double, 1> loss;              // [1]                      added to
    status check() const {
      return requirements{name}
          .equal("sequence", "tokens", sequence.tokens(), "scores", scores.extent(0))
          .equal("ids", "tokens", ids.extent(0), "scores", scores.extent(0))
          .that(ids.extent(1) > 0, "ids has no columns")
          .that(ids.extent(1) <= scores.extent(1), "ids has more columns than there are experts")
          .equal("fraction", "sequences", fraction.extent(0), "sequence", sequence.sequences())
          .equal("fraction", "experts", fraction.extent(1), "scores", scores.extent(1))
          .equal("loss", "elements", loss.extent(0), "a scalar", 1)
          .present("scores", scores)
          .present("ids", ids)
          .present("fraction", fraction)
          .present("loss", loss)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("fraction", fraction), visit("loss", loss); }
  };

  struct backward_args {
    static constexpr const char* name = "sequence_balance.backward";
    view<const accumulator<P>, 2> scores;    // [tokens, experts]
    view<const accumulator<P>, 2> fraction;  // [sequences, experts]
    packed_sequences sequence;
    double coefficient = 0;           // alpha times the gradient that reaches the loss
    view<accumulator<P>, 2> dscores;  // [tokens, experts]       written
    status check() const {
      return requirements{name}
          .equal("sequence", "tokens", sequence.tokens(), "scores", scores.extent(0))
          .equal("fraction", "sequences", fraction.extent(0), "sequence", sequence.sequences())
          .equal("fraction", "experts", fraction.extent(1), "scores", scores.extent(1))
          .equal("dscores", "tokens", dscores.extent(0), "scores", scores.extent(0))
          .equal("dscores", "experts", dscores.extent(1), "scores", scores.extent(1))
          .present("scores", scores)
          .present("fraction", fraction)
          .present("dscores", dscores)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dscores", dscores); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward(Ctx&, const backward_args&);
};

template <precision P>
template <execution_context Ctx>
void routing_bias<P>::update(Ctx& ctx, const update_args& args) {
  invoke<routing_bias>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void sequence_balance<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<sequence_balance>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void sequence_balance<P>::backward(Ctx& ctx, const backward_args& args) {
  invoke<sequence_balance>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
