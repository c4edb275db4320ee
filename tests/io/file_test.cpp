// SPDX-License-Identifier: MIT
#include <dsv3/io/file.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <sys/resource.h>

#include <csignal>
#include <string>

using namespace dsv3;
using support::raised;

namespace {

/// While it lives, no file of this process grows beyond `bytes`: a write that would answers EFBIG.
class file_size_limit {
 public:
  explicit file_size_limit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~file_size_limit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_ = {};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("mapped_file: shows what is there") {
  const support::temporary_folder folder;
  support::put(folder / "a", "hello");
  support::put(folder / "empty", "");
  mapped_file file{folder / "a"};
  CHECK(file.text() == "hello");
  CHECK(file.bytes().size() == 5);
  mapped_file moved = std::move(file);
  CHECK(moved.text() == "hello");
  CHECK(moved.path() == folder / "a");
  moved = mapped_file{folder / "empty"};
  CHECK(moved.bytes().empty());
}

TEST_CASE("mapped_file: what cannot be shown is named") {
  const support::temporary_folder folder;
  CHECK(raised([&] { mapped_file{folder / "none"}; }) ==
        (folder / "none: cannot be opened: No such file or directory"));
  CHECK(raised([&] { mapped_file{folder.path()}; }) ==
        folder.path() + ": found a folder or device, expected a regular file");
  CHECK(raised([&] { mapped_file{"/dev/null"}; }) ==
        "/dev/null: found a folder or device, expected a regular file");
}

TEST_CASE("atomic_file: nothing before the commit, everything after it") {
  const support::temporary_folder folder;
  support::put(folder / "a", "before");
  {
    atomic_file file{folder / "a"};
    file.append("after ");
    file.append("wards");
    CHECK(support::get(folder / "a") == "before");
    CHECK(folder.names().size() == 2);
    atomic_file moved = std::move(file);
    moved.write_at(8, std::as_bytes(std::span("RD", 2)));
    CHECK(moved.size() == 11);
    moved.commit();
  }
  CHECK(support::get(folder / "a") == "after waRDs");
  CHECK(folder.names() == std::vector<std::string>{"a"});
}

TEST_CASE("atomic_file: without a commit nothing is left behind") {
  const support::temporary_folder folder;
  {
    atomic_file file{folder / "a"};
    file.append("lost");
    CHECK(folder.names().size() == 1);
  }
  CHECK(folder.names().empty());
}

TEST_CASE("atomic_file: places that cannot be written are named") {
  const support::temporary_folder folder;
  CHECK(raised([&] { atomic_file{folder / "none/a"}; }) ==
        (folder / "none/a: cannot be created: No such file or directory"));
  CHECK(raised([&] { atomic_file{folder.path()}; }) ==
        folder.path() + ": found a folder, expected the name of a file to write");
  CHECK(raised([&] { atomic_file{folder / "x/"}; }) ==
        (folder / "x/: found a folder, expected the name of a file to write"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(raised([&] { atomic_file{folder / "pipe"}; }) ==
        (folder / "pipe: found a device or pipe, expected the name of a file to write"));
}

TEST_CASE("atomic_file: a write that fails is one sentence and leaves nothing") {
  const support::temporary_folder folder;
  const file_size_limit limit{1000};
  atomic_file file{folder / "a"};
  file.append(std::string(900, 'x'));
  CHECK(raised([&] { file.append(std::string(500, 'y')); }) ==
        (folder / "a: 400 more bytes cannot be written: File too large"));
  CHECK(folder.names().empty());
}

TEST_CASE("atomic_file: room that does not exist is refused before the first byte") {
  const support::temporary_folder folder;
  const file_size_limit limit{1000};
  atomic_file file{folder / "a"};
  CHECK(raised([&] { file.reserve(5000); }) ==
        (folder / "a: 5000 more bytes cannot be written: File too large"));
  CHECK(folder.names().empty());
}

TEST_CASE("a full disk is called so, with the bytes that were wanted") {
  growing_file full{"/dev/full"};
  const std::string sentence = raised([&] { full.append("0123456789"); });
  CHECK(sentence.starts_with("/dev/full: disk full, 10 more bytes wanted, "));
  CHECK(sentence.ends_with(" free"));
}

TEST_CASE("atomic_file: leftovers of killed writers are removed, nothing else") {
  const support::temporary_folder folder;
  support::put(folder / ".a.123-0.dsv3-part", "x");
  support::put(folder / ".hidden", "x");
  support::put(folder / "b.dsv3-part", "x");
  atomic_file::remove_leftovers(folder.path());
  CHECK(folder.names() == std::vector<std::string>{".hidden", "b.dsv3-part"});
  atomic_file::remove_leftovers(folder / "none");
}

TEST_CASE("growing_file: keeps what it is told to, then grows") {
  const support::temporary_folder folder;
  support::put(folder / "log", "one\ntwo\nthr");
  {
    growing_file file{folder / "log", 8};
    CHECK(support::get(folder / "log") == "one\ntwo\n");
    file.append("three\n");
    CHECK(support::get(folder / "log") == "one\ntwo\nthree\n");
  }
  growing_file again{folder / "log"};
  CHECK(support::get(folder / "log") == "");
  CHECK(raised([&] { growing_file{folder / "none/log"}; }) ==
        (folder / "none/log: cannot be opened for writing: No such file or directory"));
}

TEST_CASE("growing_file: of a record that does not fit nothing stays") {
  const support::temporary_folder folder;
  growing_file file{folder / "log"};
  file.append("one\n");
  {
    const file_size_limit limit{6};
    CHECK(raised([&] { file.append("twotwo\n"); }) ==
          (folder / "log: 5 more bytes cannot be written: File too large"));
  }
  CHECK(support::get(folder / "log") == "one\n");
  file.append("2\n");
  CHECK(support::get(folder / "log") == "one\n2\n");
}
