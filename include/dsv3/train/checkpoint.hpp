// SPDX-License-Identifier: MIT
// The state of a training run on disk: written whole or not at all, found again after any kind of end.
//
//   <run>/latest                     name of the newest checkpoint; moved last
//   <run>/step-00000200/             config.json, model.safetensors, tokenizer.json: what readers read
//                                    state.safetensors: masters that are wider than the weights, moments,
//                                    routing
//                                    state.json: progress, and size and checksum of every file
//   <run>/step-00000400.tmp-4711/    being written, or left by a run that was killed
#pragma once

#include <dsv3/model/checkpoint.hpp>
#include <dsv3/train/state.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

inline constexpr index_t training_format = 1;  // of state.json and state.safetensors
inline constexpr const char* state_stem = "state";
inline constexpr const char* manifest_name = "state.json";
inline constexpr const char* pointer_name = "latest";
inline constexpr std::string_view unfinished_mark = ".tmp-";

inline std::string join(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}

inline std::string step_name(index_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

/// The step of a finished checkpoint's folder name; nothing for any other name.
inline std::optional<index_t> step_of(const std::string& name) {
  index_t step = 0;
  if (!name.starts_with("step-")) return {};
  const auto parsed = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  if (parsed.ec != std::errc() || step < 0 || name != step_name(step)) return {};
  return step;
}

/// Steps of the finished checkpoints of a run, newest first.
inline std::vector<index_t> finished_steps(const std::string& run) {
  std::vector<index_t> steps;
  std::error_code ignored;  // a folder that does not exist holds none
  for (const auto& entry : std::filesystem::directory_iterator(run, ignored))
    if (const auto step = step_of(entry.path().filename().string())) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

/// The name that the pointer holds; empty where there is none.
inline std::string pointed_at(const std::string& run) {
  const std::string path = join(run, pointer_name);
  if (!exists(path)) return {};
  const mapped_file file{path};
  std::string name{file.text()};
  if (name.ends_with('\n')) name.pop_back();
  return step_of(name) ? name : std::string();
}

inline void remove_unfinished(const std::string& run) {
  std::error_code ignored;  // what cannot be removed is in nobody's way
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(run, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::size_t mark = name.find(unfinished_mark);
    if (mark != name.npos && step_of(name.substr(0, mark))) found.push_back(entry.path());
  }
  for (const auto& path : found) std::filesystem::remove_all(path, ignored);
  atomic_file::remove_leftovers(run);
}

/// A folder under a temporary name, removed at the end of the scope unless it was published.
class unfinished_folder {
 public:
  unfinished_folder(const std::string& run, const std::string& name)
      : run_(run),
        target_(join(run, name)),
        path_(target_ + std::string(unfinished_mark) + std::to_string(::getpid())) {
    std::error_code problem;
    std::filesystem::create_directories(path_, problem);
    if (problem) raise(path_ + ": folder cannot be made: " + problem.message());
  }
  unfinished_folder(const unfinished_folder&) = delete;
  unfinished_folder& operator=(const unfinished_folder&) = delete;
  ~unfinished_folder() {
    std::error_code ignored;  // the next save tries again
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }

  /// Gives the folder its name. One that has the name already changes places with it and goes.
  void publish() {
    sync_folder(path_);
    const bool replaces = exists(target_);
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), replaces ? RENAME_EXCHANGE : 0) !=
        0) {
      if (replaces && (errno == EINVAL || errno == ENOSYS)) {  // a file system that cannot exchange
        const std::string aside = path_ + "-replaced";
        if (std::rename(target_.c_str(), aside.c_str()) != 0)
          raise_file(target_, "cannot be moved aside", errno);
        if (std::rename(path_.c_str(), target_.c_str()) != 0)
          raise_file(target_, "cannot be given its name", errno);
      } else {
        raise_file(target_, "cannot be given its name", errno);
      }
    }
    sync_folder(run_);
  }

 private:
  std::string run_, target_, path_;
};

