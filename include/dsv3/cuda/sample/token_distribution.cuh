// SPDX-License-Identifier: MIT
// Distributions of tokens on the GPU: a thread block to a row. Sums of whole numbers depend on no order, so
// these are the CPU's bits.
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/sample/running_sum.cuh>
#include <dsv3/op/sample/token_distribution.hpp>

namespace dsv3::inline DSV3_ABI {

namespace cuda::detail {

// ---- kernels ----------------------------------------------------------------------------------------------

/// Weights of at least `least` stay, of those equal to it the first `ties`.
struct weight_cut {
  std::uint64_t least, ties, equal;
};

/// How a filter weighs tokens: top_k each as one, top_p by weight.
enum class token_worth { one, mass };

__device__ __forceinline__ std::uint64_t digits_of(std::uint64_t weight) {
  return static_cast<std::uint64_t>(__double_as_longlong(static_cast<double>(weight)));
}

/// Places of the digits that find_cut looks at in one round, and one more for what is above them.
inline constexpr unsigned first_digits = (op::weight_bits + 1) << 5, next_digits = 1 << 10;
/// The first digits of 1.0, the smallest weight, and how far from the last bit they stand.
inline constexpr std::uint64_t first_prefix = 1023 << 5;
inline constexpr int first_shift = 47;

/// What the weights of each digit are worth, in halves: shared memory adds 32 bits at once.
struct worth_sums {
  unsigned low[first_digits + 1], high[first_digits + 1];

  /// By a block; a barrier must follow.
  __device__ void clear(unsigned count) {
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) low[i] = high[i] = 0;
  }
  __device__ __forceinline__ void add(unsigned place, std::uint64_t worth) {
    const auto lower = static_cast<unsigned>(worth);
    const unsigned before = atomicAdd(&low[place], lower);
    const unsigned upper = static_cast<unsigned>(worth >> 32) + (before + lower < before ? 1 : 0);
    if (upper > 0) atomicAdd(&high[place], upper);
  }
  __device__ __forceinline__ void add_one(unsigned place) { atomicAdd(&low[place], 1u); }
  __device__ __forceinline__ std::uint64_t operator[](unsigned place) const {
    return std::uint64_t{high[place]} << 32 | low[place];
  }
};

/// From the largest of `count` digits down, the first whose worth, with `taken` and all above, reaches the
/// need, else digit 0: to answer[0], and to answer[1] what was reached before it. By a block, whose barriers
/// surround it.
__device__ inline void choose_digit(const worth_sums& worths, unsigned count, std::uint64_t taken,
                                    std::uint64_t need, std::uint64_t* answer) {
  __syncthreads();
  if (threadIdx.x < 32) {  // a lane looks at neighbours, lane 0 at the largest
    const unsigned lane = threadIdx.x, own = (count + 31) / 32;
    const auto digit_at = [&](unsigned i) {
      return static_cast<int>(count) - 1 - static_cast<int>(lane * own + i);
    };
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < own; ++i)
      if (const int digit = digit_at(i); digit >= 0) sum += worths[static_cast<unsigned>(digit)];
    const std::uint64_t reached = taken + running_sum(sum);
    const unsigned enough = __ballot_sync(all_lanes, reached >= need);
    const unsigned owner = enough != 0 ? __ffs(static_cast<int>(enough)) - 1 : 31;
    if (lane == owner) {
      std::uint64_t so_far = reached - sum;
      int digit = digit_at(0);
      for (unsigned i = 0; digit > 0 && so_far + worths[static_cast<unsigned>(digit)] < need;
           digit = digit_at(++i))
        so_far += worths[static_cast<unsigned>(digit)];
      answer[0] = static_cast<std::uint64_t>(digit > 0 ? digit : 0), answer[1] = so_far;
    }
  }
  __syncthreads();
}

/// The smallest weight whose digits reach the prefix.
__device__ __forceinline__ std::uint64_t least_of(std::uint64_t prefix, int shift) {
  return static_cast<std::uint64_t>(ceil(__longlong_as_double(static_cast<long long>(prefix << shift))));
}

