// SPDX-License-Identifier: MIT
// Orders without memory, and rows from mapped files that are the rows of the same tokens in memory.
#include <dsv3/text/packing.hpp>
#include <dsv3/text/token_file_writer.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

using ids = std::vector<std::int32_t>;

ids next_row(row_reader& reader, index_t width) {
  ids row(static_cast<std::size_t>(width), -7);
  reader.next(view{row.data(), width});
  return row;
}

std::string raised(const auto& act) {
  try {
    act();
  } catch (const error& failure) {
    return failure.what();
  }
  return "";
}

// A file whose tokens count on from `first`.
std::shared_ptr<const token_file> counting_file(const std::string& path, std::int32_t first, index_t count) {
  token_file_writer writer{path, 100000, 0};
  for (index_t i = 0; i < count; ++i) {
    const std::int32_t id = first + static_cast<std::int32_t>(i);
    writer.add({&id, 1});
  }
  writer.commit();
  return std::make_shared<const token_file>(path);
}

// Documents whose lengths follow the pass.
class growing_documents final : public token_documents {
 public:
  index_t count() const override { return 3; }
  index_t length(index_t document) const override { return 10 + document + pass_; }
  void read(index_t document, index_t offset, view<std::int32_t, 1> to) const override {
    for (index_t i = 0; i < to.size(); ++i)
      to(i) = static_cast<std::int32_t>(10000 * pass_ + 100 * document + offset + i);
  }
  void begin_pass(index_t pass) override { pass_ = pass; }

 private:
  index_t pass_ = 0;
};

}  // namespace

TEST_CASE("a permutation takes every place once, differs by seed, and is far from the given order") {
  for (const index_t count : {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 65537}) {
    const index_permutation order{count, random_stream{3, 4}};
    std::vector<index_t> seen;
    for (index_t i = 0; i < count; ++i) seen.push_back(order(i));
    if (count >= 1000) {
      index_t fixed = 0, rising = 0;
      for (index_t i = 0; i < count; ++i) fixed += seen[static_cast<std::size_t>(i)] == i;
      for (std::size_t i = 1; i < seen.size(); ++i) rising += seen[i] == seen[i - 1] + 1;
      CHECK(fixed < 12);
      CHECK(rising < 12);
      const index_permutation other{count, random_stream{3, 5}};
      index_t same = 0;
      for (index_t i = 0; i < count; ++i) same += other(i) == order(i);
      CHECK(same < 12);
    }
    std::sort(seen.begin(), seen.end());
    for (index_t i = 0; i < count; ++i) REQUIRE(seen[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("every place of a small permutation is taken about equally often") {
  constexpr index_t count = 6, draws = 6000;
  index_t at[count][count] = {};
  for (std::uint64_t seed = 0; seed < draws; ++seed)
    for (index_t i = 0; i < count; ++i) ++at[i][index_permutation{count, random_stream{seed, 1}}(i)];
  double distance = 0;  // chi-square with 25 degrees of freedom: 52.6 at 0.1 %
  for (const auto& row : at)
    for (const index_t found : row) distance += static_cast<double>((found - 1000) * (found - 1000)) / 1000;
  CHECK(distance < 60);
}

TEST_CASE("an order of a trillion rows costs nothing") {
  const index_t count = index_t{1} << 40;
  const index_permutation order{count - 5, random_stream{1, 2}};
  for (index_t i = 0; i < 1000; ++i) {
    CHECK(order(i) >= 0);
    CHECK(order(i) < count - 5);
  }
}

TEST_CASE("rows of token files are the stretches, one after the other") {
  const support::temporary_folder folder;
  const auto one = counting_file(folder / "a.dsv3tok", 0, 50),
             two = counting_file(folder / "b.bin", 1000, 23);
  std::vector<token_stretch> stretches{{one, {5, 50}}, {two, {0, 23}}};
  row_reader reader{std::make_unique<stored_documents>(stretches, 100000), 8, 2, 1, row_order::as_given};
  CHECK(reader.tokens() == 68);
  REQUIRE(reader.rows() == 8);
  for (index_t r = 0; r < reader.rows(); ++r) {
    const ids row = next_row(reader, 10);
    for (index_t i = 0; i < 10; ++i) {
      const index_t at = r * 8 + i;
      CHECK(row[static_cast<std::size_t>(i)] == (at < 45 ? 5 + at : 1000 + at - 45));
    }
  }
}

TEST_CASE("a shuffled pass over files takes every row once, and a cursor finds the way back") {
  const support::temporary_folder folder;
  const auto one = counting_file(folder / "a.dsv3tok", 0, 500),
             two = counting_file(folder / "b.bin", 1000, 300);
  const auto reader_of = [&](std::uint64_t seed) {
    std::vector<token_stretch> stretches{{one, {0, 500}}, {two, {0, 300}}};
    return row_reader{std::make_unique<stored_documents>(stretches, 100000), 8, 2, seed};
  };
  row_reader straight = reader_of(4), again = reader_of(4), other = reader_of(5);
  std::vector<ids> rows;
  for (index_t r = 0; r < 3 * straight.rows(); ++r) rows.push_back(next_row(straight, 10));
  const auto pass = static_cast<std::size_t>(straight.rows());
  for (std::size_t p = 0; p < 3; ++p) {
    ids firsts;
    for (std::size_t r = p * pass; r < (p + 1) * pass; ++r)
      for (std::size_t i = 0; i < 8; ++i) firsts.push_back(rows[r][i]);
    std::sort(firsts.begin(), firsts.end());
    CHECK(std::adjacent_find(firsts.begin(), firsts.end()) == firsts.end());
    CHECK(firsts.size() == 8 * pass);
  }
  index_t same = 0;
  for (std::size_t r = 0; r < pass; ++r) {
    REQUIRE(next_row(again, 10) == rows[r]);
    same += next_row(other, 10) == rows[r];
  }
  CHECK(same < 10);
  for (std::size_t stop = 0; stop < rows.size(); stop += 31) {
    const data_cursor cursor{static_cast<index_t>(stop / pass), static_cast<index_t>(stop % pass)};
    row_reader resumed = reader_of(4);
    resumed.seek(cursor);
    CHECK(next_row(resumed, 10) == rows[stop]);
  }
}

TEST_CASE("documents may differ from pass to pass") {
  row_reader straight{std::make_unique<growing_documents>(), 4, 1, 2};
  std::vector<ids> rows;
  std::vector<data_cursor> cursors;
  for (int r = 0; r < 40; ++r) {
    cursors.push_back(straight.cursor());
    rows.push_back(next_row(straight, 5));
    CHECK(rows.back()[0] / 10000 == straight.cursor().epoch);
  }
  CHECK(straight.cursor().epoch > 2);
  for (std::size_t stop = 0; stop < rows.size(); ++stop) {
    row_reader resumed{std::make_unique<growing_documents>(), 4, 1, 2};
    resumed.seek(cursors[stop]);
    for (std::size_t r = stop; r < rows.size(); ++r) REQUIRE(next_row(resumed, 5) == rows[r]);
  }
}

TEST_CASE("an id beyond the model's vocabulary names the file and the place") {
  const support::temporary_folder folder;
  const auto file = counting_file(folder / "a.dsv3tok", 0, 50);
  row_reader reader{std::make_unique<stored_documents>(std::vector<token_stretch>{{file, {0, 50}}}, 20), 8, 2,
                    1, row_order::as_given};
  next_row(reader, 10);
  CHECK(raised([&] {
          for (int r = 0; r < 3; ++r) next_row(reader, 10);
        }) == file->path() + ": token 20 is 20, expected an id below 20");
}
