// SPDX-License-Identifier: MIT
// Rank lists as people write them: "F0 x7, (I1 W F1) x3, (F0|B1)".
#pragma once

#include <cctype>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace support {

/// "F0 x2, (I1 W) x2" -> "F0 F0 I1 W I1 W"; groups nest, commas are spaces, (F0|B1) is F0|B1.
class written_list {
 public:
  static std::string expanded(const std::string& text) {
    written_list reader{text};
    const std::string all = reader.sequence();
    if (reader.at_ != text.size()) throw std::invalid_argument("unpaired ) in " + text);
    return all;
  }

 private:
  explicit written_list(const std::string& text) : text_(text) {}

  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == ',')) ++at_;
  }
  std::string sequence() {
    std::string all;
    for (skip(); at_ < text_.size() && text_[at_] != ')'; skip()) {
      std::string item;
      if (text_[at_] == '(') {
        ++at_;
        item = sequence();
        ++at_;
      } else {
        while (at_ < text_.size() && std::string(" ,()").find(text_[at_]) == std::string::npos)
          item += text_[at_++];
      }
      for (int times = repeats(); times > 0; --times) all += (all.empty() ? "" : " ") + item;
    }
    return all;
  }
  int repeats() {
    skip();
    if (at_ + 1 >= text_.size() || text_[at_] != 'x' ||
        !std::isdigit(static_cast<unsigned char>(text_[at_ + 1])))
      return 1;
    std::size_t digits = 0;
    const int times = std::stoi(text_.substr(at_ + 1), &digits);
    at_ += 1 + digits;
    return times;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

}  // namespace support