/// Takes the weights of at least `least`, a positive number, largest first, until their worth reaches `need`;
/// all of them where it never does. The digits of a weight are those of its double, whose bits are ordered as
/// the weights are: exponent and five bits of the fraction first, then ten bits at a time. By a block.
template <token_worth Worth, class Weight>
__device__ weight_cut find_cut(const Weight& weight_at, index_t count, std::uint64_t least,
                               std::uint64_t need, worth_sums& worths, std::uint64_t* answer) {
  const auto worth = [](std::uint64_t weight) { return Worth == token_worth::one ? 1 : weight; };
  const unsigned lane = threadIdx.x % 32;
  std::uint64_t prefix = first_prefix, taken = 0;  // worth of what has larger digits than the prefix
  for (int shift = first_shift;; shift -= 10) {
    const unsigned above = shift == first_shift ? first_digits : next_digits;  // the place of larger prefixes
    worths.clear(above + 1);
    __syncthreads();
    for (index_t first = 0; first < count; first += blockDim.x) {
      const index_t v = first + threadIdx.x;
      const std::uint64_t weight = v < count ? weight_at(v) : 0, digits = digits_of(weight) >> shift;
      // Those above were counted when their digit was passed.
      const bool counts = weight >= least && digits < prefix + above;
      const unsigned place = counts ? static_cast<unsigned>(digits - prefix) : above;
      int same;
      __match_all_sync(all_lanes, place, &same);
      if (same) {  // many equal tokens would stand in line
        const std::uint64_t sum = from_lane(running_sum(counts ? worth(weight) : std::uint64_t{0}), 31);
        if (lane == 0 && counts) worths.add(place, sum);
      } else if (counts) {
        worths.add(place, worth(weight));
      }
    }
    choose_digit(worths, above, taken, need, answer);
    const std::uint64_t digit = answer[0];
    taken = answer[1];
    prefix += digit;
    least = least_of(prefix, shift);
    const std::uint64_t there = worths[static_cast<unsigned>(digit)];
    __syncthreads();
    if (shift == 7) {  // no weight has more bits
      const std::uint64_t each = worth(least), equal = there / each, ties = (need - taken + each - 1) / each;
      return {least, ties < equal ? ties : equal, equal};
    }
    prefix <<= 10;
  }
}

/// ceil(top_p · total), top_p taken to 64 bits behind the point.
__device__ __forceinline__ std::uint64_t share_of(std::uint64_t total, double top_p) {
  const uint128 product = wide_product(total, static_cast<std::uint64_t>(top_p * 0x1p64));
  const auto whole = static_cast<std::uint64_t>(product >> 64);
  const std::uint64_t share = whole + (static_cast<std::uint64_t>(product) != 0 ? 1 : 0);
  return share > 1 ? share : 1;
}

/// Tokens among which a filter looks for its cut: those of a digit are few, as a rule.
struct token_list {
  static constexpr unsigned room = 2560;
  std::uint64_t weights[room];
  int ids[room];
  unsigned count;  // of those that should stand there, where it is more than room
};

/// What the threads of a block share.
struct token_room {
  worth_sums worths;
  token_list list;
  std::uint64_t stretches[weight_warps], answer[2];
  double largest[weight_warps];
  int first[weight_warps];
  unsigned ties[weight_warps];
};

/// Zeroes the weights that do not stay; returns the sum of the others.
__device__ inline std::uint64_t cut_weights(std::uint64_t* w, index_t vocab, const weight_cut& cut,
                                            token_room& room) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  std::uint64_t before = 0;  // equal weights that were passed
  for (index_t first = 0; first < vocab; first += blockDim.x) {
    const index_t v = first + threadIdx.x;
    const std::uint64_t weight = v < vocab ? w[v] : 0;
    bool stays = weight >= cut.least;
    if (cut.ties < cut.equal) {
      const unsigned ties = __ballot_sync(all_lanes, v < vocab && weight == cut.least);
      __syncthreads();
      if (lane == 0) room.ties[warp] = __popc(ties);
      __syncthreads();
      std::uint64_t rank = before + __popc(ties & ((1u << lane) - 1));
      for (unsigned other = 0; other < weight_warps; ++other) {
        if (other < warp) rank += room.ties[other];
        before += room.ties[other];
      }
      if (weight == cut.least) stays = rank < cut.ties;
    }
    if (v < vocab && !stays) w[v] = 0;
  }
  __syncthreads();
  return sum_stretches(
      vocab, [w](index_t v) { return w[v]; }, room.stretches);
}

/// What a row's options ask for.
struct token_filter {
  bool some, share;  // top_k, top_p
  std::uint64_t top_k;
  double top_p;

  __device__ token_filter(const sampling_options& options, index_t vocab)
      : some(options.top_k > 0 && options.top_k < vocab),
        share(options.top_p < 1),
        top_k(static_cast<std::uint64_t>(options.top_k)),
        top_p(options.top_p) {}
};

