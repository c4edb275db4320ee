// SPDX-License-Identifier: MIT
// Files: read-only mappings, and writing that leaves either the whole file or nothing.
#pragma once

#include <dsv3/base/error.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// "runs/a/model.safetensors: cannot be opened: No such file or directory"
[[noreturn]] inline void raise_file(const std::string& path, const std::string& what, int number) {
  raise(path + ": " + what + ": " + std::strerror(number));
}

/// A file descriptor that closes itself.
class descriptor {
 public:
  explicit descriptor(int number = -1) : number_(number) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }

  /// Closes and answers what the kernel said; some file systems report a failed write only here.
  int close() { return ::close(std::exchange(number_, -1)); }

 private:
  int number_;
};

inline std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// Writes all of `bytes`; answers 0, or the number of the error, with `offset` moved past what was written.
inline int write_fully(const descriptor& handle, std::uint64_t& offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ::ssize_t written =
        ::pwrite(handle.number(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return 0;
}

[[noreturn]] inline void raise_write(const std::string& path, std::uint64_t wanted, int number) {
  const std::string bytes = std::to_string(wanted) + " more bytes";
  if (number != ENOSPC && number != EDQUOT) raise_file(path, bytes + " cannot be written", number);
  struct ::statvfs room = {};
  const bool known = ::statvfs(folder_of(path).c_str(), &room) == 0;
  raise(path + ": disk full, " + bytes + " wanted" +
        (known ? ", " + std::to_string(std::uint64_t{room.f_bavail} * room.f_frsize) + " free" : ""));
}

/// Puts the names in a folder on the disk: a rename is durable only after this.
inline void sync_folder(const std::string& folder) {
  const descriptor handle{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (handle.number() < 0) raise_file(folder, "folder cannot be opened", errno);
  // File systems without folder synchronisation say EINVAL; there is nothing more to do on them.
  if (::fsync(handle.number()) != 0 && errno != EINVAL) raise_file(folder, "folder cannot be synced", errno);
}

/// Advice about whole pages; what the system makes of it changes no byte.
inline void advise(std::span<const std::byte> bytes, int advice) {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size());
  if (!bytes.empty()) ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace detail

/// A file seen as read-only memory. The bytes are valid while the object lives and nobody shortens the file.
class mapped_file {
 public:
  mapped_file() = default;
  explicit mapped_file(std::string path) : path_(std::move(path)) {
    const detail::descriptor handle{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
    if (handle.number() < 0) detail::raise_file(path_, "cannot be opened", errno);
    struct ::stat facts = {};
    if (::fstat(handle.number(), &facts) != 0) detail::raise_file(path_, "cannot be examined", errno);
    if (!S_ISREG(facts.st_mode)) raise(path_ + ": found a folder or device, expected a regular file");
    size_ = static_cast<std::size_t>(facts.st_size);
    if (size_ == 0) return;  // an empty mapping is not allowed
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, handle.number(), 0);
    if (memory == MAP_FAILED) detail::raise_file(path_, "cannot be mapped", errno);
    data_ = static_cast<const std::byte*>(memory);
  }
  mapped_file(mapped_file&& other) noexcept { swap(other); }
  mapped_file& operator=(mapped_file&& other) noexcept {
    swap(other);
    return *this;
  }
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  void swap(mapped_file& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Tells the system that these bytes of a mapping will be read soon.
inline void read_ahead(std::span<const std::byte> bytes) { detail::advise(bytes, MADV_WILLNEED); }
/// Takes the pages of these bytes of a mapping out of the process: a long file is read in little memory.
/// Bytes that are looked at again are mapped again.
inline void let_go(std::span<const std::byte> bytes) { detail::advise(bytes, MADV_DONTNEED); }

/// Writes a file under a temporary name in the same folder; `commit` syncs it and gives it its name. Without
/// a commit nothing is left behind, and a reader never sees a half-written file.
///
///     atomic_file file{"run/config.json"};
///     file.append(text);
///     file.commit();
class atomic_file {
 public:
  explicit atomic_file(std::string path) : path_(std::move(path)) {
    static std::atomic<unsigned> counter = 0;
    const std::filesystem::path target{path_};
    std::error_code ignored;  // what cannot be examined cannot be created either: the next sentence
    const std::filesystem::file_status found = std::filesystem::status(target, ignored);
    if (!target.has_filename() || std::filesystem::is_directory(found))
      raise(path_ + ": found a folder, expected the name of a file to write");
    if (std::filesystem::exists(found) && !std::filesystem::is_regular_file(found))  // it would be replaced
      raise(path_ + ": found a device or pipe, expected the name of a file to write");
    const std::string name = "." + target.filename().string() + "." + std::to_string(::getpid()) + "-" +
                             std::to_string(counter++) + std::string(suffix);
    temporary_ = (target.parent_path() / name).string();
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    handle_ = detail::descriptor{::open(temporary_.c_str(), flags, 0666)};  // the user's mask applies
    if (handle_.number() < 0) detail::raise_file(path_, "cannot be created", errno);
  }
  atomic_file(atomic_file&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::exchange(other.temporary_, {})),
        handle_(std::move(other.handle_)),
        size_(other.size_.load()) {}
  atomic_file& operator=(atomic_file&&) = delete;
  ~atomic_file() { discard(); }

  const std::string& path() const { return path_; }
  /// Bytes up to the end of the furthest write.
  std::uint64_t size() const { return size_; }

  /// Takes the room on the disk at once, so that a full disk is found before the first byte and not after the
  /// last; the file is then at least this long. File systems that cannot promise room fail while writing.
  void reserve(std::uint64_t bytes) {
    if (bytes == 0 || ::fallocate(handle_.number(), 0, 0, static_cast<off_t>(bytes)) == 0) return;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) fail(bytes, errno);
  }

  void append(std::span<const std::byte> bytes) { write_at(size_, bytes); }
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }

  /// Writes anywhere; a gap that is never written reads as zeros. Several threads may write at once.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
    const std::uint64_t begin = offset;
    const int number = detail::write_fully(handle_, offset, bytes);
    if (number != 0) fail(bytes.size() - (offset - begin), number);
    std::uint64_t before = size_;
    while (offset > before && !size_.compare_exchange_weak(before, offset)) {
    }
  }

  /// Everything on the disk, then the name, then the name on the disk.
  void commit() {
    if (::fsync(handle_.number()) != 0) fail(size_, errno);
    if (handle_.close() != 0) fail(size_, errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int number = errno;
      discard();
      detail::raise_file(path_, "cannot be given its name", number);
    }
    temporary_.clear();
    detail::sync_folder(detail::folder_of(path_));
  }

  /// Removes what writers that were killed have left in a folder. Call it only while nobody writes there.
  static void remove_leftovers(const std::string& folder) {
    std::error_code ignored;  // a folder that does not exist holds no leftovers
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with('.') && name.ends_with(suffix)) ::unlink(entry.path().c_str());
    }
  }

 private:
  static constexpr std::string_view suffix = ".dsv3-part";

  void discard() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  [[noreturn]] void fail(std::uint64_t wanted, int number) {
    discard();
    detail::raise_write(path_, wanted, number);
  }

  std::string path_, temporary_;
  detail::descriptor handle_;
  std::atomic<std::uint64_t> size_ = 0;
};

