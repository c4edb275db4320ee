// SPDX-License-Identifier: MIT
// What training on many GPUs costs: memory of each rank, bytes exchanged, time of a step, hours and money
// (report, sections 3.1 to 3.4 and table 1).
#pragma once

#include <dsv3/base/requirements.hpp>
#include <dsv3/model/accounting.hpp>
#include <dsv3/train/state.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// How ranks share the work of training. The ranks of a pipeline stage all have tokens of their own;
/// expert_ranks of them share the experts of their layers, and expert_replicas such groups hold the same
/// experts. Defaults are the report's.
struct cluster_layout {
  index_t gpus = 2048, gpus_per_node = 8;
  index_t pipeline_ranks = 16, expert_ranks = 64, expert_replicas = 2;
  index_t sequences = 15360, length = 4096;  // of one step
  index_t rows = 1;                          // sequences of one micro-batch
  keep kept = keep::attention;

  index_t pipelines() const { return expert_ranks * expert_replicas; }
  index_t micro_batches() const { return sequences / (pipelines() * rows); }
  index_t tokens() const { return sequences * length; }
  /// DualPipe: every rank holds two stages, and every stage lies on two ranks.
  index_t copies() const { return pipeline_ranks > 1 ? 2 : 1; }

  status check(const model_config& model) const {
    return requirements{"layout"}
        .that(gpus == pipeline_ranks * pipelines(),
              "as many GPUs as pipeline ranks times expert ranks times replicas are expected",
              {{"GPUs", gpus}, {"ranks", pipeline_ranks * pipelines()}})
        .that(model.experts % expert_ranks == 0, "the experts do not divide among the expert ranks",
              {{"experts", model.experts}, {"expert ranks", expert_ranks}})
        .that(pipeline_ranks == 1 || pipeline_ranks % 2 == 0,
              "DualPipe pairs its ranks, an even number is expected", {{"pipeline ranks", pipeline_ranks}})
        .that(model.layers + model.mtp_depth >= pipeline_ranks, "there are fewer blocks than pipeline ranks",
              {{"blocks", model.layers + model.mtp_depth}, {"pipeline ranks", pipeline_ranks}})
        .that(sequences % (pipelines() * rows) == 0,
              "the sequences do not divide into micro-batches on all pipelines",
              {{"sequences", sequences}, {"pipelines", pipelines()}, {"rows", rows}})
        .that(pipeline_ranks == 1 || micro_batches() >= 2 * pipeline_ranks,
              "DualPipe wants two micro-batches for each pipeline rank",
              {{"micro-batches", micro_batches()}, {"pipeline ranks", pipeline_ranks}})
        .verdict();
  }
};

/// What the maker states of a GPU and its network. Defaults: H800, as the report's cluster has it.
struct gpu_figures {
  double bf16_rate = 989.4e12, fp8_rate = 1979e12;  // FLOP/s, dense
  double memory_rate = 3.35e12;                     // bytes/s
  double memory = 80e9;                             // bytes
  double link_rate = 160e9;                         // bytes/s one way, to GPUs of the same node
  double network_rate = 50e9;                       // bytes/s one way, to GPUs of other nodes
  index_t multiprocessors = 132;
  double hour_price = 2;  // USD
};

/// What no data sheet says, and what an estimate stands on. `passes` is the one fitted number: with the other
/// defaults it gives the report's 180,000 GPU hours for 10^12 tokens.
struct cost_assumptions {
  double product_share = 0.36;            // of the FP8 peak, that the products of linear layers reach
  double attention_share = 0.36;          // of the BF16 peak, that attention reaches
  double memory_share = 0.80;             // of the memory's rate, that everything else reaches
  index_t exchange_multiprocessors = 20;  // kept for communication (report, section 3.2.2)
  double passes = 329;  // times that everything else reads or writes a token's hidden state, in one block,
                        // forward and backward
};

/// Seconds of one step, on the average rank.
struct step_seconds {
  double products = 0, attention = 0, elementwise = 0;  // the three kinds of computing
  double bubble = 0;
  double exposed_exchange = 0;  // what computing does not hide
  double update = 0;            // gradients reduced, weights moved and gathered

  double computing() const { return products + attention + elementwise; }
  double total() const { return computing() + bubble + exposed_exchange + update; }
};

/// Bytes that one rank sends of one micro-batch, for one block with experts, forward and backward together.
struct exchanged_bytes {
  double link = 0;     // to GPUs of the same node, an expected value for even routing
  double network = 0;  // to GPUs of other nodes, an upper bound
};

/// Everything follows from the model, the layout, stated figures and assumptions.
class cluster_account {
 public:
  cluster_account(const model_config& model, const cluster_layout& layout, const gpu_figures& gpu = {},
                  const cost_assumptions& assumed = {})
      : model_(model), account_(model), layout_(layout), gpu_(gpu), assumed_(assumed) {
    if (const status verdict = layout.check(model); !verdict) raise(verdict.message());
  }

