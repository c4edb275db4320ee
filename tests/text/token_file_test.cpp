// SPDX-License-Identifier: MIT
// Token files: what is written is read, byte by byte as documented, and nothing damaged is taken for whole.
#include <dsv3/text/token_file_writer.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

using ids = std::vector<std::int32_t>;

std::string raised(const auto& act) {
  try {
    act();
  } catch (const error& failure) {
    return failure.what();
  }
  return "";
}

ids all_of(const token_file& file, index_t vocab) {
  ids found(static_cast<std::size_t>(file.tokens()));
  file.read(0, view{found.data(), file.tokens()}, vocab);
  return found;
}

template <class T>
T at(const std::string& bytes, std::size_t offset) {
  T value;
  REQUIRE(offset + sizeof value <= bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <class T>
std::string with(std::string bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

void write(const std::string& path, index_t vocab, const std::vector<ids>& documents,
           std::uint32_t sum = 77) {
  token_file_writer file{path, vocab, sum};
  for (const ids& document : documents) file.add(document);
  file.commit();
}

const std::vector<ids> documents{{1, 2, 3}, {}, {65535}, {7, 0, 9, 4}};
const ids together{1, 2, 3, 65535, 7, 0, 9, 4};

}  // namespace

TEST_CASE("a shard is what docs/formats.md says, byte by byte") {
  const support::temporary_folder folder;
  for (const index_t vocab : {0x10000, 0x10001}) {
    const std::size_t width = vocab == 0x10000 ? 2 : 4;
    const std::string path = folder / "a.dsv3tok";
    write(path, vocab, documents);
    const std::string bytes = support::get(path);
    CHECK(bytes.substr(0, 8) == "dsv3tok\n");
    CHECK(at<std::uint32_t>(bytes, 8) == 1);
    CHECK(at<std::uint32_t>(bytes, 12) == width);
    CHECK(at<std::uint64_t>(bytes, 16) == 8);
    CHECK(at<std::uint64_t>(bytes, 24) == 4);
    CHECK(at<std::uint64_t>(bytes, 32) == static_cast<std::uint64_t>(vocab));
    CHECK(at<std::uint32_t>(bytes, 40) == 77);
    CHECK(at<std::uint32_t>(bytes, 44) == crc32c_of(std::string_view(bytes).substr(64)));
    for (std::size_t i = 48; i < 60; i += 4) CHECK(at<std::uint32_t>(bytes, i) == 0);
    CHECK(at<std::uint32_t>(bytes, 60) == crc32c_of(std::string_view(bytes).substr(0, 60)));
    for (std::size_t i = 0; i < 8; ++i) {
      const auto id =
          width == 2 ? at<std::uint16_t>(bytes, 64 + 2 * i) : at<std::uint32_t>(bytes, 64 + 4 * i);
      CHECK(id == static_cast<std::uint32_t>(together[i]));
    }
    const std::size_t offsets = 64 + 8 * width;
    REQUIRE(bytes.size() == offsets + 5 * 8);
    const std::uint64_t expected[] = {0, 3, 3, 4, 8};
    for (std::size_t d = 0; d < 5; ++d) CHECK(at<std::uint64_t>(bytes, offsets + 8 * d) == expected[d]);
  }
}

TEST_CASE("what is written is read, whole, in parts and by document") {
  const support::temporary_folder folder;
  for (const index_t vocab : {0x10000, 200000}) {
    write(folder / "a.dsv3tok", vocab, documents);
    const token_file file{folder / "a.dsv3tok"};
    CHECK(file.tokens() == 8);
    CHECK(file.vocab() == vocab);
    CHECK(file.tokenizer_sum() == 77);
    CHECK(all_of(file, vocab) == together);
    REQUIRE(file.documents() == 4);
    CHECK(file.document(1).count() == 0);
    CHECK(file.document(3).begin == 4);
    CHECK(file.document(3).end == 8);
    std::int32_t two[2];
    file.read(5, view{two, 2}, vocab);
    CHECK(ids(two, two + 2) == ids{0, 9});
    CHECK(file.verify().good());
  }
  write(folder / "odd.dsv3tok", 9, {{1, 2, 3}});  // padding before the offsets
  CHECK(all_of(token_file{folder / "odd.dsv3tok"}, 9) == ids{1, 2, 3});
  CHECK(token_file{folder / "odd.dsv3tok"}.document(0).end == 3);
  write(folder / "none.dsv3tok", 9, {});
  CHECK(token_file{folder / "none.dsv3tok"}.tokens() == 0);
}

TEST_CASE("llm.c's files are written wide and read in both widths") {
  const support::temporary_folder folder;
  write(folder / "a.bin", 65536, documents);
  const std::string bytes = support::get(folder / "a.bin");
  REQUIRE(bytes.size() == 1024 + 8 * 4);
  CHECK(at<std::int32_t>(bytes, 0) == 20240801);
  CHECK(at<std::int32_t>(bytes, 4) == 7);
  CHECK(at<std::int32_t>(bytes, 8) == 8);
  for (std::size_t i = 12; i < 1024; ++i) REQUIRE(bytes[i] == 0);
  const token_file wide{folder / "a.bin"};
  CHECK(all_of(wide, 65536) == together);
  CHECK(wide.documents() == 1);
  CHECK(wide.document(0).end == 8);
  CHECK(wide.vocab() == 0);
  CHECK(wide.sum() == crc32c_of(bytes));

  std::string narrow(1024, '\0');
  narrow = with(with(with(narrow, 0, 20240520), 4, 1), 8, 3) + std::string("\x05\0\xFF\xFF\x01\x02", 6);
  support::put(folder / "b.bin", narrow);
  CHECK(all_of(token_file{folder / "b.bin"}, 65536) == ids{5, 65535, 513});
}

TEST_CASE("an id that the vocabulary does not have is refused when written and when read") {
  const support::temporary_folder folder;
  const std::string path = folder / "a.dsv3tok";
  CHECK(raised([&] {
          write(path, 9, {{1}, {3, 9}});
        }) == path + ": token 2 would be 9, expected an id from 0 to below 9");
  CHECK(raised([&] { write(path, 9, {{-1}}); }) ==
        path + ": token 0 would be -1, expected an id from 0 to below 9");
  CHECK(folder.names().empty());  // nothing half written
  write(path, 9, {{1, 8}});
  CHECK(raised([&] { all_of(token_file{path}, 8); }) == path + ": token 1 is 8, expected an id below 8");
  CHECK(raised([&] { write(folder / "a.txt", 9, {}); }) ==
        folder / "a.txt: found no name of a token file, expected one in .bin or .dsv3tok");
}

TEST_CASE("every truncation of a shard and every changed byte is found") {
  const support::temporary_folder folder;
  const std::string whole = folder / "a.dsv3tok", path = folder / "b.dsv3tok";
  write(whole, 300, {{1, 2}, {3}});
  const std::string bytes = support::get(whole);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    support::put(path, bytes.substr(0, length));
    CHECK(raised([&] { token_file{path}; }).starts_with(path));
  }
  support::put(path, bytes + "x");
  CHECK(raised([&] { token_file{path}; }) ==
        path + " has " + std::to_string(bytes.size() + 1) +
            " bytes, its header announces 3 tokens in 2 documents and so " + std::to_string(bytes.size()));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    support::put(path, changed);
    const std::string sentence = raised([&] { require(token_file{path}.verify()); });
    CHECK(sentence.starts_with(path));
    if (i >= 64)
      CHECK(sentence == path + " is damaged: its tokens do not have the checksum that its header names");
  }
}

