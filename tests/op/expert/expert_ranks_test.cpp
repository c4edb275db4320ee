// SPDX-License-Identifier: MIT
#include <dsv3/cpu/expert/expert_ranks.hpp>
#include <dsv3/cpu/expert/permute.hpp>

#include <dsv3/exec/random.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct problem {
  index_t tokens, top_k, experts, ranks;
};

constexpr problem named[] = {{0, 2, 8, 4},   {1, 1, 1, 1},   {7, 3, 8, 1},    {9, 4, 8, 8},
                             {33, 2, 16, 4}, {50, 8, 64, 8}, {40, 6, 12, 2},  {300, 8, 256, 64},
                             {21, 5, 6, 6},  {6, 6, 6, 3},   {5000, 4, 32, 4}};

/// Distinct experts for each token, at random.
std::vector<int> choose(const problem& p) {
  const random_stream random(20260201, static_cast<std::uint64_t>(p.tokens * 100 + p.ranks));
  std::vector<int> ids;
  std::uint64_t draw = 0;
  for (index_t t = 0; t < p.tokens; ++t) {
    std::set<int> own;
    while (static_cast<index_t>(own.size()) < p.top_k) {
      const int e = static_cast<int>(random.below(static_cast<std::uint64_t>(p.experts), draw++));
      if (own.insert(e).second) ids.push_back(e);
    }
  }
  return ids;
}

template <class P>
struct fixture {
  problem p;
  index_t per_rank, copies, slots;
  permutation_config config;
  guarded<std::int32_t> ids, chosen, row_of, row_experts;
  guarded<std::int32_t, 1> offsets, counts, token_of;
  guarded<accumulator<P>> gates, row_gates, back;

