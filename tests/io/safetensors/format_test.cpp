// SPDX-License-Identifier: MIT
#include <dsv3/io/safetensors/format.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>

using namespace dsv3;
using support::raised;
using support::safetensors_bytes;

namespace {

safetensors_table parse(const std::string& bytes) {
  return parse_safetensors(std::as_bytes(std::span(bytes)), "x.safetensors");
}
std::string sentence_of(const std::string& bytes) {
  return raised([&] { parse(bytes); });
}
/// What is said of a file of one tensor "a" with these fields and `data_bytes` bytes of data.
std::string sentence_of(const std::string& fields, std::size_t data_bytes) {
  return sentence_of(safetensors_bytes("{\"a\":" + fields + "}", data_bytes));
}

}  // namespace

TEST_CASE("safetensors: a good file is read, in the order of its data") {
  const std::string bytes = safetensors_bytes(
      R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"format":"pt","k":"v"},)"
      R"("a":{"dtype":"U8","shape":[3,1],"data_offsets":[8,11]},"s":{"dtype":"BF16","shape":[],"data_offsets":[11,13]},)"
      R"("z":{"dtype":"I64","shape":[0,4],"data_offsets":[8,8]}}   )",
      13);
  const safetensors_table table = parse(bytes);
  REQUIRE(table.tensors().size() == 4);
  CHECK(table.tensors()[0].name == "b");
  CHECK(table.tensors()[1].name == "z");  // empty: begins where "a" does, and ends there
  CHECK(table.tensors()[2].name == "a");
  CHECK(table.tensors()[3].name == "s");
  CHECK(table.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"k", "v"}});
  const tensor_entry* a = table.find("a");
  REQUIRE(a != nullptr);
  CHECK(a->type == dtype::u8);
  CHECK(a->extents == std::vector<index_t>{3, 1});
  CHECK(a->elements() == 3);
  CHECK(a->where() == "x.safetensors: tensor a");
  CHECK(static_cast<int>(a->bytes[0]) == 8);
  CHECK(table.find("s")->elements() == 1);
  CHECK(table.find("s")->extents.empty());
  CHECK(table.find("z")->elements() == 0);
  CHECK(table.find("none") == nullptr);
}

TEST_CASE("safetensors: a file without tensors is a file") {
  CHECK(parse(safetensors_bytes("{}")).tensors().empty());
  CHECK(parse(safetensors_bytes("{\"__metadata__\":{}}   ")).tensors().empty());
}

TEST_CASE("safetensors: every element type has its spelling and its bytes") {
  for (const char* name : {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "I32", "I16",
                           "I8", "U64", "U32", "U16", "U8", "BOOL"}) {
    REQUIRE(find_dtype(name).has_value());
    CHECK(to_string(*find_dtype(name)) == name);
  }
  CHECK(bytes_of(dtype::f64) == 8);
  CHECK(bytes_of(dtype::i32) == 4);
  CHECK(bytes_of(dtype::bf16) == 2);
  CHECK(bytes_of(dtype::f8_e4m3) == 1);
  CHECK(bytes_of(dtype::boolean) == 1);
  CHECK(!find_dtype("f32").has_value());
}

TEST_CASE("safetensors: the length of the header") {
  CHECK(sentence_of("") == "x.safetensors: 0 bytes found, expected the 8 of the header's length first");
  CHECK(sentence_of("1234567") ==
        "x.safetensors: 7 bytes found, expected the 8 of the header's length first");
  std::string bytes = safetensors_bytes("{}");
  bytes[0] = 3;
  CHECK(sentence_of(bytes) == "x.safetensors: header of 3 bytes announced, only 2 bytes follow");
  CHECK(sentence_of(std::string(8, '\xff') + "{}") ==
        "x.safetensors: header of 18446744073709551615 bytes announced, only 2 bytes follow");
  CHECK(sentence_of(safetensors_bytes("{" + std::string(100'000'000, ' '))) ==
        "x.safetensors: header of 100000001 bytes announced, expected at most 100000000");
}

TEST_CASE("safetensors: the header is a JSON object") {
  const std::string no_object = "x.safetensors: the header does not begin with '{', expected a JSON object";
  CHECK(sentence_of(safetensors_bytes("")) == no_object);
  CHECK(sentence_of(safetensors_bytes(" {}")) == no_object);
  CHECK(sentence_of(safetensors_bytes("[]")) == no_object);
  CHECK(sentence_of(safetensors_bytes("{\"a\""))
            .starts_with("x.safetensors: header: line 1, byte 4: syntax error"));
  CHECK(
      sentence_of(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                    2)) ==
      "x.safetensors: header: line 2, byte 57: key \"a\" found twice in one object, expected distinct keys");
  CHECK(
      sentence_of(R"({"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]})", 1).find("found twice") !=
      std::string::npos);
  CHECK(sentence_of(safetensors_bytes("{\"a\":" + std::string(50, '[') + std::string(50, ']') + "}")) ==
        "x.safetensors: header: line 1, byte 13: nested deeper than 8 levels");
}

