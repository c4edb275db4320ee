// SPDX-License-Identifier: MIT
// What this machine can do, measured in the process that reports a share of it: arithmetic by matrix
// products, memory by copying.
#pragma once

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <map>
#include <vector>

namespace support {

namespace detail {

// The best of several runs of work(), in seconds, after one that warms up.
template <class Work>
double best_seconds(int runs, Work&& work) {
  double best = 1e30;
  for (int run = 0; run <= runs; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    if (run > 0) best = std::min(best, elapsed.count());
  }
  return best;
}

inline double measure_matrix_peak(int threads) {
  constexpr dsv3::index_t n = 1024;
  using matrices = std::vector<std::vector<float>>;
  const matrices a(threads, std::vector<float>(n * n, 0.5f)), b(threads, std::vector<float>(n * n, 0.25f));
  matrices c(threads, std::vector<float>(n * n));
  const double seconds = best_seconds(8, [&] {
    dsv3::cpu::parallel_parts(threads, threads, [&](dsv3::index_t t) {
      dsv3::cpu::product(dsv3::cpu::transpose::no, dsv3::cpu::transpose::yes, n, n, n, 1, a[t].data(), n,
                         b[t].data(), n, 0, c[t].data(), n);
    });
  });
  return threads * 2.0 * n * n * n / seconds;
}

inline double measure_copy_bandwidth(int threads) {
  constexpr std::size_t bytes = std::size_t{1} << 27;  // larger than any cache
  const std::vector<char> from(bytes, 1);
  std::vector<char> to(bytes, 2);
  const double seconds = best_seconds(4, [&] {
    dsv3::cpu::parallel_ranges(threads, bytes, 4096, [&](dsv3::index_t begin, dsv3::index_t end) {
      std::memcpy(to.data() + begin, from.data() + begin, static_cast<std::size_t>(end - begin));
    });
  });
  return 2.0 * bytes / seconds;
}

// Each limit is measured once for each thread count.
template <double (*Limit)(int)>
double measured_once(int threads) {
  static std::map<int, double> known;
  const auto found = known.find(threads);
  return found != known.end() ? found->second : known[threads] = Limit(threads);
}

}  // namespace detail

/// FLOP/s of float products 1024 x 1024 x 1024, one on each thread: by BLAS where the build has one.
inline double matrix_peak(int threads) { return detail::measured_once<detail::measure_matrix_peak>(threads); }

/// Bytes per second, read and written ones together, of copying memory that no cache holds.
inline double copy_bandwidth(int threads) {
  return detail::measured_once<detail::measure_copy_bandwidth>(threads);
}

}  // namespace support
