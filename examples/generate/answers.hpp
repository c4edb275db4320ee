// SPDX-License-Identifier: MIT
// Tokens of several answers, as they come, to text on standard output.
#pragma once

#include "request.hpp"

#include <dsv3/infer/stop.hpp>
#include <dsv3/text/detokenizer.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace generate {

/// Looks for texts that end an answer, in text that comes in pieces.
class stop_texts {
 public:
  explicit stop_texts(std::vector<std::string> texts) : texts_(std::move(texts)) {}

  /// The text that no stop text can begin in any more; what may be one waits.
  std::string push(std::string_view piece);
  /// What still waits.
  std::string finish() { return std::exchange(waiting_, {}); }
  bool found() const { return found_; }

 private:
  std::vector<std::string> texts_;
  std::string waiting_;
  bool found_ = false;
};

/// Answer i belongs to prompt i / samples.
class answers {
 public:
  answers(const request& asked, const dsv3::tokenizer& words);

  /// What a step brought. False when a stop text ended the answer.
  bool add(index_t answer, std::span<const std::int32_t> tokens, index_t mark, dsv3::finish reason);

 private:
  struct answer {
    dsv3::detokenizer text;
    stop_texts stop;
    std::vector<std::int32_t> tokens;
    std::string printed;  // or what is to be
    bool finished = false;
  };

  void take(index_t number, const std::string& text);
  void close(index_t number, const char* reason);
  void print_whole(index_t number) const;

  const request& asked_;
  std::vector<answer> answers_;
  index_t next_ = 0;  // whole texts are printed in order
};

}  // namespace generate