/// Filters all weights, whose total is given; returns the total of those that stay.
__device__ inline std::uint64_t filter_all(std::uint64_t* w, index_t vocab, const token_filter& wanted,
                                           std::uint64_t total, token_room& room) {
  const auto weight = [w](index_t v) { return w[v]; };
  weight_cut kept{1, 0, 0};
  if (wanted.some) {
    kept = find_cut<token_worth::one>(weight, vocab, 1, wanted.top_k, room.worths, room.answer);
    total = sum_stretches(
        vocab, [&](index_t v) { return w[v] < kept.least ? 0 : w[v]; }, room.stretches);
    total -= (kept.equal - kept.ties) * kept.least;
  }
  if (wanted.share) {
    // Weights below (total - need) / vocab together are less than what may go.
    const std::uint64_t need = share_of(total, wanted.top_p);
    const std::uint64_t idle = (total - need) / static_cast<std::uint64_t>(vocab);
    kept = find_cut<token_worth::mass>(weight, vocab, kept.least > idle ? kept.least : idle, need,
                                       room.worths, room.answer);
  }
  return cut_weights(w, vocab, kept, room);
}

/// The same where room.worths holds what the weights of each first digit are worth: tokens, where top_k is
/// asked for, else mass. Whole digits stay or go; of the digit between them the tokens are listed, and with
/// them those that stay where another filter follows.
__device__ inline std::uint64_t filter_weights(std::uint64_t* w, index_t vocab, const token_filter& wanted,
                                               std::uint64_t total, token_room& room) {
  const bool both = wanted.some && wanted.share;
  const std::uint64_t need = wanted.some ? wanted.top_k : share_of(total, wanted.top_p);
  token_list& list = room.list;
  if (threadIdx.x == 0) list.count = 0;
  choose_digit(room.worths, first_digits, 0, need, room.answer);
  const std::uint64_t prefix = first_prefix + room.answer[0], taken = room.answer[1];
  const std::uint64_t least = least_of(prefix, first_shift), beyond = least_of(prefix + 1, first_shift);
  std::uint64_t stays = 0;
  for_each_loaded(
      vocab, [w](index_t v) { return w[v]; },
      [&](index_t v, std::uint64_t weight) {
        if (weight < least) {
          if (weight > 0) w[v] = 0;
        } else if (weight >= beyond && !both) {
          stays += weight;
        } else if (const unsigned place = atomicAdd(&list.count, 1u); place < token_list::room) {
          list.weights[place] = weight, list.ids[place] = static_cast<int>(v);
        }
      });
  stays = sum_of_warps(stays, room.stretches);
  if (list.count > token_list::room) return filter_all(w, vocab, wanted, total, room);

  const unsigned count = list.count;
  const auto weight = [&list](index_t i) { return list.weights[i]; };
  weight_cut kept{least, 0, 0};
  if (wanted.some)
    kept = find_cut<token_worth::one>(weight, count, least, both ? need : need - taken, room.worths,
                                      room.answer);
  std::uint64_t share = need - taken;
  if (both) {
    std::uint64_t sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
      if (list.weights[i] >= kept.least) sum += list.weights[i];
    sum = sum_of_warps(sum, room.stretches) - (kept.equal - kept.ties) * kept.least;
    share = share_of(sum, wanted.top_p);
  }
  if (wanted.share)
    kept = find_cut<token_worth::mass>(weight, count, kept.least, share, room.worths, room.answer);
  std::uint64_t listed = 0;
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
    bool in = list.weights[i] >= kept.least;
    if (kept.ties < kept.equal && list.weights[i] == kept.least) {
      std::uint64_t rank = 0;  // among equals, by their ids
      for (unsigned other = 0; other < count; ++other)
        rank += list.weights[other] == kept.least && list.ids[other] < list.ids[i];
      in = rank < kept.ties;
    }
    if (in)
      listed += list.weights[i];
    else
      w[list.ids[i]] = 0;
  }
  return stays + sum_of_warps(listed, room.stretches);
}

/// The sentences of the CPU.
struct token_distribution_misuse {
  misuse temperature, top_k, top_p, penalty, offset, seen, largest;
};