  explicit fixture(const problem& given, index_t gap = 2)
      : p(given),
        per_rank(p.experts / p.ranks),
        copies(std::min(p.top_k, p.ranks)),
        slots(std::min(p.top_k, per_rank)),
        config{.tokens = p.tokens, .top_k = copies, .experts = p.ranks, .alignment = 1, .masked = true},
        ids(gap, p.tokens, p.top_k),
        chosen(gap + 1, p.tokens, copies),
        row_of(gap, p.tokens, copies),
        row_experts(gap, p.ranks * p.tokens, slots),
        offsets(0, p.ranks + 1),
        counts(0, p.ranks),
        token_of(0, p.ranks * p.tokens),
        gates(gap, p.tokens, p.top_k),
        row_gates(gap + 2, p.ranks * p.tokens, slots),
        back(gap, p.tokens, p.top_k) {
    const std::vector<int> own = choose(p);
    ids.fill([&](index_t i) { return own[static_cast<std::size_t>(i)]; });
    gates.normal(3);
  }
  permutation sent() { return {config, offsets, counts, row_of, token_of}; }
  void run(int threads) {
    support::run(threads, [&](auto& ctx) {
      op::expert_ranks<P>::choose(ctx,
                                  {.ids = ids, .experts = p.experts, .ranks = p.ranks, .chosen = chosen});
      op::permute<P>::plan(ctx, {.ids = chosen, .plan = sent()});
      op::expert_ranks<P>::label(ctx, {.ids = ids,
                                       .gates = gates,
                                       .sent = sent(),
                                       .per_rank = per_rank,
                                       .row_experts = row_experts,
                                       .row_gates = row_gates});
      op::expert_ranks<P>::collect(
          ctx, {.row_gates = row_gates, .ids = ids, .sent = sent(), .per_rank = per_rank, .gates = back});
    });
  }
  bool intact() {
    return ids.intact() && chosen.intact() && row_of.intact() && row_experts.intact() && offsets.intact() &&
           counts.intact() && token_of.intact() && gates.intact() && row_gates.intact() && back.intact();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a token goes once to each rank of its experts, with their numbers and gates", P,
                   fp64_reference, bf16_mixed) {
  for (const problem& p : named)
    for (const int threads : {1, 3}) {
      CAPTURE(p.tokens);
      CAPTURE(p.ranks);
      fixture<P> f(p);
      f.run(threads);
      CHECK(f.intact());
      CHECK(f.back.values() == f.gates.values());
      index_t wrong = 0, sent = 0;
      for (index_t t = 0; t < p.tokens; ++t) {
        std::set<index_t> ranks;
        for (index_t k = 0; k < p.top_k; ++k) ranks.insert(f.ids.get()(t, k) / f.per_rank);
        index_t j = 0;
        for (const index_t rank : ranks) {
          wrong += f.chosen.get()(t, j) != rank;
          const index_t row = f.row_of.get()(t, j++);
          wrong += row / p.tokens != rank || f.token_of.get()(row) != t;
          index_t n = 0;
          for (index_t k = 0; k < p.top_k; ++k)
            if (const index_t e = f.ids.get()(t, k); e / f.per_rank == rank) {
              wrong += f.row_experts.get()(row, n) != e - rank * f.per_rank;
              wrong += f.row_gates.get()(row, n) != f.gates.get()(t, k);
              ++n;
            }
          for (; n < f.slots; ++n) wrong += f.row_experts.get()(row, n) != -1;
        }
        sent += j;
        for (; j < f.copies; ++j) wrong += f.chosen.get()(t, j) != -1 || f.row_of.get()(t, j) != -1;
      }
      index_t live = 0;
      for (index_t row = 0; row < p.ranks * p.tokens; ++row) {
        live += f.token_of.get()(row) >= 0;
        for (index_t n = 0; n < f.slots; ++n) {
          const bool none = f.row_experts.get()(row, n) == -1;
          wrong += f.token_of.get()(row) < 0 && !none;
          wrong += none && f.row_gates.get()(row, n) != 0;
        }
      }
      CHECK(live == sent);
      CHECK(wrong == 0);
    }
}

TEST_CASE("groups of experts on nodes bound the nodes that a token reaches") {
  // 8 groups of 4 experts, of which a token uses 3; 16 ranks, two to a node, so that a node is a group.
  constexpr index_t groups = 8, kept = 3, top_k = 6, ranks = 16, ranks_of_node = 2;
  fixture<fp32> f({400, top_k, 32, ranks});
  const random_stream random(20260202, 1);
  for (index_t t = 0; t < 400; ++t) {
    const auto first = static_cast<index_t>(random.below(groups, static_cast<std::uint64_t>(t)));
    for (index_t k = 0; k < top_k; ++k)
      f.ids.get()(t, k) = static_cast<std::int32_t>((first + 3 * (k % kept)) % groups * 4 + (k + t) % 4);
  }
  f.run(2);
  std::vector<index_t> nodes_of_tokens(8, 0);
  for (index_t t = 0; t < 400; ++t) {
    std::set<index_t> nodes;
    for (index_t j = 0; j < f.copies; ++j)
      if (const index_t rank = f.chosen.get()(t, j); rank >= 0) nodes.insert(rank / ranks_of_node);
    ++nodes_of_tokens[nodes.size()];
  }
  CHECK(nodes_of_tokens[kept] == 400);
}

TEST_CASE("bad choices are refused") {
  const auto refusal = [](index_t token, index_t slot, std::int32_t expert) {
    fixture<fp32> f({9, 4, 8, 2});
    f.ids.get()(token, slot) = expert;
    const std::string sentence = support::raised([&] { f.run(1); });
    CHECK(f.intact());
    return sentence;
  };
  CHECK(refusal(3, 1, 8) == "expert_ranks.choose: token 3, slot 1 has expert 8, expected 0 to 7");
  CHECK(refusal(8, 3, -1) == "expert_ranks.choose: token 8, slot 3 has expert -1, expected 0 to 7");

  fixture<fp32> f({9, 4, 8, 4});  // two experts to a rank
  for (index_t k = 0; k < 4; ++k) f.ids.get()(5, k) = 3;
  CHECK(support::raised([&] { f.run(1); }) == "expert_ranks.label: token 5 chooses an expert twice");
  CHECK(f.intact());
}

TEST_CASE("expert_ranks says what does not fit") {
  using op_type = op::expert_ranks<fp32>;
  fixture<fp32> f({9, 4, 8, 2}), other({9, 3, 8, 2});
  typename op_type::choose_args choose{.ids = f.ids, .experts = 8, .ranks = 2, .chosen = f.chosen};
  CHECK(choose.check().message() == "");
  choose.ranks = 3;
  CHECK(choose.check().message() ==
        "expert_ranks.choose: the ranks must divide the experts, found experts 8, ranks 3");
  choose.ranks = 4;
  CHECK(choose.check().message() ==
        "expert_ranks.choose: chosen has 2 columns, the smaller of top_k and ranks has 4");
  typename op_type::label_args label{.ids = f.ids,
                                     .gates = f.gates,
                                     .sent = f.sent(),
                                     .per_rank = 4,
                                     .row_experts = f.row_experts,
                                     .row_gates = f.row_gates};
  CHECK(label.check().message() == "");
  label.gates = other.gates;
  CHECK(label.check().message() == "expert_ranks.label: gates has 3 columns, ids has 4");
  label.sent.config.masked = false;
  CHECK(label.check().message() == "expert_ranks.label: the plan of ranks must have the masked layout");
  typename op_type::collect_args collect{
      .row_gates = f.row_gates, .ids = f.ids, .sent = f.sent(), .per_rank = 4, .gates = f.back};
  CHECK(collect.check().message() == "");
  collect.per_rank = 2;
  CHECK(collect.check().message() ==
        "expert_ranks.collect: a label has 4 columns, the smaller of top_k and the experts of a rank has "
        "2");
}
