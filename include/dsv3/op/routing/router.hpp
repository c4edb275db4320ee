// SPDX-License-Identifier: MIT
// The router: sigmoid affinities, node-limited groups, biased top-k, gates (report, 2.1.2, eq. 12-16).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/exec/dispatch.hpp>
#include <dsv3/number/precision.hpp>
#include <dsv3/op/linear/store.hpp>

#include <cstdint>

namespace dsv3::inline DSV3_ABI {

/// Whether the gates of a token are divided by their sum.
enum class gate_norm { none, sum_to_one };

struct router_config {
  index_t hidden = 0, experts = 0, top_k = 0;
  index_t groups = 1, kept_groups = 1;  // experts lie in `groups` blocks; a token uses `kept_groups` of them
  gate_norm normalise = gate_norm::sum_to_one;
  double scale = 1;  // routed_scaling_factor

  DSV3_HOST_DEVICE index_t group_experts() const { return experts / groups; }
  /// A group is as good as the sum of this many of its best experts.
  DSV3_HOST_DEVICE index_t group_top() const {
    return kept_groups > 0 && top_k / kept_groups > 1 ? top_k / kept_groups : 1;
  }

  status check() const {
    return requirements{"router"}
        .that(experts > 0 && groups > 0, "experts and groups must be positive",
              {{"experts", experts}, {"groups", groups}})
        .that(groups <= 0 || experts % groups == 0, "the groups must divide the experts",
              {{"experts", experts}, {"groups", groups}})
        .that(kept_groups > 0 && kept_groups <= groups, "kept groups must be between 1 and the groups",
              {{"kept groups", kept_groups}, {"groups", groups}})
        .that(groups <= 0 || (top_k > 0 && top_k <= kept_groups * (experts / groups)),
              "top_k must be between 1 and the experts of the kept groups",
              {{"top_k", top_k}, {"experts", experts}, {"groups", groups}, {"kept groups", kept_groups}})
        .verdict();
  }
  bool operator==(const router_config&) const = default;
};

namespace op {

/// Per token, all in the accumulator:
///   z[e] = x · centroids[e],   s[e] = sigmoid(z[e]),   c[e] = s[e] + bias[e]    bias steers the choice only
///   group score = sum of its group_top() largest c; the kept_groups best groups stay
///   ids   = the top_k largest c of the groups that stay, largest first          ties: the smaller index
///   gates = scale · s[ids] / (Σ s[ids] + 1e-20)                                  scale · s[ids] without norm
/// Backward, for the chosen e, with Z = Σ s[ids], p = s / Z, A = Σ dgates · p:
///   ds = (scale / Z)(dgates − A)   (scale · dgates without norm)        plus dscores for every e
///   dz = ds · s (1 − s)            dx = dz · centroids                  dcentroids += dzᵀ · x
/// No gradient passes through the choice, the groups or the bias.
template <precision P>
struct router {
  struct forward_args {
    static constexpr const char* name = "router.forward";
    router_config config;
    view<const activation<P>, 2> x;      // [tokens, hidden]
    view<const master<P>, 2> centroids;  // [experts, hidden]
    view<const master<P>, 1> bias;       // [experts]
    view<accumulator<P>, 2> scores;      // [tokens, experts]    s, written; backward and balance read it
    view<std::int32_t, 2> ids;           // [tokens, top_k]      written
    view<accumulator<P>, 2> gates;       // [tokens, top_k]      written
    view<std::int64_t, 1> load = {};     // [experts]            assignments, added to when not empty
    status check() const;
    void outputs(auto&& visit) const {
      visit("scores", scores), visit("ids", ids), visit("gates", gates), visit("load", load);
    }
  };

  struct backward_data_args {
    static constexpr const char* name = "router.backward_data";
    router_config config;
    view<const accumulator<P>, 2> dgates;        // [tokens, top_k]
    view<const accumulator<P>, 2> scores;        // [tokens, experts]
    view<const std::int32_t, 2> ids;             // [tokens, top_k]
    view<const master<P>, 2> centroids;          // [experts, hidden]
    view<const accumulator<P>, 2> dscores = {};  // [tokens, experts]   of the balance loss; none when empty
    view<accumulator<P>, 2> dlogits;             // [tokens, experts]   dz, written; backward_weights reads it
    view<activation<P>, 2> dx;                   // [tokens, hidden]    written, or added to
    store into = store::write;
    status check() const;
    void outputs(auto&& visit) const { visit("dlogits", dlogits), visit("dx", dx); }
  };

