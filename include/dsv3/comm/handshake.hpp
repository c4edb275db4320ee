// SPDX-License-Identifier: MIT
// Ranks compare what they believe before they begin: version of the library, configuration, mesh.
#pragma once

#include <dsv3/comm/any_communicator.hpp>
#include <dsv3/comm/mesh.hpp>
#include <dsv3/version.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// What must be the same on all ranks, by name. Long texts are compared as a whole and shown by their digest.
///
///     handshake(world, {{"config", config_text}, {"seed", "1"}}, mesh_shape);
using rank_beliefs = std::vector<std::pair<std::string, std::string>>;

/// What every rank of this library believes, without being asked.
inline rank_beliefs library_beliefs() {
  return {{"library version", std::to_string(DSV3_VERSION_MAJOR) + "." + std::to_string(DSV3_VERSION_MINOR) +
                                  "." + std::to_string(DSV3_VERSION_PATCH)},
          {"byte order", std::endian::native == std::endian::little ? "little" : "big"}};
}

/// 16 digits that differ where texts do (FNV-1a); not against an adversary.
inline std::string digest(std::string_view text) {
  std::uint64_t state = 0xcbf29ce484222325u;
  for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::string digits(16, '0');
  for (std::size_t i = digits.size(); i-- > 0; state >>= 4) digits[i] = "0123456789abcdef"[state & 15];
  return digits;
}

namespace detail {

// name, length of the value, value; names have no line ends.
inline std::string pack(const rank_beliefs& beliefs) {
  std::string text;
  for (const auto& [name, value] : beliefs) text += name + "\n" + std::to_string(value.size()) + "\n" + value;
  return text;
}
inline rank_beliefs unpack(std::string_view text) {
  rank_beliefs beliefs;
  const auto line = [&] {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string words{text.substr(0, end)};
    text.remove_prefix(std::min(end + 1, text.size()));
    return words;
  };
  while (!text.empty()) {
    std::string name = line();
    std::size_t length = 0;
    for (const char digit : line())
      if (digit >= '0' && digit <= '9') length = length * 10 + static_cast<std::size_t>(digit - '0');
    length = std::min(length, text.size());
    beliefs.emplace_back(std::move(name), std::string(text.substr(0, length)));
    text.remove_prefix(length);
  }
  return beliefs;
}
inline std::string shown(const std::string& value) {
  const bool plain = value.size() <= 40 && value.find('\n') == std::string::npos;
  return plain ? "'" + value + "'" : "digest " + digest(value);
}

}  // namespace detail

/// A rank's beliefs and the library's, as the text that is compared.
inline std::string pack_beliefs(rank_beliefs mine) {
  rank_beliefs all = library_beliefs();
  all.insert(all.end(), mine.begin(), mine.end());
  return detail::pack(all);
}

/// Compares the packed beliefs of all ranks (`pack_beliefs`), in rank order: the sentence names the first
/// rank that differs from rank 0, and the first field.
inline status compare_beliefs(const std::vector<std::string>& of_ranks) {
  for (std::size_t rank = 1; rank < of_ranks.size(); ++rank) {
    if (of_ranks[rank] == of_ranks[0]) continue;
    const rank_beliefs first = detail::unpack(of_ranks[0]), other = detail::unpack(of_ranks[rank]);
    const std::string begin = "handshake: rank " + std::to_string(rank) + " ";
    for (std::size_t i = 0; i < std::max(first.size(), other.size()); ++i) {
      const std::string name = i < first.size() ? first[i].first : other[i].first;
      if (i >= other.size() || other[i].first != name)
        return status{begin + "has no " + name + ", rank 0 has"};
      if (i >= first.size())
        return status{begin + "has " + name + " " + detail::shown(other[i].second) + ", rank 0 has none"};
      if (other[i].second != first[i].second)
        return status{begin + "has " + name + " " + detail::shown(other[i].second) + ", rank 0 " +
                      detail::shown(first[i].second)};
    }
  }
  return {};
}

/// Every rank's text, in rank order. Collective, over a communicator of hosts.
inline std::vector<std::string> gather_texts(const any_communicator& host, const std::string& mine) {
  cpu_context<> ctx;
  const auto ranks = static_cast<std::size_t>(host.size());
  const auto length = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> lengths(ranks);
  host.all_gather(ctx, view<const std::int64_t, 1>{&length, 1},
                  view<std::int64_t, 1>{lengths.data(), static_cast<index_t>(ranks)});
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<char> padded(mine.begin(), mine.end()), all(ranks * static_cast<std::size_t>(longest));
  padded.resize(static_cast<std::size_t>(longest));
  host.all_gather(ctx, view<const char, 1>{padded.data(), longest},
                  view<char, 1>{all.data(), static_cast<index_t>(all.size())});
  std::vector<std::string> texts;
  for (std::size_t q = 0; q < ranks; ++q)
    texts.emplace_back(all.data() + q * static_cast<std::size_t>(longest),
                       static_cast<std::size_t>(lengths[q]));
  return texts;
}

/// Raises on every rank alike where one of them believes something else than rank 0. Collective. Ranks on
/// GPUs that have no communicator of hosts give `pack_beliefs` to a rendezvous and its answer to
/// `compare_beliefs`.
inline void handshake(const any_communicator& host, rank_beliefs mine, const mesh_shape& shape = {}) {
  mine.emplace_back("mesh", shape.words());
  require(compare_beliefs(gather_texts(host, pack_beliefs(std::move(mine)))));
}

}  // namespace dsv3::inline DSV3_ABI
