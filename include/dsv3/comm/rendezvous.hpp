// SPDX-License-Identifier: MIT
// How ranks that cannot talk yet come to know a few bytes of each other: over TCP, or through a shared
// folder.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/comm/launch.hpp>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// A place where ranks meet. Rounds are collective: every rank calls them in the same order.
class rendezvous {
 public:
  rendezvous() = default;
  rendezvous(const rendezvous&) = delete;
  rendezvous& operator=(const rendezvous&) = delete;
  virtual ~rendezvous() = default;

  /// What each rank brought, in rank order.
  virtual std::vector<std::string> all(const std::string& mine) = 0;

  /// Gives every rank the bytes that rank 0 has; as many on each.
  void share(std::span<std::byte> bytes) {
    const std::string mine(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::string first = all(mine).front();
    if (first.size() != bytes.size())
      raise("rendezvous: rank 0 shares " + std::to_string(first.size()) + " bytes, expected " +
            std::to_string(bytes.size()));
    std::memcpy(bytes.data(), first.data(), bytes.size());
  }
};

namespace detail {

using meeting_clock = std::chrono::steady_clock;

inline std::string seconds_of(std::chrono::milliseconds limit) {
  char text[32];
  std::snprintf(text, sizeof text, "%g s", std::chrono::duration<double>(limit).count());
  return text;
}

// A connected or listening socket that closes itself. Every wait ends at a deadline.
class meeting_socket {
 public:
  explicit meeting_socket(int number = -1) : number_(number) {}
  meeting_socket(meeting_socket&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  meeting_socket& operator=(meeting_socket&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~meeting_socket() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }
  bool open() const { return number_ >= 0; }

  bool ready(short events, meeting_clock::time_point deadline) const {
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - meeting_clock::now()).count();
      if (left <= 0) return errno = ETIMEDOUT, false;
      ::pollfd asked{number_, events, 0};
      const int answer = ::poll(&asked, 1, static_cast<int>(std::min<long long>(left, 1000)));
      if (answer > 0) return true;
      if (answer < 0 && errno != EINTR) return false;
    }
  }
  // Both answer whether all of the bytes went; otherwise errno says why not.
  bool send_all(const void* data, std::size_t bytes, meeting_clock::time_point deadline) const {
    for (const char* at = static_cast<const char*>(data); bytes > 0;) {
      if (!ready(POLLOUT, deadline)) return false;
      const ::ssize_t sent = ::send(number_, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (sent < 0) return false;
      at += sent, bytes -= static_cast<std::size_t>(sent);
    }
    return true;
  }
  bool receive_all(void* data, std::size_t bytes, meeting_clock::time_point deadline) const {
    for (char* at = static_cast<char*>(data); bytes > 0;) {
      if (!ready(POLLIN, deadline)) return false;
      const ::ssize_t got = ::recv(number_, at, bytes, MSG_DONTWAIT);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got == 0) errno = ECONNRESET;
      if (got <= 0) return false;
      at += got, bytes -= static_cast<std::size_t>(got);
    }
    return true;
  }

 private:
  int number_;
};

// Numbers travel in network order: ranks may be of different machines.
inline std::array<unsigned char, 4> four_bytes(std::uint32_t value) {
  return {static_cast<unsigned char>(value >> 24), static_cast<unsigned char>(value >> 16),
          static_cast<unsigned char>(value >> 8), static_cast<unsigned char>(value)};
}
inline std::uint32_t number_of(const std::array<unsigned char, 4>& bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 |
         bytes[3];
}
inline bool send_text(const meeting_socket& to, const std::string& text, meeting_clock::time_point deadline) {
  const auto length = four_bytes(static_cast<std::uint32_t>(text.size()));
  return to.send_all(length.data(), length.size(), deadline) &&
         to.send_all(text.data(), text.size(), deadline);
}
inline constexpr std::uint32_t longest_text = 16u << 20;
inline bool receive_text(const meeting_socket& from, std::string& text, meeting_clock::time_point deadline) {
  std::array<unsigned char, 4> length{};
  if (!from.receive_all(length.data(), length.size(), deadline)) return false;
  if (number_of(length) > longest_text) return errno = EMSGSIZE, false;
  text.resize(number_of(length));
  return from.receive_all(text.data(), text.size(), deadline);
}

// The addresses of a host and a port, freed with the list.
using address_list = std::unique_ptr<::addrinfo, void (*)(::addrinfo*)>;
inline address_list addresses_of(const std::string& host, int port, int flags, std::string& fault) {
  ::addrinfo wanted = {};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = flags;
  ::addrinfo* found = nullptr;
  const int answer =
      ::getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  if (answer != 0) fault = ::gai_strerror(answer);
  return {answer == 0 ? found : nullptr, [](::addrinfo* list) {
            if (list != nullptr) ::freeaddrinfo(list);
          }};
}

}  // namespace detail

