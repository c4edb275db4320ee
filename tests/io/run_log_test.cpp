// SPDX-License-Identifier: MIT
#include <dsv3/io/run_log.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

using namespace dsv3;
using support::raised;

TEST_CASE("json_row: keeps its order, and JSON gives back what was put in") {
  json_row row;
  row.add("step", index_t{1} << 53)
      .add("third", 1.0 / 3)
      .add("tenth", 0.1f)
      .add("whole", 2.0)
      .add("nan", std::numeric_limits<double>::quiet_NaN())
      .add("infinity", -std::numeric_limits<float>::infinity())
      .add("yes", true)
      .add("small", std::uint8_t{7})
      .add("text", "a \"b\"\\\n\x01 \xe2\x82\xac")
      .add("layers", std::vector<std::vector<int>>{{1, 2}, {}, {3}});
  CHECK(row.text().starts_with(
      "{\"step\":9007199254740992,\"third\":0.3333333333333333,\"tenth\":0.1,\"whole\":2,"));
  CHECK(row.text().find('\n') == std::string::npos);
  const json value = parse_json(row.text(), "row");
  CHECK(value["third"].get<double>() == 1.0 / 3);
  CHECK(value["tenth"].get<float>() == 0.1f);
  CHECK(value["nan"].is_null());
  CHECK(value["infinity"].is_null());
  CHECK(value["yes"].get<bool>());
  CHECK(value["small"].get<int>() == 7);
  CHECK(value["text"].get<std::string>() == "a \"b\"\\\n\x01 \xe2\x82\xac");
  CHECK(value["layers"] == json({{1, 2}, json::array(), {3}}));
  CHECK(json_row{}.text() == "{}");
}

TEST_CASE("jsonl_log: a row is in the file when append returns") {
  const support::temporary_folder folder;
  jsonl_log log{folder / "run.jsonl"};
  log.append(json_row{}.add("step", 1));
  CHECK(support::get(folder / "run.jsonl") == "{\"step\":1}\n");
  log.append(json_row{}.add("step", 2));
  CHECK(support::get(folder / "run.jsonl") == "{\"step\":1}\n{\"step\":2}\n");
}

TEST_CASE("jsonl_log: a resumed run repeats no step") {
  const support::temporary_folder folder;
  const std::string path = folder / "run.jsonl";
  const std::string rows =
      "{\"step\":1}\n{\"step\":2}\n{\"eval_ce\":3.5,\"step\":2}\n{\"step\":3}\n{\"step\":4}\n";
  const auto resumed = [&](const std::string& before, index_t last) {
    support::put(path, before);
    jsonl_log log = jsonl_log::resume(path, last);
    log.append(json_row{}.add("step", last + 1));
    return support::get(path);
  };
  CHECK(resumed(rows, 2) == "{\"step\":1}\n{\"step\":2}\n{\"eval_ce\":3.5,\"step\":2}\n{\"step\":3}\n");
  CHECK(resumed(rows, 0) == "{\"step\":1}\n");
  CHECK(resumed(rows, 4) == rows + "{\"step\":5}\n");
  CHECK(resumed(rows + "{\"step\":5,\"lo", 9) == rows + "{\"step\":10}\n");  // killed in the middle of a row
  std::filesystem::remove(path);
  jsonl_log::resume(path, 7).append(json_row{}.add("step", 8));
  CHECK(support::get(path) == "{\"step\":8}\n");
}

TEST_CASE("jsonl_log: what is no log is not shortened") {
  const support::temporary_folder folder;
  const std::string path = folder / "run.jsonl";
  support::put(path, "{\"step\":1}\nhello\n");
  CHECK(raised([&] {
          jsonl_log::resume(path, 5);
        }).starts_with(path + ": row 2: line 1, byte 1: syntax error"));
  CHECK(support::get(path) == "{\"step\":1}\nhello\n");
  support::put(path, "{\"stop\":1}\n");
  CHECK(raised([&] { jsonl_log::resume(path, 5); }) ==
        path + ": row 1: step is missing, expected an integer");
  support::put(path, "[1]\n");
  CHECK(raised([&] { jsonl_log::resume(path, 5); }) == path + ": row 1: found [1], expected an object");
}
