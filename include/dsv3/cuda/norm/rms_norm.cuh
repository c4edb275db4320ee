// SPDX-License-Identifier: MIT
// RMSNorm on the GPU: a row lies in the registers of a warp or of a block, and is read once.
#pragma once

#include <dsv3/cuda/device/mma.cuh>
#include <dsv3/cuda/device/reduce.cuh>
#include <dsv3/cuda/device/vector.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/op/norm/rms_norm.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// `across` threads hold a row, at most row_packs packs each; a block has `down` rows side by side.
struct row_block {
  unsigned across, down;
  bool operator==(const row_block&) const = default;
};
inline constexpr int row_packs = 4;
inline constexpr unsigned most_rows_down = 8;

/// Parts of the tokens whose share of dgain is summed apart: two blocks for each multiprocessor of an H100,
/// and the same on every GPU, as the sum's bits depend on it.
inline constexpr index_t gain_parts = 264;

// ---- selection --------------------------------------------------------------------------------------------

/// For rows of so many packs. It depends on the length of a row alone, so that its bits do.
constexpr row_block row_block_for(index_t packs) {
  const auto across = static_cast<unsigned>(round_up(packs < 1 ? 1 : ceil_div(packs, row_packs), 32));
  return {across, across < 256 ? 256 / across : 1};
}
static_assert(row_block_for(7168 / 8) == row_block{224, 1} && row_block_for(512 / 8) == row_block{32, 8});

// ---- kernels ----------------------------------------------------------------------------------------------

/// A row of whole packs in the registers of the threads that share it, row_packs * blockDim.x at most.
template <class P, int Width>
struct row_in_registers {
  using acc = accumulator<P>;
  using T = activation<P>;
  kept_pack<T, Width> s[row_packs];

