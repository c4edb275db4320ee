// SPDX-License-Identifier: MIT
// RMSNorm on the CPU: one row at a time, rows shared among threads.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/op/norm/rms_norm.hpp>

#include <algorithm>
#include <cmath>

namespace dsv3::inline DSV3_ABI {

template <class P>
struct implementation<op::rms_norm<P>, backend::cpu> {
  using op_type = op::rms_norm<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t hidden = args.x.extent(1);
    cpu::parallel_ranges(ctx.threads, args.x.extent(0), row_grain(hidden), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        const activation<P>* s = summed_row(args, t);
        const acc r = measured_row(args, s, t);
        normalize(s, r, args.gain.data(), hidden, args.y[t].data());
      }
    });
  }

  /// s of a token: the row of x, or of the sum, which is written.
  static const activation<P>* summed_row(const forward_args& args, index_t t) {
    const activation<P>* x = args.x[t].data();
    if (args.residual.empty()) return x;
    return add_rows(x, args.residual[t].data(), args.sum[t].data(), args.x.extent(1));
  }

  /// r of a token, written where asked for.
  static acc measured_row(const forward_args& args, const activation<P>* s, index_t t) {
    const index_t hidden = args.x.extent(1);
    const acc r = acc(1) / std::sqrt(sum_of_squares(s, hidden) / acc(hidden) + acc(args.epsilon));
    if (!args.rstd.empty()) args.rstd(t) = r;
    return r;
  }

  /// `count` columns of a row's y.
  static void normalize(const activation<P>* s, acc r, const master<P>* gain, index_t count,
                        activation<P>* y) {
    DSV3_SIMD
    for (index_t i = 0; i < count; ++i) y[i] = activation<P>(acc(s[i]) * r * acc(gain[i]));
  }

  /// Rows per thread below which a thread costs more than it does.
  static index_t row_grain(index_t hidden) { return 1 + 8192 / (hidden + 1); }

  template <class Ctx>
  static void run(Ctx& ctx, const typename op_type::backward_args& args) {
    if (!args.dx.empty()) backward_rows(ctx, args);
    if (!args.dgain.empty()) backward_gain(ctx, args);
  }

 private:
  // The loops over a row stand in functions of their own: a pointer that a lambda captured by reference is
  // read anew for every element of a vectorised sum.
  static const activation<P>* add_rows(const activation<P>* x, const activation<P>* residual,
                                       activation<P>* sum, index_t hidden) {
    DSV3_SIMD
    for (index_t i = 0; i < hidden; ++i) sum[i] = activation<P>(acc(x[i]) + acc(residual[i]));
    return sum;
  }

  static acc sum_of_squares(const activation<P>* s, index_t hidden) {
    acc squares = 0;
    DSV3_SIMD_SUM(squares)
    for (index_t i = 0; i < hidden; ++i) squares += acc(s[i]) * acc(s[i]);
    return squares;
  }

  template <class Ctx>
  static void backward_rows(Ctx& ctx, const typename op_type::backward_args& args) {
    const index_t hidden = args.x.extent(1);
    cpu::parallel_ranges(ctx.threads, args.x.extent(0), row_grain(hidden), [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        const activation<P>* d_residual = args.d_residual.empty() ? nullptr : args.d_residual[t].data();
        backward_row(args.dy[t].data(), args.x[t].data(), args.gain.data(), args.rstd(t), d_residual,
                     args.dx[t].data(), hidden);
      }
    });
  }

  static void backward_row(const activation<P>* dy, const activation<P>* x, const master<P>* gain, acc r,
                           const activation<P>* d_residual, activation<P>* dx, index_t hidden) {
    acc projection = 0;  // Σ g · x
    DSV3_SIMD_SUM(projection)
    for (index_t i = 0; i < hidden; ++i) projection += acc(dy[i]) * acc(gain[i]) * acc(x[i]);
    const acc slope = projection * r * r / acc(hidden);
    if (d_residual == nullptr) {
      DSV3_SIMD
      for (index_t i = 0; i < hidden; ++i)
        dx[i] = activation<P>(r * (acc(dy[i]) * acc(gain[i]) - acc(x[i]) * slope));
    } else {
      DSV3_SIMD
      for (index_t i = 0; i < hidden; ++i)
        dx[i] = activation<P>(r * (acc(dy[i]) * acc(gain[i]) - acc(x[i]) * slope) + acc(d_residual[i]));
    }
  }

  // Columns are shared among threads, so every gain is summed in token order whatever the thread count.
  template <class Ctx>
  static void backward_gain(Ctx& ctx, const typename op_type::backward_args& args) {
    constexpr index_t strip = 256;  // columns whose sums stay in the nearest cache
    cpu::parallel_ranges(ctx.threads, args.x.extent(1), 64, [&](index_t begin, index_t end) {
      for (index_t first = begin; first < end; first += strip) {
        const index_t width = std::min(strip, end - first);
        acc sums[strip] = {};
        for (index_t t = 0; t < args.x.extent(0); ++t)
          add_row(args.dy[t].data() + first, args.x[t].data() + first, args.rstd(t), sums, width);
        gradient<P>* dgain = args.dgain.data() + first;
        for (index_t i = 0; i < width; ++i)
          dgain[i] = args.into == store::add ? dgain[i] + gradient<P>(sums[i]) : gradient<P>(sums[i]);
      }
    });
  }

  static void add_row(const activation<P>* dy, const activation<P>* x, acc r, acc* sums, index_t width) {
    DSV3_SIMD
    for (index_t i = 0; i < width; ++i) sums[i] += acc(dy[i]) * acc(x[i]) * r;
  }
};

}  // namespace dsv3::inline DSV3_ABI
