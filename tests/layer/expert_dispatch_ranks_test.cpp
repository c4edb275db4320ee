// SPDX-License-Identifier: MIT
// What travels between ranks that share experts, in which order it arrives, and how it comes back.
#include <dsv3/comm/threads.hpp>
#include <dsv3/cpu.hpp>

#include <support/exchange_only.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

using namespace dsv3;

namespace {

constexpr index_t tokens = 30, width = 300, experts = 16, top_k = 5;

/// Counts the bytes that go to other ranks.
class counting final : public support::exchange_only {
 public:
  counting(const any_communicator& ranks, std::size_t& bytes) : ranks_(ranks), bytes_(bytes) {}
  const char* name() const override { return "counting"; }
  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  void exchange(void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const override {
    for (const outgoing_message& m : out)
      if (m.peer != rank()) bytes_ += m.bytes;
    ranks_.engine()->exchange(stream, out, in);
  }

 private:
  any_communicator ranks_;
  std::size_t& bytes_;
};

/// Distinct experts of each token of a rank, fewer and fewer of the later ones.
std::vector<std::int32_t> choice(int rank) {
  const random_stream random(20260301, static_cast<std::uint64_t>(rank));
  std::vector<std::int32_t> ids;
  std::uint64_t draw = 0;
  for (index_t t = 0; t < tokens; ++t) {
    std::set<std::int32_t> own;
    while (static_cast<index_t>(own.size()) < top_k) {
      const auto e =
          static_cast<std::int32_t>(std::min(random.below(experts, draw), random.below(experts, draw + 1)));
      draw += 2;
      if (own.insert(e).second) ids.push_back(e);
    }
  }
  return ids;
}

/// One rank's tokens, brought to their experts.
template <class P, class L = compact_layout>
struct rank_run {
  expert_dispatch<P, L> exchange;
  int rank;
  host_memory memory;
  cpu_context<> ctx{.threads = 1, .scratch = scratch_arena{memory, std::size_t{1} << 24}};
  std::vector<std::int32_t> ids;
  std::vector<accumulator<P>> gates;
  std::vector<activation<P>> x;
  owned<rank_plan> to;
  owned<permutation> plan;
  std::vector<accumulator<P>> row_gates;

