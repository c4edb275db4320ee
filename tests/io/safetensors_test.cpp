// SPDX-License-Identifier: MIT
#include <dsv3/io/safetensors.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {

/// Tensors t0, t1, ... of `elements` each; every element is its tensor's number.
std::vector<written_file> write_tensors(const std::string& folder, const std::vector<index_t>& elements,
                                        std::uint64_t max_shard_bytes) {
  safetensors_folder_writer writer{folder, max_shard_bytes};
  for (std::size_t i = 0; i < elements.size(); ++i)
    writer.declare("t" + std::to_string(i), dtype::f32, {elements[i]});
  for (std::size_t i = elements.size(); i-- > 0;) {
    const std::vector<float> values(static_cast<std::size_t>(elements[i]), static_cast<float>(i));
    writer.append("t" + std::to_string(i), view<const float, 1>{values.data(), elements[i]});
  }
  writer.commit();
  return writer.files();
}

void check_tensors(const std::string& path, const std::vector<index_t>& elements) {
  safetensors_folder folder{path};
  CHECK(folder.names().size() == elements.size());
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const tensor_values<float, 1> tensor{folder.tensor("t" + std::to_string(i))};
    CHECK(tensor.values().extent(0) == elements[i]);
    for (index_t k = 0; k < elements[i]; ++k) CHECK(tensor.values()(k) == static_cast<float>(i));
  }
  CHECK(folder.verify().message() == "");
}

const std::string one_byte =
    support::safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);

}  // namespace

TEST_CASE("safetensors folder: small ones are one file") {
  const support::temporary_folder folder;
  const auto files = write_tensors(folder.path(), {3, 0, 5}, 1000);
  CHECK(folder.names() == std::vector<std::string>{"model.safetensors"});
  REQUIRE(files.size() == 1);
  CHECK(files[0].name == "model.safetensors");
  check_tensors(folder.path(), {3, 0, 5});
}

