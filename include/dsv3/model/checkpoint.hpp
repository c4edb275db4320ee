// SPDX-License-Identifier: MIT
// Weights in the format of model repositories: config.json and model.safetensors, or shards with an index.
//
// The files have one tensor per projection and expert; a bundle has gate and up projection in one tensor, and
// all experts in one. Files hold rotary rows interleaved or half-split, and so may memory: reading and
// writing permute the rows. Weights of linear layers may lie in the files in 8 bits, scaled by blocks.
#pragma once

#include <dsv3/io/safetensors.hpp>
#include <dsv3/io/safetensors/block_weight.hpp>
#include <dsv3/model/bundles.hpp>
#include <dsv3/model/config_file.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Rows of a matrix that rotary embedding turns: in each stretch of `period` rows, `width` of them from
/// `begin` on.
struct rotary_rows {
  index_t period = 0, begin = 0, width = 0;  // period 0: none

  /// Where the row that stands at `row` in layout `from` stands in layout `to`.
  index_t moved(index_t row, rope_layout from, rope_layout to) const {
    if (from == to || period == 0) return row;
    const index_t at = row % period - begin;
    if (at < 0 || at >= width) return row;
    const index_t half = width / 2;
    const index_t there = to == rope_layout::half_split ? at / 2 + at % 2 * half
                          : at < half                   ? 2 * at
                                                        : 2 * (at - half) + 1;
    return row - at + there;
  }
};

/// One tensor of the files, and where its elements lie in a bundle: gapless, row-major.
template <class T>
struct checkpoint_tensor {
  std::string name;
  std::vector<index_t> extents;  // one or two
  T* data = nullptr;
  rotary_rows rotary = {};

  index_t rows() const { return extents.front(); }
  index_t row_elements() const { return extents.size() == 2 ? extents[1] : 1; }
  std::span<T> elements() const { return {data, static_cast<std::size_t>(rows() * row_elements())}; }
  std::span<T> row(index_t r) const {
    return elements().subspan(static_cast<std::size_t>(r * row_elements()),
                              static_cast<std::size_t>(row_elements()));
  }
};

namespace detail {

inline rotary_rows rotary_rows_of(const std::string& name, const model_config& c) {
  if (name.ends_with(".q_b_proj.weight") || name.ends_with(".q_proj.weight"))
    return {c.qk_nope + c.qk_rope, c.qk_nope, c.qk_rope};
  if (name.ends_with(".kv_a_proj_with_mqa.weight")) return {c.kv_rank + c.qk_rope, c.kv_rank, c.qk_rope};
  return {};
}

inline constexpr std::string_view fused_pair = "gate_up_proj.weight";

// A field's matrices under their own names: act(name, matrix). Those of the experts have their numbers in the
// model.
template <class Field, class Act>
void each_matrix(const std::string& name, const Field& field, const model_config& c, Act&& act) {
  if constexpr (Field::rank == 3) {
    const std::size_t last = name.rfind('.', name.rfind('.') - 1) + 1;  // where "down_proj.weight" begins
    const index_t first = c.expert_rank * field.extent(0);
    for (index_t e = 0; e < field.extent(0); ++e)
      act(name.substr(0, last) + std::to_string(first + e) + "." + name.substr(last), field[e]);
  } else {
    act(name, field);
  }
}

// A field as the tensors of the files. `Visit` takes checkpoint_tensor<T>.
template <class T, int Rank, class Visit>
void split_field(const std::string& name, const view<T, Rank>& field, const model_config& c, Visit&& visit) {
  using tensor = checkpoint_tensor<T>;
  each_matrix(name, field, c, [&](const std::string& own, const auto& matrix) {
    if constexpr (Rank == 1) {
      visit(tensor{own, {matrix.extent(0)}, matrix.data()});
    } else if (own.ends_with(fused_pair)) {
      const index_t inner = matrix.extent(0) / 2, columns = matrix.extent(1);
      const std::string prefix = own.substr(0, own.size() - fused_pair.size());
      visit(tensor{prefix + "gate_proj.weight", {inner, columns}, matrix.data()});
      visit(tensor{prefix + "up_proj.weight", {inner, columns}, matrix.data() + inner * columns});
    } else {
      visit(tensor{own, {matrix.extent(0), matrix.extent(1)}, matrix.data(), rotary_rows_of(own, c)});
    }
  });
}

// In scaled tiles: what they stand for, in float.
template <class Element, int Rank, class Visit>
void split_field(const std::string& name, const scaled_view<Element, block_tile, Rank>& field,
                 const model_config& c, Visit&& visit) {
  each_matrix(name, field, c,
              [&](const std::string& own, const scaled_view<const Element, block_tile>& matrix) {
                const index_t rows = matrix.extent(0), columns = matrix.extent(1);
                std::vector<float> meant(static_cast<std::size_t>(rows * columns));
                for (index_t r = 0; r < rows; ++r) dequantize_row(matrix, r, meant.data() + r * columns);
                split_field(own, view<const float, 2>{meant.data(), rows, columns}, c, visit);
              });
}

inline std::string layer_prefix(index_t layer) { return "model.layers." + std::to_string(layer) + "."; }

}  // namespace detail