  /// Where a thread's pack p starts.
  __device__ static int column(int p) {
    return (p * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * Width;
  }

  /// Reads row t of x, and joins the residual, whose sum is written.
  template <class Args>
  __device__ __forceinline__ void load(const Args& args, index_t t, bool live) {
    const index_t hidden = args.x.extent(1);
#pragma unroll
    for (int p = 0; p < row_packs; ++p)
      if (const int at = column(p); live && at < hidden) s[p] = kept_pack<T, Width>(&args.x(t, at));
    if (args.residual.empty()) return;
    kept_pack<T, Width> joins[row_packs];
#pragma unroll
    for (int p = 0; p < row_packs; ++p)
      if (const int at = column(p); live && at < hidden)
        joins[p] = kept_pack<T, Width>(&args.residual(t, at));
#pragma unroll
    for (int p = 0; p < row_packs; ++p)
      if (const int at = column(p); live && at < hidden) {
        auto sum = s[p].get();
        const auto join = joins[p].get();
#pragma unroll
        for (int i = 0; i < Width; ++i) sum[i] = T(acc(sum[i]) + acc(join[i]));
        store_pack(&args.sum(t, at), sum);
        s[p] = kept_pack<T, Width>(sum);
      }
  }

  /// r, which is written where it is asked for. All threads of the block meet here.
  template <class Args>
  __device__ __forceinline__ acc measure(const Args& args, index_t t, bool live, acc* room) const {
    const index_t hidden = args.x.extent(1);
    acc squares = 0;
#pragma unroll
    for (int p = 0; p < row_packs; ++p)
      if (live && column(p) < hidden) {
        const auto values = s[p].get();
#pragma unroll
        for (int i = 0; i < Width; ++i) squares += acc(values[i]) * acc(values[i]);
      }
    squares = reduce_block(squares, room, plus{});
    const acc r = acc(1) / sqrt(squares / acc(hidden) + acc(args.epsilon));
    if (live && !args.rstd.empty() && threadIdx.x == 0) args.rstd(t) = r;
    return r;
  }

  /// y's pack p.
  template <class Args>
  __device__ __forceinline__ pack<T, Width> normalized(const Args& args, int p, acc r) const {
    const auto gain = load_pack<Width>(&args.gain(column(p)));
    const auto values = s[p].get();
    if constexpr (std::is_same_v<T, bf16>) {  // two numbers are rounded by one instruction
      pack<std::uint32_t, Width / 2> pairs;
#pragma unroll
      for (int i = 0; i < Width; i += 2)
        pairs[i / 2] =
            pack_bf16(acc(values[i]) * r * acc(gain[i]), acc(values[i + 1]) * r * acc(gain[i + 1]));
      return __builtin_bit_cast(pack<T, Width>, pairs);
    } else {
      pack<T, Width> y;
#pragma unroll
      for (int i = 0; i < Width; ++i) y[i] = T(acc(values[i]) * r * acc(gain[i]));
      return y;
    }
  }
};

template <class P, int Width>
__global__ void __launch_bounds__(1024)
    rms_norm_forward_kernel(const typename op::rms_norm<P>::forward_args args) {
  __shared__ accumulator<P> rooms[most_rows_down][32];
  const index_t t = static_cast<index_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool live = t < args.x.extent(0);
  row_in_registers<P, Width> row;
  row.load(args, t, live);
  const accumulator<P> r = row.measure(args, t, live, rooms[threadIdx.y]);
  if (!live) return;
#pragma unroll
  for (int p = 0; p < row_packs; ++p)
    if (const int at = row.column(p); at < args.x.extent(1))
      store_pack(&args.y(t, at), row.normalized(args, p, r));
}

/// r of a row of any length and alignment, read by a whole block and written where it is asked for; `s`
/// becomes where the row stands, and the sum with the residual is written.
template <class P, class Args>
__device__ __forceinline__ accumulator<P> measure_row(const Args& args, index_t t, accumulator<P>* room,
                                                      const activation<P>*& s) {
  using acc = accumulator<P>;
  using T = activation<P>;
  const index_t hidden = args.x.extent(1);
  s = &args.x(t, 0);
  acc squares = 0;
  if (args.residual.empty()) {
    for (index_t i = threadIdx.x; i < hidden; i += blockDim.x) squares += acc(s[i]) * acc(s[i]);
  } else {
    const T *x = s, *residual = &args.residual(t, 0);
    T* sum = &args.sum(t, 0);
    for (index_t i = threadIdx.x; i < hidden; i += blockDim.x) {
      const T joined = T(acc(x[i]) + acc(residual[i]));
      sum[i] = joined;
      squares += acc(joined) * acc(joined);
    }
    s = sum;
  }
  squares = reduce_block(squares, room, plus{});
  const acc r = acc(1) / sqrt(squares / acc(hidden) + acc(args.epsilon));
  if (!args.rstd.empty() && threadIdx.x == 0) args.rstd(t) = r;
  return r;
}

/// Rows of any length and alignment: a block a row, which is read twice.
template <class P>
__global__ void __launch_bounds__(256)
    rms_norm_forward_any_kernel(const typename op::rms_norm<P>::forward_args args) {
  using acc = accumulator<P>;
  __shared__ acc room[32];
  const index_t t = blockIdx.x, hidden = args.x.extent(1);
  const activation<P>* s;
  const acc r = measure_row<P>(args, t, room, s);
  for (index_t i = threadIdx.x; i < hidden; i += blockDim.x)
    args.y(t, i) = activation<P>(acc(s[i]) * r * acc(args.gain(i)));
}

/// dx of its rows, and what they add to dgain as one row of `parts`; either may be absent. A block walks over
/// the rows by the whole grid. Rows as in forward.
template <class P, int Width>
__global__ void __launch_bounds__(512)
    rms_norm_backward_kernel(const typename op::rms_norm<P>::backward_args args, accumulator<P>* parts) {
  using acc = accumulator<P>;
  using T = activation<P>;
  __shared__ acc rooms[most_rows_down][32];
  const index_t tokens = args.x.extent(0), hidden = args.x.extent(1);
  const int step = static_cast<int>(blockDim.x) * Width, first = static_cast<int>(threadIdx.x) * Width;
  const bool wants_dx = !args.dx.empty(), joins = !args.d_residual.empty();

  acc sums[row_packs][Width] = {};
  for (index_t begin = static_cast<index_t>(blockIdx.x) * blockDim.y; begin < tokens;
       begin += static_cast<index_t>(gridDim.x) * blockDim.y) {
    const index_t t = begin + threadIdx.y;
    const bool live = t < tokens;
    const T *dy_row = args.dy[t].data() + first, *x_row = args.x[t].data() + first;
    kept_pack<T, Width> dy[row_packs], x[row_packs];
#pragma unroll
    for (int p = 0; p < row_packs; ++p)
      if (live && first + p * step < hidden) {
        dy[p] = kept_pack<T, Width>(dy_row + p * step);
        x[p] = kept_pack<T, Width>(x_row + p * step);
      }
    const acc r = live ? args.rstd(t) : acc(0);

    if (wants_dx) {
      const master<P>* gains = args.gain.data() + first;
      acc projection = 0;  // Σ g · x
#pragma unroll
      for (int p = 0; p < row_packs; ++p)
        if (live && first + p * step < hidden) {
          const auto gain = load_pack<Width>(gains + p * step);
          const auto slopes = dy[p].get(), values = x[p].get();
#pragma unroll
          for (int i = 0; i < Width; ++i) projection += acc(slopes[i]) * acc(gain[i]) * acc(values[i]);
        }
      // Asked for here, it arrives while the block sums.
      kept_pack<T, Width> joined[row_packs];
#pragma unroll
      for (int p = 0; p < row_packs; ++p)
        if (joins && live && first + p * step < hidden)
          joined[p] = kept_pack<T, Width>(args.d_residual[t].data() + first + p * step);
      projection = reduce_block(projection, rooms[threadIdx.y], plus{});
      const acc slope = projection * r * r / acc(hidden);
#pragma unroll
      for (int p = 0; p < row_packs; ++p)
        if (live && first + p * step < hidden) {
          const auto gain = load_pack<Width>(gains + p * step);
          const auto slopes = dy[p].get(), values = x[p].get(), joining = joined[p].get();
          pack<T, Width> dx;
#pragma unroll
          for (int i = 0; i < Width; ++i)
            dx[i] = T(r * (acc(slopes[i]) * acc(gain[i]) - acc(values[i]) * slope) +
                      (joins ? acc(joining[i]) : acc(0)));
          store_pack(args.dx[t].data() + first + p * step, dx);
        }
    }
    if (parts != nullptr)
#pragma unroll
      for (int p = 0; p < row_packs; ++p)
        if (live && first + p * step < hidden) {
          const auto slopes = dy[p].get(), values = x[p].get();
#pragma unroll
          for (int i = 0; i < Width; ++i) sums[p][i] += acc(slopes[i]) * acc(values[i]) * r;
        }
  }
  if (parts == nullptr) return;

  // The rows side by side are summed from the first down, one pack of every thread at a time.
  __shared__ acc shares[256 * Width];
#pragma unroll
  for (int p = 0; p < row_packs; ++p) {
    const int at = first + p * step;
    if (blockDim.y > 1) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < Width; ++i) shares[threadIdx.y * step + first + i] = sums[p][i];
      __syncthreads();
      if (threadIdx.y > 0) continue;
      for (unsigned row = 1; row < blockDim.y; ++row)
#pragma unroll
        for (int i = 0; i < Width; ++i) sums[p][i] += shares[row * step + first + i];
    }
    if (at < hidden) {
      pack<acc, Width> part;
#pragma unroll
      for (int i = 0; i < Width; ++i) part[i] = sums[p][i];
      store_pack(parts + blockIdx.x * hidden + at, part);
    }
  }
}

