// SPDX-License-Identifier: MIT
#include <dsv3/cpu/expert/swiglu.hpp>

#include <oracle/swiglu.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <type_traits>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

template <class P>
constexpr double accumulator_row =
    support::tolerance<std::conditional_t<std::is_same_v<accumulator<P>, double>, fp64_reference, fp32>>::row;

struct shape_case {
  index_t rows, inner;
};
constexpr shape_case shapes[] = {{0, 4}, {1, 1}, {5, 3}, {8, 16}, {9, 65}, {40, 192}, {33, 301}, {3, 4120}};

enum class gating { none, gated, gated_with_padding };

/// All tensors of one forward and one backward. Padding rows (every third) hold ordinary numbers,
/// so that whoever computes with them overwrites the poison of the outputs.
template <class P>
struct fixture {
  index_t rows, inner;
  gating how;
  guarded<activation<P>> gate_up, y, dy, d_gate_up;
  guarded<accumulator<P>, 1> row_gates, d_row_gates;
  guarded<std::int32_t, 1> token_of;

  fixture(shape_case c, gating g, index_t gap = 2)
      : rows(c.rows),
        inner(c.inner),
        how(g),
        gate_up(gap, rows, 2 * inner),
        y(gap == 3 ? 4 : gap, rows, inner),
        dy(gap, rows, inner),
        d_gate_up(gap == 3 ? 4 : gap, rows, 2 * inner),
        row_gates(0, rows),
        d_row_gates(0, rows),
        token_of(0, rows) {
    gate_up.normal(1, 2), dy.normal(2);
    const random_stream random(20260101, 3);
    row_gates.fill([&](index_t r) { return 0.1 + random.uniform(static_cast<std::uint64_t>(r)); });
    token_of.fill([&](index_t r) { return live(r) ? r : -1; });
  }
  bool live(index_t r) const { return how != gating::gated_with_padding || r % 3 != 1; }

  typename op::swiglu<P>::forward_args forward_args() {
    typename op::swiglu<P>::forward_args args{.gate_up = gate_up, .y = y};
    if (how != gating::none) args.row_gates = row_gates;
    if (how == gating::gated_with_padding) args.token_of = token_of;
    return args;
  }
  typename op::swiglu<P>::backward_args backward_args() {
    typename op::swiglu<P>::backward_args args{.dy = dy, .gate_up = gate_up, .d_gate_up = d_gate_up};
    if (how != gating::none) args.row_gates = row_gates, args.d_row_gates = d_row_gates;
    if (how == gating::gated_with_padding) args.token_of = token_of;
    return args;
  }
  void forward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::swiglu<P>::forward(ctx, forward_args()); });
  }
  void backward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::swiglu<P>::backward(ctx, backward_args()); });
  }

  std::vector<double> plain_gates() {
    return how == gating::none ? std::vector<double>(static_cast<std::size_t>(rows), 1.0)
                               : row_gates.values();
  }
  /// Only the live rows of a [rows, width] result.
  std::vector<double> only_live(const std::vector<double>& values, index_t width) const {
    std::vector<double> result;
    for (index_t r = 0; r < rows; ++r)
      if (live(r)) result.insert(result.end(), values.begin() + r * width, values.begin() + (r + 1) * width);
    return result;
  }
  bool padding_is_poison(const std::vector<double>& values, index_t width) const {
    for (index_t r = 0; r < rows; ++r)
      for (index_t i = 0; i < width; ++i)
        if (!live(r) && !std::isnan(values[static_cast<std::size_t>(r * width + i)])) return false;
    return true;
  }
  bool intact() {
    return gate_up.intact() && y.intact() && dy.intact() && d_gate_up.intact() && row_gates.intact() &&
           d_row_gates.intact() && token_of.intact();
  }
};

constexpr gating gatings[] = {gating::none, gating::gated, gating::gated_with_padding};

}  // namespace

