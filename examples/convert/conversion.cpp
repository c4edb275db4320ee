// SPDX-License-Identifier: MIT
// The order in which a folder comes to be: its record, the shards, what lies beside them, config.json.
#include "conversion.hpp"

#include "shard.hpp"

#include <support/command_line.hpp>

#include <dsv3/io/safetensors/block_weight.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string_view>

namespace dsv3_convert {

using namespace dsv3;
namespace fs = std::filesystem;

namespace {

constexpr const char* record_name = "conversion.json";

std::string path_in(const std::string& folder, const std::string& file) {
  return (fs::path(folder) / file).string();
}

double gigabytes(std::uint64_t bytes) { return static_cast<double>(bytes) / 1e9; }

// Tokenizers, what to generate with, licences, code: what others look for beside weights.
bool belongs_beside(const std::string& name) {
  static constexpr std::string_view names[] = {"generation_config.json", "special_tokens_map.json",
                                               "added_tokens.json", "vocab.json", "merges.txt"};
  return std::ranges::find(names, name) != std::end(names) || name.starts_with("tokenizer") ||
         name.starts_with("chat_template") || name.starts_with("LICENSE") || name.ends_with(".py");
}

// The folder is ours while this lives; the system gives it back when the process ends, however it ends.
class folder_lock {
 public:
  explicit folder_lock(const std::string& folder) {
    handle_ = detail::descriptor{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (handle_.number() < 0) detail::raise_file(folder, "folder cannot be opened", errno);
    if (::flock(handle_.number(), LOCK_EX | LOCK_NB) != 0)
      raise(folder + ": another dsv3-convert is writing there");
  }

 private:
  detail::descriptor handle_;
};

// Says on a terminal how far it has come, once a second.
class progress_line {
 public:
  explicit progress_line(std::uint64_t all) : all_(all) {}

  void add(std::uint64_t bytes) {
    const std::uint64_t done = done_ += bytes;
    if (!::isatty(STDOUT_FILENO)) return;
    std::int64_t next = next_;
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    constexpr std::int64_t second = std::chrono::steady_clock::period::den;
    if (now < next || !next_.compare_exchange_strong(next, now + second)) return;
    std::printf("\r%.1f of %.1f GB, %.2f GB/s ", gigabytes(done), gigabytes(all_), rate());
    std::fflush(stdout);
  }
  /// Bytes that needed no work.
  void skip(std::uint64_t bytes) { all_ -= bytes; }
  double rate() const {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
    return gigabytes(done_) / std::max(passed.count(), 1e-9);
  }
  std::uint64_t done() const { return done_; }

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::atomic<std::uint64_t> done_ = 0, all_;
  std::atomic<std::int64_t> next_ = 0;
};

// A folder that this conversion began, or one without weights.
void require_own_folder(const std::string& folder, const json& record) {
  const std::string path = path_in(folder, record_name);
  if (!detail::exists(path)) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name == "config.json" || name.ends_with(".safetensors") ||
          name.ends_with(".safetensors.index.json"))
        raise(entry.path().string() + ": found, expected an empty folder or one that a conversion has begun");
    }
    return write_json(path, record);
  }
  const json begun = read_json(path);
  const std::string remedy = "; remove the folder to begin anew";
  json_fields fields{begun, path};
  if (const std::string& type = fields.text("dtype"); type != record["dtype"])
    raise(path + ": begun with --dtype " + type + ", asked to go on with --dtype " +
          record["dtype"].get<std::string>() + remedy);
  for (const auto& [file, facts] : record["source"].items())
    if (begun.value(json::json_pointer("/source/" + file), json()) != facts)
      raise(path + ": " + file + " of the source is not what it was when this conversion began" + remedy);
  if (begun != record) raise(path + ": this conversion was begun with other files or flags" + remedy);
}

void copy_file(const std::string& from, const std::string& to) {
  const mapped_file source{from};
  atomic_file file{to};
  file.append(source.bytes());
  file.commit();
}

void write_the_rest(const request& asked, const plan& p) {
  for (const auto& entry : fs::directory_iterator(asked.from)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && belongs_beside(name))
      copy_file(entry.path().string(), path_in(asked.to, name));
  }
  if (p.indexed) {
    json index = {{"metadata", {{"total_size", p.bytes}}}, {"weight_map", json::object()}};
    for (const planned_shard& shard : p.shards)
      for (const planned_tensor& tensor : shard.tensors) {
        index["weight_map"][tensor.from.name] = shard.name;
        if (tensor.quantized()) index["weight_map"][scale_name(tensor.from.name)] = shard.name;
      }
    write_json(path_in(asked.to, detail::index_name("model")), index);
  }
  write_json(path_in(asked.to, "config.json"), p.config);
}

void print_plan(const plan& p) {
  for (const planned_shard& shard : p.shards) {
    const auto made = std::ranges::count_if(shard.tensors, &planned_tensor::quantized);
    const auto undone = std::ranges::count_if(
        shard.tensors, [](const planned_tensor& t) { return t.scales && t.type != t.from.type; });
    std::printf("%s: %zu tensors, %td to 8 bits, %td from 8 bits, %.3f GB to %.3f GB\n", shard.name.c_str(),
                shard.tensors.size(), made, undone, gigabytes(shard.source_bytes), gigabytes(shard.bytes));
  }
  std::printf("%zu files, %.3f GB to %.3f GB; nothing was written\n", p.shards.size(),
              gigabytes(p.source_bytes), gigabytes(p.bytes));
}

}  // namespace

int convert(const request& asked) {
  std::error_code ignored;  // a folder that does not exist is no other name of the source
  if (fs::equivalent(asked.from, asked.to, ignored))
    throw support::usage_error("--to is the folder of --from, expected another one");
  const plan p = make_plan(asked);
  if (asked.dry_run) {
    print_plan(p);
    return 0;
  }
  std::error_code problem;
  fs::create_directories(asked.to, problem);
  if (problem) raise(asked.to + ": folder cannot be made: " + problem.message());
  const folder_lock lock{asked.to};
  require_own_folder(asked.to, p.record);
  atomic_file::remove_leftovers(asked.to);

  progress_line line{p.source_bytes};
  const progress done = [&](std::uint64_t bytes) { line.add(bytes); };
  for (std::size_t i = 0; i < p.shards.size(); ++i) {
    const planned_shard& shard = p.shards[i];
    const auto say = [&](const std::string& what) {
      std::printf("%s%s (%zu of %zu): %s\n", ::isatty(STDOUT_FILENO) ? "\r" : "", shard.name.c_str(), i + 1,
                  p.shards.size(), what.c_str());
      std::fflush(stdout);
    };
    if (detail::exists(path_in(asked.to, shard.name))) {
      const status found = verify_shard(asked.to, shard, asked.threads);
      line.skip(shard.source_bytes);
      say(found ? "verified, it was there" : found.message() + "; it is written again");
      if (found) continue;
    }
    write_shard(asked.to, shard, asked, done);
    require(verify_shard(asked.to, shard, asked.threads));
    char figures[64];
    std::snprintf(figures, sizeof figures, "%.3f GB to %.3f GB, verified", gigabytes(shard.source_bytes),
                  gigabytes(shard.bytes));
    say(figures);
  }
  write_the_rest(asked, p);
  std::printf("%s: complete, %.3f GB of weights", asked.to.c_str(), gigabytes(p.bytes));
  if (line.done() > 0) std::printf("; %.3f GB read at %.2f GB/s", gigabytes(line.done()), line.rate());
  std::printf("\n");
  return 0;
}

}  // namespace dsv3_convert
