// SPDX-License-Identifier: MIT
// A model with its routing biases that goes to files and comes back, and folders of weights with edits.
#pragma once

#include <dsv3/model/checkpoint.hpp>
#include <dsv3/number/precision.hpp>

#include <model/small_model.hpp>

#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace support {

template <class Matrix, class Vector = Matrix, class Product = Matrix>
struct model_in_memory {
  explicit model_in_memory(const dsv3::model_config& config)
      : weights(memory, config), routing(memory, config) {}
  model_in_memory& numbers(std::uint64_t seed) {
    fill_with_numbers(static_cast<dsv3::model_tensors<Matrix, Vector, Product>&>(weights), seed);
    fill_with_numbers(static_cast<dsv3::routing_state<dsv3::fp32>&>(routing), seed + 1);
    return *this;
  }
  std::vector<dsv3::written_file> write(const std::string& folder,
                                        const dsv3::checkpoint_options& options = {}) {
    return dsv3::write_checkpoint(folder, weights, dsv3::view<const float, 2>(routing.bias), options);
  }
  dsv3::checkpoint_report read(const std::string& folder,
                               dsv3::rope_layout layout = dsv3::rope_layout::interleaved) {
    dsv3::checkpoint_reader reader{folder};
    return reader.read(weights, routing.bias, layout);
  }
  bool same(const model_in_memory& other) const {
    return same_bits<dsv3::model_tensors<Matrix, Vector, Product>>(weights, other.weights) &&
           std::memcmp(routing.bias.data(), other.routing.bias.data(),
                       static_cast<std::size_t>(routing.bias.size()) * sizeof(float)) == 0;
  }

  dsv3::host_memory memory;
  dsv3::owned<dsv3::model_tensors<Matrix, Vector, Product>> weights;
  dsv3::owned<dsv3::routing_state<dsv3::fp32>> routing;
};

using float_model = model_in_memory<float>;

/// Copies the weights of a folder, each tensor by `edit`, which may change it or drop it by clearing its
/// name.
using edited = std::function<void(std::string& name, dsv3::dtype& type, std::vector<dsv3::index_t>& extents)>;
inline void rewrite(const std::string& from, const std::string& to, const edited& edit) {
  dsv3::safetensors_folder source{from};
  dsv3::safetensors_folder_writer writer{to};
  std::vector<std::pair<std::string, std::string>> taken;
  for (const auto& [name, file] : source.names()) {
    dsv3::tensor_entry t = source.tensor(name);
    edit(t.name, t.type, t.extents);
    if (t.name.empty()) continue;
    writer.declare(t.name, t.type, t.extents);
    taken.emplace_back(name, t.name);
  }
  for (const auto& [name, renamed] : taken) writer.append(renamed, source.tensor(name).bytes);
  writer.commit();
}

}  // namespace support
