// SPDX-License-Identifier: MIT
// Text to ids and back.
#include "requests.hpp"

#include <support/command_line.hpp>

#include <dsv3/io/file.hpp>
#include <dsv3/text/token_file.hpp>
#include <dsv3/text/tokenizer.hpp>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <iterator>

namespace dsv3_tokenize {

namespace {

std::string content_of(const std::string& file) {
  if (!file.empty()) return std::string{dsv3::mapped_file{file}.text()};
  std::string text;
  char part[1 << 16];
  for (std::size_t count; (count = std::fread(part, 1, sizeof part, stdin)) > 0;) text.append(part, count);
  return text;
}

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    dsv3::raise("standard output cannot be written");
}

std::vector<std::int32_t> parse_ids(const std::string& text, const std::string& where) {
  std::vector<std::int32_t> ids;
  const auto is_space = [](unsigned char letter) { return std::isspace(letter) != 0; };
  for (auto at = text.begin();;) {
    at = std::find_if_not(at, text.end(), is_space);
    if (at == text.end()) return ids;
    const auto end = std::find_if(at, text.end(), is_space);
    std::int32_t id = 0;
    const auto [stop, problem] = std::from_chars(&*at, &*at + (end - at), id);
    if (problem != std::errc() || stop != &*at + (end - at))
      throw support::usage_error(where + ": found \"" + dsv3::detail::shortened({at, end}, 40) +
                                 "\", expected ids separated by white space");
    ids.push_back(id);
    at = end;
  }
}

}  // namespace

int encode(const encode_request& asked) {
  const auto words = support::given_by_user([&] { return dsv3::tokenizer::load(asked.tokenizer); });
  const std::string text = support::given_by_user([&] { return content_of(asked.file); });
  const auto ids = words.encode(text, {.added_tokens = !asked.ordinary, .frame = asked.frame});
  if (asked.json) {
    print(dsv3::json{{"ids", ids}, {"tokens", ids.size()}, {"bytes", text.size()}}.dump() + "\n");
    return 0;
  }
  std::string line;
  for (const std::int32_t id : ids) line += (line.empty() ? "" : " ") + std::to_string(id);
  print(line + "\n");
  return 0;
}

int decode(const decode_request& asked) {
  const auto words = support::given_by_user([&] { return dsv3::tokenizer::load(asked.tokenizer); });
  const dsv3::decode_options how{.special = !asked.without_special};
  if (!dsv3::is_token_file(asked.file)) {
    const std::string text = support::given_by_user([&] { return content_of(asked.file); });
    const auto ids = parse_ids(text, asked.file.empty() ? "standard input" : asked.file);
    print(support::given_by_user([&] { return words.decode(ids, how); }));
    return 0;
  }
  const dsv3::token_file file{asked.file};
  std::vector<std::int32_t> ids;
  for (index_t at = 0; at < file.tokens(); at += static_cast<index_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min<index_t>(file.tokens() - at, 1 << 16)));
    file.read(at, dsv3::view{ids.data(), static_cast<index_t>(ids.size())}, words.vocab());
    print(words.decode(ids, how));
  }
  return 0;
}

}  // namespace dsv3_tokenize