/// Ranks meet at a port of rank 0's machine. It listens on all of the machine's addresses for as long as
/// ranks are still to come and takes whoever greets as a rank of this job; it is for networks whose machines
/// trust each other. What does not arrive within the limit becomes a sentence with the address or the missing
/// ranks.
class tcp_rendezvous final : public rendezvous {
 public:
  tcp_rendezvous(std::string address, int port, int rank, int size,
                 std::chrono::milliseconds limit = std::chrono::minutes(5))
      : place_(std::move(address) + ":" + std::to_string(port)), rank_(rank), size_(size), limit_(limit) {
    if (size_ == 1) return;
    const auto deadline = detail::meeting_clock::now() + limit_;
    if (rank_ == 0)
      gather_ranks(port, deadline);
    else
      find_first(place_.substr(0, place_.rfind(':')), port, deadline);
  }
  /// Where the launcher said.
  explicit tcp_rendezvous(const launch& by, std::chrono::milliseconds limit = std::chrono::minutes(5))
      : tcp_rendezvous(named(by), by.port, by.rank, by.size, limit) {}

  std::vector<std::string> all(const std::string& mine) override {
    const auto deadline = detail::meeting_clock::now() + limit_;
    if (mine.size() > detail::longest_text)
      raise("rendezvous: " + std::to_string(mine.size()) + " bytes, at most " +
            std::to_string(detail::longest_text) + " are expected");
    std::vector<std::string> texts(static_cast<std::size_t>(size_));
    texts[static_cast<std::size_t>(rank_)] = mine;
    for (int q = 1; q < size_ && rank_ == 0; ++q)
      if (!detail::receive_text(peers_[static_cast<std::size_t>(q)], texts[static_cast<std::size_t>(q)],
                                deadline))
        lost(q);
    for (int q = 1; q < size_ && rank_ == 0; ++q)
      for (const std::string& text : texts)
        if (!detail::send_text(peers_[static_cast<std::size_t>(q)], text, deadline)) lost(q);
    if (rank_ > 0) {
      if (!detail::send_text(first_, mine, deadline)) lost(0);
      for (std::string& text : texts)
        if (!detail::receive_text(first_, text, deadline)) lost(0);
    }
    return texts;
  }

 private:
  // How a rank introduces itself.
  struct greeting {
    char name[8] = {'d', 's', 'v', '3', 'm', 'e', 'e', 't'};
    std::array<unsigned char, 4> rank{}, size{};
  };

  static std::string named(const launch& by) {
    if (by.master.empty() && by.size > 1)
      raise("rendezvous: no address of rank 0, expected MASTER_ADDR to name its machine");
    return by.master;
  }
  [[noreturn]] void fail(const std::string& what) const {
    raise("rendezvous: rank " + std::to_string(rank_) + " of " + std::to_string(size_) + " " + what);
  }
  [[noreturn]] void lost(int peer) const {
    fail("hears no more of rank " + std::to_string(peer) + " at " + place_ + ": " +
         (errno == ETIMEDOUT ? "nothing came within " + detail::seconds_of(limit_) : std::strerror(errno)));
  }

