// SPDX-License-Identifier: MIT
// The lists themselves, literally, and what the generators refuse.
#include <dsv3/train/pipeline/methods.hpp>

#include <support/run.hpp>
#include <train/pipeline/lists.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace dsv3;
using namespace dsv3::pipeline;
using support::written_list;

namespace {

// The same list seen from the other end: chunks change their numbers.
std::string mirrored(std::string text) {
  for (char& letter : text)
    if (letter == '0' || letter == '1') letter = letter == '0' ? '1' : '0';
  return text;
}

}  // namespace

TEST_CASE("DualPipe's lists of eight ranks and twenty micro-batches") {
  const std::vector<std::string> lists{
      "F0 x7, F1, (I1 W F1) x3, ((F0|B1)(F1|B0)) x3, (B1 (F1|B0)) x3, B1 I0, (W I0) x3, W",
      "F0 x4, (F0 F1) x2, (I1 W F1) x2, ((F0|B1)(F1|B0)) x4, (B1 (F1|B0)) x2, B1 B0 I1 I0, (W I0) x2, W W",
      "F0 x2, (F0 F1) x3, I1 W F1, ((F0|B1)(F1|B0)) x5, B1 (F1|B0), B1 B0 B1 I0 I1 I0, W I0, W W W",
      "(F0 F1) x4, F0 B1 (F1|B0), ((F0|B1)(F1|B0)) x5, B1 B0 B1 B0 I1 I0 I1 I0, W x4"};
  const schedule s = dualpipe(8, 20);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    CHECK(notation(s.ranks[rank]) == written_list::expanded(lists[rank]));
    CHECK(notation(s.ranks[7 - rank]) == mirrored(written_list::expanded(lists[rank])));
  }
}

TEST_CASE("DualPipeV is the first half of DualPipe") {
  const schedule whole = dualpipe(8, 20), half = dualpipe_v(4, 10);
  for (std::size_t rank = 0; rank < 4; ++rank)
    CHECK(notation(half.ranks[rank]) == notation(whole.ranks[rank]));
}

TEST_CASE("1F1B's and ZB1P's lists of four ranks") {
  const schedule a = one_f_one_b(4, 6), b = zb1p(4, 6), few = one_f_one_b(4, 2);
  CHECK(notation(a.ranks[0]) == written_list::expanded("F0 x3, (F0 B0) x3, B0 x3"));
  CHECK(notation(a.ranks[2]) == written_list::expanded("F0, (F0 B0) x5, B0"));
  CHECK(notation(a.ranks[3]) == written_list::expanded("(F0 B0) x6"));
  CHECK(notation(b.ranks[0]) == written_list::expanded("F0 x3, (F0 I0 W) x3, (I0 W) x3"));
  CHECK(notation(b.ranks[2]) == written_list::expanded("F0, (F0 I0) x2, (F0 I0 W) x3, I0 W, W x2"));
  CHECK(notation(b.ranks[3]) == written_list::expanded("(F0 I0) x3, (F0 I0 W) x3, W x3"));
  CHECK(notation(few.ranks[0]) == written_list::expanded("F0 x2, B0 x2"));
}

TEST_CASE("micro-batches of a chunk come in order, and two routes share them out by halves") {
  for (const method& each : methods) {
    const schedule s = each.make(4, 12);
    for (int rank = 0; rank < 4; ++rank)
      for (int chunk = 0; chunk < s.places.chunks(); ++chunk) {
        const int first = s.places.route_of({rank, chunk}) * s.micro_batches_per_route();
        int forward = first, backward = first, weights = first;
        for (const instruction& i : s.ranks[std::size_t(rank)]) {
          if (goes_forward(i) && i.of.chunk == chunk) CHECK(i.of.micro_batch == forward++);
          if (goes_backward(i) && backward_unit(i).chunk == chunk)
            CHECK(backward_unit(i).micro_batch == backward++);
          if (i.what == act::weight_gradient && i.of.chunk == chunk) {
            CHECK(i.of.micro_batch >= weights);
            weights = i.of.micro_batch;
          }
        }
        CHECK(forward - first == s.micro_batches_per_route());
        CHECK(backward - first == s.micro_batches_per_route());
      }
  }
}

TEST_CASE("where stages lie") {
  const placement down = placement::one_way(4), both = placement::both_ways(4), v = placement::folded(4);
  CHECK((down.stages() == 4 && down.chunks() == 1 && down.routes() == 1));
  CHECK((both.stages() == 4 && both.chunks() == 2 && both.routes() == 2));
  CHECK((v.stages() == 8 && v.chunks() == 2 && v.routes() == 1));
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(down.stage_of({rank, 0}) == rank);
    CHECK((both.stage_of({rank, 0}) == rank && both.route_of({rank, 0}) == 0));
    CHECK((both.stage_of({rank, 1}) == 3 - rank && both.route_of({rank, 1}) == 1));
    CHECK((v.stage_of({rank, 0}) == rank && v.stage_of({rank, 1}) == 7 - rank));
  }
  CHECK((v.after({3, 0}) == location{3, 1} && v.before({2, 1}) == location{3, 1}));
  CHECK((both.is_last({0, 1}) && both.is_first({3, 1}) && both.after({3, 1}) == location{2, 1}));
  CHECK(support::raised([] {
          (void)placement{{{{0, 0}, {0, 0}}}};
        }) == "placement: chunk 0 of rank 0 stands twice, expected once");
  CHECK(support::raised([] {
          (void)placement{{{{0, 0}, {0, 1}, {1, 0}}}};
        }) == "placement: a rank has fewer chunks than another, expected as many");
  CHECK(support::raised([] {
          (void)placement{{{{0, 0}}, {{0, 1}, {0, 2}}}};
        }) == "placement: route 1 has 2 stages, route 0 has 1");
}

TEST_CASE("counts that a schedule cannot have are refused with a sentence") {
  const auto refusal = [](const char* name, int ranks, int micro_batches) {
    const method& m = method_named(name);
    const std::string asked = m.check(ranks, micro_batches).message();
    CHECK(support::raised([&] { (void)m.make(ranks, micro_batches); }) == asked);
    return asked;
  };
  CHECK(refusal("dualpipe", 7, 20) == "dualpipe: 7 ranks, expected an even number");
  CHECK(refusal("dualpipe", 8, 21) == "dualpipe: 21 micro-batches, expected an even number");
  CHECK(refusal("dualpipe", 8, 14) == "dualpipe: 14 micro-batches for 8 ranks, expected at least 16");
  CHECK(refusal("dualpipe_v", 5, 9) == "dualpipe_v: 9 micro-batches for 5 ranks, expected at least 10");
  CHECK(refusal("dualpipe_v", 5, 11).empty());
  CHECK(refusal("1f1b", 0, 4) == "1f1b: 0 ranks, expected 1 to 65536");
  CHECK(refusal("zb1p", 4, 0) == "zb1p: 0 micro-batches, expected 1 to 16777216");
  CHECK(refusal("dualpipe_v", -1, 4) == "dualpipe_v: -1 ranks, expected 1 to 65536");
  CHECK(refusal("dualpipe", 70000, 4) == "dualpipe: 70000 ranks, expected 1 to 65536");
  CHECK(refusal("1f1b", 4, 1).empty());
}
