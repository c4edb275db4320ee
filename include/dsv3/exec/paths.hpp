// SPDX-License-Identifier: MIT
// Which body every operation of some work gets: found by the dispatch that finds it when the work is done.
#pragma once

#include <dsv3/exec/dispatch.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What the body of Op on Backend calls the code it runs for this record; else what its backend calls its
/// bodies.
template <class Op, class Backend, class Args>
const char* path_of([[maybe_unused]] const Args& args) {
  using found = nearest<Op, Backend>;
  if constexpr (requires { found::type::path(args); })
    return found::type::path(args);
  else if constexpr (requires { found::home::path; })
    return found::home::path;
  else
    return "a backend without a name";
}

/// Operations and the paths they take; `measure` fills it.
///
///     path_list paths;
///     measure(ctx, work, &paths);
///     paths.line();  // "Hopper's own: mla_attention, grouped_gemm; cuBLASLt: gemm; functional CUDA:
///     rms_norm"
class path_list {
 public:
  void add(const char* operation, const char* path) {
    const std::pair entry{operation, path};
    if (std::find(entries_.begin(), entries_.end(), entry) == entries_.end()) entries_.push_back(entry);
  }
  bool empty() const { return entries_.empty(); }

  /// Path by path, in the order they first appeared. An operation whose records all take one path is named
  /// once, others record by record; one that takes two, by its shapes, is in both.
  std::string line() const {
    std::vector<std::string> paths;
    for (const auto& [operation, path] : entries_) append_once(paths, path);
    std::string text;
    for (const std::string& path : paths) {
      std::vector<std::string> names;
      for (const auto& [operation, taken] : entries_)
        if (path == taken) append_once(names, takes_one(stem(operation)) ? stem(operation) : operation);
      text += (text.empty() ? "" : "; ") + path + ": ";
      for (const std::string& name : names) text += (&name == &names.front() ? "" : ", ") + name;
    }
    return text;
  }

 private:
  static void append_once(std::vector<std::string>& list, const std::string& word) {
    if (std::find(list.begin(), list.end(), word) == list.end()) list.push_back(word);
  }
  // "gemm" of "gemm.backward_data"
  static std::string stem(const std::string& operation) { return operation.substr(0, operation.find('.')); }
  bool takes_one(const std::string& wanted) const {
    std::vector<std::string> paths;
    for (const auto& [operation, path] : entries_)
      if (stem(operation) == wanted) append_once(paths, path);
    return paths.size() == 1;
  }

  std::vector<std::pair<const char*, const char*>> entries_;  // few; words may be there twice
};

}  // namespace dsv3::inline DSV3_ABI