/// dx for rows of any length and alignment: a block a row, which is read twice.
template <class P>
__global__ void __launch_bounds__(256)
    rms_norm_backward_any_kernel(const typename op::rms_norm<P>::backward_args args) {
  using acc = accumulator<P>;
  using T = activation<P>;
  __shared__ acc room[32];
  const index_t t = blockIdx.x, hidden = args.x.extent(1);
  const T *dy = args.dy[t].data(), *x = args.x[t].data();
  const acc r = args.rstd(t);
  acc projection = 0;  // Σ g · x
  for (index_t i = threadIdx.x; i < hidden; i += blockDim.x)
    projection += acc(dy[i]) * acc(args.gain(i)) * acc(x[i]);
  const acc slope = reduce_block(projection, room, plus{}) * r * r / acc(hidden);
  for (index_t i = threadIdx.x; i < hidden; i += blockDim.x) {
    const acc joined = args.d_residual.empty() ? acc(0) : acc(args.d_residual(t, i));
    args.dx(t, i) = T(r * (acc(dy[i]) * acc(args.gain(i)) - acc(x[i]) * slope) + joined);
  }
}

/// Parts of dgain for rows of any length and alignment: a thread a column, a block row a part.
template <class P>
__global__ void __launch_bounds__(256)
    rms_norm_gain_any_kernel(const typename op::rms_norm<P>::backward_args args, accumulator<P>* parts) {
  using acc = accumulator<P>;
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x, hidden = args.x.extent(1);
  if (i >= hidden) return;
  acc sum = 0;
  for (index_t t = blockIdx.y; t < args.x.extent(0); t += gridDim.y)
    sum += acc(args.dy[t].data()[i]) * acc(args.x[t].data()[i]) * args.rstd(t);
  parts[blockIdx.y * hidden + i] = sum;
}