/// Calls visit(checkpoint_tensor) for every tensor that a bundle is in the files: weights, gradients,
/// moments. Of matrices in scaled tiles it visits a copy, what they stand for in float.
template <class... Element, class Visit>
void for_each_checkpoint_tensor(const model_tensors<Element...>& bundle, Visit&& visit) {
  for_each_field([&](const std::string& name, const shape&,
                     auto& field) { detail::split_field(name, field, bundle.config, visit); },
                 bundle);
}

/// Calls visit(checkpoint_tensor) for every routing bias; softmax routers have none.
template <class T, class Visit>
void for_each_routing_bias(const model_config& c, view<T, 2> bias, Visit&& visit) {
  if (c.scoring != router_scoring::sigmoid) return;
  for (index_t r = 0; r < c.routers(); ++r)
    visit(checkpoint_tensor<T>{detail::layer_prefix(c.dense_layers + r) + "mlp.gate.e_score_correction_bias",
                               {c.experts},
                               bias[r].data()});
}

/// Names under which each MTP module stores the embedding and the head once more, with what they copy.
inline std::vector<std::pair<std::string, std::string>> shared_copies(const model_config& c) {
  std::vector<std::pair<std::string, std::string>> copies;
  for (index_t k = 0; k < c.mtp_depth; ++k) {
    const std::string prefix = detail::layer_prefix(c.layers + k);
    copies.emplace_back(prefix + "embed_tokens.weight", "model.embed_tokens.weight");
    copies.emplace_back(prefix + "shared_head.head.weight", "lm_head.weight");
  }
  return copies;
}

struct checkpoint_options {
  // F64, F32 or BF16 for every weight; F8_E4M3 for those that stored_in_blocks names. The others as in
  // memory.
  std::optional<dtype> type = {};
  rope_layout memory = rope_layout::interleaved;  // how rotary rows lie in memory; files get them interleaved
  std::uint64_t max_shard_bytes = 5'000'000'000;
};

namespace detail {

template <class T>
inline constexpr bool is_scaled = false;
template <class Element, class Tile>
inline constexpr bool is_scaled<scaled<Element, Tile>> = true;
/// Whether a bundle of these has matrices in scaled tiles.
template <class... Element>
inline constexpr bool in_tiles = (is_scaled<std::remove_const_t<Element>> || ...);

/// Streams elements into a declared tensor, converted in pieces that fit a cache.
class tensor_stream {
 public:
  explicit tensor_stream(safetensors_folder_writer& writer) : writer_(writer) {}

