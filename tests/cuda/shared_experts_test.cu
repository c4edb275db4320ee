// SPDX-License-Identifier: MIT
// Experts shared among ranks on one GPU, whose peers are mirrors: what goes to a rank comes back as if it had
// come from there. So this rank's experts stand for those of all ranks, and the layer must compute what one
// rank does whose experts repeat these; and a graph can record it.
#include <dsv3/cuda/expert/expert_ranks.cuh>
#include <dsv3/cuda/expert/permute.cuh>
#include <dsv3/cuda/expert/swiglu.cuh>
#include <dsv3/cuda/host/recorded_work.cuh>
#include <dsv3/cuda/linear/gemm.cuh>
#include <dsv3/cuda/linear/grouped_gemm.cuh>
#include <dsv3/cuda/linear/scaled_gemm.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>
#include <dsv3/cuda/memory/copy.cuh>
#include <dsv3/cuda/memory/fill.cuh>
#include <dsv3/cuda/quant/dispatch_quantizer.cuh>
#include <dsv3/cuda/quant/stored_rows.cuh>
#include <dsv3/cuda/quant/stored_swiglu.cuh>
#include <dsv3/cuda/quant/swiglu_quantizer.cuh>
#include <dsv3/cuda/quant/tile_quantizer.cuh>
#include <dsv3/cuda/quant/transposing_quantizer.cuh>
#include <dsv3/cuda/routing/balance.cuh>
#include <dsv3/cuda/routing/router.cuh>

#include <support/exchange_only.hpp>
#include <support/layers.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

constexpr index_t tokens = 256, hidden = 256, inner = 128, experts = 8, top_k = 3, ranks = 4;

class mirrors final : public support::exchange_only {
 public:
  const char* name() const override { return "mirrors"; }
  int rank() const override { return 0; }
  int size() const override { return ranks; }
  bool on_device() const override { return true; }
  void exchange(void* stream, std::span<const outgoing_message> out,
                std::span<const incoming_message> in) const override {
    REQUIRE(out.size() == in.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      REQUIRE(out[i].peer == in[i].peer);
      REQUIRE(out[i].bytes == in[i].bytes);
      dsv3::cuda::require(cudaMemcpyAsync(in[i].data, out[i].data, out[i].bytes, cudaMemcpyDeviceToDevice,
                                          static_cast<cudaStream_t>(stream)),
                          name());
    }
  }
};

/// What host and GPU reach: what `new` gives out in this program.
class reachable_memory final : public memory_resource {
  void* obtain(std::size_t bytes) override { return ::operator new(bytes); }
  void give_back(void* block, std::size_t) noexcept override { ::operator delete(block); }
};

template <class T>
std::vector<double> numbers(const T* from, index_t count) {
  return {from, from + count};
}

template <class P>
struct layer_run {
  reachable_memory memory;
  dsv3::cuda::device gpu;
  cudaStream_t stream = nullptr;
  moe_config config;
  moe<P> layer;
  owned<moe_storage<P>> weights;
  owned<moe_gradients<P>> gradients;
  std::vector<master<P>> bias;
  std::vector<activation<P>> x, dy, y, dx;
  std::vector<std::int32_t> offsets{0, static_cast<std::int32_t>(tokens)};
  cuda_context<> ctx;

  // On `among` ranks, of which this is the first.
  layer_run(index_t among, expert_exchange_options exchange = {})
      : config{.router = {.hidden = hidden, .experts = experts, .top_k = top_k, .scale = 2.5},
               .inner = inner,
               .shared_experts = 1,
               .expert_ranks = among,
               .exchange = exchange},
        layer{config, among > 1 ? any_communicator{std::make_shared<mirrors>()} : any_communicator{}},
        weights(memory, config),
        gradients(memory, config),
        bias(experts, 0) {
    dsv3::cuda::require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    ctx.stream = stream;
    state_of<backend::cuda>(ctx.state).device = &gpu;
    ctx.scratch = scratch_arena{memory, std::size_t{1} << 28};

    moe_config part = config;
    part.expert_ranks = ranks;
    owned<moe_tensors<master<P>>> some{memory, part}, all{memory, config};
    support::fill_random(some, 21);
    const auto repeat = [](const auto& from, const auto& to) {
      for (index_t i = 0; i < to.size(); ++i) to.data()[i] = from.data()[i % from.size()];
    };
    repeat(some.centroids, all.centroids), repeat(some.w_gate_up, all.w_gate_up);
    repeat(some.w_down, all.w_down), repeat(some.shared.w_gate_up, all.shared.w_gate_up);
    repeat(some.shared.w_down, all.shared.w_down);
    const auto adopt = [&](const auto& from, auto& to) {
      if constexpr (tilewise<P>)
        adopt_master<cuda_context<>, master<P>>(ctx, from.flat(), stack_of(to), config.recipe);
      else
        adopt_master<cuda_context<>, master<P>, weight<P>>(ctx, from.flat(), to.flat());
    };
    adopt_master<cuda_context<>, master<P>, master<P>>(ctx, all.centroids.flat(), weights.centroids.flat());
    adopt(all.w_gate_up, weights.w_gate_up), adopt(all.w_down, weights.w_down);
    adopt(all.shared.w_gate_up, weights.shared.w_gate_up), adopt(all.shared.w_down, weights.shared.w_down);
    synchronize(ctx);
    for (const double v : support::random_values(tokens * hidden, 1)) x.push_back(activation<P>(float(v)));
    for (const double v : support::random_values(tokens * hidden, 2)) dy.push_back(activation<P>(float(v)));
    y = x, dx = x;
  }
  ~layer_run() {
    ctx.scratch = {};
    (void)cudaStreamDestroy(stream);
  }

