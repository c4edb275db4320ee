// SPDX-License-Identifier: MIT
#include <dsv3/io/tensorboard.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

using namespace dsv3;

namespace {

template <class Number>
Number number_at(std::string_view bytes, std::size_t offset) {
  Number value;
  REQUIRE(offset + sizeof value <= bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// The records of a file; both checksums of each must be right.
std::vector<std::string> records_of(const std::string& path) {
  const std::string file = support::get(path);
  std::string_view rest = file;
  std::vector<std::string> records;
  const auto masked = [](std::string_view bytes) {
    const std::uint32_t sum = crc32c_of(bytes);
    return (sum >> 15 | sum << 17) + 0xa282ead8u;
  };
  while (!rest.empty()) {
    const auto length = number_at<std::uint64_t>(rest, 0);
    CHECK(number_at<std::uint32_t>(rest, 8) == masked(rest.substr(0, 8)));
    REQUIRE(rest.size() >= 16 + length);
    records.emplace_back(rest.substr(12, length));
    CHECK(number_at<std::uint32_t>(rest, 12 + length) == masked(records.back()));
    rest.remove_prefix(16 + length);
  }
  return records;
}

/// An event's first nine bytes are its wall time; this gives what follows.
std::string after_time(const std::string& record) {
  CHECK(record[0] == '\x09');
  CHECK(std::abs(number_at<double>(record, 1) - static_cast<double>(std::time(nullptr))) < 60);
  return record.substr(9);
}

}  // namespace

TEST_CASE("tensorboard: the published checksum of a record") {
  // The framing's own example: an empty record.
  const std::string record = detail::framed_record("");
  REQUIRE(record.size() == 16);
  CHECK(number_at<std::uint64_t>(record, 0) == 0);
  CHECK(number_at<std::uint32_t>(record, 12) == 0xa282ead8u);
}

TEST_CASE("tensorboard_log: version first, then scalars as TensorBoard's messages") {
  const support::temporary_folder folder;
  tensorboard_log log{folder.path()};
  log.append(300, {{"loss/ce", 1.5}, {"lr", 0.25}});
  REQUIRE(folder.names().size() == 1);
  CHECK(log.path() == folder / folder.names()[0]);
  CHECK(folder.names()[0].starts_with("events.out.tfevents."));
  CHECK(folder.names()[0].find("." + std::to_string(::getpid())) != std::string::npos);
  const std::vector<std::string> records = records_of(log.path());
  REQUIRE(records.size() == 2);
  CHECK(after_time(records[0]) == std::string("\x10\x00\x1a\x0d"
                                              "brain.Event:2",
                                              17));
  // step 300 = 0xAC 0x02; summary of two values: tag, then simple_value as a 32-bit float
  CHECK(after_time(records[1]) == std::string("\x10\xac\x02\x2a\x1b"
                                              "\x0a\x0e\x0a\x07loss/ce\x15\x00\x00\xc0\x3f"
                                              "\x0a\x09\x0a\x02lr\x15\x00\x00\x80\x3e",
                                              32));
}

TEST_CASE("tensorboard_log: a run that goes on says from where") {
  const support::temporary_folder folder;
  tensorboard_log first{folder.path()}, second{folder.path(), 501};
  CHECK(first.path() != second.path());
  const std::vector<std::string> records = records_of(second.path());
  REQUIRE(records.size() == 2);
  CHECK(after_time(records[1]) == "\x10\xf5\x03\x3a\x02\x08\x01");  // session log, status START
}

TEST_CASE("tensorboard_log: a folder that does not exist is named") {
  CHECK(support::raised([] {
          tensorboard_log{"/nonexistent/folder"};
        }).starts_with("/nonexistent/folder/events.out.tfevents."));
}