  void gather_ranks(int port, detail::meeting_clock::time_point deadline) {
    const detail::meeting_socket listener = listen_at(port);
    peers_.resize(static_cast<std::size_t>(size_));
    for (int missing = size_ - 1; missing > 0;) {
      if (!listener.ready(POLLIN, deadline)) break;
      detail::meeting_socket peer{::accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC)};
      if (!peer.open()) continue;
      greeting g;
      // Whoever says nothing must not keep the ranks waiting.
      const auto soon = std::min(deadline, detail::meeting_clock::now() + std::chrono::seconds(5));
      if (!peer.receive_all(&g, sizeof g, soon) || std::memcmp(g.name, greeting{}.name, sizeof g.name) != 0)
        continue;
      const int rank = static_cast<int>(detail::number_of(g.rank)),
                size = static_cast<int>(detail::number_of(g.size));
      if (size != size_)
        fail("at " + place_ + " meets rank " + std::to_string(rank) + " of " + std::to_string(size) +
             ", expected one of " + std::to_string(size_));
      if (rank < 1 || rank >= size_ || peers_[static_cast<std::size_t>(rank)].open())
        fail("at " + place_ + " meets rank " + std::to_string(rank) + " a second time");
      peers_[static_cast<std::size_t>(rank)] = std::move(peer);
      --missing;
    }
    std::string absent;
    for (int q = 1; q < size_; ++q)
      if (!peers_[static_cast<std::size_t>(q)].open())
        absent += (absent.empty() ? "" : ", ") + std::to_string(q);
    if (!absent.empty())
      fail("at " + place_ + " still waits for rank " + absent + " after " + detail::seconds_of(limit_));
  }
  detail::meeting_socket listen_at(int port) const {
    std::string fault = "no address";
    const detail::address_list found = detail::addresses_of("", port, AI_PASSIVE, fault);
    for (const int family : {AF_INET6, AF_INET})  // the first takes both kinds
      for (const ::addrinfo* a = found.get(); a != nullptr; a = a->ai_next) {
        if (a->ai_family != family) continue;
        detail::meeting_socket socket{::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol)};
        const int yes = 1, no = 0;
        ::setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (family == AF_INET6) ::setsockopt(socket.number(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
        if (socket.open() && ::bind(socket.number(), a->ai_addr, a->ai_addrlen) == 0 &&
            ::listen(socket.number(), SOMAXCONN) == 0)
          return socket;
        fault = std::strerror(errno);
      }
    fail("cannot listen at port " + std::to_string(port) + ": " + fault);
  }

  // Rank 0 may start later than others: nobody there is tried again, until the limit.
  void find_first(const std::string& host, int port, detail::meeting_clock::time_point deadline) {
    std::string fault;
    for (;;) {
      const detail::address_list found = detail::addresses_of(host, port, 0, fault);
      for (const ::addrinfo* a = found.get(); a != nullptr; a = a->ai_next)
        if (greet(*a, deadline, fault)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (detail::meeting_clock::now() >= deadline)
        fail("cannot reach rank 0 at " + place_ + " within " + detail::seconds_of(limit_) + ": " + fault);
    }
  }
  bool greet(const ::addrinfo& at, detail::meeting_clock::time_point deadline, std::string& fault) {
    detail::meeting_socket socket{
        ::socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol)};
    greeting g;
    g.rank = detail::four_bytes(static_cast<std::uint32_t>(rank_));
    g.size = detail::four_bytes(static_cast<std::uint32_t>(size_));
    int answer = socket.open() ? 0 : errno;
    if (answer == 0 && ::connect(socket.number(), at.ai_addr, at.ai_addrlen) != 0) {
      answer = errno;
      if (answer == EINPROGRESS) {
        ::socklen_t length = sizeof answer;
        if (!socket.ready(POLLOUT, deadline))
          answer = errno;
        else
          ::getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &answer, &length);
      }
    }
    if (answer == 0 && !socket.send_all(&g, sizeof g, deadline)) answer = errno;
    if (answer != 0) return fault = std::strerror(answer), false;
    const int yes = 1;
    ::setsockopt(socket.number(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    first_ = std::move(socket);
    return true;
  }

  const std::string place_;
  const int rank_, size_;
  const std::chrono::milliseconds limit_;
  std::vector<detail::meeting_socket> peers_;  // of rank 0
  detail::meeting_socket first_;               // of the others
};

/// Ranks meet in a folder that all of them see. It must be one for this job alone: what lies there from
/// another is refused. The folder is made where it is missing; its files stay until the ranks have gone.
class file_rendezvous final : public rendezvous {
 public:
  file_rendezvous(std::filesystem::path folder, int rank, int size,
                  std::chrono::milliseconds limit = std::chrono::minutes(5))
      : folder_(std::move(folder)), rank_(rank), size_(size), limit_(limit) {
    std::error_code fault;
    std::filesystem::create_directories(folder_, fault);
    if (fault) raise("rendezvous: " + folder_.string() + " cannot be made: " + fault.message());
    if (std::filesystem::exists(file(0, rank_)))
      raise("rendezvous: " + file(0, rank_).string() + " exists, expected a folder for this job alone");
  }

  std::vector<std::string> all(const std::string& mine) override {
    const auto deadline = detail::meeting_clock::now() + limit_;
    write(mine);
    std::vector<std::string> texts;
    for (int q = 0; q < size_; ++q) {
      while (!std::filesystem::exists(file(round_, q))) {
        if (detail::meeting_clock::now() >= deadline)
          raise("rendezvous: rank " + std::to_string(rank_) + " of " + std::to_string(size_) +
                " still waits for rank " + std::to_string(q) + " in " + folder_.string() + " after " +
                detail::seconds_of(limit_));
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      std::ifstream in(file(round_, q), std::ios::binary);
      texts.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
      if (in.bad()) raise("rendezvous: " + file(round_, q).string() + " cannot be read");
    }
    ++round_;
    return texts;
  }

 private:
  std::filesystem::path file(int round, int rank) const {
    return folder_ / (std::to_string(round) + "." + std::to_string(rank));
  }
  // Under another name first: whoever sees the file sees all of it.
  void write(const std::string& text) const {
    const std::filesystem::path name = file(round_, rank_), early = name.string() + ".part";
    std::ofstream out(early, std::ios::binary);
    out << text;
    out.close();
    std::error_code fault;
    if (out) std::filesystem::rename(early, name, fault);
    if (!out || fault) raise("rendezvous: " + name.string() + " cannot be written");
  }

  const std::filesystem::path folder_;
  const int rank_, size_;
  const std::chrono::milliseconds limit_;
  int round_ = 0;
};

/// nccl_options::share by way of a rendezvous, which stays alive with it.
inline std::function<void(std::span<std::byte>)> shares_by(std::shared_ptr<rendezvous> place) {
  return [place](std::span<std::byte> bytes) { place->share(bytes); };
}

}  // namespace dsv3::inline DSV3_ABI
