// SPDX-License-Identifier: MIT
// What a rank did last: calls in their order, where they belong, and whether they ended.
#include <dsv3/comm/threads.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <string>
#include <vector>

using dsv3::any_communicator;
using dsv3::comm_journal;
using dsv3::comm_scope;
using dsv3::reduction;
using dsv3::view;

static std::string written(const comm_journal& journal, std::size_t most) {
  std::FILE* file = std::tmpfile();
  journal.write_to(fileno(file), most);
  std::rewind(file);
  std::string text(4096, ' ');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}

TEST_CASE("calls are noted with where they belong") {
  std::string report, same;
  dsv3::thread_ranks{2}.run([&](const any_communicator& comm) {
    dsv3::cpu_context<> ctx;
    std::vector<float> x(10);
    const view<float, 1> data{x.data(), 10};
    const any_communicator group = comm.split(0, 0);
    {
      const comm_scope step{comm.journal(), {.step = 12}};
      comm.all_reduce(ctx, data, reduction::sum);
      const comm_scope layer{group.journal(), {.layer = 3}};
      if (comm.rank() == 0)
        group.send(ctx, view<const float, 1>(data), 1);
      else
        group.receive(ctx, data, 0);
    }
    comm.barrier();
    if (comm.rank() == 0) report = comm.journal()->report(), same = written(*comm.journal(), 8);
  });
  CHECK(report ==
        "  #0: split of 0 bytes among 2 ranks\n"
        "  #1 step 12: all_reduce of 40 bytes among 2 ranks\n"
        "  #2 step 12 layer 3: send of 40 bytes, rank 1 of 2 ranks\n"
        "  #3: barrier of 0 bytes among 2 ranks\n");
  CHECK(same == report);
}

TEST_CASE("the call that failed is the one that is not finished") {
  std::string report;
  CHECK_THROWS(dsv3::thread_ranks{2}.run([&](const any_communicator& comm) {
    if (comm.rank() == 1) return;
    const dsv3::status answer = dsv3::attempt([&] { comm.barrier(); });
    report = comm.journal()->report();
    dsv3::require(answer);
  }));
  CHECK(report == "  #0: barrier of 0 bytes among 2 ranks, not finished\n");
}

TEST_CASE("only the last are kept") {
  comm_journal journal;
  CHECK(journal.report().empty());
  for (int i = 0; i < 1000; ++i) journal.end(journal.begin("all_gather", std::size_t(i), 4));
  CHECK(journal.count() == 1000);
  CHECK(journal.report(2) ==
        "  #998: all_gather of 998 bytes among 4 ranks\n  #999: all_gather of 999 bytes among 4 ranks\n");
  CHECK(journal.report(1000).find("  #936: ") == 0);
  // A call that ends after its line has been taken by another changes nothing.
  const std::uint64_t early = journal.begin("send", 1, 4, 2);
  for (std::size_t i = 0; i < comm_journal::capacity; ++i) (void)journal.begin("receive", 7, 4, 0);
  journal.end(early);
  CHECK(journal.report(64).find("#1001: receive of 7 bytes, rank 0 of 4 ranks, not finished") !=
        std::string::npos);
  CHECK(journal.report(1).find("18446744073709551615") == std::string::npos);
  journal.begin("exchange", ~std::size_t{0}, 1);
  CHECK(journal.report(1).find("exchange of 18446744073709551615 bytes") != std::string::npos);
}

TEST_CASE("without an engine there is no journal") {
  const any_communicator alone;
  CHECK(alone.journal() == nullptr);
  const comm_scope nowhere{alone.journal(), {.step = 1}};
  alone.barrier();
}