  template <class T>
  void append(const std::string& name, std::span<const T> from, dtype type) {
    if (type == dsv3::dtype_of<T>) return writer_.append(name, std::as_bytes(from));
    if (type == dtype::f64) return converted<double>(name, from);
    if (type == dtype::f32) return converted<float>(name, from);
    if (type == dtype::bf16) return converted<bf16>(name, from);
    raise("checkpoint: tensor " + name + " asked for as " + std::string(to_string(type)) +
          ", expected F64, F32, BF16 or F8_E4M3");
  }

  /// The next rows of a weight in 8 bits and their scales; all but the last of a tensor are 128 rows.
  template <class T>
  void append_blocks(const std::string& name, const view<const T, 2>& rows, index_t first_row) {
    const auto count = [](index_t n) { return static_cast<std::size_t>(n); };
    const index_t tiles = ceil_div(rows.extent(1), block_tile::columns);
    std::vector<fp8_e4m3> codes(count(rows.size()));
    std::vector<float> scales(count(tiles));
    quantize_blocks<T>(rows,
                       {view<fp8_e4m3, 2>{codes.data(), rows.extent(0), rows.extent(1)},
                        {scales.data(), {index_t{1}, tiles}, {tiles, index_t{1}}}},
                       "checkpoint: tensor " + name, first_row);
    writer_.append(name, std::as_bytes(std::span<const fp8_e4m3>(codes)));
    writer_.append(scale_name(name), std::as_bytes(std::span<const float>(scales)));
  }

 private:
  template <class To, class T>
  void converted(const std::string& name, std::span<const T> from) {
    constexpr std::size_t piece = 1 << 15;
    std::vector<To> buffer;
    for (std::size_t begin = 0; begin < from.size(); begin += piece) {
      const std::span<const T> part = from.subspan(begin, std::min(piece, from.size() - begin));
      buffer.resize(part.size());
      for (std::size_t i = 0; i < part.size(); ++i) buffer[i] = static_cast<To>(part[i]);
      writer_.append(name, std::as_bytes(std::span<const To>(buffer)));
    }
  }

  safetensors_folder_writer& writer_;
};

}  // namespace detail

