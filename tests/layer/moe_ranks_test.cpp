// SPDX-License-Identifier: MIT
// Experts shared among ranks compute what one rank with all tokens and all experts computes.
#include "support/layers.hpp"
#include "support/run.hpp"

#include <dsv3/comm/threads.hpp>
#include <dsv3/cpu.hpp>

#include <cstring>
#include <numeric>
#include <vector>

using namespace dsv3;

namespace {

moe_config config(index_t experts, index_t top_k, index_t groups, index_t kept, index_t shared,
                  index_t hidden = 6, index_t inner = 5) {
  return {.router = {.hidden = hidden,
                     .experts = experts,
                     .top_k = top_k,
                     .groups = groups,
                     .kept_groups = kept,
                     .scale = 2.5},
          .inner = inner,
          .shared_experts = shared};
}

struct masked_layout : default_layout {
  using experts = expert_layout::masked;
};
struct aligned_layout : default_layout {
  using experts = expert_layout::contiguous<8>;
};

/// What the layer is asked for.
struct problem {
  moe_config layer;
  std::vector<index_t> lengths;  // of the sequences of all ranks
  index_t ranks = 1;
  expert_exchange_options exchange = {};
  keep kept = keep::everything;
  std::vector<index_t> favourites = {};  // experts that all tokens choose before any other
  bool measured = false;                 // run in no more scratch than measure() asks for
};

/// What comes out: of all tokens, of all experts, and summed over ranks.
struct outcome {
  std::vector<double> y, dx, gate_up, down, centroids, shared_gate_up, shared_down;
  std::vector<std::int64_t> load;
  double balance_loss = 0;