/// Calls visit(name, view) for every tensor of state.safetensors. Masters are there where forward reads
/// another type; where it does not, they are the weights of model.safetensors. That has BF16 where the
/// weights are scaled tiles: then all masters are here, and the tiles are made from them.
template <precision P, layout_policy L, class Visit>
void for_each_state_tensor(training_state<P, L>& state, Visit&& visit) {
  for (const parameter<P>& row : state.parameters)
    if (tilewise<P> || !row.w.empty()) visit("masters." + row.name, row.p);
  for (const parameter<P>& row : state.parameters) visit("first_moments." + row.name, row.m);
  for (const parameter<P>& row : state.parameters) visit("second_moments." + row.name, row.v);
  visit("routing.bias", state.routing.bias.flat());
  visit("routing.load", state.routing.load.flat());
}

inline json progress_json(const training_progress& p) {
  return {{"step", p.step},
          {"tokens", p.tokens},
          {"seed", std::to_string(p.seed)},
          {"data_epoch", p.data_epoch},
          {"data_position", p.data_position},
          {"data_length", p.data_length},
          {"data_sum", p.data_sum},
          {"tokenizer_sum", p.tokenizer_sum},
          {"updates", p.updates},
          {"skipped", p.skipped},
          {"skipped_in_row", p.skipped_in_row}};
}

inline training_progress read_progress(json_fields fields) {
  training_progress p;
  p.step = fields.integer("step", not_negative);
  p.tokens = fields.integer("tokens", not_negative);
  const std::string& seed = fields.text("seed");
  const auto parsed = std::from_chars(seed.data(), seed.data() + seed.size(), p.seed);
  if (parsed.ec != std::errc() || parsed.ptr != seed.data() + seed.size())
    fields.refuse("seed", seed, "the digits of a 64-bit number");
  p.data_epoch = fields.integer("data_epoch", not_negative);
  p.data_position = fields.integer("data_position", not_negative);
  p.data_length = fields.integer("data_length", not_negative);
  p.data_sum = static_cast<std::uint32_t>(fields.integer("data_sum", {0, 0xFFFFFFFF}));
  p.tokenizer_sum = static_cast<std::uint32_t>(fields.integer("tokenizer_sum", {0, 0xFFFFFFFF}, 0));
  p.updates = fields.integer("updates", not_negative);
  p.skipped = fields.integer("skipped", not_negative);
  p.skipped_in_row = fields.integer("skipped_in_row", not_negative);
  require(fields.unknown());
  return p;
}

/// state.json: what the checkpoint is, and what its files must be.
struct training_manifest {
  std::string precision;
  training_progress progress;
  std::uint32_t config_sum = 0;  // of the config.json beside it, as config_json writes it
  std::vector<written_file> files;

  std::string text() const {
    json object = {{"format", training_format},
                   {"precision", precision},
                   {"progress", progress_json(progress)},
                   {"config_crc32c", config_sum},
                   {"files", json::array()}};
    for (const written_file& file : files)
      object["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"crc32c", file.checksum}});
    object["crc32c"] = crc32c_of(object.dump());  // of everything else
    return object.dump(2) + "\n";
  }

  static training_manifest read(const std::string& path) {
    json object = read_json(path);
    json_fields fields{object, path};
    const index_t format = fields.integer("format");
    if (format != training_format)
      fields.refuse("format", format, std::to_string(training_format) + ": another version wrote it");
    const index_t sum = fields.integer("crc32c", {0, 0xFFFFFFFF});
    training_manifest manifest;
    manifest.precision = fields.text("precision");
    manifest.progress = read_progress(fields.object("progress"));
    manifest.config_sum = static_cast<std::uint32_t>(fields.integer("config_crc32c", {0, 0xFFFFFFFF}));
    for (const json& entry : object["files"]) {
      json_fields file{entry, path + ": files"};
      manifest.files.push_back({file.text("name"),
                                static_cast<std::uint64_t>(file.integer("bytes", not_negative)),
                                static_cast<std::uint32_t>(file.integer("crc32c", {0, 0xFFFFFFFF}))});
      require(file.unknown());
    }
    require(fields.unknown({"files"}));
    object.erase("crc32c");
    if (crc32c_of(object.dump()) != sum) raise(path + " is damaged: it does not have the checksum it names");
    return manifest;
  }
};

/// Removes the oldest checkpoints but `kept`, never the one the pointer names.
inline void prune_checkpoints(const std::string& run, index_t kept) {
  const std::string latest = pointed_at(run);
  index_t seen = 0;
  for (const index_t step : finished_steps(run)) {
    const std::string name = step_name(step);
    if (seen++ < kept || name == latest) continue;
    // Under a temporary name first, so that a removal that is cut short leaves no half checkpoint.
    const std::string doomed = join(run, name + std::string(unfinished_mark) + std::to_string(::getpid()));
    if (std::rename(join(run, name).c_str(), doomed.c_str()) != 0) continue;  // somebody else's by now
    std::error_code ignored;                                                  // the next save tries again
    std::filesystem::remove_all(doomed, ignored);
  }
}

}  // namespace detail