TEST_CASE("safetensors folder: large ones are shards and an index") {
  const support::temporary_folder folder;
  // 12 + 20 bytes fill a shard exactly; 60 exceed one alone; the empty tensor takes no room.
  const std::vector<index_t> elements = {3, 5, 1, 15, 0, 2};
  const auto files = write_tensors(folder.path(), elements, 32);
  CHECK(folder.names() ==
        std::vector<std::string>{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                 "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                 "model.safetensors.index.json"});
  REQUIRE(files.size() == 5);
  for (const written_file& file : files) {
    const std::string bytes = support::get(folder / file.name);
    CHECK(file.bytes == bytes.size());
    CHECK(file.checksum == crc32c_of(bytes));
  }
  const json index = read_json(folder / "model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"].get<int>() == 4 * 26);
  CHECK(index["weight_map"]["t1"].get<std::string>() == "model-00001-of-00004.safetensors");
  CHECK(index["weight_map"]["t2"].get<std::string>() == "model-00002-of-00004.safetensors");
  CHECK(index["weight_map"]["t3"].get<std::string>() == "model-00003-of-00004.safetensors");
  CHECK(index["weight_map"]["t5"].get<std::string>() == "model-00004-of-00004.safetensors");
  check_tensors(folder.path(), elements);
}

TEST_CASE("safetensors folder: another stem beside the model") {
  const support::temporary_folder folder;
  safetensors_folder_writer writer{folder.path(), 1000, "state"};
  writer.declare("m", dtype::f32, {0});
  writer.commit();
  CHECK(folder.names() == std::vector<std::string>{"state.safetensors"});
  CHECK(safetensors_folder{folder.path(), "state"}.contains("m"));
  CHECK(raised([&] { safetensors_folder{folder.path()}; }) ==
        folder.path() + ": found neither model.safetensors nor model.safetensors.index.json");
}

TEST_CASE("safetensors folder: what a reader would mistake is not written beside") {
  const support::temporary_folder folder;
  write_tensors(folder.path(), {3, 5}, 1000);
  CHECK(raised([&] {
          write_tensors(folder.path(), {3, 5}, 12);
        }) == (folder / "model.safetensors: found, expected a folder without it to write 2 shards into"));
  CHECK(folder.names() == std::vector<std::string>{"model.safetensors"});
  write_tensors(folder.path(), {4}, 1000);  // one file replaces one file
  check_tensors(folder.path(), {4});
  const support::temporary_folder sharded;
  write_tensors(sharded.path(), {3, 5}, 12);
  CHECK(raised([&] { write_tensors(sharded.path(), {3}, 1000); }) ==
        (sharded / "model.safetensors.index.json: found, expected a folder without it to write 1 file into"));
}

TEST_CASE("safetensors folder: an index that lies") {
  const support::temporary_folder folder;
  const std::string index = folder / "model.safetensors.index.json";
  const auto open = [&](const std::string& text) {
    support::put(index, text);
    return raised([&] { safetensors_folder{folder.path()}; });
  };
  support::put(folder / "s.safetensors", one_byte);
  CHECK(open(R"({"metadata":{"total_size":1},"weight_map":{"a":"s.safetensors"}})") == "");
  CHECK(open("{") == index +
                         ": line 1, byte 1: syntax error while parsing object key - unexpected end of input; "
                         "expected string literal");
  CHECK(open("{}") == index + ": weight_map is missing, expected an object");
  CHECK(open(R"({"weight_map":[]})") == index + ": weight_map: found [], expected an object");
  CHECK(open(R"({"weight_map":{"a":1}})") == index + ": weight_map: a is 1, expected a string");
  CHECK(open(R"({"weight_map":{"a":"s.safetensors","a":"s.safetensors"}})").find("found twice") !=
        std::string::npos);
  CHECK(open(R"({"weight_map":{"a":"gone.safetensors"}})") ==
        (folder / "gone.safetensors: shard is missing, the index names it"));
  for (const char* name :
       {"../s.safetensors", "/etc/passwd", "sub/s.safetensors", "..", ".", "", "..\\\\s"}) {
    INFO(name);
    CHECK(open(std::string(R"({"weight_map":{"a":")") + name + "\"}}") ==
          index + ": weight_map: a is \"" + name + "\", expected the name of a file in the same folder");
  }
  CHECK(open(R"({"weight_map":{"a":"s.safetensors\u0000x"}})")
            .ends_with("expected the name of a file in the same folder"));
}

TEST_CASE("safetensors folder: a tensor that is not where the index says") {
  const support::temporary_folder folder;
  support::put(folder / "s.safetensors", one_byte);
  support::put(folder / "model.safetensors.index.json",
               R"({"weight_map":{"a":"s.safetensors","b":"s.safetensors"}})");
  safetensors_folder reader{folder.path()};
  CHECK(reader.tensor("a").elements() == 1);
  CHECK(raised([&] { reader.tensor("b"); }) ==
        (folder / "s.safetensors: tensor b is missing, the index says it is here"));
  CHECK(raised([&] { reader.tensor("c"); }) == folder.path() + ": tensor c is missing");
  CHECK(raised([&] { require(reader.verify()); }) ==
        (folder / "s.safetensors: tensor b is missing, the index says it is here"));
}

TEST_CASE("safetensors folder: a damaged shard is found when it is looked at, and named") {
  const support::temporary_folder folder;
  write_tensors(folder.path(), {3, 5}, 12);
  const std::string second = folder / "model-00002-of-00002.safetensors";
  std::string bytes = support::get(second);
  bytes.back() = static_cast<char>(bytes.back() ^ 0x40);
  support::put(second, bytes);
  safetensors_folder reader{folder.path()};
  CHECK(reader.verify().message().starts_with(second + ": tensor t1 is damaged"));
  support::put(second, bytes.substr(0, bytes.size() - 1));
  safetensors_folder again{folder.path()};
  CHECK(again.tensor("t0").elements() == 3);
  CHECK(raised([&] { again.tensor("t1"); }) ==
        second + ": tensor t1 ends at byte 20 of the data, the file holds 19");
}

TEST_CASE("safetensors folder: misuse of the writer") {
  const support::temporary_folder folder;
  safetensors_folder_writer writer{folder.path()};
  writer.declare("a", dtype::u8, {1});
  CHECK(raised([&] { writer.declare("a", dtype::u8, {1}); }) == folder.path() + ": tensor a declared twice");
  const std::uint8_t byte = 1;
  CHECK(raised([&] {
          writer.append("b", view<const std::uint8_t, 1>{&byte, 1});
        }) == folder.path() + ": tensor b was not declared");
  CHECK(raised([&] { writer.declare("c", dtype::u8, {1}); }) ==
        folder.path() + ": tensor c declared after the first data, expected all declarations before");
  CHECK(raised([&] { writer.commit(); }) ==
        (folder / "model.safetensors: tensor a got 0 bytes, declared with 1"));
}