/// Writes config.json and the weights into `folder`, which is made where it does not exist; routing biases
/// are stored as F32. config.json comes last: a folder that has one is complete. Answers what was written.
template <class... Element, class Bias>
std::vector<written_file> write_checkpoint(const std::string& folder,
                                           const model_tensors<Element...>& weights, view<const Bias, 2> bias,
                                           const checkpoint_options& options = {}) {
  const model_config& c = weights.config;
  const bool in_blocks =
      options.type.value_or(detail::in_tiles<Element...> ? dtype::f8_e4m3 : dtype::f32) == dtype::f8_e4m3;
  const auto type_of = [&]<class T>(const checkpoint_tensor<T>& tensor) {
    constexpr dtype own = dtype_of<std::remove_const_t<T>>;
    if (!in_blocks) return options.type.value_or(own);
    return stored_in_blocks(tensor.name) ? dtype::f8_e4m3 : own;
  };
  using embedding = std::remove_const_t<typename decltype(weights.embedding)::element>;
  json config = config_json(c, in_blocks ? dtype_of<embedding> : options.type.value_or(dtype_of<embedding>));
  if (in_blocks) config["quantization_config"] = quantization_json();
  const std::string config_text = config.dump(2) + "\n";
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) raise(folder + ": folder cannot be made: " + problem.message());
  safetensors_folder_writer writer{folder, options.max_shard_bytes};
  const auto copies = shared_copies(c);
  const auto with_copies = [&](const std::string& name, auto&& act) {
    act(name);
    for (const auto& [copy, original] : copies)
      if (original == name) act(copy);
  };
  for_each_checkpoint_tensor(weights, [&](const auto& tensor) {
    with_copies(tensor.name, [&](const std::string& name) {
      writer.declare(name, type_of(tensor), tensor.extents);
      if (type_of(tensor) == dtype::f8_e4m3)
        writer.declare(scale_name(name), dtype::f32, scale_extents(tensor.extents));
    });
  });
  for_each_routing_bias(c, bias, [&](const auto& t) { writer.declare(t.name, dtype::f32, {c.experts}); });

  detail::tensor_stream stream{writer};
  for_each_checkpoint_tensor(weights, [&]<class T>(const checkpoint_tensor<T>& tensor) {
    using element = const std::remove_const_t<T>;
    constexpr rope_layout file = rope_layout::interleaved;
    const auto file_row = [&](index_t r) {
      return std::span<element>(tensor.row(tensor.rotary.moved(r, file, options.memory)));
    };
    if (type_of(tensor) == dtype::f8_e4m3) {
      std::vector<std::remove_const_t<T>> stripe;
      for (index_t r0 = 0; r0 < tensor.rows(); r0 += block_tile::rows) {
        const index_t rows = std::min(block_tile::rows, tensor.rows() - r0);
        stripe.clear();
        for (index_t r = r0; r < r0 + rows; ++r) {
          const std::span<element> row = file_row(r);
          stripe.insert(stripe.end(), row.begin(), row.end());
        }
        stream.append_blocks(tensor.name, view<element, 2>{stripe.data(), rows, tensor.row_elements()}, r0);
      }
      return;
    }
    with_copies(tensor.name, [&](const std::string& name) {
      if (tensor.rotary.period == 0 || options.memory == file)
        return stream.append(name, std::span<element>(tensor.elements()), type_of(tensor));
      for (index_t r = 0; r < tensor.rows(); ++r) stream.append(name, file_row(r), type_of(tensor));
    });
  });
  for_each_routing_bias(c, bias, [&](const auto& t) {
    stream.append(t.name, std::span<const Bias>(t.elements()), dtype::f32);
  });
  writer.commit();
  write_file((std::filesystem::path(folder) / "config.json").string(), config_text);
  std::vector<written_file> files = writer.files();
  files.push_back({"config.json", config_text.size(), crc32c_of(config_text)});
  return files;
}

/// What reading found beyond the tensors it was asked for.
struct checkpoint_report {
  index_t tensors = 0;              // read
  std::vector<std::string> copies;  // embedding and head stored again with an MTP module: compared, not read
  std::vector<std::string> left_out;  // of MTP modules that the bundle does not have
};

struct reading_options {
  bool unscaled_codes = false;  // 8-bit weights without scales are what their codes say; else refused
};

/// A folder of weights, opened. The files are mapped; nothing is read before `read`. Weights in 8 bits are
/// multiplied by the scales of their blocks and rounded once to what the bundle holds.
///
///     checkpoint_reader reader{"DeepSeek-V3"};
///     owned<model_weights<P>> weights{memory, reader.config()};
///     owned<routing_state<P>> routing{memory, reader.config()};
///     reader.read(weights, routing.bias);
class checkpoint_reader {
 public:
  explicit checkpoint_reader(const std::string& folder, const reading_options& options = {})
      : folder_(folder), options_(options), file_(read_config(folder)), tensors_(folder) {}

  const model_config& config() const { return file_.model; }
  /// How rotary rows lie in the files.
  rope_layout rope() const { return file_.rope; }

