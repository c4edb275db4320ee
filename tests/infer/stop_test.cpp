// SPDX-License-Identifier: MIT
#include <dsv3/infer/stop.hpp>

#include <support/random_bits.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

using ids = std::vector<std::int32_t>;
constexpr index_t roomy = std::numeric_limits<index_t>::max();

stop_point find(const stop_conditions& conditions, const ids& generated, const ids& committed,
                index_t positions_left = roomy) {
  return find_stop(conditions, generated, committed, positions_left);
}

}  // namespace

TEST_CASE("nothing asked for, nothing stops") {
  CHECK(find({}, {}, {}) == stop_point{0, finish::none, 0});
  CHECK(find({}, {1, 2}, {3, 4, 5}) == stop_point{3, finish::none, 0});
}

TEST_CASE("each condition cuts what is committed at its first token") {
  const stop_conditions ends{.end_ids = {9, 7}};
  CHECK(find(ends, {}, {1, 7, 9}) == stop_point{2, finish::end_token, 1});
  CHECK(find(ends, {1}, {9}) == stop_point{1, finish::end_token, 1});
  CHECK(find(ends, {1}, {8, 8}) == stop_point{2, finish::none, 0});

  const stop_conditions length{.max_tokens = 4};
  CHECK(find(length, {1, 1}, {1}) == stop_point{1, finish::none, 0});
  CHECK(find(length, {1, 1}, {1, 1}) == stop_point{2, finish::length, 0});
  CHECK(find(length, {1, 1}, {1, 1, 1}) == stop_point{2, finish::length, 0});
  CHECK(find(length, {1, 1, 1, 1}, {1}) == stop_point{0, finish::length, 0});
  CHECK(find({.max_tokens = 0}, {}, {1}) == stop_point{0, finish::length, 0});

  CHECK(find({}, {1}, {1, 1, 1}, 2) == stop_point{2, finish::context, 0});
  CHECK(find({}, {1}, {1, 1, 1}, 3) == stop_point{3, finish::context, 0});
  CHECK(find({}, {1}, {1, 1, 1}, 4) == stop_point{3, finish::none, 0});
  CHECK(find({}, {1}, {1}, 0) == stop_point{0, finish::context, 0});
}

TEST_CASE("a stop sequence may begin in an earlier step") {
  const stop_conditions stop{.stop_sequences = {{1, 2, 3}, {5}}};
  CHECK(find(stop, {}, {1, 2, 3, 4}) == stop_point{3, finish::stop_sequence, 3});
  CHECK(find(stop, {0, 1}, {2, 3, 4}) == stop_point{2, finish::stop_sequence, 3});
  CHECK(find(stop, {1, 2}, {3}) == stop_point{1, finish::stop_sequence, 3});
  CHECK(find(stop, {2}, {3}) == stop_point{1, finish::none, 0});
  CHECK(find(stop, {1, 2}, {4, 5, 1}) == stop_point{2, finish::stop_sequence, 1});
  CHECK(find(stop, {1, 1}, {1, 2, 1, 2, 3}) == stop_point{5, finish::stop_sequence, 3});
  const stop_conditions nested{.stop_sequences = {{3}, {2, 3}, {4, 2, 3}}};
  CHECK(find(nested, {2}, {3}) == stop_point{1, finish::stop_sequence, 2});  // the longest is the mark
}

TEST_CASE("of conditions met at once the more telling one is named") {
  stop_conditions all{.max_tokens = 2, .end_ids = {9}, .stop_sequences = {{8, 9}, {8, 7}}};
  CHECK(find(all, {8}, {9}, 1) == stop_point{1, finish::end_token, 1});
  CHECK(find(all, {8}, {7}, 1) == stop_point{1, finish::stop_sequence, 2});
  CHECK(find(all, {8}, {6}, 1) == stop_point{1, finish::length, 0});
  CHECK(find(all, {}, {6}, 1) == stop_point{1, finish::context, 0});
  CHECK(find(all, {}, {9, 1}, 1) == stop_point{1, finish::end_token, 1});
}

TEST_CASE("many tokens at once stop where one at a time would") {
  const stop_conditions conditions{
      .max_tokens = 30, .end_ids = {0}, .stop_sequences = {{1, 1, 2}, {3, 1}, {2, 2, 2, 2}}};
  std::vector<int> reasons(5, 0);
  for (std::uint64_t trial = 0; trial < 3000; ++trial) {
    ids text;
    const auto letter = [&](std::uint64_t i) {
      const auto bits = support::random_bits(trial, i);
      return std::int32_t(bits % 64 == 0 ? 0 : 1 + bits / 64 % 5);
    };
    const std::uint64_t length = 1 + support::random_bits(trial, 1000) % 40;
    for (std::uint64_t i = 0; i < length; ++i) text.push_back(letter(i));
    const index_t room = 1 + index_t(support::random_bits(trial, 1001) % 45);

    ids slowly;
    stop_point last;
    for (std::size_t i = 0; i < text.size() && last.reason == finish::none; ++i) {
      last = find(conditions, slowly, {text[i]}, room - index_t(i));
      slowly.push_back(text[i]);
    }
    ids at_once;
    stop_point found;
    for (std::size_t i = 0; i < text.size() && found.reason == finish::none;) {
      const std::size_t step =
          std::min(text.size() - i, std::size_t(1 + support::random_bits(trial, 2000 + i) % 4));
      const ids committed(text.begin() + std::ptrdiff_t(i), text.begin() + std::ptrdiff_t(i + step));
      found = find(conditions, at_once, committed, room - index_t(i));
      at_once.insert(at_once.end(), committed.begin(), committed.begin() + found.tokens);
      i += step;
    }
    REQUIRE(at_once == slowly);
    REQUIRE((found.reason == last.reason && found.mark == last.mark));
    ++reasons[std::size_t(found.reason)];
  }
  for (const int count : reasons) CHECK(count > 20);  // every end was met
}

TEST_CASE("conditions that cannot be met are refused, ends have names") {
  CHECK(stop_conditions{}.check().good());
  CHECK(stop_conditions{.max_tokens = 0, .end_ids = {1}, .stop_sequences = {{1}}}.check().good());
  CHECK(stop_conditions{.max_tokens = -1}.check().message() ==
        "stop_conditions: max_tokens is -1, expected at least 0");
  CHECK(stop_conditions{.stop_sequences = {{1}, {}}}.check().message() ==
        "stop_conditions: stop sequence 1 is empty, expected at least one token");
  CHECK(std::string(to_string(finish::none)) == "none");
  CHECK(std::string(to_string(finish::length)) == "length");
  CHECK(std::string(to_string(finish::end_token)) == "end_token");
  CHECK(std::string(to_string(finish::stop_sequence)) == "stop_sequence");
  CHECK(std::string(to_string(finish::context)) == "context");
}