/// Good when `folder` is a whole checkpoint: every file there, of its size and checksum.
inline status verify_checkpoint(const std::string& folder) {
  return attempt([&] {
    const auto manifest = detail::training_manifest::read(detail::join(folder, detail::manifest_name));
    for (const written_file& expected : manifest.files) {
      const mapped_file file{detail::join(folder, expected.name)};
      if (file.bytes().size() != expected.bytes)
        raise(file.path() + " has " + std::to_string(file.bytes().size()) + " bytes, expected " +
              std::to_string(expected.bytes));
      if (crc32c_of(file.bytes()) != expected.checksum)
        raise(file.path() + " is damaged: it does not have the checksum that " + detail::manifest_name +
              " names");
    }
  });
}

struct found_checkpoint {
  std::string folder;  // empty: there is none that is whole
  std::string remark;  // why it is not the one that `latest` names; empty where it is
};

/// The checkpoint that `latest` names, or the newest whole one where that is damaged or missing.
inline found_checkpoint find_latest(const std::string& run) {
  const std::string latest = detail::pointed_at(run);
  found_checkpoint found;
  if (latest.empty()) {
    found.remark = detail::join(run, detail::pointer_name) + " names no checkpoint";
  } else {
    const status whole = verify_checkpoint(detail::join(run, latest));
    if (whole.good()) return {detail::join(run, latest), {}};
    found.remark = whole.message();
  }
  for (const index_t step : detail::finished_steps(run)) {
    const std::string name = detail::step_name(step), folder = detail::join(run, name);
    if (name == latest || !verify_checkpoint(folder).good()) continue;
    found.folder = folder;
    found.remark += "; the newest whole checkpoint is " + name;
    return found;
  }
  return found;
}

/// Removes what a run that was killed has left unfinished. Call it only while nobody writes there.
inline void remove_unfinished(const std::string& run) { detail::remove_unfinished(run); }

/// Whether a run has left a checkpoint here, whole or not.
inline bool has_checkpoint(const std::string& run) {
  return !detail::pointed_at(run).empty() || !detail::finished_steps(run).empty();
}

