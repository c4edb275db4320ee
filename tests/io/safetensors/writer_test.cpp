// SPDX-License-Identifier: MIT
#include <dsv3/io/safetensors/writer.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <sys/resource.h>

#include <csignal>
#include <span>
#include <string>
#include <thread>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {

const float six[] = {1, 2, 3, 4, 5, 6};
const bf16 three[] = {1.0f, 2.0f, 3.0f};
const std::uint8_t codes[] = {7, 8, 9};

/// BF16 of odd length first: F32 after it would be misaligned if the file kept this order.
void write_mixed(const std::string& path) {
  safetensors_writer writer{path};
  writer.declare("half", dtype::bf16, {3});
  writer.declare("codes", dtype::f8_e4m3, {3});
  writer.declare("w", dtype::f32, {2, 3});
  writer.declare("empty", dtype::f32, {0, 2});
  writer.declare("scalar", dtype::f64, {});
  // Not in the order of the declarations, and one tensor in parts.
  const double pi = 3.25;
  writer.append("scalar", view<const double, 1>{&pi, 1});
  writer.append("w", view<const float, 2>{six, 1, 3});
  writer.append("half", view<const bf16, 1>{three, 3});
  writer.append("w", view<const float, 2>{six + 3, 1, 3});
  writer.append("codes", std::as_bytes(std::span(codes)));
  writer.commit();
  CHECK(writer.size() == std::filesystem::file_size(path));
  CHECK(writer.checksum() == crc32c_of(support::get(path)));
}

}  // namespace

TEST_CASE("safetensors_writer: what is written is read, aligned, with good checksums") {
  const support::temporary_folder folder;
  write_mixed(folder / "a");
  CHECK(folder.names() == std::vector<std::string>{"a"});
  const safetensors_file file{folder / "a"};
  std::vector<std::string> order;
  for (const tensor_entry& tensor : file.tensors()) {
    order.push_back(tensor.name);
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) %
              static_cast<std::size_t>(bytes_of(tensor.type)) ==
          0);
  }
  CHECK(order == std::vector<std::string>{"scalar", "w", "empty", "half", "codes"});
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.verify().message() == "");
  CHECK(tensor_values<float, 2>{file.tensor("w")}.values()(1, 2) == 6);
  CHECK(tensor_values<bf16, 1>{file.tensor("half")}.values()(2) == 3.0f);
  CHECK(tensor_values<double, 1>{file.tensor("scalar")}.values()(0) == 3.25);
  CHECK(tensor_values<std::uint8_t, 1>{file.tensor("codes")}.values()(2) == 9);
  CHECK(file.tensor("scalar").extents.empty());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, support::get(folder / "a").data(), 8);
  CHECK(header_bytes % 8 == 0);
}

TEST_CASE("safetensors_writer: one changed byte is found, and its tensor named") {
  const support::temporary_folder folder;
  write_mixed(folder / "a");
  const std::string good = support::get(folder / "a");
  const std::size_t data = good.size() - 8 - 24 - 6 - 3;
  const auto verdict = [&](std::size_t byte) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ 1);
    support::put(folder / "b", bad);
    return safetensors_file{folder / "b"}.verify().message();
  };
  CHECK(
      verdict(data).starts_with(folder / "b: tensor scalar is damaged: its data do not have the checksum "));
  CHECK(verdict(data + 8 + 23).starts_with(folder / "b: tensor w is damaged"));
  CHECK(verdict(good.size() - 4).starts_with(folder / "b: tensor half is damaged"));
  CHECK(verdict(good.size() - 1).starts_with(folder / "b: tensor codes is damaged"));
}

TEST_CASE("safetensors_writer: names and metadata of any text survive") {
  const support::temporary_folder folder;
  const std::string name = "a \"quoted\"\\\n\xe2\x82\xac/../b";
  safetensors_writer writer{folder / "a", {{"note", "x\ty"}}};
  writer.declare(name, dtype::u8, {3});
  writer.append(name, view<const std::uint8_t, 1>{codes, 3});
  writer.commit();
  const safetensors_file file{folder / "a"};
  CHECK(file.contains(name));
  CHECK(file.metadata().at("note") == "x\ty");
}

