// SPDX-License-Identifier: MIT
// Ranks that meet, in whatever order they come, and what is said when they do not.
#include <dsv3/comm/rendezvous.hpp>

#include <doctest/doctest.h>

#include <atomic>

using namespace std::chrono_literals;
using dsv3::attempt;
using dsv3::tcp_rendezvous;

// A port that nobody uses just now.
static int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  ::sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::socklen_t length = sizeof address;
  REQUIRE(::bind(socket, reinterpret_cast<::sockaddr*>(&address), length) == 0);
  REQUIRE(::getsockname(socket, reinterpret_cast<::sockaddr*>(&address), &length) == 0);
  ::close(socket);
  return ntohs(address.sin_port);
}

// work(rank) on a thread for each rank.
template <class Work>
static void on_threads(int ranks, Work&& work) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back([&work, rank] { work(rank); });
}

// Two rounds of texts, and one of bytes.
static bool meets(dsv3::rendezvous& place, int rank, int size) {
  bool good = true;
  for (const std::string round : {"a", "b"}) {
    const std::vector<std::string> texts =
        place.all(round + std::string(static_cast<std::size_t>(rank) * 1000, 'x'));
    good = good && static_cast<int>(texts.size()) == size;
    for (std::size_t q = 0; q < texts.size(); ++q)
      good = good && texts[q] == round + std::string(q * 1000, 'x');
  }
  std::array<std::byte, 128> bytes{};
  bytes.fill(static_cast<std::byte>(rank + 7));
  place.share(bytes);
  return good && bytes[0] == std::byte{7} && bytes[127] == std::byte{7};
}

TEST_CASE("ranks meet over TCP, whoever comes first") {
  for (const int ranks : {1, 2, 5}) {
    const int port = free_port();
    std::atomic<int> good = 0;
    on_threads(ranks, [&](int rank) {
      if (rank == ranks / 2) std::this_thread::sleep_for(150ms);
      tcp_rendezvous place("localhost", port, rank, ranks, 20s);
      good += meets(place, rank, ranks);
    });
    CHECK(good == ranks);
  }
}

TEST_CASE("ranks meet where the launcher says") {
  const int port = free_port();
  std::atomic<int> good = 0;
  on_threads(2, [&](int rank) {
    dsv3::launch by;
    by.rank = rank, by.size = 2, by.master = "127.0.0.1", by.port = port;
    tcp_rendezvous place(by, 20s);
    good += meets(place, rank, 2);
  });
  CHECK(good == 2);
  dsv3::launch nowhere;
  nowhere.size = 2;
  CHECK(attempt([&] { tcp_rendezvous{nowhere}; }).message() ==
        "rendezvous: no address of rank 0, expected MASTER_ADDR to name its machine");
}

TEST_CASE("strangers at the port are sent away") {
  const int port = free_port();
  std::atomic<int> good = 0;
  on_threads(3, [&](int rank) {
    if (rank == 2) {  // no rank: says something else
      ::sockaddr_in address = {};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<std::uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
      while (::connect(socket, reinterpret_cast<::sockaddr*>(&address), sizeof address) != 0)
        std::this_thread::sleep_for(5ms);
      (void)::send(socket, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
      ::close(socket);
      return;
    }
    if (rank == 1) std::this_thread::sleep_for(300ms);
    tcp_rendezvous place("localhost", port, rank, 2, 20s);
    good += meets(place, rank, 2);
  });
  CHECK(good == 2);
}

TEST_CASE("an address where nobody is becomes a sentence with it") {
  const int port = free_port();
  const std::string place = "127.0.0.1:" + std::to_string(port);
  CHECK(attempt([&] { tcp_rendezvous("127.0.0.1", port, 1, 4, 200ms); }).message() ==
        "rendezvous: rank 1 of 4 cannot reach rank 0 at " + place + " within 0.2 s: Connection refused");
  CHECK(attempt([&] { tcp_rendezvous("127.0.0.1", port, 0, 4, 200ms); }).message() ==
        "rendezvous: rank 0 of 4 at " + place + " still waits for rank 1, 2, 3 after 0.2 s");
  CHECK(attempt([&] { tcp_rendezvous("no-such-machine.invalid", port, 1, 2, 200ms); })
            .message()
            .find("cannot reach rank 0 at no-such-machine.invalid:" + std::to_string(port) +
                  " within 0.2 s: ") != std::string::npos);
}

TEST_CASE("ranks of different jobs do not meet") {
  const int port = free_port();
  std::string first, second;
  on_threads(2, [&](int rank) {
    const dsv3::status answer =
        attempt([&] { tcp_rendezvous("127.0.0.1", port, rank, 2 + rank, 20s).all("x"); });
    (rank == 0 ? first : second) = answer.message();
  });
  CHECK(first == "rendezvous: rank 0 of 2 at 127.0.0.1:" + std::to_string(port) +
                     " meets rank 1 of 3, expected one of 2");
  CHECK(second.find("hears no more of rank 0 at 127.0.0.1:") != std::string::npos);
}

TEST_CASE("a rank that has gone is named") {
  const int port = free_port();
  std::string sentence;
  on_threads(3, [&](int rank) {
    const dsv3::status answer = attempt([&] {
      tcp_rendezvous place("127.0.0.1", port, rank, 3, 5s);
      if (rank != 2) place.all("x");
    });
    if (rank == 0) sentence = answer.message();
  });
  CHECK(sentence.find("rendezvous: rank 0 of 3 hears no more of rank 2 at 127.0.0.1:") == 0);
}

TEST_CASE("ranks meet in a folder") {
  const auto folder = std::filesystem::temp_directory_path() / ("dsv3-meeting-" + std::to_string(::getpid()));
  std::atomic<int> good = 0;
  on_threads(3, [&](int rank) {
    dsv3::file_rendezvous place(folder, rank, 3, 20s);
    good += meets(place, rank, 3);
  });
  CHECK(good == 3);
  CHECK(attempt([&] { dsv3::file_rendezvous(folder, 1, 3); }).message() ==
        "rendezvous: " + (folder / "0.1").string() + " exists, expected a folder for this job alone");
  std::filesystem::remove_all(folder);
  CHECK(attempt([&] { dsv3::file_rendezvous(folder, 1, 3, 100ms).all("x"); }).message() ==
        "rendezvous: rank 1 of 3 still waits for rank 0 in " + folder.string() + " after 0.1 s");
  std::filesystem::remove_all(folder);
  CHECK(attempt([&] { dsv3::file_rendezvous("/dev/null/x", 0, 1); })
            .message()
            .find("rendezvous: /dev/null/x cannot be made: ") == 0);
}