/// Writes <run>/step-N and moves the pointer to it; removes what earlier runs left unfinished and all but the
/// newest `kept` checkpoints. Whatever ends it early, the checkpoints before stay as they are. `tokenizer`,
/// if not empty, is the text of the tokenizer.json beside the weights. Answers the folder.
template <precision P, layout_policy L>
std::string save_checkpoint(const std::string& run, training_state<P, L>& state, index_t kept = 2,
                            std::string_view tokenizer = {}, std::uint64_t max_shard_bytes = 5'000'000'000) {
  const std::string name = detail::step_name(state.progress.step);
  detail::remove_unfinished(run);
  detail::unfinished_folder folder{run, name};
  detail::training_manifest manifest{
      P::name, state.progress, crc32c_of(config_json(state.masters.config).dump()), {}};
  const view<const master<P>, 2> bias = state.routing.bias;
  checkpoint_options options{.memory = L::rope, .max_shard_bytes = max_shard_bytes};
  if constexpr (tilewise<P>) {
    options.type = dtype::bf16;
    manifest.files = write_checkpoint(folder.path(), state.masters, bias, options);
  } else {
    manifest.files = write_checkpoint(folder.path(), state.weights, bias, options);
  }
  safetensors_folder_writer writer{folder.path(), max_shard_bytes, detail::state_stem};
  detail::for_each_state_tensor(state, [&]<class T>(const std::string& tensor, view<T, 1> values) {
    writer.declare(tensor, dtype_of<T>, {values.size()});
  });
  detail::for_each_state_tensor(
      state, [&](const std::string& tensor, const auto& values) { writer.append(tensor, values); });
  writer.commit();
  manifest.files.insert(manifest.files.end(), writer.files().begin(), writer.files().end());
  if (!tokenizer.empty()) {
    write_file(detail::join(folder.path(), "tokenizer.json"), tokenizer);
    manifest.files.push_back({"tokenizer.json", tokenizer.size(), crc32c_of(tokenizer)});
  }
  write_file(detail::join(folder.path(), detail::manifest_name), manifest.text());
  folder.publish();
  write_file(detail::join(run, detail::pointer_name), name + "\n");
  detail::prune_checkpoints(run, kept);
  return detail::join(run, name);
}

/// Fills the state from a checkpoint's folder, or from the newest whole one of a run's folder. Raises where
/// there is none, and for a checkpoint of another model or precision.
template <execution_context Ctx, precision P, layout_policy L>
found_checkpoint load_checkpoint(const std::string& path, Ctx& ctx, training_state<P, L>& state) {
  found_checkpoint found{path, {}};
  if (detail::exists(detail::join(path, detail::manifest_name))) {
    require(verify_checkpoint(path));
  } else {
    found = find_latest(path);
    if (found.folder.empty()) raise(path + ": no whole checkpoint found: " + found.remark);
  }
  const std::string& folder = found.folder;
  const std::string manifest_path = detail::join(folder, detail::manifest_name);
  const auto manifest = detail::training_manifest::read(manifest_path);
  checkpoint_reader reader{folder};
  require(same_model(reader.config(), detail::join(folder, "config.json"), state.masters.config, "this run"));
  if (manifest.config_sum != crc32c_of(config_json(reader.config()).dump()))
    raise(detail::join(folder, "config.json") + " is not the config that " + manifest_path +
          " was written with");
  if (manifest.precision != P::name)
    raise(manifest_path + ": precision is \"" + manifest.precision + "\", expected this run's, " + P::name);

  prepare_state(ctx, state);
  synchronize(ctx);
  if constexpr (!tilewise<P>) reader.read(state.weights, state.routing.bias, L::rope);
  safetensors_folder files{folder, detail::state_stem};
  index_t tensors = 0;
  detail::for_each_state_tensor(state, [&]<class T>(const std::string& name, view<T, 1> to) {
    const tensor_values<T, 1> from{files.tensor(name)};
    if (from.values().size() != to.size())
      raise(files.tensor(name).where() + " has " + std::to_string(from.values().size()) +
            " elements, expected " + std::to_string(to.size()));
    std::copy_n(from.values().data(), to.size(), to.data());
    ++tensors;
  });
  if (const auto found_tensors = static_cast<index_t>(files.names().size()); found_tensors != tensors)
    raise(folder + ": " + std::to_string(found_tensors) + " tensors found in the training state, expected " +
          std::to_string(tensors));
  if constexpr (tilewise<P>)
    for (const parameter<P>& row : state.parameters) adopt_master(ctx, row, state.masters.config.recipe);
  state.progress = manifest.progress;
  return found;
}

}  // namespace dsv3::inline DSV3_ABI
