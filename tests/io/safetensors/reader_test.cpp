// SPDX-License-Identifier: MIT
#include <dsv3/io/safetensors/reader.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {

/// A file whose header is `pad` spaces longer than needed, so that the data begin at any alignment.
std::string two_by_three(const support::temporary_folder& folder, std::size_t pad) {
  std::string header = R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  header.resize((header.size() + 7) / 8 * 8 + pad, ' ');
  std::string bytes = support::safetensors_bytes(header);
  for (int i = 0; i < 6; ++i) {
    const float value = static_cast<float>(i) + 0.5f;
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  const std::string path = folder / ("pad" + std::to_string(pad));
  support::put(path, bytes);
  return path;
}

}  // namespace

TEST_CASE("safetensors_file: values in place where aligned, in a copy where not") {
  const support::temporary_folder folder;
  for (const std::size_t pad : {0, 1, 2, 4}) {
    const safetensors_file file{two_by_three(folder, pad)};
    tensor_values<float, 2> weight{file.tensor("w")};
    CHECK(weight.copied() == (pad % 4 != 0));
    const tensor_values<float, 2> moved = std::move(weight);
    const view<const float, 2> values = moved.values();
    CHECK(values.extent(0) == 2);
    CHECK(values.extent(1) == 3);
    for (index_t i = 0; i < 2; ++i)
      for (index_t j = 0; j < 3; ++j) CHECK(values(i, j) == static_cast<float>(3 * i + j) + 0.5f);
    std::vector<double> wide(6);
    read_converted(file.tensor("w"), std::span(wide));
    CHECK(wide[5] == 5.5);
  }
}

TEST_CASE("safetensors_file: what is asked for must be what is there") {
  const support::temporary_folder folder;
  const std::string path = two_by_three(folder, 0);
  const safetensors_file file{path};
  const tensor_entry& w = file.tensor("w");
  CHECK(file.contains("w"));
  CHECK(!file.contains("v"));
  CHECK(raised([&] { file.tensor("v"); }) == path + ": tensor v is missing");
  CHECK(raised([&] { tensor_values<double, 2>{w}; }) == path + ": tensor w has type F32, expected F64");
  CHECK(raised([&] { tensor_values<bf16, 2>{w}; }) == path + ": tensor w has type F32, expected BF16");
  CHECK(raised([&] { tensor_values<std::uint8_t, 2>{w}; }) == path + ": tensor w has type F32, expected U8");
  CHECK(raised([&] { tensor_values<float, 1>{w}; }) ==
        path + ": tensor w has shape [2, 3], expected 1 extent");
  CHECK(raised([&] { tensor_values<float, 3>{w}; }) ==
        path + ": tensor w has shape [2, 3], expected 3 extents");
  std::vector<float> five(5);
  CHECK(raised([&] { read_converted(w, std::span(five)); }) ==
        path + ": tensor w has shape [2, 3], expected 5 elements");
}

TEST_CASE("safetensors_file: tensors without axes, empty ones, codes as bytes") {
  const support::temporary_folder folder;
  support::put(
      folder / "x",
      support::safetensors_bytes(
          R"({"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"z":{"dtype":"F32","shape":[0,4],"data_offsets":[1,1]},)"
          R"("e":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[1,3]},"i":{"dtype":"I32","shape":[1],"data_offsets":[3,7]}})",
          7));
  const safetensors_file file{folder / "x"};
  const tensor_values<std::uint8_t, 1> scalar{file.tensor("s")}, codes{file.tensor("e")};
  CHECK(scalar.values().extent(0) == 1);
  CHECK(scalar.values()(0) == 0);
  CHECK(codes.values()(1) == 2);
  const tensor_values<float, 2> empty{file.tensor("z")};
  CHECK(empty.values().extent(0) == 0);
  CHECK(empty.values().extent(1) == 4);
  const tensor_values<std::int32_t, 1> number{file.tensor("i")};
  CHECK(number.values()(0) == 0x06050403);
  std::vector<float> one(1), two(2), none;
  read_converted(file.tensor("z"), std::span(none));
  CHECK(raised([&] { read_converted(file.tensor("i"), std::span(one)); }) ==
        (folder / "x: tensor i has type I32, expected F64, F32 or BF16"));
  CHECK(raised([&] { read_converted(file.tensor("e"), std::span(two)); }) ==
        (folder / "x: tensor e has type F8_E4M3, expected F64, F32 or BF16"));
}

TEST_CASE("read_converted: between the floating types") {
  const support::temporary_folder folder;
  std::string bytes = support::safetensors_bytes(
      R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}})");
  const double third = 1.0 / 3;
  const bf16 pair[] = {bf16(third), bf16(-2.0f)};
  bytes.append(reinterpret_cast<const char*>(&third), 8).append(reinterpret_cast<const char*>(pair), 4);
  support::put(folder / "x", bytes);
  const safetensors_file file{folder / "x"};
  std::vector<float> narrow(1), from_half(2);
  std::vector<bf16> half(1), same(2);
  read_converted(file.tensor("d"), std::span(narrow));
  CHECK(narrow[0] == 1.0f / 3);
  read_converted(file.tensor("d"), std::span(half));
  CHECK(half[0].bits == bf16(third).bits);
  read_converted(file.tensor("b"), std::span(from_half));
  CHECK(from_half[1] == -2.0f);
  read_converted(file.tensor("b"), std::span(same));
  CHECK(same[0].bits == pair[0].bits);
}

TEST_CASE(
    "safetensors_file: a file without checksums cannot be verified, nor one with the wrong number of them") {
  const support::temporary_folder folder;
  const std::string path = two_by_three(folder, 0);
  CHECK(safetensors_file{path}.verify().message() == path + ": no checksums found in the metadata");
  support::put(
      folder / "x",
      support::safetensors_bytes(
          R"({"__metadata__":{"crc32c":"0000"},"s":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
  CHECK(safetensors_file{folder / "x"}.verify().message() ==
        (folder / "x: 4 checksum digits found, expected eight for each of 1 tensors"));
}