  template <class Ctx>
  void work(Ctx& any, moe_saved<P>& saved) {
    const auto rows = [](auto& of) { return view{of.data(), tokens, hidden}; };
    const packed_sequences sequence{
        .offsets = view{offsets.data(), offsets.size()}, .positions = {}, .max_length = tokens};
    layer.forward(any, {.x = rows(x),
                        .weights = weights,
                        .bias = view{bias.data(), bias.size()},
                        .sequence = sequence,
                        .balance = {},
                        .y = rows(y),
                        .balance_loss = {},
                        .saved = &saved});
    layer.backward(any, {.dy = rows(dy),
                         .x = rows(x),
                         .weights = weights,
                         .sequence = sequence,
                         .balance = {},
                         .saved = saved,
                         .dx = rows(dx),
                         .gradients = gradients,
                         .into = store::write});
  }
  owned<moe_saved<P>> room(keep kept) {
    return {memory, moe_activation_config{config, layer.exchange().plan_config(tokens), 1, kept}};
  }
  std::vector<std::vector<double>> outcome() {
    synchronize(ctx);
    return {numbers(y.data(), tokens * hidden),
            numbers(dx.data(), tokens * hidden),
            numbers(gradients.centroids.data(), gradients.centroids.size()),
            numbers(gradients.shared.w_down.data(), gradients.shared.w_down.size()),
            numbers(gradients.w_gate_up.data(), gradients.w_gate_up.size()),
            numbers(gradients.w_down.data(), gradients.w_down.size())};
  }
};

double distance(const std::vector<double>& found, const std::vector<double>& expected, index_t width) {
  double largest = 0;
  for (const double v : expected) largest = std::max(largest, std::fabs(v));
  return support::worst_row(found, expected, width, 0.1 * largest);
}

// The sums of an expert's repetitions.
std::vector<double> folded(const std::vector<double>& all) {
  std::vector<double> sums(all.size() / ranks, 0);
  for (std::size_t i = 0; i < all.size(); ++i) sums[i % sums.size()] += all[i];
  return sums;
}

}  // namespace

TEST_CASE_TEMPLATE("experts behind an exchange are the experts of one rank", P, bf16_mixed, fp8_tilewise) {
  layer_run<P> one(1);
  auto saved = one.room(keep::everything);
  one.work(one.ctx, saved);
  const auto expected = one.outcome();
  for (const exchanged_format format : {exchanged_format::narrow, exchanged_format::wide}) {
    layer_run<P> many(ranks, {.format = format});
    auto kept = many.room(keep::everything);
    many.work(many.ctx, kept);
    const auto found = many.outcome();
    const double tolerance = support::tolerance<bf16_mixed>::row;
    CHECK(distance(found[0], expected[0], hidden) < tolerance);
    CHECK(distance(found[1], expected[1], hidden) < tolerance);
    CHECK(distance(found[2], expected[2], hidden) < tolerance);
    CHECK(found[3] == expected[3]);
    // In 8 bits, an expert's rows are cut into other tiles than those of its repetitions.
    const double sums = tilewise<P> ? 0.1 : tolerance;
    CHECK(distance(found[4], folded(expected[4]), hidden) < sums);
    CHECK(distance(found[5], folded(expected[5]), inner) < sums);
  }
}

TEST_CASE_TEMPLATE("a layer with an exchange is recorded as a graph, with no more scratch than measured", P,
                   bf16_mixed, fp8_tilewise) {
  layer_run<P> many(ranks);
  for (const keep kept : {keep::everything, keep::attention}) {
    auto saved = many.room(kept);
    many.ctx.scratch =
        scratch_arena{many.memory, measure(many.ctx, [&](auto& probe) { many.work(probe, saved); })};
    dsv3::cuda::recorded_work execute;
    std::vector<std::vector<double>> first;
    for (int round = 0; round < 4; ++round) {
      std::fill(many.y.begin(), many.y.end(), activation<P>(NAN));
      std::fill(many.dx.begin(), many.dx.end(), activation<P>(NAN));
      execute(many.ctx, {1.0}, [&](auto& ctx) { many.work(ctx, saved); });
      const auto found = many.outcome();
      if (round == 0)
        first = found;
      else
        CHECK(found == first);
    }
    for (const double v : first[0]) REQUIRE(std::isfinite(v));
  }
}

TEST_CASE("experts without room end in a report, and in numbers that are none") {
  using P = bf16_mixed;
  const auto run = [](double factor, std::vector<bf16>& y) {
    layer_run<P> many(ranks, {.capacity_factor = factor});
    for (const index_t e : {0, 2, 4})
      many.bias[static_cast<std::size_t>(e)] = 100;  // the first of three ranks
    auto saved = many.room(keep::everything);
    many.work(many.ctx, saved);
    std::string sentence;
    try {
      synchronize(many.ctx);
    } catch (const error& found) {
      sentence = found.what();
    }
    synchronize(many.ctx);
    y = many.y;
    return sentence;
  };
  const auto none = [](const std::vector<bf16>& y) {
    index_t count = 0;
    for (const bf16& v : y) count += std::isnan(static_cast<float>(v));
    return count;
  };
  std::vector<bf16> y;
  CHECK(run(1, y) == "");
  CHECK(none(y) == 0);
  CHECK(run(0.25, y) ==
        "permute.plan: the experts are given 768 rows, padding included, there is room for 512");
  CHECK(none(y) == tokens * hidden);  // a third of the rows is lost, one of every token
}
