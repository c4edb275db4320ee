// SPDX-License-Identifier: MIT
// The global norm on the CPU: blocks of fixed length shared among threads, their sums added in order.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/optim/global_norm.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsv3::inline DSV3_ABI {

template <class Element>
struct implementation<op::global_norm<Element>, backend::cpu> {
  using op_type = op::global_norm<Element>;

  /// [blocks]   the sum of each block of a tensor, the largest where there are many
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::accumulate_args& args) {
    return arena.tensor<double>(ceil_div(args.x.extent(0), block));
  }
  template <class Ctx>
  static view<double, 1> scratch(const Ctx&, scratch_arena& arena,
                                 const typename op_type::accumulate_all_args& args) {
    index_t most = 0;
    for (const view<const Element, 1>& x : args.tensors) most = std::max(most, x.extent(0));
    return arena.tensor<double>(ceil_div(most, block));
  }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::accumulate_args& args) {
    args.sum(0) += sum_of(ctx, args.x, scratch(ctx, ctx.scratch, args));
  }
  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::accumulate_all_args& args) {
    const view<double, 1> sums = scratch(ctx, ctx.scratch, args);
    for (const view<const Element, 1>& x : args.tensors) args.sum(0) += sum_of(ctx, x, sums);
  }

  template <class Ctx>
  static void run(Ctx&, const typename op_type::finish_args& args) {
    const double norm = std::sqrt(args.sum(0));
    args.norm(0) = norm;
    bool finite = std::isfinite(norm);
    for (index_t i = 0; i < args.finite.extent(0); ++i) finite = finite && std::isfinite(args.finite(i));
    args.scale(0) =
        finite ? std::min(1.0, args.limit / (norm + 1e-6)) : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  static constexpr index_t block = 16384;

  template <class Ctx>
  static double sum_of(Ctx& ctx, const view<const Element, 1>& x, const view<double, 1>& sums) {
    const index_t n = x.extent(0), blocks = ceil_div(n, block);
    cpu::parallel_ranges(ctx.threads, blocks, 4, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b)
        sums(b) = square_sum(x.data() + b * block, std::min(block, n - b * block));
    });
    double sum = 0;
    for (index_t b = 0; b < blocks; ++b) sum += sums(b);
    return sum;
  }

  static double square_sum(const Element* x, index_t count) {
    double sum = 0;
    DSV3_SIMD_SUM(sum)
    for (index_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
  }
};

}  // namespace dsv3::inline DSV3_ABI
