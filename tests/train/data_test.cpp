// SPDX-License-Identifier: MIT
// Documents to rows of tokens: nothing lost, nothing twice, and the same rows after a stop.
#include <dsv3/train/data.hpp>

#include <dsv3/text/bpe_trainer.hpp>
#include <dsv3/text/token_file_writer.hpp>

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

namespace {

// A tokenizer of its own, as a file would give it.
stored_tokenizer trained_on(const std::string& text, std::vector<std::string> special) {
  bpe_trainer trainer{{.vocab = 300, .special_tokens = std::move(special), .min_frequency = 1}};
  const std::string_view view = text;
  trainer.add({&view, 1});
  const tokenizer_definition definition = trainer.train();
  stored_tokenizer stored{tokenizer{definition}, tokenizer_json(definition)};
  stored.sum = crc32c_of(stored.json);
  return stored;
}

std::vector<std::int32_t> stream_of(token_documents& documents) {
  std::vector<std::int32_t> ids;
  for (index_t d = 0; d < documents.count(); ++d) {
    std::vector<std::int32_t> document(static_cast<std::size_t>(documents.length(d)));
    documents.read(d, 0, view{document.data(), documents.length(d)});
    ids.insert(ids.end(), document.begin(), document.end());
  }
  return ids;
}

}  // namespace

TEST_CASE("with a tokenizer a pass is the encoded text, and every document has its marks") {
  const scratch_folder folder;
  const std::string text = letters(500, 'a') + " and <｜end▁of▁sentence｜> as text";
  for (const char* name : {"a", "b", "c"}) folder.write(name, name + text);
  const stored_tokenizer stored = trained_on(text, deepseek_v3_special_tokens());
  for (const int threads : {1, 3}) {
    const training_data data{
        {folder.path.string()}, 0.2, {.tokenizer = stored, .vocab = 300, .threads = threads}};
    auto training = data.training(), held_out = data.held_out();
    const auto ids = stream_of(*training), others = stream_of(*held_out);
    CHECK(std::count(ids.begin(), ids.end(), 0) == training->count());
    CHECK(std::count(ids.begin(), ids.end(), 1) == training->count());
    const std::string back =
        stored.words.decode(ids, {.special = false}) + stored.words.decode(others, {.special = false});
    CHECK(back.size() == 3 * text.size() + 3);
    CHECK(data.description() == std::to_string(back.size()) + " bytes of text in 3 documents");
    training->begin_pass(1);
    CHECK(stream_of(*training) == ids);
  }
}

TEST_CASE("fill-in-the-middle tells other documents otherwise in every pass, and held-out text never") {
  const scratch_folder folder;
  for (int d = 0; d < 40; ++d) folder.write("d" + std::to_string(d), letters(60, static_cast<char>(65 + d)));
  const stored_tokenizer stored = trained_on(letters(500, 'A'), deepseek_v3_special_tokens());
  const training_data data{
      {folder.path.string()}, 0.2, {.tokenizer = stored, .vocab = 300, .fim = {0.5, 7}, .threads = 2}};
  auto training = data.training(), again = data.training(), held_out = data.held_out();
  const auto told = [&](token_documents& documents) {
    const auto ids = stream_of(documents);
    for (const std::int32_t mark : {4, 5})
      CHECK(std::count(ids.begin(), ids.end(), mark) == std::count(ids.begin(), ids.end(), 3));
    return std::count(ids.begin(), ids.end(), 3);
  };
  std::vector<std::vector<std::int32_t>> passes;
  for (index_t pass = 0; pass < 3; ++pass) {
    training->begin_pass(pass);
    passes.push_back(stream_of(*training));
    const auto count = told(*training);
    CHECK(count > 6);
    CHECK(count < 27);
  }
  CHECK(passes[0] != passes[1]);
  again->begin_pass(2);
  CHECK(stream_of(*again) == passes[2]);
  held_out->begin_pass(2);
  CHECK(told(*held_out) == 0);
  // begin, <fim_begin> prefix <fim_hole> suffix <fim_end> middle, end: the text is in another order.
  const auto parts = fill_in_middle{0.5, 7};
  index_t d = 0;
  const text_corpus corpus{{folder.path.string()}};
  const text_split split{corpus, 0.2};
  while (!parts.cut(split.training[static_cast<std::size_t>(d)], d, 0)) ++d;
  const auto cut = parts.cut(split.training[static_cast<std::size_t>(d)], d, 0).value();
  training->begin_pass(0);
  std::vector<std::int32_t> document(static_cast<std::size_t>(training->length(d)));
  training->read(d, 0, view{document.data(), training->length(d)});
  const auto& marks = deepseek_v3_special_tokens();
  CHECK(stored.words.decode(document) == marks[0] + marks[3] + std::string(cut.prefix) + marks[4] +
                                             std::string(cut.suffix) + marks[5] + std::string(cut.middle) +
                                             marks[1]);
}

