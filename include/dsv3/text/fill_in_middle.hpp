// SPDX-License-Identifier: MIT
// Fill-in-the-middle: a share of the documents is told with its middle last (report, section 4.1).
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/exec/random.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

/// Which documents are told otherwise, and where they are cut: a function of seed, pass and document. A
/// document in prefix-suffix-middle order reads
///
///     <fim_begin> prefix <fim_hole> suffix <fim_end> middle <end of document>
///
/// The report gives the order, the rate of 0.1, and that it happens to documents before they are packed. That
/// both cuts are uniform over the characters of the document is our reading.
struct fill_in_middle {
  double rate = 0;  // share of the documents, 0 to 1
  std::uint64_t seed = 0;

  struct parts {
    std::string_view prefix, middle, suffix;
  };

  /// The parts of a document, or nothing where it stays as it is. None of them begins inside a character.
  std::optional<parts> cut(std::string_view text, index_t document, index_t pass) const {
    const auto random = random_stream::named(seed, "data.fill_in_middle." + std::to_string(pass));
    const std::uint64_t counter = 3 * static_cast<std::uint64_t>(document);
    if (random.uniform(counter) >= rate) return {};
    const auto begins = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; };
    const auto characters = static_cast<std::uint64_t>(std::count_if(text.begin(), text.end(), begins));
    std::uint64_t places[] = {random.below(characters + 1, counter + 1),
                              random.below(characters + 1, counter + 2)};
    if (places[0] > places[1]) std::swap(places[0], places[1]);
    std::size_t bytes[2], at = 0;
    for (std::uint64_t seen = 0, i = 0; i < 2; ++i) {
      for (; at < text.size(); ++at) {
        if (!begins(text[at])) continue;
        if (seen == places[i]) break;
        ++seen;
      }
      bytes[i] = at;
    }
    return parts{text.substr(0, bytes[0]), text.substr(bytes[0], bytes[1] - bytes[0]), text.substr(bytes[1])};
  }
};

}  // namespace dsv3::inline DSV3_ABI
