// SPDX-License-Identifier: MIT
// Reads the headers of a folder, and says of each tensor what becomes of it.
#include "plan.hpp"

#include <dsv3/io/safetensors/block_weight.hpp>
#include <dsv3/model/config_file.hpp>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

namespace dsv3_convert {

using namespace dsv3;

namespace {

std::string path_in(const std::string& folder, const std::string& file) {
  return (std::filesystem::path(folder) / file).string();
}

class planner {
 public:
  explicit planner(const request& asked)
      : asked_(asked),
        config_path_(path_in(asked.from, "config.json")),
        wide_(asked.type == "bf16" ? dtype::bf16 : dtype::f32) {}

  plan make() {
    plan_.config = read_json(config_path_);
    json_fields fields{plan_.config, config_path_};
    if (fields.present("quantization_config"))
      scales_ =
          parse_quantization(plan_.config["quantization_config"], config_path_ + ": quantization_config");
    plan_.record = {{"dtype", asked_.type}, {"unscaled_codes", asked_.unscaled_codes}};
    note_source("config.json");
    open_files();
    for (const safetensors_file& file : plan_.files) plan_shard(file);
    for (const auto& [name, entry] : tensors_)
      if (name.ends_with(scale_suffix)) require_weight(*entry);
    change_config();
    return std::move(plan_);
  }

 private:
  void open_files() {
    const safetensors_folder folder{asked_.from};
    std::map<std::string, std::vector<std::string>> names;  // by file
    for (const auto& [name, file] : folder.names()) names[file].push_back(name);
    plan_.indexed = !detail::exists(path_in(asked_.from, detail::single_name("model")));
    if (plan_.indexed) note_source(detail::index_name("model"));
    for (const auto& [file, inside] : names) {
      note_source(file);
      const safetensors_file& opened = plan_.files.emplace_back(path_in(asked_.from, file));
      for (const std::string& name : inside) tensors_.emplace(name, &opened.tensor(name));
    }
  }

  // What a source is told by when the conversion goes on: it must not have changed.
  void note_source(const std::string& file) {
    const std::filesystem::path path = path_in(asked_.from, file);
    std::error_code problem;
    const auto bytes = std::filesystem::file_size(path, problem);
    const auto modified = std::filesystem::last_write_time(path, problem);
    if (problem) raise(path.string() + ": cannot be examined: " + problem.message());
    plan_.record["source"][file] = {{"bytes", bytes}, {"modified", modified.time_since_epoch().count()}};
  }

  void plan_shard(const safetensors_file& file) {
    planned_shard shard;
    shard.name = std::filesystem::path(file.path()).filename().string();
    shard.metadata = file.metadata();
    shard.metadata.erase(detail::checksums_key);
    shard.metadata.emplace("format", "pt");
    for (const tensor_entry& tensor : file.tensors()) {
      const auto known = tensors_.find(tensor.name);
      if (known == tensors_.end() || known->second != &tensor)
        raise(tensor.where() + " found, the index does not say that it is here");
      shard.source_bytes += tensor.bytes.size();
      if (const auto planned = plan_tensor(tensor)) {
        shard.bytes += planned->bytes();
        shard.tensors.push_back(*planned);
      }
    }
    // In an order that does not depend on the source's: the same tensors are the same bytes.
    std::ranges::sort(shard.tensors, {},
                      [](const planned_tensor& t) { return std::string_view(t.from.name); });
    plan_.source_bytes += shard.source_bytes;
    plan_.bytes += shard.bytes;
    if (!shard.tensors.empty()) plan_.shards.push_back(std::move(shard));
  }

  // Nothing where the tensor has no place in the new folder.
  std::optional<planned_tensor> plan_tensor(const tensor_entry& tensor) {
    planned_tensor result{tensor, {}, tensor.type};
    const bool narrow = asked_.type == "fp8";
    if (tensor.name.ends_with(scale_suffix)) return narrow ? std::optional(result) : std::nullopt;
    switch (tensor.type) {
      case dtype::f8_e4m3:
        result.scales = scales_of(tensor);
        if (!narrow) result.type = wide_;
        return result;
      case dtype::f64:
      case dtype::f32:
      case dtype::bf16:
        if (narrow && stored_in_blocks(tensor.name)) {
          require_no_powers(tensor);
          if (tensor.extents.size() != 2)
            raise(tensor.where() + " has shape " + to_string(tensor.extents) + ", expected 2 extents");
          result.type = dtype::f8_e4m3;
        } else if (!narrow && !(wide_ == dtype::bf16 && is_routing_bias(tensor.name))) {
          result.type = wide_;
        }
        return result;
      case dtype::f16:
      case dtype::f8_e5m2:
      case dtype::f8_e8m0:
        raise(tensor.where() + " has type " + std::string(to_string(tensor.type)) +
              ", expected F64, F32, BF16 or F8_E4M3");
      default:  // whole numbers are no weights
        return result;
    }
  }

  // Routers compare scores that differ by less than bf16 tells apart.
  static bool is_routing_bias(const std::string& name) { return name.ends_with(".e_score_correction_bias"); }

  std::optional<tensor_entry> scales_of(const tensor_entry& codes) {
    const auto found = tensors_.find(scale_name(codes.name));
    if (found == tensors_.end()) {
      if (asked_.unscaled_codes) return {};
      raise(codes.where() + " has type F8_E4M3 and no " + scale_name(codes.name) +
            " was found, expected the scales of its blocks");
    }
    if (!scales_)
      raise(codes.where() +
            " has type F8_E4M3, expected quantization_config in the config.json beside it "
            "to say how it is scaled");
    require(block_weight::fit(codes, *found->second));
    return *found->second;
  }

  void require_weight(const tensor_entry& scales) {
    const std::string weight = scales.name.substr(0, scales.name.size() - scale_name("").size());
    const auto found = tensors_.find(weight);
    if (found == tensors_.end())
      raise(scales.where() + " scales no tensor, expected " + weight + " of F8_E4M3 beside it");
    if (found->second->type != dtype::f8_e4m3)
      raise(scales.where() + " found beside " + weight + " of type " +
            std::string(to_string(found->second->type)) + ", expected scales of F8_E4M3 alone");
  }

  void require_no_powers(const tensor_entry& tensor) {
    if (scales_ == scale_kind::power_of_two)
      raise(tensor.where() +
            " is not in 8 bits, and config.json says that scales are powers of two, which "
            "those made here are not: convert to bf16 first");
  }

  void change_config() {
    if (asked_.type == "fp8") {
      if (!scales_) plan_.config["quantization_config"] = quantization_json();
      return;
    }
    plan_.config.erase("quantization_config");
    const char* const name = asked_.type == "bf16" ? "bfloat16" : "float32";
    for (const char* key : {"dtype", "torch_dtype"})
      if (plan_.config.contains(key)) plan_.config[key] = name;
  }

  const request& asked_;
  const std::string config_path_;
  const dtype wide_;
  std::optional<scale_kind> scales_;
  std::map<std::string, const tensor_entry*> tensors_;
  plan plan_;
};

}  // namespace

std::uint64_t planned_tensor::bytes() const {
  const auto size = [](dtype type, const std::vector<index_t>& extents) {
    const auto bytes = bytes_of(type, extents);
    return static_cast<std::uint64_t>(bytes.value_or(0));  // the header of the source has been checked
  };
  return size(type, from.extents) + (quantized() ? size(dtype::f32, scale_extents(from.extents)) : 0);
}

plan make_plan(const request& asked) { return planner{asked}.make(); }

}  // namespace dsv3_convert