TEST_CASE("files of tokens serve as data: their last tokens are held out") {
  const scratch_folder folder;
  const std::string path = (folder.path / "a.dsv3tok").string(), other = (folder.path / "b.dsv3tok").string();
  for (const std::string& each : {path, other}) {
    token_file_writer writer{each, byte_tokens::count, 0};
    std::vector<std::int32_t> ids(100);
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<std::int32_t>(i + (each == other ? 100 : 0));
    writer.add(ids);
    writer.commit();
  }
  const training_data data{{path, other}, 0.25, {}};
  auto training = data.training(), held_out = data.held_out();
  auto all = stream_of(*training);
  const auto rest = stream_of(*held_out);
  CHECK(all.size() == 150);
  CHECK(rest.size() == 50);
  CHECK(rest.back() % 100 == 99);
  all.insert(all.end(), rest.begin(), rest.end());
  std::sort(all.begin(), all.end());
  for (std::int32_t i = 0; i < 200; ++i) CHECK(all[static_cast<std::size_t>(i)] == i);
  CHECK(data.description() == "200 tokens in 2 files");
  CHECK(data.sum() == training_data{{path, other}, 0.25, {}}.sum());
  CHECK(data.sum() != training_data{{path, other}, 0.2, {}}.sum());
}

TEST_CASE("data, model and tokenizer that do not fit together are one sentence") {
  const scratch_folder folder;
  const std::string text = folder.write("text", letters(300, 'a')),
                    path = (folder.path / "a.dsv3tok").string();
  const stored_tokenizer stored = trained_on(letters(500, 'a'), deepseek_v3_special_tokens());
  const auto write = [&](const std::string& file, std::uint32_t sum) {
    token_file_writer writer{file, 300, sum};
    writer.add(std::vector<std::int32_t>{1, 2, 3});
    writer.commit();
  };
  const auto refused = [&](const std::vector<std::string>& paths, const token_source& source) {
    return raised([&] { training_data{paths, 0.1, source}; });
  };
  write(path, stored.sum);
  CHECK(refused({path, text}, {.tokenizer = stored, .vocab = 300}) ==
        "data: files of tokens and text found together, expected one of them");
  CHECK(refused({path}, {.vocab = 300}) ==
        path + " holds the tokens of a tokenizer: expected that tokenizer to be given");
  CHECK(refused({path}, {.tokenizer = stored, .vocab = 299}) ==
        "the tokenizer has ids up to 299, the model's vocab_size is 299, expected at least 300");
  CHECK(
      refused({path}, {.tokenizer = stored, .vocab = 300, .fim = {0.1, 1}})
          .starts_with("data: " + path + " holds tokens, whose documents cannot be told otherwise any more"));
  CHECK(refused({path}, {.tokenizer = stored, .vocab = 300}).empty());
  write(path, 5);
  CHECK(refused({path}, {.tokenizer = stored, .vocab = 300}) ==
        path + " was packed with the tokenizer of checksum 5, expected the given tokenizer, of checksum " +
            std::to_string(stored.sum));
  write((folder.path / "a.bin").string(), 0);
  CHECK(refused({(folder.path / "a.bin").string()}, {}).ends_with("expected that tokenizer to be given"));
  CHECK(refused({(folder.path / "a.bin").string()}, {.tokenizer = stored, .vocab = 300}).empty());

  CHECK(token_source{.vocab = 257}.check().message().starts_with("vocab_size is 257"));
  CHECK(token_source{.vocab = 258, .fim = {0.1, 1}}.check().message().starts_with(
      "the tokenizer has no tokens for fill-in-the-middle"));
  const stored_tokenizer without = trained_on("abc", {"<pad>"});
  CHECK(token_source{.tokenizer = without, .vocab = 300}.check().message().starts_with(
      "the tokenizer has no token that ends a document"));
}