/// The sum of `count` parts, written or added: 32 columns a block, each by 32 threads, whose sums one of them
/// joins.
template <class Acc, class Gradient>
__global__ void __launch_bounds__(1024)
    add_parts_kernel(const Acc* parts, index_t count, view<Gradient, 1> dgain, store into) {
  __shared__ Acc sums[32][32];
  const index_t i = static_cast<index_t>(blockIdx.x) * 32 + threadIdx.x, hidden = dgain.extent(0);
  Acc sum = 0;
  if (i < hidden)
    for (index_t part = threadIdx.y; part < count; part += 32) sum += parts[part * hidden + i];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || i >= hidden) return;
  for (int y = 1; y < 32; ++y) sum += sums[y][threadIdx.x];
  dgain(i) = into == store::add ? dgain(i) + Gradient(sum) : Gradient(sum);
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::rms_norm<P>, backend::cuda> {
  using op_type = op::rms_norm<P>;
  using acc = accumulator<P>;
  using forward_args = typename op_type::forward_args;
  using backward_args = typename op_type::backward_args;
  static constexpr int width = cuda::widest<activation<P>>;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const index_t tokens = args.x.extent(0), hidden = args.x.extent(1);
    const cuda::detail::row_block shape = cuda::detail::row_block_for(ceil_div(hidden, width));
    if (takes_packs(args))
      cuda::launch(
          args.name, ctx.stream,
          {.grid = static_cast<unsigned>(ceil_div(tokens, shape.down)), .block = {shape.across, shape.down}},
          cuda::detail::rms_norm_forward_kernel<P, width>, args);
    else
      cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(tokens)},
                   cuda::detail::rms_norm_forward_any_kernel<P>, args);
  }

  /// Whether rows lie in registers, by the pack.
  static bool takes_packs(const forward_args& args) {
    const index_t hidden = args.x.extent(1);
    return hidden % width == 0 && cuda::detail::row_block_for(ceil_div(hidden, width)).across <= 1024 &&
           cuda::takes_packs<width>(args.x) && cuda::takes_packs<width>(args.residual) &&
           cuda::takes_packs<width>(args.sum) && cuda::takes_packs<width>(args.y) &&
           cuda::takes_packs<width>(args.gain.data(), 0);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const backward_args& args) {
    acc* parts = scratch(ctx, ctx.scratch, args);
    const index_t tokens = args.x.extent(0), hidden = args.x.extent(1);
    const cuda::detail::row_block shape = cuda::detail::row_block_for(ceil_div(hidden, width));
    const bool packs = hidden % width == 0 && shape.across <= 512 && cuda::takes_packs<width>(args.dy) &&
                       cuda::takes_packs<width>(args.x) && cuda::takes_packs<width>(args.dx) &&
                       cuda::takes_packs<width>(args.d_residual) &&
                       cuda::takes_packs<width>(args.gain.data(), 0);
    index_t count = part_count(args);
    if (packs) {
      count = std::min(count, ceil_div(tokens, shape.down));
      cuda::launch(args.name, ctx.stream,
                   {.grid = static_cast<unsigned>(count), .block = {shape.across, shape.down}},
                   cuda::detail::rms_norm_backward_kernel<P, width>, args, parts);
    } else {
      if (!args.dx.empty())
        cuda::launch(args.name, ctx.stream, {.grid = static_cast<unsigned>(tokens)},
                     cuda::detail::rms_norm_backward_any_kernel<P>, args);
      if (parts != nullptr)
        cuda::launch(args.name, ctx.stream,
                     {.grid = {static_cast<unsigned>(ceil_div(hidden, 256)), static_cast<unsigned>(count)}},
                     cuda::detail::rms_norm_gain_any_kernel<P>, args, parts);
    }
    if (!args.dgain.empty() && (count > 0 || args.into == store::write))
      cuda::launch(args.name, ctx.stream,
                   {.grid = static_cast<unsigned>(ceil_div(hidden, 32)), .block = {32, 32}},
                   cuda::detail::add_parts_kernel<acc, gradient<P>>, parts, count, args.dgain, args.into);
  }

  /// The parts of dgain, [part_count, hidden]; null where it is not asked for.
  template <class Ctx>
  static acc* scratch(const Ctx&, scratch_arena& arena, const backward_args& args) {
    return args.dgain.empty() ? nullptr : arena.take<acc>(part_count(args) * args.x.extent(1));
  }

 private:
  static index_t part_count(const backward_args& args) {
    return std::min(args.x.extent(0), cuda::detail::gain_parts);
  }
};

}  // namespace dsv3::inline DSV3_ABI
