// SPDX-License-Identifier: MIT
// Strict JSON: duplicate keys refused, depth bounded, typed fields whose errors name file and key.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/nearest_name.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

using json = nlohmann::json;

namespace detail {

/// Keeps a sentence readable when the file holds a megabyte where a word was expected.
inline std::string shortened(std::string text, std::size_t limit = 160) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (text[limit] & 0xC0) == 0x80) --limit;  // not inside a character
  return text.substr(0, limit) + "...";
}

/// Walks over the text and tells how far the parser has read.
class json_cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  json_cursor(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  json_cursor& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  json_cursor operator++(int) {
    json_cursor before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const json_cursor& a, const json_cursor& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  const char** reached_;
};

/// Builds the value from the parser's events; answers false, with a sentence, at the first thing wrong.
class json_builder {
 public:
  explicit json_builder(std::size_t max_depth) : max_depth_(max_depth) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(std::int64_t value) { return put(value); }
  bool number_unsigned(std::uint64_t value) { return put(value); }
  bool number_float(double value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(json::binary_t&) { return false; }  // never in text
  bool start_object(std::size_t) { return open(json::object()); }
  bool start_array(std::size_t) { return open(json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    key_ = std::move(name);
    if (!open_.back()->contains(key_)) return true;
    problem = "key \"" + shortened(key_) + "\" found twice in one object, expected distinct keys";
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const json::exception& event) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: what we want"
    const std::string_view text = event.what();
    const std::size_t column = text.find(", column ");
    const std::size_t start = column == text.npos ? text.find("] ") : text.find(": ", column);
    problem = shortened(std::string(start == text.npos ? text : text.substr(start + 2)));
    for (char& letter : problem)
      if (static_cast<signed char>(letter) < 0) letter = '?';  // it may quote what is not UTF-8
    return false;
  }

  json root;
  std::string problem;

 private:
  /// Stores a value where the parser is; a container is open while its address is used, so it does not move.
  json* place(json&& value) {
    if (open_.empty()) return &(root = std::move(value));
    if (open_.back()->is_object()) return &((*open_.back())[key_] = std::move(value));
    open_.back()->push_back(std::move(value));
    return &open_.back()->back();
  }
  bool put(json&& value) { return place(std::move(value)) != nullptr; }
  bool open(json&& value) {
    if (open_.size() == max_depth_) {
      problem = "nested deeper than " + std::to_string(max_depth_) + " levels";
      return false;
    }
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::size_t max_depth_;
  std::vector<json*> open_;
  std::string key_;
};

/// How a value is quoted in an error.
inline std::string quoted(const json& value) {
  return shortened(value.dump(-1, ' ', false, json::error_handler_t::replace), 60);
}

}  // namespace detail

/// The value of a text; `source` is its name in errors: "config.json: line 3, byte 41: ...".
inline json parse_json(std::string_view text, const std::string& source, std::size_t max_depth = 64) {
  detail::json_builder builder{max_depth};
  const char* reached = text.data();
  const detail::json_cursor begin{text.data(), &reached}, end{text.data() + text.size(), &reached};
  if (json::sax_parse(begin, end, &builder)) return std::move(builder.root);
  const auto line = 1 + std::count(text.data(), reached, '\n');
  raise(source + ": line " + std::to_string(line) + ", byte " + std::to_string(reached - text.data()) + ": " +
        builder.problem);
}

inline json read_json(const std::string& path) {
  const mapped_file file{path};
  return parse_json(file.text(), path);
}

/// Indented by two, keys sorted, written atomically.
inline void write_json(const std::string& path, const json& value) {
  write_file(path, value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

/// The integers a field may hold.
struct integer_range {
  index_t low = std::numeric_limits<index_t>::min(), high = std::numeric_limits<index_t>::max();

  bool contains(index_t value) const { return low <= value && value <= high; }
  std::string expected() const {
    if (high != std::numeric_limits<index_t>::max())
      return "an integer from " + std::to_string(low) + " to " + std::to_string(high);
    if (low == 1) return "a positive integer";
    return low == std::numeric_limits<index_t>::min() ? "an integer"
                                                      : "an integer of at least " + std::to_string(low);
  }
};
inline constexpr integer_range positive{1}, not_negative{0};

/// The fields of one JSON object, read by type. It remembers what was asked for: `unknown` finds the rest.
///
///     json_fields fields{value, "config.json"};
///     c.hidden = fields.integer("hidden_size", positive);
///     //  config.json: hidden_size is "abc", expected a positive integer
///     require(fields.unknown());
///     //  config.json: hiden_size is not a known key, the nearest is hidden_size
///
/// A getter with a fallback gives it where the key is missing or null. The value read must outlive the
/// fields.
class json_fields {
 public:
  json_fields(const json& object, std::string where) : object_(&object), where_(std::move(where)) {
    if (!object.is_object()) raise(where_ + ": found " + detail::quoted(object) + ", expected an object");
  }

  /// True when the key exists and is not null.
  bool present(const std::string& key) { return find(key) != nullptr && !find(key)->is_null(); }

  index_t integer(const std::string& key, integer_range range = {}) {
    const json& value = at(key, range.expected());
    if (!holds(value, range)) refuse(key, value, range.expected());
    return value.get<index_t>();
  }
  index_t integer(const std::string& key, integer_range range, index_t fallback) {
    return present(key) ? integer(key, range) : fallback;
  }

  double number(const std::string& key) {
    const json& value = at(key, "a number");
    if (!value.is_number()) refuse(key, value, "a number");
    return value.get<double>();
  }
  double number(const std::string& key, double fallback) { return present(key) ? number(key) : fallback; }

  bool boolean(const std::string& key) {
    const json& value = at(key, "true or false");
    if (!value.is_boolean()) refuse(key, value, "true or false");
    return value.get<bool>();
  }
  bool boolean(const std::string& key, bool fallback) { return present(key) ? boolean(key) : fallback; }

  const std::string& text(const std::string& key) {
    const json& value = at(key, "a string");
    if (!value.is_string()) refuse(key, value, "a string");
    return value.get_ref<const std::string&>();
  }
  std::string text(const std::string& key, const std::string& fallback) {
    return present(key) ? text(key) : fallback;
  }

  std::vector<index_t> integers(const std::string& key, integer_range range = {}) {
    const std::string expected = "an array, each " + range.expected();
    const json& value = at(key, expected);
    if (!value.is_array()) refuse(key, value, expected);
    std::vector<index_t> numbers;
    for (const json& number : value) {
      if (!holds(number, range)) refuse(key, value, expected);
      numbers.push_back(number.get<index_t>());
    }
    return numbers;
  }

  /// The fields of an object inside this one.
  json_fields object(const std::string& key) { return {at(key, "an object"), where_ + ": " + key}; }

  /// Says which key was never asked for and is not in `ignored`, with the nearest name that was.
  status unknown(const std::set<std::string>& ignored = {}) const {
    for (const auto& [key, value] : object_->items()) {
      if (asked_.contains(key) || ignored.contains(key)) continue;
      std::string sentence = where_ + ": " + detail::shortened(key) + " is not a known key";
      const std::string_view nearest = nearest_name(key, asked_);
      if (!nearest.empty()) sentence += ", the nearest is " + std::string(nearest);
      return status{sentence};
    }
    return {};
  }

  /// Raises the sentence every getter raises; for values that have the type but not the meaning.
  [[noreturn]] void refuse(const std::string& key, const json& value, const std::string& expected) const {
    raise(where_ + ": " + key + " is " + detail::quoted(value) + ", expected " + expected);
  }

 private:
  static bool holds(const json& value, integer_range range) {
    if (!value.is_number_integer()) return false;
    constexpr std::uint64_t largest = std::numeric_limits<index_t>::max();
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > largest) return false;
    return range.contains(value.get<index_t>());
  }
  const json* find(const std::string& key) {
    asked_.insert(key);
    const auto found = object_->find(key);
    return found == object_->end() ? nullptr : &*found;
  }
  const json& at(const std::string& key, const std::string& expected) {
    const json* value = find(key);
    if (value == nullptr) raise(where_ + ": " + key + " is missing, expected " + expected);
    return *value;
  }

  const json* object_;
  std::string where_;
  std::set<std::string> asked_;
};

}  // namespace dsv3::inline DSV3_ABI
