// SPDX-License-Identifier: MIT
// Tensors of more than 2^31 elements: what lies behind an index that does not fit in 32 bits must be reached.
// Rows lie 2^31 elements apart where an operation has rows; the others walk over everything.
#include <dsv3/cpu/loss/cross_entropy.hpp>
#include <dsv3/cpu/norm/rms_norm.hpp>
#include <dsv3/cpu/optim/adamw.hpp>
#include <dsv3/cpu/optim/global_norm.hpp>

#include <oracle/adamw.hpp>
#include <oracle/cross_entropy.hpp>
#include <oracle/rms_norm.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/sparse_memory.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

using namespace dsv3;
using support::guarded;
using support::sparse_memory;

namespace {

constexpr index_t far = index_t{1} << 31;

/// A [3, columns] matrix whose rows lie far apart, with normal numbers; no rows where the memory is refused.
template <class T>
struct far_rows {
  sparse_memory memory;
  view<T, 2> rows;

  far_rows(index_t columns, std::uint64_t stream)
      : memory(3 * sizeof(T) * static_cast<std::size_t>(far + columns)) {
    const index_t extents[] = {3, columns}, strides[] = {far + columns, 1};
    if (memory.template data<T>() == nullptr) return;
    rows = {memory.template data<T>(), extents, strides};
    guarded<T> values(0, 3, columns);
    values.normal(stream);
    for (index_t t = 0; t < 3; ++t)
      for (index_t i = 0; i < columns; ++i) rows(t, i) = values.get()(t, i);
  }
  std::vector<double> values() const {
    std::vector<double> result;
    for (index_t t = 0; t < 3; ++t)
      for (index_t i = 0; i < rows.extent(1); ++i) result.push_back(static_cast<double>(rows(t, i)));
    return result;
  }
};

/// True, with a message, where the system does not give that many addresses.
bool refused(bool given) {
  if (!given) MESSAGE("skipped: the system refuses to map so many addresses");
  return !given;
}

}  // namespace

TEST_CASE("rms_norm reaches rows more than 2^31 elements apart") {
  using P = bf16_mixed;
  constexpr index_t hidden = 100;
  const far_rows<bf16> x(hidden, 1), y(hidden, 2), dy(hidden, 3), dx(hidden, 4);
  if (refused(!x.rows.empty() && !y.rows.empty() && !dy.rows.empty() && !dx.rows.empty())) return;
  guarded<float, 1> gain(0, hidden), rstd(0, 3), dgain(0, hidden);
  gain.normal(5), dgain.fill([](index_t) { return 0.0; });
  support::run(2, [&](auto& ctx) {
    op::rms_norm<P>::forward(ctx, {.x = x.rows, .gain = gain, .y = y.rows, .rstd = rstd});
    op::rms_norm<P>::backward(
        ctx, {.dy = dy.rows, .x = x.rows, .gain = gain, .rstd = rstd, .dx = dx.rows, .dgain = dgain});
  });
  constexpr double row = support::tolerance<P>::row;
  const auto forward = oracle::rms_norm(x.values(), {}, gain.values(), 3, 1e-6);
  const auto backward = oracle::rms_norm_backward(dy.values(), x.values(), {}, gain.values(), 3, 1e-6);
  CHECK(support::worst_row(y.values(), forward.y, hidden) <= row);
  CHECK(support::worst_row(dx.values(), backward.dx, hidden) <= row);
  CHECK(support::worst_row(dgain.values(), backward.dgain, hidden) <= row);
}