  /// Fills the bundle and the biases [routers, experts], converting element types. The bundle may have fewer
  /// MTP modules than the file; in everything else its config must be the file's. `memory` says how rotary
  /// rows shall lie. Raises for a tensor that is missing, unknown, or of another shape or type, and for
  /// scales that are missing, superfluous or not positive.
  template <class... Element, class Bias>
  checkpoint_report read(model_tensors<Element...>& weights, view<Bias, 2> bias,
                         rope_layout memory = rope_layout::interleaved) {
    model_config expected = weights.config, found = config();
    found.mtp_depth = std::min(found.mtp_depth, expected.mtp_depth);
    require(same_model(found, folder_ + "/config.json", expected, "the model to fill"));
    checkpoint_report report;
    std::set<std::string> known;
    const auto note = [&](const std::string& name) {
      known.insert(name);
      if (tensors_.contains(scale_name(name))) known.insert(scale_name(name));
      ++report.tensors;
    };
    const auto take = [&](const auto& tensor) {
      note(tensor.name);
      fill(tensor, memory);
    };
    for_each_field(
        [&](const std::string& name, const shape&, auto& field) {
          if constexpr (requires { field.scales; })
            detail::each_matrix(name, field, weights.config, [&](const std::string& own, const auto& matrix) {
              fill_tiles(own, matrix, memory, note);
            });
          else
            detail::split_field(name, field, weights.config, take);
        },
        weights);
    for_each_routing_bias(weights.config, bias, take);
    account_for_the_rest(weights.config, known, report);
    return report;
  }

 private:
  template <class T>
  const tensor_entry& entry_for(const checkpoint_tensor<T>& to) {
    const tensor_entry& from = tensors_.tensor(to.name);
    if (from.extents != to.extents)
      raise(from.where() + " has shape " + to_string(from.extents) + ", expected " + to_string(to.extents));
    return from;
  }

  template <class T>
  void fill(const checkpoint_tensor<T>& to, rope_layout memory) {
    const tensor_entry& from = entry_for(to);
    const auto memory_row = [&](index_t r) { return to.row(to.rotary.moved(r, file_.rope, memory)); };
    if (from.type == dtype::f8_e4m3) return fill_from_blocks(from, to.rows(), memory_row);
    if (tensors_.contains(scale_name(to.name)))
      raise(tensors_.tensor(scale_name(to.name)).where() + " found beside " + to.name + " of type " +
            std::string(to_string(from.type)) + ", expected scales of F8_E4M3 alone");
    if (to.rotary.period == 0 || memory == file_.rope) return read_converted(from, to.elements());
    const std::size_t bytes = static_cast<std::size_t>(to.row_elements() * bytes_of(from.type));
    for (index_t r = 0; r < to.rows(); ++r) {
      tensor_entry row = from;
      row.extents = {to.row_elements()};
      row.bytes = from.bytes.subspan(static_cast<std::size_t>(r) * bytes, bytes);
      read_converted(row, memory_row(r));
    }
  }

  block_weight scaled_weight(const tensor_entry& from) {
    const std::string scales = scale_name(from.name);
    if (!tensors_.contains(scales))
      raise(from.where() + " has type F8_E4M3 and no " + scales +
            " was found, expected the scales of its blocks");
    if (!file_.block_scales)
      raise(from.where() +
            " has type F8_E4M3, expected quantization_config in the config.json beside it to say how it is "
            "scaled");
    return {from, tensors_.tensor(scales)};
  }

  // Blocks of the files are taken as they are where they are blocks of the matrix; else what they stand for
  // is quantised anew.
  template <class Note>
  void fill_tiles(const std::string& name, const scaled_view<fp8_e4m3, block_tile>& to, rope_layout memory,
                  Note&& note) {
    const index_t rows = to.extent(0), columns = to.extent(1);
    bool as_they_are = true;
    detail::split_field(name, to.values, config(), [&](const checkpoint_tensor<fp8_e4m3>& part) {
      const index_t first = (part.data - to.values.data()) / columns, end = first + part.rows();
      as_they_are = as_they_are && tensors_.tensor(part.name).type == dtype::f8_e4m3 &&
                    tensors_.contains(scale_name(part.name)) && first % block_tile::rows == 0 &&
                    (end % block_tile::rows == 0 || end == rows) &&
                    (part.rotary.period == 0 || memory == file_.rope);
    });
    if (!as_they_are) {
      std::vector<float> meant(static_cast<std::size_t>(rows * columns));
      const view<float, 2> wide{meant.data(), rows, columns};
      detail::split_field(name, wide, config(), [&](const checkpoint_tensor<float>& part) {
        note(part.name);
        fill(part, memory);
      });
      return quantize_blocks<float>(wide, to, folder_ + ": " + name);
    }
    detail::split_field(name, to.values, config(), [&](const checkpoint_tensor<fp8_e4m3>& part) {
      note(part.name);
      const block_weight from = scaled_weight(entry_for(part));
      const auto& scales = from.values().scales;
      const index_t first = (part.data - to.values.data()) / columns / block_tile::rows;
      std::copy_n(from.values().values.data(), part.rows() * columns, part.data);
      for (index_t r = 0; r < scales.extent(0); ++r)
        for (index_t c = 0; c < scales.extent(1); ++c) to.scales(first + r, c) = scales(r, c);
    });
  }

