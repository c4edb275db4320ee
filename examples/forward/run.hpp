// SPDX-License-Identifier: MIT
// One forward pass over a batch of rows, its gradients when asked, and a file with all that came out.
#pragma once

#include "request.hpp"

#include <dsv3/exec/pooled_memory.hpp>
#include <dsv3/io/safetensors.hpp>
#include <dsv3/model/checkpoint.hpp>
#include <dsv3/model/deepseek_v3.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace forward {

using namespace dsv3;

/// The tokens of a file, as the model reads them: rows of length + mtp_depth with -1 where there is no token,
/// labels one further on.
class token_rows {
 public:
  /// `memory` is where operations read them.
  token_rows(const std::string& path, const model_config& config, memory_resource& memory)
      : depth_(config.mtp_depth), inputs_(memory), labels_(memory), offsets_(memory), positions_(memory) {
    const safetensors_file file{path};
    const tensor_values<std::int64_t, 2> found{file.tensor("input_ids")};
    const view<const std::int64_t, 2> ids = found.values();
    rows_ = ids.extent(0), length_ = ids.extent(1);
    if (rows_ < 1 || length_ < 2 + depth_)
      raise(path + ": input_ids has shape " + to_string(ids.extents()) + ", expected at least one row of " +
            std::to_string(2 + depth_) + " tokens, so that every depth has a target");
    inputs_.assign(static_cast<std::size_t>(rows_ * width()), -1);
    labels_ = inputs_;
    for (index_t row = 0; row < rows_; ++row)
      for (index_t t = 0; t < length_; ++t) {
        const std::int64_t id = ids(row, t);
        if (id < 0 || id >= config.vocab)
          raise(path + ": input_ids[" + std::to_string(row) + ", " + std::to_string(t) + "] is " +
                std::to_string(id) + ", expected 0 to " + std::to_string(config.vocab - 1));
        inputs_[static_cast<std::size_t>(row * width() + t)] = static_cast<std::int32_t>(id);
        if (t > 0) labels_[static_cast<std::size_t>(row * width() + t - 1)] = static_cast<std::int32_t>(id);
      }
    for (index_t row = 0; row <= rows_; ++row) offsets_.push_back(static_cast<std::int32_t>(row * length_));
    for (index_t t = 0; t < tokens(); ++t) positions_.push_back(static_cast<std::int32_t>(t % length_));
  }

  index_t rows() const { return rows_; }
  index_t length() const { return length_; }
  index_t tokens() const { return rows_ * length_; }

  token_batch batch() const {
    token_batch result{.inputs = view<const std::int32_t, 2>{inputs_.data(), rows_, width()},
                       .labels = view<const std::int32_t, 2>{labels_.data(), rows_, width()},
                       .sequence = {.offsets = view<const std::int32_t, 1>{offsets_.data(), rows_ + 1},
                                    .positions = view<const std::int32_t, 1>{positions_.data(), tokens()},
                                    .max_length = length_},
                       .target_counts = {}};
    for (index_t k = 0; k <= depth_; ++k) result.target_counts.push_back(rows_ * (length_ - 1 - k));
    return result;
  }

 private:
  index_t width() const { return length_ + depth_; }

  index_t depth_, rows_ = 0, length_ = 0;
  shared_array<std::int32_t> inputs_, labels_, offsets_, positions_;
};

/// Collects what came out and writes it, converted to F32.
class result_file {
 public:
  explicit result_file(const std::string& path) : writer_(path) {}

  /// `data` must live until `write`. `place` says from which row of the data each row comes.
  template <class T, class Place>
  void add(const std::string& name, std::vector<index_t> extents, const T* data, Place place) {
    const index_t columns = extents.size() > 1 ? extents.back() : 1;
    index_t rows = 1;
    for (const index_t extent : extents) rows *= extent;
    rows /= columns;
    writer_.declare(name, dtype::f32, std::move(extents));
    parts_.push_back([this, name, data, place, rows, columns] {
      std::vector<float> row(static_cast<std::size_t>(columns));
      for (index_t r = 0; r < rows; ++r) {
        const T* from = data + place(r) * columns;
        std::transform(from, from + columns, row.begin(), [](T value) { return static_cast<float>(value); });
        writer_.append(name, view<const float, 1>{row.data(), columns});
      }
    });
  }
  template <class T>
  void add(const std::string& name, std::vector<index_t> extents, const T* data) {
    add(name, std::move(extents), data, [](index_t row) { return row; });
  }

