// SPDX-License-Identifier: MIT
// The log of a run: one JSON object a line, complete on the disk's side of the process after every row.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/io/json_row.hpp>
#include <dsv3/io/tensorboard.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Rows in the order of their steps.
///
///     jsonl_log log{"runs/a/run.jsonl"};                           // a run that begins
///     jsonl_log log = jsonl_log::resume("runs/a/run.jsonl", 500);  // a run that goes on after step 500
///     log.append(json_row{}.add("step", step).add("loss", loss));
class jsonl_log {
 public:
  /// Begins an empty file.
  explicit jsonl_log(std::string path) : file_(std::move(path)) {}

  /// Drops the rows of later steps, and a last row that was cut off, so that no step appears twice. Begins an
  /// empty file where none exists.
  static jsonl_log resume(const std::string& path, index_t last_step) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return jsonl_log{path};
    const mapped_file mapping{path};
    const std::string_view text = mapping.text();
    std::size_t kept = 0;
    for (index_t row = 1; text.find('\n', kept) != text.npos; ++row) {
      const std::string_view line = text.substr(kept, text.find('\n', kept) - kept);
      const std::string where = path + ": row " + std::to_string(row);
      const json value = parse_json(line, where);
      if (json_fields{value, where}.integer("step") > last_step) break;
      kept += line.size() + 1;
    }
    return jsonl_log{growing_file{path, kept}};
  }

  void append(const json_row& row) { file_.append(row.text() + '\n'); }

 private:
  explicit jsonl_log(growing_file file) : file_(std::move(file)) {}

  growing_file file_;
};

}  // namespace dsv3::inline DSV3_ABI