/// A file that grows by whole records, each handed to the system at once; what a log writes to.
class growing_file {
 public:
  /// Keeps the first `keep_bytes` of what exists; creates the file where none exists.
  explicit growing_file(std::string path, std::uint64_t keep_bytes = 0)
      : path_(std::move(path)), size_(keep_bytes) {
    handle_ = detail::descriptor{::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)};
    if (handle_.number() < 0) detail::raise_file(path_, "cannot be opened for writing", errno);
    // A device such as /dev/null has no length and says EINVAL.
    if (::ftruncate(handle_.number(), static_cast<off_t>(keep_bytes)) != 0 && errno != EINVAL)
      detail::raise_file(path_, "cannot be shortened", errno);
  }

  /// All of the record, or an error and none of it.
  void append(std::string_view record) {
    std::uint64_t end = size_;
    const int number = detail::write_fully(handle_, end, std::as_bytes(std::span(record)));
    if (number != 0) {
      const std::uint64_t missing = record.size() - (end - size_);
      // Should this fail too, the next record begins over the torn one.
      [[maybe_unused]] const int taken_back = ::ftruncate(handle_.number(), static_cast<off_t>(size_));
      detail::raise_write(path_, missing, number);
    }
    size_ = end;
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  detail::descriptor handle_;
  std::uint64_t size_;
};

/// Writes a whole small file atomically.
inline void write_file(const std::string& path, std::string_view text) {
  atomic_file file{path};
  file.append(text);
  file.commit();
}

}  // namespace dsv3::inline DSV3_ABI