TEST_CASE("what is wrong is one sentence with what was expected") {
  const support::temporary_folder folder;
  const std::string shard = folder / "a.dsv3tok", bin = folder / "a.bin";
  const auto refusal = [&](const std::string& path, const std::string& bytes) {
    support::put(path, bytes);
    return raised([&] { token_file{path}; });
  };
  write(shard, 300, {{1, 2}, {3}});
  const std::string good = support::get(shard);
  const auto signed_again = [](std::string bytes) {
    return with(bytes, 60, crc32c_of(std::string_view(bytes).substr(0, 60)));
  };
  CHECK(refusal(shard, "hello") ==
        shard + " is no shard of tokens: it does not begin with \"dsv3tok\" and a newline");
  CHECK(refusal(shard, good.substr(0, 40)) == shard + " has 40 bytes, its header alone has 64");
  CHECK(refusal(shard, with(good, 8, 2)) == shard + ": the version is 2, expected 1");
  CHECK(refusal(shard, with(good, 16, 4)) ==
        shard + " is damaged: its header does not have the checksum it names");
  CHECK(refusal(shard, signed_again(with(good, 12, 3))).find("tokens of 3 bytes") != std::string::npos);
  CHECK(
      refusal(shard, signed_again(with(good, 16, ~std::uint64_t{0}))).find("numbers that a file can have") !=
      std::string::npos);
  std::string offsets = with(good, good.size() - 16, std::uint64_t{9});
  support::put(shard, offsets);
  CHECK(raised([&] { token_file{shard}.document(0); }) ==
        shard + " is damaged: document 0 goes from token 0 to 9, the file holds 3");

  write(bin, 300, {{1, 2, 3}});
  const std::string old = support::get(bin);
  CHECK(refusal(bin, old.substr(0, 100)) == bin + " has 100 bytes, its header alone has 1024");
  CHECK(refusal(bin, old.substr(0, 1030)) ==
        bin + " has 1030 bytes, its header announces 3 tokens and so 1036");
  CHECK(refusal(bin, with(old, 0, 5)) ==
        bin + ": the first number is 5, expected 20240801 or 20240520 as llm.c writes them");
  CHECK(refusal(bin, with(old, 4, 1)) == bin + ": the version is 1, expected 7");
  CHECK(refusal(bin, with(old, 8, -1)) == bin + ": -1 tokens announced, expected at least 0");
}
