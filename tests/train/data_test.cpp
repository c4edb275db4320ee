// SPDX-License-Identifier: MIT
// Documents to rows of tokens: nothing lost, nothing twice, and the same rows after a stop.
#include <dsv3/train/data.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

using namespace dsv3;
namespace fs = std::filesystem;

namespace {

// A folder that exists while the test runs.
struct scratch_folder {
  fs::path path = fs::temp_directory_path() / ("dsv3_data_test." + std::to_string(::getpid()));
  scratch_folder() { fs::create_directories(path); }
  ~scratch_folder() { fs::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
};

std::string raised(const auto& act) {
  try {
    act();
  } catch (const error& failure) {
    return failure.what();
  }
  return "";
}

std::vector<std::int32_t> next_row(row_reader& reader, index_t width) {
  std::vector<std::int32_t> row(static_cast<std::size_t>(width), -7);
  reader.next(view{row.data(), width});
  return row;
}

std::string letters(index_t count, char first) {
  std::string text;
  for (index_t i = 0; i < count; ++i)
    text += static_cast<char>(first + static_cast<char>(random_stream{5, 5}.below(
                                          20, static_cast<std::uint64_t>(i + 1000 * first))));
  return text;
}

}  // namespace

TEST_CASE("folders are walked by path; what is no text is left out and named") {
  const scratch_folder folder;
  folder.write("b/two.txt", "two");
  folder.write("a/one.txt", "one\n");
  folder.write("a/.hidden", "never");
  folder.write(".git/config", "never");
  folder.write("empty.txt", "");
  const std::string binary = folder.write("c/image", std::string("x\0y", 3));
  const std::string single = folder.write("z.txt", "\xFF\xFE");
  const text_corpus corpus{{folder.path.string(), single}};
  REQUIRE(corpus.documents().size() == 3);
  CHECK(corpus.documents()[0].text == "one\n");
  CHECK(corpus.documents()[1].text == "two");
  CHECK(corpus.documents()[2].path == single);  // named twice, taken once
  CHECK(corpus.skipped() == std::vector<std::string>{binary});
  CHECK(corpus.bytes() == 9);
}

TEST_CASE("data that is missing or empty is one sentence") {
  const scratch_folder folder;
  CHECK(raised([] { text_corpus{{"/nowhere/at/all"}}; }) ==
        "data: /nowhere/at/all does not exist, expected a file or a folder of text");
  const std::string path = folder.path.string();
  CHECK(raised([&] { text_corpus{{path}}; }) ==
        "data: no text found in " + path +
            ", expected at least one file that is not empty and has no zero byte");
  CHECK(byte_tokens::check(258).good());
  CHECK(byte_tokens::check(257).message().find("vocab_size is 257") == 0);
  row_reader reader{{"abc"}, 8, 2, 1};
  CHECK(reader.rows() == 0);
  CHECK(raised([&] { next_row(reader, 10); }) ==
        "data: 5 tokens found, one row needs 10: give more text or a smaller --seq");
}

TEST_CASE("a pass in the given order is the text, row by row, and every token is predicted once") {
  const std::vector<std::string_view> texts{"hello", "", "wide \xE2\x82\xAC"};
  std::vector<std::int32_t> stream;
  for (const std::string_view text : texts) {
    stream.push_back(256);
    for (const char byte : text) stream.push_back(static_cast<unsigned char>(byte));
    stream.push_back(257);
  }
  row_reader reader{texts, 4, 2, 1, row_order::as_given};
  CHECK(reader.tokens() == static_cast<index_t>(stream.size()));
  REQUIRE(reader.rows() == (static_cast<index_t>(stream.size()) - 2) / 4);
  for (index_t r = 0; r < reader.rows(); ++r) {
    const auto row = next_row(reader, 6);
    for (index_t i = 0; i < 6; ++i)
      CHECK(row[static_cast<std::size_t>(i)] == stream[static_cast<std::size_t>(r * 4 + i)]);
  }
  CHECK(next_row(reader, 6)[0] == 256);  // the next pass
  CHECK(reader.cursor() == data_cursor{1, 1});
}

TEST_CASE("a shuffled pass holds every row of its packing once, and passes differ") {
  const std::string one = letters(200, 'a'), two = letters(150, 'A');
  row_reader reader{{one, two}, 16, 2, 9};
  std::vector<std::vector<std::vector<std::int32_t>>> passes(2);
  for (auto& pass : passes) {
    std::map<std::int32_t, index_t> counts;
    for (index_t r = 0; r < reader.rows(); ++r) {
      pass.push_back(next_row(reader, 18));
      for (std::size_t i = 1; i <= 16; ++i) ++counts[pass.back()[i]];  // predicted by depth 0
    }
    index_t predicted = 0;
    for (const auto& [id, count] : counts) predicted += count;
    CHECK(predicted == reader.rows() * 16);
    CHECK(counts[256] <= 2);  // the first begin of the stream is predicted by nobody
  }
  CHECK(passes[0] != passes[1]);
  auto sorted = passes[0];
  std::sort(sorted.begin(), sorted.end());
  CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
  CHECK(sorted != passes[0]);
  row_reader other{{one, two}, 16, 2, 10};
  CHECK(next_row(other, 18) != passes[0][0]);
}

TEST_CASE("a reader that goes on from a cursor reads what an uninterrupted one reads") {
  const std::string one = letters(300, 'a'), two = letters(77, 'A'), three = letters(41, '0');
  const std::vector<std::string_view> texts{one, two, three};
  row_reader straight{texts, 8, 2, 3};
  const index_t total = 3 * straight.rows() + 5;
  std::vector<std::vector<std::int32_t>> expected;
  std::vector<data_cursor> cursors;
  for (index_t r = 0; r < total; ++r) {
    cursors.push_back(straight.cursor());
    expected.push_back(next_row(straight, 10));
  }
  for (std::size_t stop = 0; stop < expected.size(); stop += 7) {
    row_reader resumed{texts, 8, 2, 3};
    resumed.seek(cursors[stop]);
    for (std::size_t r = stop; r < expected.size(); ++r) REQUIRE(next_row(resumed, 10) == expected[r]);
  }
  CHECK(raised([&] { straight.seek({0, straight.rows() + 1}); }).find("data: the cursor is at row") == 0);
}

TEST_CASE("held-out text is never trained on, whole and the same for every seed") {
  const scratch_folder folder;
  std::string all;
  for (int d = 0; d < 30; ++d)
    folder.write("d" + std::to_string(100 + d), letters(100, static_cast<char>(65 + d)));
  const text_corpus corpus{{folder.path.string()}};
  const text_split split{corpus, 0.1};
  index_t training = 0, held_out = 0;
  for (const auto text : split.training) training += static_cast<index_t>(text.size());
  for (const auto text : split.held_out) held_out += static_cast<index_t>(text.size());
  CHECK(training == 2700);
  CHECK(held_out == 300);
  for (const auto text : split.held_out)
    for (const auto other : split.training)
      CHECK((text.data() >= other.data() + other.size() || text.data() + text.size() <= other.data()));
  CHECK(split.training_sum() == text_split{corpus, 0.1}.training_sum());
  CHECK(split.training_sum() != text_split{corpus, 0.2}.training_sum());
  CHECK(text_split{corpus, 0}.held_out.empty());
}

TEST_CASE("one document alone gives its tail") {
  const scratch_folder folder;
  const text_corpus corpus{{folder.write("only", letters(1000, 'a'))}};
  const text_split split{corpus, 0.05};
  REQUIRE(split.training.size() == 1);
  REQUIRE(split.held_out.size() == 1);
  CHECK(split.training[0].size() == 950);
  CHECK(split.held_out[0].data() == split.training[0].data() + 950);
}
