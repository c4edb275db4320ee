// SPDX-License-Identifier: MIT
// Text files a few at a time: mapped, handed on, and let go again.
#pragma once

#include <dsv3/io/file.hpp>
#include <dsv3/text/text_files.hpp>

#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3_tokenize {

struct text_batch {
  std::vector<std::string_view> texts;
  std::size_t skipped = 0;  // of all files so far: those that hold no text
};

/// Calls act(batch) with the texts of the files in their order, about `bytes` together. Empty files and files
/// that hold no text are left out.
template <class Act>
void each_batch(const std::vector<std::string>& files, std::size_t bytes, Act&& act) {
  text_batch batch;
  std::vector<dsv3::mapped_file> mapped;
  std::size_t held = 0;
  const auto hand_on = [&] {
    if (!batch.texts.empty()) act(batch);
    batch.texts.clear();
    mapped.clear();
    held = 0;
  };
  for (const std::string& path : files) {
    dsv3::mapped_file file{path};
    const std::string_view text = file.text();
    if (text.empty()) continue;
    if (!dsv3::is_text(text)) {
      ++batch.skipped;
      continue;
    }
    batch.texts.push_back(text);
    mapped.push_back(std::move(file));
    held += text.size();
    // Mappings are few on every system, so their number ends a batch too.
    if (held >= bytes || mapped.size() == 4096) hand_on();
  }
  hand_on();
}

/// A line on standard error that lives on a terminal and is silent elsewhere.
class progress_line {
 public:
  ~progress_line() {
    if (open_) std::fprintf(stderr, "\r\033[K");
  }
  void show(const std::string& text) {
    if (!live_) return;
    std::fprintf(stderr, "\r%s\033[K", text.c_str());
    open_ = true;
  }

 private:
  bool live_ = ::isatty(STDERR_FILENO) == 1, open_ = false;
};

inline std::string mebibytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace dsv3_tokenize