TEST_CASE_TEMPLATE("swiglu agrees with the oracle and leaves padding alone", P, fp64_reference, fp32,
                   bf16_mixed) {
  constexpr double row = support::tolerance<P>::row;
  for (const shape_case shape : shapes)
    for (const gating how : gatings)
      for (const index_t gap : {0, 3}) {
        CAPTURE(shape.rows);
        CAPTURE(shape.inner);
        CAPTURE(int(how));
        fixture<P> f(shape, how, gap);
        f.forward(), f.backward();
        const auto inner = static_cast<std::size_t>(f.inner);
        const auto live = [&](const std::vector<double>& values, index_t width) {
          return f.only_live(values, width);
        };
        CHECK(support::worst_row(live(f.y.values(), f.inner),
                                 live(oracle::swiglu(f.gate_up.values(), f.plain_gates(), inner), f.inner),
                                 f.inner) <= row);
        const auto expected =
            oracle::swiglu_backward(f.dy.values(), f.gate_up.values(), f.plain_gates(), inner);
        CHECK(support::worst_row(live(f.d_gate_up.values(), 2 * f.inner),
                                 live(expected.d_gate_up, 2 * f.inner), 2 * f.inner) <= row);
        if (how != gating::none)
          CHECK(support::worst_row(live(f.d_row_gates.values(), 1), live(expected.d_w, 1), f.rows) <=
                accumulator_row<P>);
        CHECK(f.padding_is_poison(f.y.values(), f.inner));
        CHECK(f.padding_is_poison(f.d_gate_up.values(), 2 * f.inner));
        CHECK(f.padding_is_poison(f.d_row_gates.values(), 1));
        CHECK(f.intact());
      }
}

TEST_CASE("swiglu gradients are the slopes of the oracle") {
  using P = fp64_reference;
  fixture<P> f({3, 7}, gating::gated);
  f.forward(), f.backward();
  std::vector<double> gate_up = f.gate_up.values(), w = f.row_gates.values();
  const std::vector<double> dy = f.dy.values();
  const auto loss = [&] {
    const std::vector<double> y = oracle::swiglu(gate_up, w, 7);
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += dy[i] * y[i];
    return total;
  };
  std::vector<double> d_gate_up, d_w;
  for (double& number : gate_up)
    d_gate_up.push_back(support::central_difference(number, support::difference_step, loss));
  for (double& number : w) d_w.push_back(support::central_difference(number, support::difference_step, loss));
  CHECK(support::worst_row(f.d_gate_up.values(), d_gate_up, 14) <= support::difference_tolerance);
  CHECK(support::worst_row(f.d_row_gates.values(), d_w, 3) <= support::difference_tolerance);
}

TEST_CASE_TEMPLATE("swiglu's gradient may lie over its input", P, fp64_reference, fp32, bf16_mixed) {
  for (const shape_case shape : shapes)
    for (const gating how : gatings) {
      const index_t gap = shape.inner % 8 == 0 ? 8 : 2;
      fixture<P> apart(shape, how, gap), over(shape, how, gap);
      apart.backward();
      support::run(2, [&](auto& ctx) {
        auto args = over.backward_args();
        args.d_gate_up = over.gate_up;
        op::swiglu<P>::backward(ctx, args);
      });
      CHECK(over.only_live(over.gate_up.values(), 2 * over.inner) ==
            apart.only_live(apart.d_gate_up.values(), 2 * apart.inner));
      CHECK(over.d_row_gates.same_bits(apart.d_row_gates));
    }
}

TEST_CASE_TEMPLATE("swiglu writes: the same again, on any number of threads", P, fp64_reference, fp32,
                   bf16_mixed) {
  fixture<P> one({700, 130}, gating::gated_with_padding);
  one.forward(1), one.backward(1);
  for (const int threads : {1, 2, 3, 7}) {
    fixture<P> other({700, 130}, gating::gated_with_padding);
    other.forward(threads), other.backward(threads);
    other.forward(threads), other.backward(threads);
    CHECK(other.y.same_bits(one.y));
    CHECK(other.d_gate_up.same_bits(one.d_gate_up));
    CHECK(other.d_row_gates.same_bits(one.d_row_gates));
  }
}