  struct backward_weights_args {
    static constexpr const char* name = "router.backward_weights";
    view<const accumulator<P>, 2> dlogits;  // [tokens, experts]
    view<const activation<P>, 2> x;         // [tokens, hidden]
    view<gradient<P>, 2> dcentroids;        // [experts, hidden]    added to, or written
    store into = store::add;
    status check() const {
      return requirements{name}
          .equal("x", "tokens", x.extent(0), "dlogits", dlogits.extent(0))
          .equal("dcentroids", "experts", dcentroids.extent(0), "dlogits", dlogits.extent(1))
          .equal("dcentroids", "columns", dcentroids.extent(1), "x", x.extent(1))
          .present("dlogits", dlogits)
          .present("x", x)
          .present("dcentroids", dcentroids)
          .verdict();
    }
    void outputs(auto&& visit) const { visit("dcentroids", dcentroids); }
  };

  template <execution_context Ctx>
  static void forward(Ctx&, const forward_args&);
  template <execution_context Ctx>
  static void backward_data(Ctx&, const backward_data_args&);
  template <execution_context Ctx>
  static void backward_weights(Ctx&, const backward_weights_args&);
};

template <precision P>
status router<P>::forward_args::check() const {
  if (status bad = config.check(); !bad) return bad;
  requirements need{name};
  need.equal("x", "columns", x.extent(1), "config as hidden", config.hidden)
      .equal("centroids", "experts", centroids.extent(0), "config", config.experts)
      .equal("centroids", "columns", centroids.extent(1), "x", x.extent(1))
      .equal("bias", "experts", bias.extent(0), "config", config.experts)
      .equal("scores", "tokens", scores.extent(0), "x", x.extent(0))
      .equal("scores", "experts", scores.extent(1), "config", config.experts)
      .equal("ids", "tokens", ids.extent(0), "x", x.extent(0))
      .equal("ids", "columns", ids.extent(1), "config as top_k", config.top_k)
      .equal("gates", "tokens", gates.extent(0), "x", x.extent(0))
      .equal("gates", "columns", gates.extent(1), "config as top_k", config.top_k)
      .present("x", x)
      .present("centroids", centroids)
      .present("bias", bias)
      .present("scores", scores)
      .present("ids", ids)
      .present("gates", gates);
  if (!load.empty()) need.equal("load", "experts", load.extent(0), "config", config.experts);
  return need.verdict();
}

template <precision P>
status router<P>::backward_data_args::check() const {
  if (status bad = config.check(); !bad) return bad;
  requirements need{name};
  need.equal("dgates", "columns", dgates.extent(1), "config as top_k", config.top_k)
      .equal("scores", "tokens", scores.extent(0), "dgates", dgates.extent(0))
      .equal("scores", "experts", scores.extent(1), "config", config.experts)
      .equal("ids", "tokens", ids.extent(0), "dgates", dgates.extent(0))
      .equal("ids", "columns", ids.extent(1), "config as top_k", config.top_k)
      .equal("centroids", "experts", centroids.extent(0), "config", config.experts)
      .equal("dlogits", "tokens", dlogits.extent(0), "dgates", dgates.extent(0))
      .equal("dlogits", "experts", dlogits.extent(1), "config", config.experts)
      .equal("dx", "tokens", dx.extent(0), "dgates", dgates.extent(0))
      .equal("dx", "columns", dx.extent(1), "centroids", centroids.extent(1))
      .present("dgates", dgates)
      .present("scores", scores)
      .present("ids", ids)
      .present("centroids", centroids)
      .present("dlogits", dlogits)
      .present("dx", dx);
  if (!dscores.empty())
    need.equal("dscores", "tokens", dscores.extent(0), "dgates", dgates.extent(0))
        .equal("dscores", "experts", dscores.extent(1), "config", config.experts);
  return need.verdict();
}

template <precision P>
template <execution_context Ctx>
void router<P>::forward(Ctx& ctx, const forward_args& args) {
  invoke<router>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void router<P>::backward_data(Ctx& ctx, const backward_data_args& args) {
  invoke<router>(ctx, args);
}
template <precision P>
template <execution_context Ctx>
void router<P>::backward_weights(Ctx& ctx, const backward_weights_args& args) {
  invoke<router>(ctx, args);
}

}  // namespace op
}  // namespace dsv3::inline DSV3_ABI
