// SPDX-License-Identifier: MIT
#include <dsv3/train/cluster_account.hpp>

#include <doctest/doctest.h>

using namespace dsv3;

namespace {

const model_config v3 = model_config::deepseek_v3();

std::string refusal(const cluster_layout& layout) { return layout.check(v3).message(); }

double bytes(const std::vector<memory_part>& parts, const std::string& name) {
  for (const memory_part& part : parts)
    if (part.name == name) return static_cast<double>(part.bytes);
  FAIL("no part is named ", name);
  return 0;
}

}  // namespace

TEST_CASE("cluster_account gives the report's hours from its own layout") {
  const cluster_account account{v3, {}};
  // Fitted once, so what is tested is that nothing moves it unseen.
  CHECK(account.gpu_hours(1e12) == doctest::Approx(180e3).epsilon(0.002));
  // 1e12 tokens in 180,000 hours are 1,543.2 tokens a second, 39.1 % of the BF16 peak.
  CHECK(account.utilisation(180e3, 1e12) == doctest::Approx(0.3906).epsilon(0.0005));
  // 62.9 million tokens take 19.9 s.
  CHECK(account.seconds().total() == doctest::Approx(19.93).epsilon(0.002));
}

TEST_CASE("cluster_account: half the products' rate costs what the products took") {
  const cluster_account account{v3, {}};
  const cluster_account slower{v3, {}, {}, {.product_share = cost_assumptions{}.product_share / 2}};
  CHECK(slower.seconds().products == doctest::Approx(2 * account.seconds().products));
  CHECK(slower.seconds().attention == account.seconds().attention);
  CHECK(slower.seconds().total() > account.seconds().total() + account.seconds().products);
}

TEST_CASE("cluster_account: a network that is slow enough shows") {
  gpu_figures slow;
  slow.network_rate = 5e9;
  const cluster_account account{v3, {}, slow};
  CHECK(cluster_account{v3, {}}.seconds().exposed_exchange == 0);
  CHECK(account.seconds().exposed_exchange > 20);
}

TEST_CASE("cluster_account: ranks that hold a token's experts") {
  // R (1 - C(256 - 256 / R, 8) / C(256, 8))
  const double expected[] = {1.0, 1.993, 3.6142, 5.2947, 6.5233, 7.2668, 7.6758};
  int at = 0;
  for (const index_t ranks : {1, 2, 4, 8, 16, 32, 64}) {
    cluster_layout layout;
    layout.expert_ranks = ranks;
    layout.expert_replicas = 128 / ranks;
    CHECK(cluster_account{v3, layout}.expected_ranks() == doctest::Approx(expected[at++]).epsilon(1e-4));
  }
}

TEST_CASE("cluster_account: bytes of an exchange") {
  // 4096 tokens, 4 other nodes at most, 7 of 8 of them not the own: 2 (7392 + 14336) bytes each.
  const exchanged_bytes sent = cluster_account{v3, {}}.exchange();
  CHECK(sent.network == doctest::Approx(4096 * 4 * 7.0 / 8 * 2 * (7392 + 14336)));
  cluster_layout one_node;
  one_node.gpus = 8, one_node.pipeline_ranks = 1, one_node.expert_ranks = 8, one_node.expert_replicas = 1;
  CHECK(cluster_account{v3, one_node}.exchange().network == 0);
  CHECK(cluster_account{v3, one_node}.exchange().link ==
        doctest::Approx(4096 * 5.2955 * 7 / 8 * 2 * (7392 + 14336)).epsilon(0.002));
}

TEST_CASE("cluster_account: memory of all ranks holds every parameter as often as there are copies") {
  const cluster_layout layout;
  const cluster_account account{v3, layout};
  const model_account model{v3};
  double gradients = 0;
  for (index_t rank = 0; rank < layout.pipeline_ranks; ++rank) {
    const std::vector<memory_part> parts = account.memory(rank);
    gradients += bytes(parts, "gradients") / 4;
    CHECK(static_cast<double>(cluster_account::total(parts)) < 80e9);
    CHECK(cluster_account::total(parts) <= cluster_account::total(account.memory(account.largest_rank())));
  }
  const auto routed = static_cast<double>(model.main().routed_experts + model.mtp().routed_experts);
  const auto biases = static_cast<double>(model.main().router_bias + model.mtp().router_bias);
  const double others = static_cast<double>(model.main().total() + model.mtp().total()) - routed - biases;
  CHECK(gradients == doctest::Approx(2 * (others + routed / 64)));
}

TEST_CASE("cluster_account: one GPU has neither bubble nor exchange") {
  cluster_layout alone;
  alone.gpus = alone.pipeline_ranks = alone.expert_ranks = alone.expert_replicas = 1;
  alone.sequences = 4;
  const cluster_account account{model_config::bench_3b(), alone};
  const step_seconds s = account.seconds();
  CHECK(s.bubble == 0);
  CHECK(s.exposed_exchange == 0);
  CHECK(account.exchange().link == 0);
  CHECK(account.expected_ranks() == doctest::Approx(1));
}

TEST_CASE("cluster_account refuses layouts that do not fit") {
  cluster_layout layout;
  CHECK(refusal(layout).empty());
  layout.gpus = 2000;
  CHECK(refusal(layout) ==
        "layout: as many GPUs as pipeline ranks times expert ranks times replicas are expected, found GPUs "
        "2000, "
        "ranks 2048");
  layout = {};
  layout.expert_ranks = 128 * 3, layout.gpus = 16 * 384 * 2;
  CHECK(refusal(layout) ==
        "layout: the experts do not divide among the expert ranks, found experts 256, expert ranks 384");
  layout = {};
  layout.pipeline_ranks = 15, layout.gpus = 15 * 128;
  CHECK(refusal(layout) ==
        "layout: DualPipe pairs its ranks, an even number is expected, found pipeline ranks 15");
  layout = {};
  layout.pipeline_ranks = 64, layout.gpus = 64 * 128;
  CHECK(refusal(layout) ==
        "layout: there are fewer blocks than pipeline ranks, found blocks 62, pipeline ranks 64");
  layout = {};
  layout.sequences = 15361;
  CHECK(refusal(layout).find("sequences 15361, pipelines 128, rows 1") != std::string::npos);
  layout.sequences = 128 * 31;
  CHECK(refusal(layout) ==
        "layout: DualPipe wants two micro-batches for each pipeline rank, found micro-batches 31, pipeline "
        "ranks 16");
  CHECK_THROWS_WITH_AS((cluster_account{v3, layout}), refusal(layout).c_str(), dsv3::error);
}
