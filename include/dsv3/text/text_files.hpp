// SPDX-License-Identifier: MIT
// Which files hold the text that files and folders name.
#pragma once

#include <dsv3/base/error.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {
inline void walk_folder(const std::string& folder, std::vector<std::string>& files) {
  namespace fs = std::filesystem;
  std::error_code problem;
  fs::recursive_directory_iterator at(folder, problem);
  for (; !problem && at != fs::recursive_directory_iterator(); at.increment(problem)) {
    const std::string name = at->path().filename().string();
    std::error_code unreadable;  // a broken link is no file
    if (name.starts_with('.')) {
      if (at->is_directory(unreadable)) at.disable_recursion_pending();
    } else if (at->is_regular_file(unreadable)) {
      files.push_back(at->path().string());
    }
  }
  if (problem) raise("data: " + folder + " cannot be walked: " + problem.message());
}
}  // namespace detail

/// The files of files and folders, in the order of their paths, each once. Folders are walked whole, without
/// hidden names. What does not exist raises.
inline std::vector<std::string> files_of(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code problem;
    const fs::file_status found = fs::status(path, problem);
    if (!fs::exists(found)) raise("data: " + path + " does not exist, expected a file or a folder of text");
    if (fs::is_directory(found))
      detail::walk_folder(path, files);
    else
      files.push_back(path);
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

/// A file with a zero byte is not text.
inline bool is_text(std::string_view content) { return content.find('\0') == std::string_view::npos; }

}  // namespace dsv3::inline DSV3_ABI
