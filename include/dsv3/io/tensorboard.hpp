// SPDX-License-Identifier: MIT
// TensorBoard event files: scalars in the record framing and the messages that TensorBoard reads, encoded by
// hand.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/io/crc32c.hpp>
#include <dsv3/io/file.hpp>

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// Fields of a protocol-buffer message: each begins with its number and how its value is stored.
class protobuf_message {
 public:
  protobuf_message& integer(unsigned field, std::uint64_t value) {
    varint(field << 3 | 0);
    varint(value);
    return *this;
  }
  protobuf_message& real(unsigned field, double value) { return fixed(field << 3 | 1, value); }
  protobuf_message& real(unsigned field, float value) { return fixed(field << 3 | 5, value); }
  protobuf_message& text(unsigned field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  protobuf_message& message(unsigned field, const protobuf_message& value) {
    return text(field, value.bytes_);
  }

  const std::string& bytes() const { return bytes_; }

 private:
  template <class Number>
  protobuf_message& fixed(unsigned tag, Number value) {
    varint(tag);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

/// The framing's checksum of a checksum, so that a record may hold checksums itself.
inline std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t sum = crc32c_of(bytes);
  return ((sum >> 15) | (sum << 17)) + 0xA282EAD8u;
}

/// Length, its checksum, the bytes, their checksum.
inline std::string framed_record(std::string_view bytes) {
  const std::uint64_t length = bytes.size();
  const std::string_view length_bytes{reinterpret_cast<const char*>(&length), sizeof length};
  const std::uint32_t sums[] = {masked_crc32c(length_bytes), masked_crc32c(bytes)};
  std::string record{length_bytes};
  record.append(reinterpret_cast<const char*>(&sums[0]), 4).append(bytes);
  return record.append(reinterpret_cast<const char*>(&sums[1]), 4);
}

}  // namespace detail

/// One value of a step.
using scalar = std::pair<std::string_view, double>;

/// Scalars by step, readable while the run goes on.
///
///     tensorboard_log log{"runs/a"};
///     log.append(step, {{"loss/ce", ce}, {"optimizer/learning_rate", rate}});
class tensorboard_log {
 public:
  /// Begins a file `events.out.tfevents.<time>.<host>.<process>` in the folder. `first_step` greater than
  /// zero tells TensorBoard that a run goes on there: it forgets what earlier files say of that step and
  /// later ones.
  explicit tensorboard_log(const std::string& folder, index_t first_step = 0) : file_(fresh_name(folder)) {
    write(event(0).text(3, "brain.Event:2"));
    constexpr unsigned session_start = 1;
    if (first_step > 0)
      write(event(first_step).message(7, detail::protobuf_message{}.integer(1, session_start)));
  }

  void append(index_t step, std::span<const scalar> values) {
    detail::protobuf_message summary;
    for (const auto& [tag, value] : values)
      summary.message(1, detail::protobuf_message{}.text(1, tag).real(2, static_cast<float>(value)));
    write(event(step).message(5, summary));
  }
  void append(index_t step, std::initializer_list<scalar> values) {
    append(step, std::span(values.begin(), values.size()));
  }

  const std::string& path() const { return file_.path(); }

 private:
  static std::string fresh_name(const std::string& folder) {
    char host[256] = "localhost";
    ::gethostname(host, sizeof host - 1);
    const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    const std::string name =
        "events.out.tfevents." + std::to_string(now) + "." + host + "." + std::to_string(::getpid());
    std::filesystem::path path = std::filesystem::path(folder) / name;
    // Two logs of one process in one second.
    std::error_code ignored;
    for (int number = 1; std::filesystem::exists(path, ignored); ++number)
      path = std::filesystem::path(folder) / (name + "." + std::to_string(number));
    return path.string();
  }

  static detail::protobuf_message event(index_t step) {
    const std::chrono::duration<double> since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return detail::protobuf_message{}
        .real(1, since_1970.count())
        .integer(2, static_cast<std::uint64_t>(step));
  }
  void write(const detail::protobuf_message& event) { file_.append(detail::framed_record(event.bytes())); }

  growing_file file_;
};

}  // namespace dsv3::inline DSV3_ABI