  // Scales belong to rows as they lie in the file.
  template <class Row>
  void fill_from_blocks(const tensor_entry& from, index_t rows, Row&& memory_row) {
    if (!tensors_.contains(scale_name(from.name)) && options_.unscaled_codes) {
      const tensor_values<fp8_e4m3, 2> codes{from};
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < codes.values().extent(1); ++c)
          memory_row(r)[static_cast<std::size_t>(c)] = static_cast<float>(codes.values()(r, c));
      return;
    }
    const block_weight weight = scaled_weight(from);
    for (index_t r = 0; r < rows; ++r) dequantize_row(weight.values(), r, memory_row(r).data());
  }

  void account_for_the_rest(const model_config& filled, const std::set<std::string>& known,
                            checkpoint_report& report) {
    const index_t depth = filled.mtp_depth;
    const std::set<std::string> all = names_of_whole(filled);
    const auto pairs = shared_copies(config());
    const std::map<std::string, std::string> copies{pairs.begin(), pairs.end()};
    for (const auto& [name, file] : tensors_.names()) {
      if (known.contains(name)) continue;
      bool lies_elsewhere = all.contains(name);  // one that the bundle does not have, or a part that it lacks
      for (index_t k = depth; k < config().mtp_depth; ++k)
        lies_elsewhere = lies_elsewhere || name.starts_with(detail::layer_prefix(config().layers + k));
      if (const auto copy = copies.find(name); copy != copies.end()) {
        compare(name, copy->second);
        report.copies.push_back(name);
      } else if (lies_elsewhere) {
        report.left_out.push_back(name);
      } else {
        const std::string_view nearest = nearest_name(name, known);
        if (name.ends_with(scale_suffix))
          raise(tensors_.tensor(name).where() + " scales no tensor, expected " +
                name.substr(0, name.size() - scale_name("").size()) + " of F8_E4M3 beside it");
        raise(tensors_.tensor(name).where() + " is unknown to the config beside it" +
              (nearest.empty() ? "" : ", the nearest that it has is " + std::string(nearest)));
      }
    }
  }

  // Of a model that is shared out among ranks: what some rank has.
  std::set<std::string> names_of_whole(const model_config& part) const {
    std::set<std::string> names;
    if (part.held.empty() && part.expert_ranks == 1) return names;
    model_tensors<float> whole;
    whole.config = part.whole_model();
    place(whole, nullptr);
    for_each_checkpoint_tensor(whole, [&](const auto& tensor) {
      names.insert(tensor.name);
      names.insert(scale_name(tensor.name));
    });
    return names;
  }

  void compare(const std::string& name, const std::string& original) {
    const tensor_entry& a = tensors_.tensor(name);
    const tensor_entry& b = tensors_.tensor(original);
    if (a.type != b.type || a.extents != b.extents || !std::ranges::equal(a.bytes, b.bytes))
      raise(a.where() + " differs from " + original + ", expected a copy: the two are one tensor here");
  }

  std::string folder_;
  reading_options options_;
  config_file file_;
  safetensors_folder tensors_;
};

}  // namespace dsv3::inline DSV3_ABI