  /// The blocks of a stage: the main model's first, then the MTP modules, spread evenly.
  index_t first_block(index_t stage) const { return stage * blocks() / layout_.pipeline_ranks; }

  /// Bytes of pipeline rank `rank`, by kind. 8-bit training: narrow weights beside float masters and
  /// gradients and moments in bf16; masters and moments are sharded over all ranks that hold the same
  /// parameters. Scratch is not counted.
  std::vector<memory_part> memory(index_t rank) const {
    parameters_here here = parameters_of(rank);
    if (layout_.copies() == 2) here += parameters_of(layout_.pipeline_ranks - 1 - rank);
    const auto dense_owners = static_cast<double>(layout_.pipelines() * layout_.copies());
    const auto expert_owners = static_cast<double>(layout_.expert_replicas * layout_.copies());
    const double all = here.tiled + here.expert + here.plain;
    const double owned = (here.tiled + here.plain) / dense_owners + here.expert / expert_owners;
    const double tile_bytes = 1 + 4.0 / (128 * 128);
    return {part("weights", (here.tiled + here.expert) * tile_bytes + here.plain * 2),
            part("gradients", all * 4), part("masters", owned * 4), part("moments", owned * 2 * 2),
            part("activations", activations(rank))};
  }
  /// The rank that needs most.
  index_t largest_rank() const {
    index_t found = 0;
    for (index_t rank = 1; rank < layout_.pipeline_ranks; ++rank)
      if (total(memory(rank)) > total(memory(found))) found = rank;
    return found;
  }
  static std::size_t total(const std::vector<memory_part>& parts) {
    std::size_t sum = 0;
    for (const memory_part& each : parts) sum += each.bytes;
    return sum;
  }

  /// 8-bit rows to the experts, bf16 rows back; once forward and once backward (report, section 3.3.3). One
  /// copy for each rank of the node, or for each other node, of which routing allows `kept_groups`.
  exchanged_bytes exchange() const {
    const auto tokens = static_cast<double>(layout_.rows * layout_.length);
    const auto hidden = static_cast<double>(model_.hidden);
    const double both_ways =
        2 * (hidden + 4 * static_cast<double>(ceil_div(model_.hidden, 128)) + 2 * hidden);
    const index_t nodes = ceil_div(layout_.expert_ranks, layout_.gpus_per_node);
    const index_t neighbours = std::min(layout_.expert_ranks, layout_.gpus_per_node);
    const double node_share = 1.0 / static_cast<double>(nodes);
    const double near_copies =
        expected_ranks() * static_cast<double>(neighbours - 1) / static_cast<double>(layout_.expert_ranks);
    const double far_copies =
        nodes == 1 ? 0 : static_cast<double>(std::min(model_.kept_groups, nodes)) * (1 - node_share);
    return {tokens * near_copies * both_ways, tokens * far_copies * both_ways};
  }
  /// Different ranks that the experts of one token lie on, when all choices are equally likely.
  double expected_ranks() const {
    const index_t ranks = layout_.expert_ranks, here = model_.experts / ranks;
    double none = 1;  // that no chosen expert lies on a given rank
    for (index_t k = 0; k < model_.top_k; ++k)
      none *= static_cast<double>(std::max<index_t>(model_.experts - here - k, 0)) /
              static_cast<double>(model_.experts - k);
    return static_cast<double>(ranks) * (1 - none);
  }

  step_seconds seconds() const {
    const double tokens = static_cast<double>(layout_.tokens()) / static_cast<double>(layout_.gpus);
    const auto blocks_all = static_cast<double>(blocks());
    const double left = layout_.expert_ranks > 1
                            ? 1 - static_cast<double>(assumed_.exchange_multiprocessors) /
                                      static_cast<double>(gpu_.multiprocessors)
                            : 1;
    const double keys = model_account::keys(layout_.length, model_account::counting::causal);
    step_seconds s;
    s.products = tokens * 6 *
                 static_cast<double>(account_.matrix_parameters() + account_.mtp_matrix_parameters()) /
                 (gpu_.fp8_rate * assumed_.product_share * left);
    s.attention = tokens * 3 * blocks_all * account_.attention_flops_per_layer(keys) /
                  (gpu_.bf16_rate * assumed_.attention_share * left);
    s.elementwise = tokens * blocks_all * assumed_.passes * 2 * static_cast<double>(model_.hidden) /
                    (gpu_.memory_rate * assumed_.memory_share);
    const auto chunks = static_cast<double>(layout_.micro_batches());
    if (layout_.pipeline_ranks > 1) {
      // (P / 2 - 1) (F&B + B - 3 W), where F : B is 1 : 2 and W is half the backward products.
      const double forward = s.computing() / 3 / chunks, weights = s.products / 3 / chunks;
      s.bubble =
          (static_cast<double>(layout_.pipeline_ranks) / 2 - 1) * (3 * forward + 2 * forward - 3 * weights);
    }
    const exchanged_bytes sent = exchange();
    const double expert_blocks = static_cast<double>(model_.moe_layers() + model_.mtp_depth) /
                                 static_cast<double>(layout_.pipeline_ranks);
    const double travelling =
        chunks * expert_blocks * std::max(sent.link / gpu_.link_rate, sent.network / gpu_.network_rate);
    s.exposed_exchange = std::max(0.0, travelling - s.computing());
    s.update = update_seconds();
    return s;
  }