/// Reports the first thing wrong with what row r is to be; by one thread.
__device__ inline bool options_hold(const sampling_options& options, index_t r,
                                    const token_distribution_misuse& wrong) {
  const auto finite = [](double x) { return x - x == 0; };
  const auto refuse = [r](const misuse& how, double value) {
    how.report(r, __double_as_longlong(value));
    return false;
  };
  if (!(options.temperature >= 0 && finite(options.temperature)))
    return refuse(wrong.temperature, options.temperature);
  if (options.top_k < 0) return wrong.top_k.report(r, options.top_k), false;
  if (!(options.top_p > 0 && options.top_p <= 1)) return refuse(wrong.top_p, options.top_p);
  if (!(options.repetition_penalty > 0 && finite(options.repetition_penalty)))
    return refuse(wrong.penalty, options.repetition_penalty);
  return true;
}
template <class Args>
__device__ bool seen_holds(const Args& args, index_t r, const token_distribution_misuse& wrong) {
  if (args.seen_offsets.empty()) return true;
  const index_t begin = args.seen_offsets(r), end = args.seen_offsets(r + 1), count = args.seen.extent(0);
  if (r == 0 && (begin < 0 || begin > count)) return wrong.offset.report(0, begin, 0, count), false;
  if (begin < 0 || begin > count) return false;  // the row before says so
  if (end < begin || end > count) return wrong.offset.report(r + 1, end, begin, count), false;
  for (index_t i = begin; i < end; ++i)
    if (args.seen(i) < 0 || args.seen(i) >= args.logits.extent(1))
      return wrong.seen.report(i, args.seen(i), args.logits.extent(1)), false;
  return true;
}

/// The weights of a row. Where its options or the tokens it has seen are wrong, nothing is written; where its
/// largest logit is not finite, the total is zero, for report_rows_kernel.
template <class P>
__global__ void __launch_bounds__(32 * weight_warps)
    fill_rows_kernel(typename op::token_distribution<P>::forward_args args, token_distribution_misuse wrong) {
  using acc = accumulator<P>;
  __shared__ token_room room;
  __shared__ bool holds;
  const index_t r = blockIdx.x, vocab = args.logits.extent(1);
  const sampling_options options = args.options(r);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) holds = options_hold(options, r, wrong) && seen_holds(args, r, wrong);
  __syncthreads();
  if (!holds) return;
  const acc* logits = args.logits[r].data();
  std::uint64_t* w = args.weights[r].data();

  // Where tokens were seen, logits stand in place of the weights as the bits of a double until they become
  // them. A token seen twice is penalised once.
  const auto ranked = [&](index_t v) {
    return logits[v] == logits[v] ? static_cast<double>(logits[v]) : -INFINITY;
  };
  const index_t seen_begin = args.seen_offsets.empty() ? 0 : args.seen_offsets(r);
  const index_t seen_end = args.seen_offsets.empty() ? 0 : args.seen_offsets(r + 1);
  const bool stored = seen_begin < seen_end;
  if (stored) {
    for (index_t v = threadIdx.x; v < vocab; v += blockDim.x)
      w[v] = static_cast<std::uint64_t>(__double_as_longlong(ranked(v)));
    __syncthreads();
    for (index_t i = seen_begin + threadIdx.x; i < seen_end; i += blockDim.x) {
      const double l = ranked(args.seen(i));
      const double penalized =
          l > 0 ? l / options.repetition_penalty : __dmul_rn(l, options.repetition_penalty);
      w[args.seen(i)] = static_cast<std::uint64_t>(__double_as_longlong(penalized));
    }
    __syncthreads();
  }
  const auto logit = [&](index_t v) {
    return stored ? __longlong_as_double(static_cast<long long>(w[v])) : ranked(v);
  };

  // The first of the largest.
  double largest = -INFINITY;
  int first = static_cast<int>(vocab);
  const auto keep_larger = [&](double l, int v) {
    if (l > largest || (l == largest && v < first)) largest = l, first = v;
  };
  for_each_loaded(vocab, logit, [&](index_t v, double l) { keep_larger(l, static_cast<int>(v)); });
  for (int step = 16; step > 0; step /= 2)
    keep_larger(__shfl_xor_sync(all_lanes, largest, step), __shfl_xor_sync(all_lanes, first, step));
  if (lane == 0) room.largest[warp] = largest, room.first[warp] = first;
  __syncthreads();
  for (int other = 0; other < weight_warps; ++other) keep_larger(room.largest[other], room.first[other]);
  if (!(largest - largest == 0)) {
    if (threadIdx.x == 0) args.totals(r) = 0;
    return;
  }

  if (options.greedy()) {
    for (index_t v = threadIdx.x; v < vocab; v += blockDim.x) w[v] = v == first ? 1 : 0;
    if (threadIdx.x == 0) args.totals(r) = 1;
    return;
  }
  // What the first digits are worth is counted on the way.
  const token_filter wanted(options, vocab);
  room.worths.clear(first_digits + 1);
  __syncthreads();
  std::uint64_t total = 0;
  for_each_loaded(vocab, logit, [&](index_t v, double l) {
    const double below = __dsub_rn(l, largest);
    const std::uint64_t weight =
        op::token_weight(options.temperature == 1 ? below : __ddiv_rn(below, options.temperature));
    w[v] = weight;
    total += weight;
    if (weight > 0 && (wanted.some || wanted.share)) {
      const auto place = static_cast<unsigned>((digits_of(weight) >> first_shift) - first_prefix);
      wanted.some ? room.worths.add_one(place) : room.worths.add(place, weight);
    }
  });
  total = sum_of_warps(total, room.stretches);
  if (wanted.some || wanted.share) total = filter_weights(w, vocab, wanted, total, room);
  if (threadIdx.x == 0) args.totals(r) = total;
}