TEST_CASE("safetensors: metadata are texts") {
  CHECK(sentence_of(safetensors_bytes("{\"__metadata__\":{\"k\":1}}")) ==
        "x.safetensors: __metadata__: k is 1, expected a string");
  CHECK(sentence_of(safetensors_bytes("{\"__metadata__\":[]}")) ==
        "x.safetensors: __metadata__: found [], expected an object");
}

TEST_CASE("safetensors: the fields of a tensor") {
  const std::string where = "x.safetensors: tensor a";
  CHECK(sentence_of("7", 0) == where + ": found 7, expected an object");
  CHECK(sentence_of(R"({"shape":[1],"data_offsets":[0,4]})", 4) ==
        where + ": dtype is missing, expected a string");
  CHECK(sentence_of(R"({"dtype":"F32","data_offsets":[0,4]})", 4) ==
        where + ": shape is missing, expected an array, each an integer of at least 0");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[1]})", 4) ==
        where + ": data_offsets is missing, expected an array, each an integer of at least 0");
  CHECK(sentence_of(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})", 4)
            .starts_with(where + ": dtype is \"F31\", expected one of "));
  CHECK(sentence_of(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4) ==
        where + ": shape is [-1], expected an array, each an integer of at least 0");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", 4) ==
        where + ": shape is [1.0], expected an array, each an integer of at least 0");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"dtpye":1})", 4) ==
        where + ": dtpye is not a known key, the nearest is dtype");
  for (const char* offsets : {"[4,0]", "[0]", "[]", "[0,2,4]"})
    CHECK(sentence_of(std::string(R"({"dtype":"F32","shape":[1],"data_offsets":)") + offsets + "}", 4) ==
          where + ": data_offsets is " + offsets + ", expected [begin, end] with begin not after end");
}

TEST_CASE("safetensors: sizes") {
  const std::string where = "x.safetensors: tensor a";
  CHECK(sentence_of(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7) ==
        where + " ends at byte 8 of the data, the file holds 7");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[2],"data_offsets":[0,9223372036854775807]})", 8) ==
        where + " ends at byte 9223372036854775807 of the data, the file holds 8");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8) ==
        where + " has 8 bytes, its shape [3] of F32 needs 12");
  CHECK(sentence_of(R"({"dtype":"BF16","shape":[],"data_offsets":[0,4]})", 4) ==
        where + " has 4 bytes, its shape [] of BF16 needs 2");
  // 2^32 * 2^32 wraps to nothing, 2^62 * 4 bytes to nothing, and neither is nothing.
  CHECK(sentence_of(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0) ==
        where + ": shape is [4294967296,4294967296], expected a product of extents that fits in 63 bits");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", 0) ==
        where + ": shape is [4611686018427387904], expected a product of extents that fits in 63 bits");
  CHECK(sentence_of(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]})", 0) ==
        where + ": shape is [18446744073709551615], expected an array, each an integer of at least 0");
}

TEST_CASE("safetensors: the tensors tile the data") {
  const auto two = [](const std::string& a, const std::string& b, std::size_t data_bytes) {
    const auto tensor = [](const std::string& range) {
      const int begin = range[1] - '0', end = range[3] - '0';
      return R"({"dtype":"U8","shape":[)" + std::to_string(end - begin) + R"(],"data_offsets":)" + range +
             "}";
    };
    return sentence_of(safetensors_bytes("{\"a\":" + tensor(a) + ",\"b\":" + tensor(b) + "}", data_bytes));
  };
  CHECK(two("[0,4]", "[4,8]", 8) == "");
  CHECK(two("[4,8]", "[0,4]", 8) == "");
  CHECK(two("[0,4]", "[3,7]", 7) ==
        "x.safetensors: tensor b begins at byte 3 of the data, inside tensor a that ends at 4");
  CHECK(two("[0,8]", "[2,4]", 8) ==
        "x.safetensors: tensor b begins at byte 2 of the data, inside tensor a that ends at 8");
  CHECK(two("[0,8]", "[2,2]", 8) ==
        "x.safetensors: tensor b begins at byte 2 of the data, inside tensor a that ends at 8");
  CHECK(two("[0,4]", "[0,4]", 4).find("inside tensor") != std::string::npos);
  CHECK(two("[0,4]", "[5,8]", 8) ==
        "x.safetensors: tensor b begins at byte 5 of the data, expected 4: the bytes between belong to no "
        "tensor");
  CHECK(two("[1,4]", "[4,8]", 8) ==
        "x.safetensors: tensor a begins at byte 1 of the data, expected 0: the bytes between belong to no "
        "tensor");
  CHECK(two("[0,4]", "[4,8]", 9) == "x.safetensors: 1 bytes found after the last tensor, expected none");
  CHECK(sentence_of(safetensors_bytes("{}", 3)) ==
        "x.safetensors: 3 bytes found after the last tensor, expected none");
}

TEST_CASE("safetensors: every truncation of a good file is refused") {
  const std::string whole = safetensors_bytes(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})",
      9);
  CHECK(sentence_of(whole) == "");
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) CHECK(sentence_of(whole.substr(0, bytes)) != "");
}

TEST_CASE("safetensors: a long name does not make a long sentence") {
  CHECK(sentence_of(safetensors_bytes("{\"" + std::string(100'000, 'n') + "\":1}")).size() < 400);
}