  void write() {
    for (const auto& part : parts_) part();
    writer_.commit();
  }

 private:
  safetensors_writer writer_;
  std::vector<std::function<void()>> parts_;
};

template <precision P, class Place>
void run_at(const request& asked) {
  using layout = typename Place::layout;
  checkpoint_reader reader{asked.model};
  const model_config& config = reader.config();
  if (config.scoring != router_scoring::sigmoid)
    raise(asked.model +
          "/config.json: scoring_func is softmax, expected sigmoid: softmax routers can be planned, "
          "not run");
  Place place{asked.threads};
  auto ctx = place.make_context();
  memory_resource &memory = place.memory().work, &shared = place.memory().shared;
  const token_rows tokens{asked.ids, config, shared};
  const deepseek_v3<P, layout> model{config};

  owned<model_weights<P>> weights{place.host(), config};
  owned<routing_state<P>> routing{place.host(), config};
  reader.read(weights, routing.bias, layout::rope);
  weights = place.placed(ctx, std::move(weights));
  routing = place.placed(ctx, std::move(routing));
  owned<rope_table<accumulator<P>>> rope{
      memory, typename rope_table<accumulator<P>>::config_type{tokens.length(), config.qk_rope}};
  owned<model_saved<P>> saved{
      memory, model.activation_config(tokens.rows(), tokens.length(), tokens.rows(), keep::everything)};
  owned<model_gradients<P>> gradients;
  const bool backward = asked.wanted == gradients::all;
  if (backward) gradients = owned<model_gradients<P>>{memory, config};
  shared_array<double> losses(static_cast<std::size_t>(2 + config.mtp_depth), 0.0, shared);
  const token_batch batch = tokens.batch();

  const auto work = [&](auto& at) {
    op::decoupled_rope<P, layout::rope>::table(at, {.rope = config.rope, .table = rope});
    model.forward(at, {.batch = batch,
                       .weights = weights,
                       .bias = routing.bias,
                       .rope = rope,
                       .losses = view{losses.data(), static_cast<index_t>(losses.size())},
                       .saved = saved});
    if (!backward) return;
    zero(at, static_cast<model_gradients<P>&>(gradients));
    model.backward(at, {.batch = batch,
                        .weights = weights,
                        .bias = routing.bias,
                        .rope = rope,
                        .mtp_weight = asked.mtp_weight,
                        .saved = saved,
                        .gradients = gradients});
  };
  path_list paths;
  ctx.scratch = scratch_arena{memory, measure(ctx, work, &paths)};
  if (asked.tell_paths) asked.tell_paths(paths);
  work(ctx);
  synchronize(ctx);
  saved = place.fetched(ctx, std::move(saved));
  gradients = place.fetched(ctx, std::move(gradients));

  result_file out{asked.out};
  const index_t rows = tokens.rows(), length = tokens.length();
  out.add("logits", {rows, length, config.vocab}, saved.heads[0].logits.data());
  out.add("loss", {1}, losses.data());
  for (index_t i = 0; i < config.layers; ++i)
    out.add("hidden." + std::to_string(i), {rows, length, config.hidden}, saved.hidden[i].data());
  out.add("hidden." + std::to_string(config.layers), {rows, length, config.hidden}, saved.normed.data());
  for (index_t k = 1; k <= config.mtp_depth; ++k) {
    const std::string prefix = "mtp." + std::to_string(k) + ".";
    const auto at = static_cast<std::size_t>(k);
    out.add(prefix + "logits", {rows, length - k, config.vocab}, saved.heads[at].logits.data(),
            [length, k](index_t r) { return r / (length - k) * length + r % (length - k); });
    out.add(prefix + "loss", {1}, losses.data() + k);
  }
  if (backward)
    for_each_checkpoint_tensor(static_cast<const model_gradients<P>&>(gradients), [&](const auto& tensor) {
      const rotary_rows rotary = tensor.rotary;
      const rope_layout file = reader.rope();
      out.add("grad." + tensor.name, tensor.extents, tensor.data,
              [rotary, file](index_t r) { return rotary.moved(r, file, layout::rope); });
    });
  out.write();
}

}  // namespace forward