  rank_run(const any_communicator& among, expert_exchange_options options)
      : exchange{experts, top_k, among.size(), options, among},
        rank(among.rank()),
        ids(choice(rank)),
        to(memory, rank_plan::config_of(tokens, top_k, among.size())),
        plan(memory, exchange.plan_config(tokens)),
        row_gates(static_cast<std::size_t>(rows())) {
    for (index_t i = 0; i < tokens * top_k; ++i)
      gates.push_back(accumulator<P>(1000 * rank + static_cast<int>(i)));
    for (index_t i = 0; i < tokens * width; ++i)
      x.push_back(activation<P>(static_cast<float>(rank * tokens + i / width + i % width)));
    exchange.plan(ctx, view{ids.data(), tokens, top_k}, view{gates.data(), tokens, top_k}, to, plan,
                  view{row_gates.data(), row_gates.size()});
  }
  index_t rows() const { return plan.config.row_capacity(); }
  view<activation<P>, 2> matrix(std::vector<activation<P>>& of) const {
    return view{of.data(), static_cast<index_t>(of.size()) / width, width};
  }
};

}  // namespace

TEST_CASE("rows arrive once, in the order of ranks and tokens, and with their gates") {
  using P = fp64_reference;
  for (const exchanged_rows rows : {exchanged_rows::counted, exchanged_rows::padded})
    for (const int ranks : {2, 4, 8, 16}) {
      CAPTURE(ranks);
      std::vector<index_t> wrong(static_cast<std::size_t>(ranks), 0);
      thread_ranks{ranks}.run([&](const any_communicator& comm) {
        rank_run<P> r(comm, {.rows = rows});
        std::vector<double> found(static_cast<std::size_t>(r.rows() * width), NAN);
        r.exchange.place(r.ctx, r.exchange.send(r.ctx, r.matrix(r.x), r.to, {}), r.plan, r.matrix(found), {});
        index_t& bad = wrong[static_cast<std::size_t>(comm.rank())];
        const index_t per_rank = experts / ranks;
        for (index_t e = 0; e < per_rank; ++e) {
          index_t row = r.plan.offsets(e);
          for (int source = 0; source < ranks; ++source) {
            const auto ids = choice(source);
            for (index_t slot = 0; slot < tokens * top_k; ++slot) {
              if (ids[static_cast<std::size_t>(slot)] != comm.rank() * per_rank + e) continue;
              const auto at = static_cast<std::size_t>(row);
              const double expected = static_cast<double>(source * tokens + slot / top_k);
              bad += r.row_gates[at] != static_cast<double>(1000 * source + slot);
              for (index_t i = 0; i < width; ++i)
                bad += found[at * width + static_cast<std::size_t>(i)] != expected + static_cast<double>(i);
              ++row;
            }
          }
          bad += row != r.plan.offsets(e) + r.plan.counts(e);
        }
      });
      CHECK(wrong == std::vector<index_t>(static_cast<std::size_t>(ranks), 0));
    }
}

TEST_CASE("experts that do nothing give every token back as often as it has experts, and its gates") {
  using P = fp64_reference;
  for (const exchanged_rows rows : {exchanged_rows::counted, exchanged_rows::padded}) {
    std::vector<double> worst(4, 1);
    std::vector<int> same_gates(4, 0);
    thread_ranks{4}.run([&](const any_communicator& comm) {
      rank_run<P, default_layout> r(comm, {.rows = rows});
      std::vector<double> found(static_cast<std::size_t>(r.rows() * width), NAN), y(r.x.size(), 7.0);
      const std::vector<double> add = y;
      r.exchange.place(r.ctx, r.exchange.send_gradient(r.ctx, r.matrix(r.x), r.to, {}), r.plan,
                       r.matrix(found), {});
      r.exchange.combine(r.ctx, r.matrix(found), r.to, r.plan, r.matrix(y), r.matrix(y));
      double error = 0;
      for (std::size_t i = 0; i < y.size(); ++i)
        error = std::max(error, std::fabs(y[i] - add[i] - double(top_k) * r.x[i]) / (1 + r.x[i]));
      worst[static_cast<std::size_t>(comm.rank())] = error;
      std::vector<double> gates(r.gates.size(), NAN);
      r.exchange.combine_gates(r.ctx, view{r.row_gates.data(), r.row_gates.size()},
                               view{r.ids.data(), tokens, top_k}, r.to, r.plan,
                               view{gates.data(), tokens, top_k});
      same_gates[static_cast<std::size_t>(comm.rank())] = gates == r.gates;
    });
    for (const double w : worst) CHECK(w < 1e-14);
    CHECK(same_gates == std::vector<int>(4, 1));
  }
}

TEST_CASE("a token travels once to each rank, in 8 bits where products multiply 8 bits") {
  // Of other ranks, how many each token of rank `rank` reaches.
  const auto copies = [](int rank, int ranks) {
    const auto ids = choice(rank);
    std::size_t count = 0;
    for (index_t t = 0; t < tokens; ++t) {
      std::set<index_t> reached;
      for (index_t k = 0; k < top_k; ++k)
        reached.insert(ids[static_cast<std::size_t>(t * top_k + k)] / (experts / ranks));
      count += reached.size() - reached.count(rank);
    }
    return count;
  };
  const auto sent = [&]<class P>(P, int ranks, expert_exchange_options options, bool labels_only = false) {
    std::vector<std::size_t> bytes(static_cast<std::size_t>(ranks), 0);
    thread_ranks{ranks}.run([&](const any_communicator& comm) {
      const any_communicator counted{
          std::make_shared<counting>(comm, bytes[static_cast<std::size_t>(comm.rank())])};
      rank_run<P> r(counted, options);
      if (!labels_only) r.exchange.send(r.ctx, r.matrix(r.x), r.to, {}).pending.finish(r.ctx);
    });
    return bytes;
  };
  for (const int ranks : {2, 4, 8}) {
    const index_t slots = std::min(top_k, experts / ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      CAPTURE(ranks);
      const auto at = static_cast<std::size_t>(rank);
      // A count, and an expert and a gate for every place of every row that might come.
      const std::size_t labels =
          static_cast<std::size_t>(ranks - 1) * static_cast<std::size_t>(4 + tokens * slots * (4 + 4));
      CHECK(sent(bf16_mixed{}, ranks, {}, true)[at] == labels);
      CHECK(sent(bf16_mixed{}, ranks, {})[at] == labels + copies(rank, ranks) * 2 * width);
      CHECK(sent(fp8_tilewise{}, ranks, {})[at] == labels + copies(rank, ranks) * (width + 4 * 3));
      CHECK(sent(fp8_tilewise{}, ranks, {.format = exchanged_format::wide})[at] ==
            labels + copies(rank, ranks) * 2 * width);
      CHECK(sent(fp8_tilewise{}, ranks, {.rows = exchanged_rows::padded})[at] ==
            labels + static_cast<std::size_t>((ranks - 1) * tokens * (width + 4 * 3)));
    }
  }
}