/// Reports the first row without a distribution; one warp.
template <class View>
__global__ void report_rows_kernel(View totals, misuse wrong) {
  const index_t rows = totals.extent(0);
  for (index_t first = 0; first < rows; first += 32) {
    const index_t r = first + threadIdx.x;
    const unsigned empty = __ballot_sync(all_lanes, r < rows && totals(r) == 0);
    if (empty == 0) continue;
    if (threadIdx.x == 0) wrong.report(first + __ffs(static_cast<int>(empty)) - 1);
    return;
  }
}

/// A row whose weights do not sum to its total draws token 0.
template <class Args>
__global__ void __launch_bounds__(32 * weight_warps) draw_rows_kernel(Args args, misuse wrong) {
  __shared__ std::uint64_t stretches[weight_warps];
  __shared__ index_t found;
  const index_t r = blockIdx.x, vocab = args.weights.extent(1);
  const std::uint64_t* w = args.weights[r].data();
  const std::uint64_t total = args.totals(r);
  const auto weight = [w](index_t v) { return w[v]; };
  sum_stretches(vocab, weight, stretches);
  const index_t token = first_above(scale_bits(args.bits(r), total), vocab, weight, stretches, &found);
  if (threadIdx.x != 0) return;
  args.tokens(r) = static_cast<std::int32_t>(token < 0 ? 0 : token);
  if (token < 0 || total == 0) wrong.report(r, static_cast<long long>(total));
}

}  // namespace cuda::detail

// ---- launch -----------------------------------------------------------------------------------------------

template <class P>
struct implementation<op::token_distribution<P>, backend::cuda> {
  using op_type = op::token_distribution<P>;
  using forward_args = typename op_type::forward_args;
  using draw_args = typename op_type::draw_args;

  template <class Ctx>
  static void run(Ctx& ctx, const forward_args& args) {
    const auto sentence = [&](const char* text) { return cuda::misuse_of(ctx, text, forward_args::name); };
    const cuda::detail::token_distribution_misuse wrong{
        sentence("row {}, sampling_options: temperature is {f}, expected a finite number of at least 0"),
        sentence("row {}, sampling_options: top_k is {}, expected at least 0"),
        sentence("row {}, sampling_options: top_p is {f}, expected above 0 and at most 1"),
        sentence("row {}, sampling_options: repetition_penalty is {f}, expected a finite number above 0"),
        sentence("seen_offsets[{}] is {}, expected {} to {}"),
        sentence("seen token {} is {}, expected an id below {}"),
        sentence("the largest logit of row {} is infinite or there is none, expected a finite one")};
    const auto rows = static_cast<unsigned>(args.logits.extent(0));
    cuda::launch(forward_args::name, ctx.stream, {.grid = rows, .block = 32 * cuda::weight_warps},
                 cuda::detail::fill_rows_kernel<P>, args, wrong);
    cuda::launch(forward_args::name, ctx.stream, {.block = 32},
                 cuda::detail::report_rows_kernel<view<std::uint64_t, 1>>, args.totals, wrong.largest);
  }

  template <class Ctx>
  static void run(Ctx& ctx, const draw_args& args) {
    const cuda::misuse wrong = cuda::misuse_of(
        ctx, "the weights of row {} do not sum to {}, expected its total, above 0", draw_args::name);
    cuda::launch(draw_args::name, ctx.stream,
                 {.grid = static_cast<unsigned>(args.weights.extent(0)), .block = 32 * cuda::weight_warps},
                 cuda::detail::draw_rows_kernel<draw_args>, args, wrong);
  }
};

}  // namespace dsv3::inline DSV3_ABI
