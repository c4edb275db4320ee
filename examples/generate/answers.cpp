// SPDX-License-Identifier: MIT
#include "answers.hpp"

#include <dsv3/io/json_row.hpp>
#include <dsv3/text/utf8.hpp>

#include <algorithm>
#include <cstdio>

namespace generate {

std::string stop_texts::push(std::string_view piece) {
  if (found_) return {};
  waiting_ += piece;
  std::size_t first = std::string::npos, held = 0;
  for (const std::string& text : texts_) {
    first = std::min(first, waiting_.find(text));
    // The longest end of what waits that the text begins with.
    std::size_t part = std::min(text.size() - 1, waiting_.size());
    while (!waiting_.ends_with(std::string_view(text).substr(0, part))) --part;
    held = std::max(held, part);
  }
  found_ = first != std::string::npos;
  const std::size_t ready = found_ ? first : waiting_.size() - held;
  std::string text = waiting_.substr(0, ready);
  waiting_.erase(0, found_ ? waiting_.size() : ready);
  return text;
}

answers::answers(const request& asked, const dsv3::tokenizer& words) : asked_(asked) {
  const std::size_t count = asked.prompts.size() * static_cast<std::size_t>(asked.samples);
  for (std::size_t i = 0; i < count; ++i)
    answers_.push_back({dsv3::detokenizer{words, {.special = false}}, stop_texts{asked.stop}, {}, {}, false});
  if (asked.echo && asked.stream && count == 1 && asked.form == output::text)
    std::fputs(asked.prompts[0].c_str(), stdout);
}

bool answers::add(index_t number, std::span<const std::int32_t> tokens, index_t mark, dsv3::finish reason) {
  answer& a = answers_[static_cast<std::size_t>(number)];
  if (a.finished) return true;
  a.tokens.insert(a.tokens.end(), tokens.begin(), tokens.end());
  std::string text;
  for (const std::int32_t token :
       tokens.first(tokens.size() - std::min(tokens.size(), static_cast<std::size_t>(mark))))
    text += a.stop.push(a.text.push(token));
  if (reason != dsv3::finish::none && !a.stop.found()) {
    text += a.stop.push(a.text.finish());
    text += a.stop.finish();
  }
  take(number, text);
  if (a.stop.found()) {
    close(number, "stop_text");
    return false;
  }
  if (reason != dsv3::finish::none) close(number, dsv3::to_string(reason));
  return true;
}

void answers::take(index_t number, const std::string& text) {
  answer& a = answers_[static_cast<std::size_t>(number)];
  a.printed += text;
  if (!asked_.stream || text.empty()) return;
  if (asked_.form == output::json) {
    dsv3::json_row row;
    row.add("answer", number).add("piece", dsv3::replace_invalid_utf8(text));
    std::printf("%s\n", row.text().c_str());
  } else if (answers_.size() == 1) {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  std::fflush(stdout);
}

void answers::close(index_t number, const char* reason) {
  answer& a = answers_[static_cast<std::size_t>(number)];
  a.finished = true;
  if (asked_.form == output::json) {
    dsv3::json_row row;
    const auto prompt = static_cast<std::size_t>(number / asked_.samples);
    row.add("answer", number)
        .add("prompt", dsv3::replace_invalid_utf8(asked_.prompts[prompt]))
        .add("text", dsv3::replace_invalid_utf8(a.printed))
        .add("tokens", a.tokens)
        .add("finish", reason);
    std::printf("%s\n", row.text().c_str());
  } else if (answers_.size() == 1) {
    if (!asked_.stream) print_whole(number);
    std::fputc('\n', stdout);
  } else {
    while (next_ < static_cast<index_t>(answers_.size()) &&
           answers_[static_cast<std::size_t>(next_)].finished) {
      std::printf("== prompt %lld, answer %lld\n", static_cast<long long>(next_ / asked_.samples + 1),
                  static_cast<long long>(next_ % asked_.samples + 1));
      print_whole(next_++);
      std::fputc('\n', stdout);
    }
  }
  std::fflush(stdout);
}

void answers::print_whole(index_t number) const {
  if (asked_.echo)
    std::fputs(asked_.prompts[static_cast<std::size_t>(number / asked_.samples)].c_str(), stdout);
  const std::string& text = answers_[static_cast<std::size_t>(number)].printed;
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace generate
