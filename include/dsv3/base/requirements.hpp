// SPDX-License-Identifier: MIT
// A record's `check` collects its demands here; the first one that fails becomes the sentence.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <initializer_list>
#include <string>

namespace dsv3::inline DSV3_ABI {

/// Collects the demands of one argument record.
///
///     requirements need{"rms_norm.forward"};
///     need.equal("y", "tokens", args.y.extent(0), "x", args.x.extent(0));
///     return need.verdict();      // "rms_norm.forward: y has 3 tokens, x has 4"
class requirements {
 public:
  explicit requirements(const char* where) : where_(where) {}

  /// `what` must have as many `unit` as `other` has.
  requirements& equal(const char* what, const char* unit, index_t found, const char* other,
                      index_t expected) {
    if (found != expected && message_.empty())
      fail(std::string(what) + " has " + std::to_string(found) + " " + unit + ", " + other + " has " +
           std::to_string(expected));
    return *this;
  }

  /// Any other demand; `sentence` says what was found and expected.
  requirements& that(bool holds, const char* sentence) {
    if (!holds && message_.empty()) fail(sentence);
    return *this;
  }

  struct number {
    const char* name;
    index_t value;
  };
  /// The same about numbers, which the sentence ends with: "..., found experts 16, groups 3".
  requirements& that(bool holds, const char* sentence, std::initializer_list<number> found) {
    if (holds || !message_.empty()) return *this;
    fail(sentence);
    const char* before = ", found ";
    for (const number& each : found) {
      message_.append(before).append(each.name).append(" ").append(std::to_string(each.value));
      before = ", ";
    }
    return *this;
  }

  /// A view that must not be empty although `elements` are asked for.
  template <class View>
  requirements& present(const char* what, const View& view) {
    if (view.data() == nullptr && view.size() > 0 && message_.empty())
      fail(std::string(what) + " has " + std::to_string(view.size()) + " elements and a null pointer");
    return *this;
  }

  status verdict() const { return message_.empty() ? status{} : status{message_}; }

 private:
  void fail(const std::string& sentence) { message_ = std::string(where_) + ": " + sentence; }

  const char* where_;
  std::string message_;
};

}  // namespace dsv3::inline DSV3_ABI
