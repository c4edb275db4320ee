// SPDX-License-Identifier: MIT
// backend::watch_quantizers<B>: what becomes of numbers that are quantised, by the tensor they are for.
#pragma once

#include <dsv3/exec/dispatch.hpp>
#include <dsv3/op/linear/scaled_gemm.hpp>
#include <dsv3/op/linear/scaled_grouped_gemm.hpp>
#include <dsv3/op/quant/dispatch_quantizer.hpp>
#include <dsv3/op/quant/rms_norm_quantizer.hpp>
#include <dsv3/op/quant/swiglu_quantizer.hpp>
#include <dsv3/op/quant/transposing_quantizer.hpp>

#include <cmath>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Counts over the codes of operands.
struct quantized_share {
  index_t codes = 0;
  index_t zeros = 0;       // of numbers below half the smallest code of their tile, and of zeros
  index_t largest = 0;     // at the format's largest magnitude: one in every tile whose scale is real
  index_t not_finite = 0;  // NaN, which infinities become too

  void add(const quantized_share& more) {
    codes += more.codes, zeros += more.zeros, largest += more.largest, not_finite += more.not_finite;
  }
};

/// What a watching context writes to. An operand is known by where its codes lie: the quantiser writes them,
/// and the product that reads them says which weight they meet.
class quantizer_log {
 public:
  /// `codes` or `gradient` is where the weight's codes or its gradient begin.
  void name(const void* codes, const void* gradient, const std::string& weight) {
    weights_[codes] = weight, weights_[gradient] = weight;
  }
  /// By "<weight>, <role>", in the order of first use: input, output gradient, and both cut along tokens.
  const std::vector<std::pair<std::string, quantized_share>>& tensors() const { return tensors_; }
  /// The first operand with a number that is not finite; empty where there is none.
  std::string first_not_finite() const {
    for (const auto& [name, share] : tensors_)
      if (share.not_finite > 0) return name;
    return {};
  }

  template <class Element, class Tile>
  void quantized(const scaled_view<Element, Tile>& y, const row_groups& groups = {}) {
    quantized_share share;
    const index_t rows = y.extent(0), columns = y.extent(1);
    for (index_t g = 0; g < groups.groups(); ++g)
      for (index_t r = groups.first(g); r < groups.first(g) + groups.count(g, rows); ++r)
        count(share, y.values[r].data(), columns);
    written_[y.values.data()] = share;
  }
  template <class Element>
  void transposed(const scaled_view<Element, row_tile>& t, const row_groups& groups) {
    quantized_share share;
    const index_t tokens = t.extent(1);
    for (index_t r = 0; r < t.extent(0); ++r)
      for (index_t g = 0; g < groups.groups(); ++g)
        count(share, t.values[r].data() + groups.first(g), groups.count(g, tokens));
    written_[t.values.data()] = share;
  }
  void multiplied(const void* operand, const void* weight, const char* role) {
    const auto share = written_.find(operand);
    const auto whose = weights_.find(weight);
    if (share == written_.end() || whose == weights_.end()) return;
    const std::string name = whose->second + ", " + role;
    const auto [place, unseen] = places_.try_emplace(name, tensors_.size());
    if (unseen) tensors_.emplace_back(name, quantized_share{});
    tensors_[place->second].second.add(share->second);
  }

 private:
  template <class Element>
  static void count(quantized_share& share, const Element* codes, index_t n) {
    constexpr auto most = static_cast<float>(number_traits<std::remove_const_t<Element>>::max);
    share.codes += n;
    for (index_t i = 0; i < n; ++i) {
      const float magnitude = std::fabs(static_cast<float>(codes[i]));
      share.zeros += magnitude == 0;
      share.largest += magnitude == most;
      share.not_finite += !std::isfinite(magnitude);
    }
  }

  std::map<const void*, std::string> weights_;
  std::map<const void*, quantized_share> written_;
  std::map<std::string, std::size_t> places_;
  std::vector<std::pair<std::string, quantized_share>> tensors_;
};

namespace backend {
/// Runs the bodies of B and logs quantisers and scaled products. Host memory.
template <class B>
struct watch_quantizers {};
}  // namespace backend

template <class B>
struct backend_state<backend::watch_quantizers<B>> {
  quantizer_log* log = nullptr;
  [[no_unique_address]] backend_state<B> inner = {};
};

namespace detail {

// Records are told apart by what they have.
template <class Args>
void watch(quantizer_log& log, const Args& args) {
  if constexpr (requires { args.dy_t, args.x_t; }) {
    log.multiplied(args.x_t.values.data(), args.dw.data(), "input along tokens");
    log.multiplied(args.dy_t.values.data(), args.dw.data(), "output gradient along tokens");
  } else if constexpr (requires { args.w.scales, args.dy.values; }) {
    log.multiplied(args.dy.values.data(), args.w.values.data(), "output gradient");
  } else if constexpr (requires { args.w.scales, args.x.values; }) {
    log.multiplied(args.x.values.data(), args.w.values.data(), "input");
  } else if constexpr (requires { args.t.values; }) {
    log.transposed(args.t, args.groups);
    if constexpr (requires { args.y.scales; })
      if constexpr (!std::is_const_v<typename decltype(args.y)::element>) log.quantized(args.y, args.groups);
  } else if constexpr (requires { args.rows.values, args.plan; }) {
    log.quantized(args.rows, {args.plan.offsets, args.plan.counts});
  } else if constexpr (requires { args.y.values, args.y.scales, args.groups; }) {
    log.quantized(args.y, args.groups);
  } else if constexpr (requires { args.y.values, args.y.scales; }) {
    log.quantized(args.y);
  }
}

}  // namespace detail

template <class Op, class B>
  requires(!std::is_void_v<typename nearest<Op, B>::type>)
struct implementation<Op, backend::watch_quantizers<B>> {
  using body = typename nearest<Op, B>::type;

  template <class Ctx, class Args>
  static void run(Ctx& ctx, const Args& args) {
    body::run(ctx, args);
    quantizer_log* log = state_of<backend::watch_quantizers<B>>(ctx.state).log;
    if (log != nullptr) detail::watch(*log, args);
  }

  template <class Ctx, class Args>
    requires requires(const Ctx& ctx, scratch_arena& arena, const Args& args) {
      body::scratch(ctx, arena, args);
    }
  static auto scratch(const Ctx& ctx, scratch_arena& arena, const Args& args) {
    return body::scratch(ctx, arena, args);
  }
};

}  // namespace dsv3::inline DSV3_ABI