  bool operator==(const outcome&) const = default;
};

void append(std::vector<double>& to, const auto& from) {
  for (const auto& value : from) to.push_back(static_cast<double>(value));
}
template <class T, int Rank>
std::vector<double> numbers(const view<T, Rank>& from) {
  std::vector<double> result;
  for (index_t i = 0; i < from.size(); ++i) result.push_back(static_cast<double>(from.flat()(i)));
  return result;
}
void add(std::vector<double>& to, const std::vector<double>& from) {
  to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

/// A rank's part of the weights, in the form that the precision multiplies.
template <class P>
owned<moe_storage<P>> weights_of(cpu_context<>& ctx, host_memory& memory, moe_tensors<master<P>>& all,
                                 const moe_config& c) {
  owned<moe_storage<P>> own{memory, c};
  const auto part = [&](const view<master<P>, 3>& of_all) {
    return of_all.rows(c.first_expert(), c.first_expert() + c.own_experts()).flat();
  };
  const auto adopt = [&](view<const master<P>, 1> from, auto& to) {
    if constexpr (tilewise<P>)
      adopt_master(ctx, from, stack_of(to), c.recipe);
    else
      adopt_master(ctx, from, to.flat());
  };
  adopt_master<cpu_context<>, master<P>, master<P>>(ctx, all.centroids.flat(), own.centroids.flat());
  adopt(part(all.w_gate_up), own.w_gate_up);
  adopt(part(all.w_down), own.w_down);
  if (c.shared_experts > 0) {
    adopt(all.shared.w_gate_up.flat(), own.shared.w_gate_up);
    adopt(all.shared.w_down.flat(), own.shared.w_down);
  }
  return own;
}

/// The part of rank `rank` of `p`: forward and backward of its sequences.
template <class P, class L>
outcome run_rank(const problem& p, int rank, const any_communicator& comm) {
  moe_config c = p.layer;
  c.expert_ranks = p.ranks, c.expert_rank = rank, c.exchange = p.exchange;
  const moe<P, L> layer{c, comm};
  host_memory memory;
  cpu_context<> ctx{.threads = 1, .scratch = scratch_arena{memory, std::size_t{1} << 26}};
  owned<moe_tensors<master<P>>> all{memory, p.layer};
  support::fill_random(all, 21);
  const auto weights = weights_of<P>(ctx, memory, all, c);

  const index_t share = static_cast<index_t>(p.lengths.size()) / p.ranks, hidden = c.hidden();
  const auto first = p.lengths.begin() + rank * share;
  const std::vector<index_t> lengths(first, first + share);
  const index_t before = std::accumulate(p.lengths.begin(), first, index_t{0});
  const support::packed_batch<P> batch(ctx, memory, rope_config{}, 2, lengths);
  const index_t tokens = batch.tokens(),
                total = std::accumulate(p.lengths.begin(), p.lengths.end(), index_t{0});
  const auto rows_of = [&](std::uint64_t seed) {
    const std::vector<double> drawn = support::random_values(total * hidden, seed);
    std::vector<activation<P>> rows;
    for (index_t i = before * hidden; i < (before + tokens) * hidden; ++i)
      rows.push_back(static_cast<activation<P>>(drawn[static_cast<std::size_t>(i)]));
    return rows;
  };
  auto x = rows_of(1), dy = rows_of(2), y = x, dx = x;
  const auto matrix = [&](auto& rows) { return view{rows.data(), tokens, hidden}; };
  std::vector<master<P>> bias(static_cast<std::size_t>(c.experts()), 0);
  for (const index_t e : p.favourites) bias[static_cast<std::size_t>(e)] = 100;
  std::vector<std::int64_t> load(static_cast<std::size_t>(c.experts()), 0);
  double balance_loss = 0;
  const balance_options balance{.coefficient = 0.37 / static_cast<double>(p.ranks)};

  owned<moe_saved<P>> saved{memory, moe_activation_config{c, layer.exchange().plan_config(tokens),
                                                          batch.sequence().sequences(), p.kept}};
  std::memset(saved.memory().data(), 0xFF, saved.memory().size());
  owned<moe_gradients<P>> gradients{memory, c};
  support::zero_fields(gradients);
  const auto work = [&](auto& any) {
    layer.forward(any, {.x = matrix(x),
                        .weights = weights,
                        .bias = view{bias.data(), bias.size()},
                        .sequence = batch.sequence(),
                        .balance = balance,
                        .y = matrix(y),
                        .balance_loss = view{&balance_loss, 1},
                        .load = view{load.data(), load.size()},
                        .saved = &saved});
    layer.backward(any, {.dy = matrix(dy),
                         .x = matrix(x),
                         .weights = weights,
                         .sequence = batch.sequence(),
                         .balance = balance,
                         .saved = saved,
                         .dx = matrix(dx),
                         .gradients = gradients});
  };
  if (p.measured) ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  work(ctx);

  outcome result;
  append(result.y, y), append(result.dx, dx);
  result.gate_up = numbers(gradients.w_gate_up), result.down = numbers(gradients.w_down);
  result.centroids = numbers(gradients.centroids);
  if (c.shared_experts > 0) {
    result.shared_gate_up = numbers(gradients.shared.w_gate_up);
    result.shared_down = numbers(gradients.shared.w_down);
  }
  result.load = load, result.balance_loss = balance_loss;
  return result;
}

template <class P, class L = compact_layout>
outcome run(const problem& p) {
  std::vector<outcome> parts(static_cast<std::size_t>(p.ranks));
  if (p.ranks == 1)
    parts[0] = run_rank<P, L>(p, 0, {});
  else
    thread_ranks{static_cast<int>(p.ranks)}.run([&](const any_communicator& comm) {
      parts[static_cast<std::size_t>(comm.rank())] = run_rank<P, L>(p, comm.rank(), comm);
    });
  outcome all;
  all.load.assign(parts[0].load.size(), 0);
  for (const outcome& part : parts) {
    append(all.y, part.y), append(all.dx, part.dx);
    append(all.gate_up, part.gate_up), append(all.down, part.down);
    add(all.centroids, part.centroids);
    add(all.shared_gate_up, part.shared_gate_up), add(all.shared_down, part.shared_down);
    for (std::size_t e = 0; e < all.load.size(); ++e) all.load[e] += part.load[e];
    all.balance_loss += part.balance_loss;
  }
  return all;
}

/// The worst relative error over rows of all that comes out.
double distance(const outcome& found, const outcome& expected, const moe_config& c) {
  const auto floor = [](const std::vector<double>& of) {
    double largest = 0;
    for (const double v : of) largest = std::max(largest, std::fabs(v));
    return std::max(1e-2 * largest, 1e-30);
  };
  double worst = 0;
  const auto compare = [&](const std::vector<double>& a, const std::vector<double>& b, index_t width) {
    worst = std::max(worst, support::worst_row(a, b, width, floor(b)));
  };
  compare(found.y, expected.y, c.hidden()), compare(found.dx, expected.dx, c.hidden());
  compare(found.gate_up, expected.gate_up, c.hidden()), compare(found.down, expected.down, c.inner);
  compare(found.centroids, expected.centroids, c.hidden());
  compare(found.shared_gate_up, expected.shared_gate_up, c.hidden());
  compare(found.shared_down, expected.shared_down, c.shared().inner);
  compare({found.balance_loss}, {expected.balance_loss}, 1);
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("any number of ranks computes what one rank does", L, compact_layout, aligned_layout,
                   masked_layout) {
  using P = fp64_reference;
  struct layout {
    moe_config layer;
    std::vector<index_t> lengths, ranks;
  };
  for (const layout& each : std::vector<layout>{{config(8, 2, 4, 2, 1), {4, 4, 4, 4, 4, 4, 4, 4}, {2, 4, 8}},
                                                {config(6, 3, 1, 1, 0), {2, 2, 2, 2, 2, 2}, {2, 3, 6}},
                                                {config(16, 6, 4, 2, 2), {3, 5, 1, 7, 2, 6, 4, 4}, {4}},
                                                {config(4, 4, 1, 1, 1), {9, 9}, {2}}}) {
    const outcome one = run<P, L>({.layer = each.layer, .lengths = each.lengths});
    for (const index_t ranks : each.ranks) {
      CAPTURE(each.layer.experts());
      CAPTURE(ranks);
      problem p{.layer = each.layer, .lengths = each.lengths, .ranks = ranks};
      const outcome many = run<P, L>(p);
      CHECK(distance(many, one, p.layer) < 1e-12);
      CHECK(many.load == one.load);
      // An expert's rows stand in the same order, so its gradients are the same sums.
      CHECK(many.gate_up == one.gate_up);
      CHECK(many.down == one.down);
      // What travels, and what is kept, changes no bit.
      p.exchange.rows = exchanged_rows::padded;
      CHECK(run<P, L>(p) == many);
      p.kept = keep::attention, p.measured = true;
      CHECK(run<P, L>(p) == many);
      p.exchange.rows = exchanged_rows::counted;
      CHECK(run<P, L>(p) == many);
    }
  }
}

TEST_CASE("uneven choices: one expert for all, one rank's experts for all, none for a rank") {
  using P = fp64_reference;
  for (const std::vector<index_t>& favourites :
       std::vector<std::vector<index_t>>{{5, 0}, {4, 5}, {0, 1}, {7, 2}}) {
    problem p{.layer = config(8, 2, 1, 1, 1), .lengths = {5, 5, 5, 5}, .favourites = favourites};
    const outcome one = run<P>(p);
    for (const index_t e : favourites) CHECK(one.load[static_cast<std::size_t>(e)] == 20);
    for (const index_t ranks : {2, 4}) {
      p.ranks = ranks;
      const outcome many = run<P>(p);
      CHECK(distance(many, one, p.layer) < 1e-12);
      CHECK(many.load == one.load);
      p.exchange.rows = exchanged_rows::padded;
      CHECK(run<P, masked_layout>(p).dx.size() == many.dx.size());
      CHECK(run<P>(p) == many);
      p.exchange = {};
    }
  }
}

TEST_CASE("no tokens") {
  problem p{.layer = config(8, 2, 4, 2, 1), .lengths = {0, 0}, .ranks = 2};
  const outcome found = run<fp64_reference>(p);
  CHECK(found.y.empty());
  for (const auto& gradient : {found.gate_up, found.down, found.centroids, found.shared_down})
    for (const double g : gradient) CHECK(g == 0);
  CHECK(found.gate_up.size() == 8 * 10 * 6);
}

TEST_CASE_TEMPLATE("narrower precisions agree within their rounding", P, fp32, bf16_mixed) {
  const problem one{.layer = config(8, 2, 4, 2, 1, 40, 24), .lengths = {9, 9, 9, 9}};
  problem many = one;
  many.ranks = 4;
  CHECK(distance(run<P>(many), run<P>(one), one.layer) < support::tolerance<P>::row);
}

TEST_CASE("rows that travel in 8 bits are the rows that one rank's experts read") {
  using P = fp8_tilewise;
  problem one{.layer = config(8, 2, 4, 2, 1, 256, 128), .lengths = {9, 7, 8, 8}};
  for (const gradient_format format : {gradient_format::e4m3, gradient_format::e5m2}) {
    one.layer.recipe.gradient = format;
    problem many = one;
    many.ranks = 2;
    const outcome narrow = run<P, default_layout>(many);
    outcome expected = run<P, default_layout>(one);
    CHECK(narrow.gate_up == expected.gate_up);
    CHECK(narrow.down == expected.down);
    // The shared expert's gradients come from tiles of 128 tokens of one rank: other tiles, other rounding.
    expected.shared_gate_up = narrow.shared_gate_up, expected.shared_down = narrow.shared_down;
    CHECK(distance(narrow, expected, one.layer) < support::tolerance<bf16_mixed>::row);
    many.exchange.rows = exchanged_rows::padded;
    many.measured = true;
    CHECK(run<P, default_layout>(many) == narrow);
    many.exchange.format = exchanged_format::wide;
    CHECK(run<P, default_layout>(many) == narrow);
    many.kept = keep::attention;
    CHECK(run<P, default_layout>(many) == narrow);
  }
}

TEST_CASE("limited room is enough for balanced experts, and refused when it is not") {
  using P = fp64_reference;
  problem p{.layer = config(8, 2, 4, 2, 1), .lengths = {40, 40}, .ranks = 2};
  const outcome unlimited = run<P>(p);
  p.exchange.capacity_factor = 1.5;
  CHECK(run<P>(p) == unlimited);
  CHECK(run<P, aligned_layout>(p).y == unlimited.y);
  p.favourites = {0, 1};
  CHECK(support::raised([&] { run<P>(p); }) ==
        "permute.plan: the experts are given 160 rows, padding included, there is room for 120");
  p.exchange.capacity_factor = 2;  // all that two ranks can send
  CHECK(run<P>(p).load[0] == 80);
}

TEST_CASE("ranks that do not fit") {
  problem p{.layer = config(8, 2, 4, 2, 1), .lengths = {4, 4}, .ranks = 2};
  CHECK(support::raised([&] { run_rank<fp64_reference, compact_layout>(p, 0, {}); }) ==
        "expert_dispatch: the experts are shared by 2 ranks, the communicator has 1");
  p.lengths = {4, 5};  // ranks have as many tokens each
  CHECK(support::raised([&] { run<fp64_reference>(p); }).find("in exchange, which sends") !=
        std::string::npos);
}
