// SPDX-License-Identifier: MIT
#include <dsv3/text/pattern.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {
/// The matches, apart by "|".
std::string matches(std::string_view expression, std::string_view text,
                    pattern::kind kind = pattern::kind::regex) {
  const pattern what{expression, kind};
  pattern_scratch scratch;
  std::string found;
  std::size_t covered = 0;
  for_each_match(what, text, scratch, [&](text_range range, bool match) {
    CHECK(range.begin == covered);
    covered = range.end;
    if (match) found += std::string(text.substr(range.begin, range.end - range.begin)) + "|";
  });
  CHECK(covered == text.size());
  return found;
}
std::string of_code(std::uint32_t code) {
  std::string text;
  append_utf8(text, code);
  return text;
}
}  // namespace

TEST_CASE("pattern: what published tokenizers write") {
  CHECK(matches(R"(\p{N}{1,3})", "a12345b6") == "123|45|6|");
  CHECK(matches("[一-龥぀-ゟ゠-ヿ]+", "ab今天xカナ 한") == "今天|カナ|");
  CHECK(matches("(?i:'s|'t|'re)|\\p{L}+", "it'S 'RE 'ſ") == "it|'S|'RE|'ſ|");
  CHECK(matches(R"(\s+(?!\S)|\s+)", "a   b  ") == "  | |  |");
  CHECK(matches(R"([^\r\n\p{L}\p{N}]?+\p{L}+)", "!ab\nc") == "!ab|c|");
  CHECK(matches(R"((?>a+)b|a)", "aaac") == "a|a|a|");
  CHECK(matches(R"(\p{Han}+)", "漢字かな・") == "漢字|");
  CHECK(matches(R"(\p{Lu}\p{M}?)", "E\u0301e") == "E\u0301|");
  CHECK(matches(R"( ?[^(\s|[.,!?…。，、।۔،])]+)", "ab (cd|ef). gh") == "ab|cd|ef| gh|");
}

TEST_CASE("pattern: where the two syntaxes differ, Oniguruma's meaning holds") {
  CHECK(matches(R"(\p{N}{1,3}+)", "1234567x") == "1234567|");  // one to three, repeated
  CHECK(matches("a{2}?b", "aabb") == "aab|b|");                // twice or not at all
  CHECK(matches("a{1,2}?", "aa") == "a|a|");
  CHECK(matches("xa{,2}", "xaaa") == "xaa|");
  CHECK(matches("a{,}b{x", "a{,}b{x") == "a{,}b{x|");
  CHECK(matches("(ab){1,2}+", "ababab") == "ababab|");
  CHECK(matches(R"(\s)", "a\u180eb") == "");
  CHECK(matches(R"(\S+)", "a\u180eb\u0085c\u2028d") == "a\u180eb|c|d|");
  CHECK(matches(R"([\S\n]+)", "a\u180eb\n\u3000c") == "a\u180eb\n|c|");
  CHECK(matches(R"([\s-]+)", "a -x") == " -|");
  CHECK(matches(R"([^\s\-,]+)", "a,b-c") == "a|b|c|");
  CHECK(matches(R"([a-]+)", "b-a") == "-a|");
  CHECK(matches(R"(\w+)", "e\u0301_1\u24b6 \u00bd\u2460") == "e\u0301_1\u24b6|\u00bd|");
  CHECK(matches(R"(\bab\b)", "ab\u0301 ab") == "ab|");
  CHECK(matches(R"(b\B)", "ab bc") == "b|");
  CHECK(matches(R"(\h+)", "xBeEfx") == "BeEf|");
  CHECK(matches(R"(\u4eca)", "今") == "今|");
  CHECK(matches(R"(\d+|\D)", "1٣ⅷ") == "1٣|ⅷ|");
  CHECK(matches(R"(\P{L}+|\p{^N})", "ab1") == "a|b|1|");
  CHECK(matches("(?m:a.b)", "a\nb") == "a\nb|");
  CHECK(matches("a.b", "a\nb") == "");
  CHECK(matches("^.", "ab\ncd") == "a|c|");
  CHECK(matches("$", "ab\n") == "||");
  CHECK(matches("(?i)AB|c", "ab C") == "ab|C|");
}

TEST_CASE("pattern: code points of Unicode 15 and 16, whatever PCRE2 is installed") {
  const std::string ideograph = of_code(0x31350), digit = of_code(0x16D70), letter = of_code(0x1C89);
  CHECK(matches(R"(\p{L}+)", "a" + ideograph + letter) == "a" + ideograph + letter + "|");
  CHECK(matches(R"([^\p{L}]+)", "1" + ideograph) == "1|");
  CHECK(matches(R"(\p{N}+)", "1" + digit) == "1" + digit + "|");
  CHECK(matches(R"(\p{Han})", ideograph) == ideograph + "|");
  CHECK(matches(R"(\p{Lu})", letter) == letter + "|");
  CHECK(matches(R"(\p{S})", of_code(0x1FAE8)) == of_code(0x1FAE8) + "|");
}

TEST_CASE("pattern: a literal is no expression") {
  CHECK(matches("a.b*", "a.b*axb", pattern::kind::literal) == "a.b*|");
}

TEST_CASE("pattern: empty matches advance, and one behind a match does not count") {
  CHECK(matches("x*", "axxé") == "|xx||");
  CHECK(matches("", "éa") == "|||");
  CHECK(matches("(?=b)", "abb") == "||");
}

TEST_CASE("pattern: a deep match finds room") {
  const std::string text = std::string(2'000'000, 'a') + "c";
  CHECK(matches("(?:a|b)+c", text).size() == text.size() + 1);
  CHECK(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", std::string(3'000'000, ' ')).size() == 3'000'001);
}

TEST_CASE("pattern: refusals name the pattern and the reason") {
  const auto refusal = [](const char* expression) { return raised([&] { pattern{expression}; }); };
  CHECK(refusal("a(b") ==
        "pattern \"a(b\": PCRE2 refuses it at byte 3 of \"a(b\": missing closing parenthesis");
  CHECK(refusal("[a[^b]]") == "pattern \"[a[^b]]\": class \"[^\" inside a class at byte 2 is not supported");
  CHECK(refusal("[a&&b]") == "pattern \"[a&&b]\": intersection \"&&\" of classes at byte 2 is not supported");
  CHECK(refusal("[\\D1]") == "pattern \"[\\D1]\": a negated set inside a class at byte 1 is not supported");
  CHECK(refusal("\\Ka") == "pattern \"\\Ka\": escape \"\\K\" at byte 0 is not supported");
  CHECK(refusal("(?<n>a)") == "pattern \"(?<n>a)\": group \"(?<\" at byte 0 is not supported");
  CHECK(refusal("(*UCP)a") == "pattern \"(*UCP)a\": \"(*\" at byte 0 is not supported");
  CHECK(refusal("a(?i)b").find("at byte 1 is not supported") != std::string::npos);
  CHECK(refusal("\\p{Nonsense}").find("unknown property") != std::string::npos);
  CHECK(refusal("\\pL").find("a property without braces") != std::string::npos);
  CHECK(refusal("\xFF").find("UTF-8 error") != std::string::npos);
  for (const char* torn :
       {"\\", "[", "[^", "[\\", "[a-", "(?", "a{", "a{1", "\\p{", "\\u12", "(?i", "{", ")", "[[["})
    CHECK((refusal(torn).empty() || refusal(torn).starts_with("pattern \"")));
}
