// SPDX-License-Identifier: MIT
#include <dsv3/io/json.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;
using support::raised;

namespace {
std::string sentence_of(std::string_view text) {
  return raised([&] { parse_json(text, "config.json", 4); });
}
}  // namespace

TEST_CASE("json: what is good is read") {
  const json value = parse_json(R"( {"a": [1, -2, 3.5, true, null, "x\u00e9"], "b": {"c": {}}} )", "t", 4);
  CHECK(value["a"][1].get<int>() == -2);
  CHECK(value["a"][2].get<double>() == 3.5);
  CHECK(value["a"][4].is_null());
  CHECK(value["a"][5].get<std::string>() == "x\xc3\xa9");
  CHECK(value["b"]["c"].is_object());
  CHECK(parse_json("7", "t").get<int>() == 7);
}

TEST_CASE("json: a bad text names file, line, byte and what was expected") {
  CHECK(sentence_of("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}") ==
        "config.json: line 3, byte 22: key \"a\" found twice in one object, expected distinct keys");
  CHECK(sentence_of("{\"x\": {\"a\": 1}, \"y\": {\"a\": 1}}") == "");  // the same key in two objects
  CHECK(sentence_of("[[[[1]]]]") == "");
  CHECK(sentence_of("[[[[[1]]]]]") == "config.json: line 1, byte 5: nested deeper than 4 levels");
  CHECK(sentence_of("") ==
        "config.json: line 1, byte 0: syntax error while parsing value - unexpected end of input; expected "
        "'[', '{', "
        "or a literal");
  CHECK(
      sentence_of("{\n\"a\" 1}") ==
      "config.json: line 2, byte 8: syntax error while parsing object separator - unexpected number literal; "
      "expected ':'");
  CHECK(sentence_of("{} {}").find("expected end of input") != std::string::npos);
  CHECK(sentence_of("[1e999]") == "config.json: line 1, byte 7: number overflow parsing '1e999'");
  CHECK(sentence_of("[NaN]").starts_with("config.json: line 1, byte 2: "));
  CHECK(sentence_of("\"a\xff\"").find("ill-formed UTF-8") != std::string::npos);
  CHECK(sentence_of("\"" + std::string(100'000, 'x')).size() < 250);
}

TEST_CASE("json: fields are typed, and their errors name the key") {
  const json value = parse_json(
      R"({"n": 3, "big": 18446744073709551615, "half": 0.5, "yes": true, "name": "abc", "none": null,
          "list": [1, 2], "mixed": [1, "2"], "inner": {"k": -1}})",
      "t");
  json_fields fields{value, "config.json"};
  CHECK(fields.integer("n") == 3);
  CHECK(fields.integer("n", {3, 3}) == 3);
  CHECK(fields.integer("absent", positive, 9) == 9);
  CHECK(fields.integer("none", positive, 9) == 9);
  CHECK(fields.number("half") == 0.5);
  CHECK(fields.number("n") == 3.0);
  CHECK(fields.number("absent", 2.5) == 2.5);
  CHECK(fields.boolean("yes"));
  CHECK(fields.boolean("absent", true));
  CHECK(fields.text("name") == "abc");
  CHECK(fields.text("absent", "else") == "else");
  CHECK(fields.integers("list") == std::vector<index_t>{1, 2});
  CHECK(fields.present("none") == false);
  CHECK(fields.present("n"));

  CHECK(raised([&] { fields.integer("name", positive); }) ==
        "config.json: name is \"abc\", expected a positive integer");
  CHECK(raised([&] {
          fields.integer("n", {4, 8});
        }) == "config.json: n is 3, expected an integer from 4 to 8");
  CHECK(raised([&] { fields.integer("half", not_negative); }) ==
        "config.json: half is 0.5, expected an integer of at least 0");
  CHECK(raised([&] { fields.integer("big"); }) ==
        "config.json: big is 18446744073709551615, expected an integer");
  CHECK(raised([&] { fields.integer("absent", positive); }) ==
        "config.json: absent is missing, expected a positive integer");
  CHECK(raised([&] { fields.number("name"); }) == "config.json: name is \"abc\", expected a number");
  CHECK(raised([&] { fields.boolean("n"); }) == "config.json: n is 3, expected true or false");
  CHECK(raised([&] { fields.text("n"); }) == "config.json: n is 3, expected a string");
  CHECK(raised([&] { fields.text("none"); }) == "config.json: none is null, expected a string");
  CHECK(raised([&] { fields.integers("mixed"); }) ==
        "config.json: mixed is [1,\"2\"], expected an array, each an integer");
  CHECK(raised([&] { fields.object("inner").integer("k", positive); }) ==
        "config.json: inner: k is -1, expected a positive integer");
  CHECK(raised([&] { fields.object("n"); }) == "config.json: n: found 3, expected an object");
  CHECK(raised([&] {
          json_fields{value["list"], "config.json"};
        }) == "config.json: found [1,2], expected an object");
}

TEST_CASE("json: keys that nobody asked for are found, with the nearest that somebody did") {
  const json value = parse_json(R"({"hidden_size": 8, "hiden_sizes": 9, "torch_dtype": "x"})", "t");
  json_fields fields{value, "config.json"};
  fields.integer("hidden_size");
  fields.present("num_heads");
  CHECK(fields.unknown({"torch_dtype"}).message() ==
        "config.json: hiden_sizes is not a known key, the nearest is hidden_size");
  CHECK(fields.unknown({"hiden_sizes"}).message() == "config.json: torch_dtype is not a known key");
  CHECK(fields.unknown({"hiden_sizes", "torch_dtype"}).good());
}

TEST_CASE("nearest_name: the least edits, nothing when nothing is near") {
  const std::vector<std::string> names = {"steps", "seed", "seq", "batch"};
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(nearest_name("step", names) == "steps");
  CHECK(nearest_name("sed", names) == "seed");
  CHECK(nearest_name("bathc", names) == "batch");
  CHECK(nearest_name("learning-rate", names) == "");
}

TEST_CASE("json: files") {
  const support::temporary_folder folder;
  write_json(folder / "a.json", {{"b", 1}, {"a", {1, 2}}});
  CHECK(support::get(folder / "a.json") == "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": 1\n}\n");
  CHECK(read_json(folder / "a.json")["b"].get<int>() == 1);
  support::put(folder / "bad.json", "{");
  CHECK(raised([&] { read_json(folder / "bad.json"); }).starts_with(folder / "bad.json: line 1, byte 1: "));
  CHECK(raised([&] { read_json(folder / "none.json"); }) ==
        (folder / "none.json: cannot be opened: No such file or directory"));
}