  double tokens_per_second() const { return static_cast<double>(layout_.tokens()) / seconds().total(); }
  double gpu_hours(double tokens) const {
    return tokens / tokens_per_second() * static_cast<double>(layout_.gpus) / 3600;
  }
  /// Of the BF16 peak, causal attention counted as computed and MTP left out: the report's way.
  double utilisation(double gpu_hours, double tokens) const {
    return account_.training_flops(layout_.length, model_account::counting::causal) * tokens /
           (gpu_hours * 3600 * gpu_.bf16_rate);
  }

 private:
  // Learnable numbers of a stage on one rank, by how they are stored and shared.
  struct parameters_here {
    double tiled = 0;   // matrices of linear layers that every rank of the stage holds
    double expert = 0;  // of the routed experts that lie here
    double plain = 0;   // embedding, head, router, norms
    parameters_here& operator+=(const parameters_here& more) {
      tiled += more.tiled, expert += more.expert, plain += more.plain;
      return *this;
    }
  };

  index_t blocks() const { return model_.layers + model_.mtp_depth; }

  parameters_here parameters_of(index_t stage) const {
    parameters_here here;
    const auto add = [&](const std::string& name, const shape& s, auto&) {
      const auto n = static_cast<double>(s.elements());
      if (name.find("mlp.experts.") != std::string::npos)
        here.expert += n / static_cast<double>(layout_.expert_ranks);
      else if (s.rank() == 1 || name.find("mlp.gate.") != std::string::npos ||
               name.find("eh_proj") != std::string::npos)
        here.plain += n;
      else
        here.tiled += n;
    };
    for (index_t b = first_block(stage); b < first_block(stage + 1); ++b) {
      if (b < model_.layers) {
        block_tensors<float> blank;
        blank.config = model_.block(b);
        for_each_field(add, blank);
      } else {
        mtp_tensors<float> blank;
        blank.config = model_.block(b);
        for_each_field(add, blank);
      }
    }
    // Embedding and head lie with the first and the last stage; MTP, in the last one, reads both.
    const auto table = static_cast<double>(model_.vocab * model_.hidden);
    if (stage == 0) here.plain += table;
    if (stage == layout_.pipeline_ranks - 1) here.plain += table;
    return here;
  }

  // What forward keeps, of all micro-batches that are under way at the peak: one stage's worth each, the
  // number of stages and one more under DualPipe.
  double activations(index_t rank) const {
    const auto under_way = static_cast<double>(layout_.pipeline_ranks > 1 ? layout_.pipeline_ranks + 1 : 1);
    double bytes = saved_bytes(rank);
    if (layout_.copies() == 2) bytes = (bytes + saved_bytes(layout_.pipeline_ranks - 1 - rank)) / 2;
    return bytes * under_way;
  }
  // Experts' rows are counted for even routing: as many come as go.
  double saved_bytes(index_t stage) const {
    const deepseek_v3<fp8_tilewise> network{model_};
    double bytes = 0;
    const model_activation_config all =
        network.activation_config(layout_.rows, layout_.length, layout_.rows, layout_.kept);
    for (index_t b = first_block(stage); b < first_block(stage + 1); ++b)
      bytes += static_cast<double>(bytes_of<block_saved<fp8_tilewise>>(all.block(b))) +
               2 * static_cast<double>(all.tokens() * model_.hidden);  // and the block's input
    return bytes;
  }

  // Gradients in float to their owners, weights in bf16 back, over the network; AdamW reads and writes 20
  // bytes of what a rank owns for each parameter.
  double update_seconds() const {
    const std::vector<memory_part> parts = memory(0);
    double gradients = 0, owned = 0;
    for (const memory_part& each : parts) {
      if (each.name == "gradients") gradients = static_cast<double>(each.bytes);
      if (each.name == "masters") owned = static_cast<double>(each.bytes) / 4;
    }
    const bool shared = layout_.pipelines() * layout_.copies() > 1;
    return (shared ? gradients * 1.5 / gpu_.network_rate : 0) +
           owned * 20 / (gpu_.memory_rate * assumed_.memory_share);
  }

  static memory_part part(const char* name, double bytes) {
    return {name, static_cast<std::size_t>(bytes + 0.5)};
  }

  model_config model_;
  model_account account_;
  cluster_layout layout_;
  gpu_figures gpu_;
  cost_assumptions assumed_;
};

}  // namespace dsv3::inline DSV3_ABI
