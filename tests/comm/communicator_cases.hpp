// SPDX-License-Identifier: MIT
// What every engine must do, as one body: each rank runs it with its communicator. Expected values are
// computed from the ranks' numbers alone, in double or integers, and compared exactly.
#pragma once

#include <dsv3/comm/any_communicator.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace cases {

using dsv3::bf16;
using dsv3::index_t;
using dsv3::reduction;
using dsv3::view;

/// Raises with what was found; doctest's own checks are for one thread and one process.
template <class Found, class Expected, class Where>
void expect(const Found& found, const Expected& expected, const Where& where) {
  if (found == expected) return;
  std::ostringstream sentence;
  sentence.precision(17);
  sentence << where << ": found " << found << ", expected " << expected;
  dsv3::raise(sentence.str());
}

/// Where something was found, put into words only when it is needed.
template <class Comm>
struct place {
  const Comm& comm;
  const char* what;
  index_t count, i;
};
template <class Comm>
std::ostream& operator<<(std::ostream& out, const place<Comm>& p) {
  return out << p.what << " of " << p.count << " on rank " << p.comm.rank() << " of " << p.comm.size()
             << " at " << p.i;
}

/// Element i of a rank; the sum of all ranks' is not exact in the narrow types, so that its order shows.
template <class T>
T element(int rank, index_t i) {
  const auto mixed =
      (static_cast<std::uint64_t>(i) + 1) * 2654435761u ^ static_cast<std::uint64_t>(rank + 1) * 40503u;
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(mixed % 2000001) - T{1000000};
  else {
    const double scale = static_cast<double>(1 << (mixed % 13));
    return T((static_cast<double>(mixed % 1999) - 999) / 999 * scale);
  }
}

/// The reduction in rank order, written down anew: bf16 in float and rounded once.
template <class T>
T reduced(int ranks, index_t i, reduction how) {
  using Sum = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  Sum result = element<T>(0, i);
  for (int r = 1; r < ranks; ++r) {
    const Sum x = element<T>(r, i);
    if (how == reduction::sum)
      result += x;
    else if (how == reduction::max)
      result = std::max(result, x);
    else
      result = std::min(result, x);
  }
  return T(result);
}

template <class T>
std::vector<T> elements(int rank, index_t begin, index_t count) {
  std::vector<T> result(static_cast<std::size_t>(count));
  for (index_t i = 0; i < count; ++i) result[static_cast<std::size_t>(i)] = element<T>(rank, begin + i);
  return result;
}
template <class T>
view<T, 1> all_of(std::vector<T>& values) {
  return view<T, 1>{values.data(), static_cast<index_t>(values.size())};
}
template <class T>
view<const T, 1> read(const std::vector<T>& values) {
  return view<const T, 1>{values.data(), static_cast<index_t>(values.size())};
}