TEST_CASE_TEMPLATE("swiglu at the ends of the range", P, fp64_reference, fp32, bf16_mixed) {
  std::vector<double> gates;
  for (int repeat = 0; repeat < 5; ++repeat)  // more than a vector has
    for (const double g : {-3e38, -1000.0, -100.0, -88.0, 0.0, 88.0, 100.0, 1000.0, 1e30}) gates.push_back(g);
  const auto n = static_cast<index_t>(gates.size());
  fixture<P> f({1, n}, gating::none);
  for (index_t i = 0; i < n; ++i) {
    f.gate_up.get()(0, i) = activation<P>(static_cast<float>(gates[static_cast<std::size_t>(i)]));
    f.gate_up.get()(0, n + i) = activation<P>(1.0f);
    f.dy.get()(0, i) = activation<P>(1.0f);
  }
  f.forward(), f.backward();
  for (index_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(f.gate_up.get()(0, i)), y = static_cast<double>(f.y.get()(0, i));
    const double dg = static_cast<double>(f.d_gate_up.get()(0, i)),
                 du = static_cast<double>(f.d_gate_up.get()(0, n + i));
    CAPTURE(g);
    CHECK(std::fabs(y - std::max(g, 0.0)) <= 1e-30 + 1e-12 * std::fabs(y));
    CHECK(y == du);
    CHECK(std::fabs(dg - (g > 0 ? 1 : g < 0 ? 0 : 0.5)) <= 1e-30);
  }
}

TEST_CASE_TEMPLATE("swiglu keeps a NaN where it is", P, fp64_reference, fp32, bf16_mixed) {
  fixture<P> clean({4, 50}, gating::gated), hurt({4, 50}, gating::gated);
  hurt.gate_up.get()(2, 5) = support::poison<activation<P>>();
  clean.forward(), clean.backward(), hurt.forward(), hurt.backward();
  for (index_t r = 0; r < 4; ++r) {
    for (index_t i = 0; i < 50; ++i) {
      const bool bad = r == 2 && i == 5;
      CHECK(std::isnan(static_cast<double>(hurt.y.get()(r, i))) == bad);
      CHECK(std::isnan(static_cast<double>(hurt.d_gate_up.get()(r, i))) == bad);
      CHECK(std::isnan(static_cast<double>(hurt.d_gate_up.get()(r, 50 + i))) == bad);
      if (!bad) CHECK(static_cast<double>(hurt.y.get()(r, i)) == static_cast<double>(clean.y.get()(r, i)));
    }
    CHECK(std::isnan(hurt.d_row_gates.get()(r)) == (r == 2));
  }
}

TEST_CASE("swiglu says what does not fit") {
  using P = fp32;
  fixture<P> f({4, 6}, gating::gated_with_padding), other({3, 6}, gating::gated_with_padding);
  const auto forward = [&](auto&& change) {
    auto args = f.forward_args();
    change(args);
    return args.check().message();
  };
  const std::string at = "swiglu.forward: ";
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.y = other.y; }) == at + "y has 3 rows, gate_up has 4");
  CHECK(forward([&](auto& a) { a.y = a.y.columns(0, 5); }) == at + "gate_up has 12 columns, twice y has 10");
  CHECK(forward([&](auto& a) { a.row_gates = other.row_gates; }) == at + "row_gates has 3 rows, y has 4");
  CHECK(forward([&](auto& a) { a.token_of = other.token_of; }) == at + "token_of has 3 rows, y has 4");

  const auto backward = [&](auto&& change) {
    auto args = f.backward_args();
    change(args);
    return args.check().message();
  };
  const std::string back = "swiglu.backward: ";
  CHECK(backward([](auto&) {}) == "");
  CHECK(backward([&](auto& a) { a.gate_up = other.gate_up; }) == back + "gate_up has 3 rows, dy has 4");
  CHECK(backward([&](auto& a) { a.dy = a.dy.columns(0, 5); }) ==
        back + "gate_up has 12 columns, twice dy has 10");
  CHECK(backward([&](auto& a) { a.d_gate_up = other.d_gate_up; }) == back + "d_gate_up has 3 rows, dy has 4");
  CHECK(backward([&](auto& a) { a.row_gates = other.row_gates; }) == back + "row_gates has 3 rows, dy has 4");
  CHECK(backward([&](auto& a) { a.d_row_gates = other.row_gates; }) ==
        back + "d_row_gates has 3 rows, dy has 4");

  auto ctx = support::context(1);
  auto bad = f.forward_args();
  bad.y = other.y;
  CHECK(support::raised([&] { op::swiglu<P>::forward(ctx, bad); }) == at + "y has 3 rows, gate_up has 4");
}