TEST_CASE("cross_entropy reaches rows more than 2^31 elements apart") {
  using P = fp32;
  constexpr index_t vocab = 1000;
  const far_rows<float> logits(vocab, 1);
  if (refused(!logits.rows.empty())) return;
  const std::vector<double> before = logits.values();
  guarded<std::int32_t, 1> targets(0, 3);
  guarded<double, 1> loss(0, 1);
  guarded<float, 1> lse(0, 3);
  targets.fill([](index_t t) { return 999 - 7 * t; }), loss.fill([](index_t) { return 0.0; });
  support::run(2, [&](auto& ctx) {
    op::cross_entropy<P>::forward(ctx, {.logits = logits.rows, .targets = targets, .loss = loss, .lse = lse});
    op::cross_entropy<P>::backward(
        ctx, {.logits = logits.rows, .targets = targets, .lse = lse, .dlogits = logits.rows});
  });
  constexpr double row = support::tolerance<P>::row;
  const auto expected = oracle::cross_entropy(before, {999, 992, 985}, 1);
  CHECK(support::worst_row(loss.values(), {expected.loss}, 1) <= row);
  CHECK(support::worst_row(logits.values(), expected.dlogits, vocab) <= row);
}

TEST_CASE("global_norm adds more than 2^31 elements") {
  constexpr index_t n = far + 12345;
  const sparse_memory memory(sizeof(bf16) * static_cast<std::size_t>(n));
  bf16* x = memory.data<bf16>();
  if (refused(x != nullptr)) return;
  x[0] = bf16(1.0f), x[far - 1] = bf16(2.0f), x[far] = bf16(4.0f), x[n - 1] = bf16(8.0f);
  guarded<double, 1> sum(0, 1);
  sum.fill([](index_t) { return 0.0; });
  support::run(2, [&](auto& ctx) { op::global_norm<bf16>::accumulate(ctx, {.x = view{x, n}, .sum = sum}); });
  CHECK(sum.values()[0] == 85);
}

TEST_CASE("adamw moves more than 2^31 elements") {
  // All tensors but their last elements repeat one window, so that writing them takes little memory; what the
  // window comes to hold means nothing. One thread, for the window's sake.
  constexpr index_t tail = 4096, n = far + tail;
  constexpr std::size_t window = std::size_t{1} << 24;
  const auto count = static_cast<std::size_t>(n);
  const sparse_memory g(sizeof(float) * count);
  sparse_memory p(sizeof(float) * count), w(sizeof(bf16) * count), m(sizeof(bf16) * count),
      v(sizeof(bf16) * count);
  bool given = g.data<float>() != nullptr;
  for (sparse_memory* memory : {&p, &w, &m, &v}) given = given && memory->data<char>() != nullptr;
  given = given && p.repeat(sizeof(float) * far, window);
  for (sparse_memory* memory : {&w, &m, &v}) given = given && memory->repeat(sizeof(bf16) * far, window);
  if (refused(given)) return;

  for (index_t i = far; i < n; ++i) {
    g.data<float>()[i] = static_cast<float>(i % 7) - 3;
    p.data<float>()[i] = static_cast<float>(i % 11);
  }
  const double scale = 1;
  const auto pace = adamw_config{}.pace(0.5, 1);
  support::run(1, [&](auto& ctx) {
    op::adamw<bf16_mixed>::step(ctx, {.g = view<const float, 1>{g.data<float>(), n},
                                      .scale = view{&scale, 1},
                                      .p = view{p.data<float>(), n},
                                      .w = view{w.data<bf16>(), n},
                                      .m = view{m.data<bf16>(), n},
                                      .v = view{v.data<bf16>(), n},
                                      .config = {},
                                      .pace = view{pace.data(), 3}});
  });
  std::vector<double> found, expected, found_m, expected_m;
  for (index_t i = far; i < n; ++i) {
    oracle::adamw one;
    one.p = static_cast<double>(i % 11);
    one.step(static_cast<double>(i % 7) - 3, 0.5, 1, [](double x) { return x; });
    found.push_back(p.data<float>()[i]), expected.push_back(one.p);
    found_m.push_back(m.data<bf16>()[i]), expected_m.push_back(one.m);
  }
  constexpr double row = support::tolerance<bf16_mixed>::row;
  CHECK(support::worst_row(found, expected, 1, 1) <= row);
  CHECK(support::worst_row(found_m, expected_m, 1, 1e-2) <= row);
  CHECK(static_cast<float>(w.data<bf16>()[n - 1]) == doctest::Approx(found.back()).epsilon(0.01));
}