/// How far a sum may be from the one in rank order: nothing, unless the communicator has an order of its own;
/// then a rounding for each rank, of the largest that the partial sums can be.
template <class T, class Comm>
double slack(const Comm& comm, reduction how) {
  if constexpr (!std::is_integral_v<T> && requires { typename Comm::own_order; })
    if (how == reduction::sum)
      return comm.size() * comm.size() * 4096.0 *
             (sizeof(T) == 2   ? 0x1p-8
              : sizeof(T) == 4 ? 0x1p-23
                               : 0x1p-52);
  return 0;
}
template <class Where>
void expect_near(double found, double expected, double distance, const Where& where) {
  if (!(std::abs(found - expected) <= distance)) expect(found, expected, where);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class T>
double wide(T value) {
  return static_cast<double>(value);
}

template <class T, class Comm>
void reductions(const Comm& comm, index_t count) {
  dsv3::cpu_context<> ctx;
  const int ranks = comm.size();
  for (const reduction how : {reduction::sum, reduction::max, reduction::min}) {
    std::vector<T> data = elements<T>(comm.rank(), 0, count);
    comm.all_reduce(ctx, all_of(data), how);
    for (index_t i = 0; i < count; ++i)
      expect_near(wide(data[static_cast<std::size_t>(i)]), wide(reduced<T>(ranks, i, how)),
                  slack<T>(comm, how), place{comm, "all_reduce", count, i});

    const std::vector<T> whole = elements<T>(comm.rank(), 0, count * ranks);
    std::vector<T> part(static_cast<std::size_t>(count));
    comm.reduce_scatter(ctx, read(whole), all_of(part), how);
    for (index_t i = 0; i < count; ++i)
      expect_near(wide(part[static_cast<std::size_t>(i)]),
                  wide(reduced<T>(ranks, comm.rank() * count + i, how)), slack<T>(comm, how),
                  place{comm, "reduce_scatter", count, i});
    // into the rank's own part
    std::vector<T> within = whole;
    comm.reduce_scatter(ctx, read(within),
                        all_of(within).slice(0, comm.rank() * count, (comm.rank() + 1) * count), how);
    for (index_t i = 0; i < count; ++i)
      expect(wide(within[static_cast<std::size_t>(comm.rank() * count + i)]),
             wide(part[static_cast<std::size_t>(i)]), place{comm, "reduce_scatter in place", count, i});
  }
}

template <class T, class Comm>
void movements(const Comm& comm, index_t count) {
  dsv3::cpu_context<> ctx;
  const int ranks = comm.size(), rank = comm.rank();
  const std::vector<T> mine = elements<T>(rank, 0, count);
  std::vector<T> all(static_cast<std::size_t>(count * ranks));
  comm.all_gather(ctx, read(mine), all_of(all));
  for (index_t i = 0; i < count * ranks; ++i)
    expect(wide(all[static_cast<std::size_t>(i)]), wide(element<T>(static_cast<int>(i / count), i % count)),
           place{comm, "all_gather", count, i});
  // from the rank's own part
  std::vector<T> within(all.size());
  std::copy(mine.begin(), mine.end(), within.begin() + rank * count);
  comm.all_gather(ctx, view<const T, 1>{within.data() + rank * count, count}, all_of(within));
  expect(same_bits(within, all), true, place{comm, "all_gather in place", count, 0});

  const std::vector<T> parts = elements<T>(rank, 0, count * ranks);
  comm.all_to_all(ctx, read(parts), all_of(all));
  for (index_t i = 0; i < count * ranks; ++i)
    expect(wide(all[static_cast<std::size_t>(i)]),
           wide(element<T>(static_cast<int>(i / count), rank * count + i % count)),
           place{comm, "all_to_all", count, i});

  for (int root = 0; root < ranks; ++root) {
    std::vector<T> data = elements<T>(rank, 7 * root, count);
    comm.broadcast(ctx, all_of(data), root);
    for (index_t i = 0; i < count; ++i)
      expect(wide(data[static_cast<std::size_t>(i)]), wide(element<T>(root, 7 * root + i)),
             place{comm, "broadcast", count, i});
  }

  // Round the circle; the even ranks send first, so that nobody waits for itself.
  if (ranks > 1) {
    const int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
    std::vector<T> received(mine.size());
    for (const bool sends : {rank % 2 == 0, rank % 2 != 0}) {
      if (sends)
        comm.send(ctx, read(mine), next);
      else
        comm.receive(ctx, all_of(received), previous);
    }
    for (index_t i = 0; i < count; ++i)
      expect(wide(received[static_cast<std::size_t>(i)]), wide(element<T>(previous, i)),
             place{comm, "send and receive", count, i});
  }
}

inline dsv3::outgoing_message to(int peer, const std::vector<std::byte>& bytes) {
  return {peer, bytes.data(), bytes.size()};
}
inline dsv3::incoming_message from(int peer, std::vector<std::byte>& bytes) {
  return {peer, bytes.data(), bytes.size()};
}

/// Rounds of messages whose numbers, sizes and peers every rank draws from the same stream: several messages
/// a pair, none, empty ones, and a rank's to itself; reductions between the rounds.
template <class Comm>
void random_exchanges(const Comm& comm, int rounds, std::uint64_t seed) {
  dsv3::cpu_context<> ctx;
  const int ranks = comm.size(), rank = comm.rank();
  std::uint64_t state = seed;
  const auto draw = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  const auto content = [](int round, int source, int target, std::uint64_t number, std::size_t at) {
    return static_cast<std::byte>((static_cast<std::size_t>(round) * 31 +
                                   static_cast<std::size_t>(source) * 7 +
                                   static_cast<std::size_t>(target) * 13 + number * 3 + at) %
                                  251);
  };
  for (int round = 0; round < rounds; ++round) {
    struct message {
      int source, target;
      std::uint64_t number;
      std::vector<std::byte> bytes;
    };
    std::vector<message> sent, received;
    for (int source = 0; source < ranks; ++source)
      for (int target = 0; target < ranks; ++target) {
        const std::uint64_t messages = draw(4) == 0 ? draw(4) : draw(2);
        for (std::uint64_t number = 0; number < messages; ++number) {
          const std::size_t bytes = draw(3) == 0 ? draw(5000) : draw(40);
          if (source == rank) {
            sent.push_back({source, target, number, std::vector<std::byte>(bytes)});
            for (std::size_t i = 0; i < bytes; ++i)
              sent.back().bytes[i] = content(round, source, target, number, i);
          }
          if (target == rank) received.push_back({source, target, number, std::vector<std::byte>(bytes)});
        }
      }
    std::vector<dsv3::outgoing_message> out;
    std::vector<dsv3::incoming_message> in;
    for (const message& m : sent) out.push_back(to(m.target, m.bytes));
    for (message& m : received) in.push_back(from(m.source, m.bytes));
    // Lists may name the pairs in any order, as long as a pair's messages keep theirs.
    std::stable_sort(out.begin(), out.end(),
                     [&](auto& a, auto& b) { return (a.peer + round) % ranks < (b.peer + round) % ranks; });
    bool in_halves = false;
    if constexpr (requires { comm.begin_exchange(ctx, out, in); })
      if (round % 3 == 0) {
        auto pending = comm.begin_exchange(ctx, out, in);
        pending.finish(ctx);
        pending.finish(ctx);  // nothing is left to do
        in_halves = true;
      }
    if (!in_halves) comm.exchange(ctx, out, in);
    for (const message& m : received)
      for (std::size_t i = 0; i < m.bytes.size(); ++i)
        if (m.bytes[i] != content(round, m.source, rank, m.number, i))
          dsv3::raise("wrong bytes in round " + std::to_string(round) + ", message " +
                      std::to_string(m.number) + " from rank " + std::to_string(m.source) + " to " +
                      std::to_string(rank));
    if (draw(8) == 0) reductions<float>(comm, static_cast<index_t>(draw(40)));
    if (draw(16) == 0) comm.barrier();
  }
}

/// Groups of neighbours and of every second rank, and groups of a group.
template <class Comm>
void splits(const Comm& comm) {
  const int ranks = comm.size(), rank = comm.rank();
  const Comm pair = comm.split(rank / 2, 0);
  expect(pair.size(), rank / 2 * 2 + 1 < ranks ? 2 : 1, "size of a pair");
  expect(pair.rank(), rank % 2, "rank in a pair");
  const Comm reversed = comm.split(0, -rank);
  expect(reversed.rank(), ranks - 1 - rank, "rank among all in the other order");
  const Comm parity = comm.split(rank % 2, rank);
  expect(parity.rank(), rank / 2, "rank among the even or odd");
  const Comm inner = parity.split(parity.rank() / 2, 0);

  dsv3::cpu_context<> ctx;
  std::vector<std::int32_t> sum{rank};
  for (const Comm* group : {&pair, &reversed, &parity, &inner}) {
    reductions<float>(*group, 33);
    movements<std::int64_t>(*group, 5);
    group->barrier();
  }
  parity.all_reduce(ctx, all_of(sum), reduction::sum);
  std::int32_t expected = 0;
  for (int r = rank % 2; r < ranks; r += 2) expected += r;
  expect(sum[0], expected, "sum of the even or odd ranks");
  comm.all_reduce(ctx, all_of(sum), reduction::max);  // the whole group is as it was
}

/// The same bits from run to run, and in everyone's hands.
template <class T, class Comm>
void repeats(const Comm& comm, index_t count) {
  dsv3::cpu_context<> ctx;
  std::vector<T> first = elements<T>(comm.rank(), 0, count);
  comm.all_reduce(ctx, all_of(first), reduction::sum);
  for (int round = 0; round < 3; ++round) {
    std::vector<T> again = elements<T>(comm.rank(), 0, count);
    comm.all_reduce(ctx, all_of(again), reduction::sum);
    expect(same_bits(again, first), true, "bits of a repeated sum");
  }
  std::vector<T> of_root = first;
  comm.broadcast(ctx, all_of(of_root), comm.size() - 1);
  expect(same_bits(of_root, first), true, "bits of another rank's sum");
}

/// A thread of each rank passes messages round the circle while the rank itself reduces.
template <class Comm>
void transfers_beside(const Comm& comm, int rounds) {
  const int ranks = comm.size(), rank = comm.rank();
  dsv3::status passed;
  std::thread other([&] {
    passed = dsv3::attempt([&] {
      dsv3::cpu_context<> ctx;
      for (int round = 0; round < rounds; ++round) {
        const std::vector<std::byte> mine(3000, static_cast<std::byte>(rank + round));
        std::vector<std::byte> theirs(mine.size());
        const dsv3::outgoing_message out = to((rank + 1) % ranks, mine);
        const dsv3::incoming_message in = from((rank + ranks - 1) % ranks, theirs);
        comm.exchange(ctx, {&out, 1}, {&in, 1});
        const auto expected = static_cast<std::byte>((rank + ranks - 1) % ranks + round);
        expect(std::count(theirs.begin(), theirs.end(), expected), std::ptrdiff_t{3000}, "bytes passed on");
      }
    });
  });
  const dsv3::status reduced_well = dsv3::attempt([&] {
    for (int round = 0; round < rounds; ++round) reductions<float>(comm, 50);
  });
  other.join();
  dsv3::require(passed);
  dsv3::require(reduced_well);
}

/// All verbs over all elements, of no element to more than a MiB; groups; and the same bits again.
template <class Comm>
void every_verb(const Comm& comm) {
  for (const index_t count : {0, 1, 3, 17, 1000, 4099}) {
    reductions<std::int32_t>(comm, count);
    reductions<std::int64_t>(comm, count);
    reductions<bf16>(comm, count);
    reductions<float>(comm, count);
    reductions<double>(comm, count);
    movements<bf16>(comm, count);
    movements<double>(comm, count);
  }
  const index_t large = 300007;  // elements
  reductions<float>(comm, large);
  movements<float>(comm, large);
  repeats<float>(comm, 100003);
  repeats<bf16>(comm, 100003);
  splits(comm);
  comm.barrier();
}

}  // namespace cases