TEST_CASE("safetensors_writer: a file without tensors") {
  const support::temporary_folder folder;
  safetensors_writer writer{folder / "a"};
  writer.commit();
  CHECK(safetensors_file{folder / "a"}.tensors().empty());
  CHECK(safetensors_file{folder / "a"}.verify().good());
}

TEST_CASE("safetensors_writer: misuse is one sentence, and no file") {
  const support::temporary_folder folder;
  const std::string path = folder / "a", where = path + ": tensor w";
  {
    safetensors_writer writer{path};
    writer.declare("w", dtype::f32, {2});
    CHECK(raised([&] { writer.declare("w", dtype::f32, {2}); }) == where + " declared twice");
    CHECK(raised([&] { writer.declare("v", dtype::f32, {-1}); }) ==
          path + ": tensor v has shape [-1], expected extents that fit in 63 bits");
    CHECK(raised([&] {
            writer.declare("v", dtype::f32, {index_t{1} << 61, 2});
          }) == path + ": tensor v has shape [2305843009213693952, 2], expected extents that fit in 63 bits");
    CHECK(raised([&] { writer.declare("__metadata__", dtype::f32, {2}); }) ==
          path + ": tensor __metadata__ found, the name is reserved");
    CHECK(raised([&] { writer.declare("\xff", dtype::f32, {2}); }) ==
          path + ": tensor \xff found, expected a name in UTF-8");
    CHECK(raised([&] {
            writer.append("v", view<const float, 1>{six, 2});
          }) == path + ": tensor v was not declared");
    CHECK(raised([&] {
            writer.append("w", view<const bf16, 1>{three, 2});
          }) == where + " was declared as F32, got BF16");
    writer.append("w", view<const float, 1>{six, 1});
    CHECK(raised([&] {
            writer.append("w", view<const float, 1>{six, 2});
          }) == where + " got 12 bytes, declared with 8");
    CHECK(raised([&] { writer.declare("v", dtype::f32, {2}); }) ==
          path + ": tensor v declared after the first data, expected all declarations before");
    CHECK(raised([&] { writer.commit(); }) == where + " got 4 bytes, declared with 8");
  }
  CHECK(folder.names().empty());
  CHECK(raised([&] {
          safetensors_writer(path, {{"crc32c", "x"}});
        }) == path + ": metadata key crc32c found, it is the writer's own");
}

TEST_CASE("safetensors_writer: a disk too small is found before the data, and nothing stays") {
  const support::temporary_folder folder;
  rlimit before = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{1000, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  {
    safetensors_writer writer{folder / "a"};
    writer.declare("w", dtype::f32, {1000});
    const std::string sentence = raised([&] { writer.append("w", view<const float, 1>{six, 1}); });
    CHECK(sentence.starts_with(folder / "a: 41"));  // the data and a short header
    CHECK(sentence.ends_with(" more bytes cannot be written: File too large"));
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(folder.names().empty());
}

TEST_CASE("after begin, threads write different tensors") {
  const support::temporary_folder folder;
  std::vector<std::uint32_t> numbers(50'000);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i * 2654435761u);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(numbers));
  const auto write = [&](const std::string& path, bool by_threads) {
    safetensors_writer writer{path};
    const auto name = [](int t) { return "t" + std::to_string(t); };
    for (int t = 0; t < 4; ++t) writer.declare(name(t), dtype::u32, {static_cast<index_t>(numbers.size())});
    writer.begin();
    const auto append = [&](int t) {
      for (std::size_t at = 0; at < bytes.size(); at += 1000) writer.append(name(t), bytes.subspan(at, 1000));
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) by_threads ? void(threads.emplace_back(append, t)) : append(t);
    for (std::thread& thread : threads) thread.join();
    CHECK(support::raised([&] { writer.declare("late", dtype::u8, {1}); }) ==
          path + ": tensor late declared after the first data, expected all declarations before");
    writer.commit();
  };
  write(folder / "one", false);
  write(folder / "four", true);
  CHECK(support::get(folder / "one") == support::get(folder / "four"));
  CHECK(safetensors_file{folder / "four"}.verify().good());
}
