// SPDX-License-Identifier: MIT
#include <dsv3/cpu/norm/rms_norm.hpp>

#include <oracle/rms_norm.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr double epsilon = 1e-6;

struct shape_case {
  index_t tokens, hidden;
};
constexpr shape_case shapes[] = {{1, 1}, {1, 7}, {3, 64}, {5, 65}, {33, 129}, {7, 576}, {40, 300}};
// Many short rows, rows that do not fill their vectors' owners, and long ones.
constexpr shape_case more_shapes[] = {{2130, 24}, {5, 1544}, {2, 4104}, {1, 8200}};

/// All tensors of one forward and one backward, inputs filled, outputs poisoned.
template <class P>
struct fixture {
  index_t tokens, hidden;
  guarded<activation<P>> x, residual, sum, y, dy, d_residual, dx;
  guarded<master<P>, 1> gain;
  guarded<accumulator<P>, 1> rstd;
  guarded<gradient<P>, 1> dgain;

  fixture(shape_case c, index_t gap)
      : tokens(c.tokens),
        hidden(c.hidden),
        x(gap, tokens, hidden),
        residual(gap == 3 ? 4 : gap, tokens, hidden),
        sum(gap, tokens, hidden),
        y(2 * gap, tokens, hidden),
        dy(gap, tokens, hidden),
        d_residual(gap, tokens, hidden),
        dx(gap, tokens, hidden),
        gain(0, hidden),
        rstd(0, tokens),
        dgain(0, hidden) {
    x.normal(1, 3), residual.normal(2), dy.normal(3), d_residual.normal(4);
    gain.normal(5).assign(shifted(gain.values(), 1));
    dgain.fill([](index_t) { return 0; });
  }

  static std::vector<double> shifted(std::vector<double> values, double by) {
    for (double& value : values) value += by;
    return values;
  }

  typename op::rms_norm<P>::forward_args plain() {
    return {.x = x, .gain = gain, .y = y, .rstd = rstd, .epsilon = epsilon};
  }
  typename op::rms_norm<P>::forward_args with_residual() {
    auto args = plain();
    args.residual = residual, args.sum = sum;
    return args;
  }
  /// Of with_residual(): s is in `sum`.
  typename op::rms_norm<P>::backward_args backward() {
    return {
        .dy = dy, .x = sum, .gain = gain, .rstd = rstd, .dx = dx, .dgain = dgain, .d_residual = d_residual};
  }

  void forward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::rms_norm<P>::forward(ctx, with_residual()); });
  }
  void backward(int threads) {
    support::run(threads, [&](auto& ctx) { op::rms_norm<P>::backward(ctx, backward()); });
  }
  bool intact() {
    return x.intact() && residual.intact() && sum.intact() && y.intact() && dy.intact() &&
           d_residual.intact() && dx.intact() && gain.intact() && rstd.intact() && dgain.intact();
  }
};

template <class P>
void agrees_with_oracle(shape_case shape, index_t gap) {
  constexpr double row = support::tolerance<P>::row;
  CAPTURE(shape.tokens);
  CAPTURE(shape.hidden);
  CAPTURE(gap);
  fixture<P> f(shape, gap);
  const auto tokens = static_cast<std::size_t>(f.tokens);

  support::run(2, [&](auto& ctx) { op::rms_norm<P>::forward(ctx, f.plain()); });
  const auto plain = oracle::rms_norm(f.x.values(), {}, f.gain.values(), tokens, epsilon);
  CHECK(support::worst_row(f.y.values(), plain.y, f.hidden) <= row);
  CHECK(support::worst_row(f.rstd.values(), plain.rstd, 1) <= row);

  f.forward();
  const auto joined = oracle::rms_norm(f.x.values(), f.residual.values(), f.gain.values(), tokens, epsilon);
  CHECK(support::worst_row(f.sum.values(), joined.s, f.hidden) <= row);
  CHECK(support::worst_row(f.y.values(), joined.y, f.hidden) <= row);
  CHECK(support::worst_row(f.rstd.values(), joined.rstd, 1) <= row);

  f.backward(2);
  const auto expected = oracle::rms_norm_backward(f.dy.values(), f.sum.values(), f.d_residual.values(),
                                                  f.gain.values(), tokens, epsilon);
  CHECK(support::worst_row(f.dx.values(), expected.dx, f.hidden) <= row);
  CHECK(support::worst_row(f.dgain.values(), expected.dgain, f.hidden) <= row);

  support::run(2, [&](auto& ctx) {
    auto args = f.backward();
    args.d_residual = {};
    op::rms_norm<P>::backward(ctx, args);
  });
  const auto alone =
      oracle::rms_norm_backward(f.dy.values(), f.sum.values(), {}, f.gain.values(), tokens, epsilon);
  CHECK(support::worst_row(f.dx.values(), alone.dx, f.hidden, 1e-3) <= row);
  CHECK(f.intact());
}

void normalize(const float* x, const float* gain, float* y, int tokens, int hidden) {
  cpu_context<> ctx{.threads = 2};
  op::rms_norm<fp32>::forward(
      ctx, {.x = view{x, tokens, hidden}, .gain = view{gain, hidden}, .y = view{y, tokens, hidden}});
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  for (const shape_case shape : shapes)
    for (const index_t gap : {0, 3}) agrees_with_oracle<P>(shape, gap);
  for (const shape_case shape : more_shapes) agrees_with_oracle<P>(shape, 0);
}

TEST_CASE("rms_norm gradients are the slopes of the oracle") {
  using P = fp64_reference;
  fixture<P> f({3, 13}, 2);
  f.forward(), f.backward(1);

  // loss = Σ dy · y + Σ d_residual · s, whose slopes backward promises.
  std::vector<double> x = f.x.values(), gain = f.gain.values();
  const std::vector<double> residual = f.residual.values(), dy = f.dy.values(), ds = f.d_residual.values();
  const auto loss = [&] {
    const auto result = oracle::rms_norm(x, residual, gain, 3, epsilon);
    double total = 0;
    for (std::size_t i = 0; i < x.size(); ++i) total += dy[i] * result.y[i] + ds[i] * result.s[i];
    return total;
  };
  std::vector<double> dx, dgain;
  for (double& number : x) dx.push_back(support::central_difference(number, support::difference_step, loss));
  for (double& number : gain)
    dgain.push_back(support::central_difference(number, support::difference_step, loss));
  CHECK(support::worst_row(f.dx.values(), dx, f.hidden) <= support::difference_tolerance);
  CHECK(support::worst_row(f.dgain.values(), dgain, f.hidden) <= support::difference_tolerance);
}

TEST_CASE_TEMPLATE("rms_norm writes activation gradients and adds weight gradients", P, fp64_reference,
                   fp32) {
  fixture<P> f({9, 50}, 1);
  f.forward(), f.backward(2);
  const auto dx = f.dx;
  const auto dgain = f.dgain;
  f.backward(2);
  CHECK(f.dx.same_bits(dx));
  std::vector<double> twice = guarded<gradient<P>, 1>(dgain).values();
  for (double& value : twice) value *= 2;
  CHECK(f.dgain.values() == twice);
  f.dgain.fill([](index_t) { return support::poison<double>(); });
  support::run(2, [&](auto& ctx) {
    auto args = f.backward();
    args.into = store::write;
    op::rms_norm<P>::backward(ctx, args);
  });
  CHECK(f.dgain.values() == guarded<gradient<P>, 1>(dgain).values());
}

TEST_CASE_TEMPLATE("rms_norm gives the same bits on any number of threads", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const index_t hidden : {1031, 1544}) {
    const index_t gap = hidden % 8;
    fixture<P> one({65, hidden}, gap);
    one.forward(1), one.backward(1);
    for (const int threads : {1, 2, 3, 7}) {
      fixture<P> other({65, hidden}, gap);
      other.forward(threads), other.backward(threads);
      CAPTURE(threads);
      CHECK(other.y.same_bits(one.y));
      CHECK(other.sum.same_bits(one.sum));
      CHECK(other.rstd.same_bits(one.rstd));
      CHECK(other.dx.same_bits(one.dx));
      CHECK(other.dgain.same_bits(one.dgain));
    }
  }
}

TEST_CASE_TEMPLATE("rms_norm works in place", P, fp64_reference, fp32, bf16_mixed) {
  for (const shape_case shape : shapes) {
    const index_t gap = shape.hidden % 8 == 0 ? 8 : 2;
    fixture<P> apart(shape, gap);
    apart.forward(), apart.backward(2);
    const auto same = [](auto& a, auto& b) { return a.values() == b.values(); };

    fixture<P> over_x(shape, gap);  // s over x
    support::run(2, [&](auto& ctx) {
      auto args = over_x.with_residual();
      args.sum = over_x.x;
      op::rms_norm<P>::forward(ctx, args);
    });
    CHECK(same(over_x.y, apart.y));
    CHECK(same(over_x.x, apart.sum));

    fixture<P> over_residual(shape, gap);  // s over residual, y over x
    support::run(2, [&](auto& ctx) {
      auto args = over_residual.with_residual();
      args.sum = over_residual.residual, args.y = over_residual.x;
      op::rms_norm<P>::forward(ctx, args);
    });
    CHECK(same(over_residual.x, apart.y));
    CHECK(same(over_residual.residual, apart.sum));

    fixture<P> over_gradient(shape, gap);  // dx over d_residual
    over_gradient.forward();
    support::run(2, [&](auto& ctx) {
      auto args = over_gradient.backward();
      args.dx = over_gradient.d_residual;
      op::rms_norm<P>::backward(ctx, args);
    });
    CHECK(same(over_gradient.d_residual, apart.dx));
  }
}

TEST_CASE_TEMPLATE("rms_norm computes only what is asked for", P, fp64_reference, fp32, bf16_mixed) {
  fixture<P> all({6, 40}, 1), some({6, 40}, 1);
  all.forward(), all.backward(2), some.forward();
  support::run(2, [&](auto& ctx) {
    auto args = some.backward();
    args.dgain = {};
    op::rms_norm<P>::backward(ctx, args);
  });
  CHECK(some.dx.same_bits(all.dx));
  CHECK(some.dgain.values() == std::vector<double>(40, 0));
  fixture<P> weights({6, 40}, 1);
  weights.forward();
  support::run(2, [&](auto& ctx) {
    auto args = weights.backward();
    args.dx = {}, args.d_residual = {};
    op::rms_norm<P>::backward(ctx, args);
  });
  CHECK(weights.dgain.same_bits(all.dgain));
  for (const double value : weights.dx.values()) CHECK(std::isnan(value));

  fixture<P> inference({6, 40}, 1);
  support::run(2, [&](auto& ctx) {
    auto args = inference.with_residual();
    args.rstd = {};
    op::rms_norm<P>::forward(ctx, args);
  });
  CHECK(inference.y.same_bits(all.y));
  for (const double value : inference.rstd.values()) CHECK(std::isnan(value));
}

TEST_CASE_TEMPLATE("rms_norm keeps bad numbers in their row", P, fp64_reference, fp32, bf16_mixed) {
  for (const double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    fixture<P> clean({4, 21}, 1), hurt({4, 21}, 1);
    hurt.x.get()(2, 5) = activation<P>(static_cast<float>(bad));
    clean.forward(), hurt.forward();
    for (index_t t = 0; t < 4; ++t)
      for (index_t i = 0; i < 21; ++i) {
        const double y = static_cast<double>(hurt.y.get()(t, i));
        if (t != 2)
          CHECK(y == static_cast<double>(clean.y.get()(t, i)));
        else if (i == 5 || std::isnan(bad))
          CHECK(std::isnan(y));
        else
          CHECK(y == 0);  // infinitely smaller than the infinite one
      }
  }
}

TEST_CASE_TEMPLATE("rms_norm of a zero row is zero", P, fp64_reference, fp32, bf16_mixed) {
  fixture<P> f({2, 9}, 0);
  f.x.fill([](index_t) { return 0.0; });
  support::run(1, [&](auto& ctx) { op::rms_norm<P>::forward(ctx, f.plain()); });
  for (const double value : f.y.values()) CHECK(value == 0);
  CHECK(f.rstd.values()[0] == doctest::Approx(1000));
}

TEST_CASE_TEMPLATE("rms_norm of no tokens adds nothing and writes zeros", P, fp64_reference, fp32,
                   bf16_mixed) {
  fixture<P> f({0, 8}, 0);
  f.forward(), f.backward(2);
  CHECK(f.dgain.values() == std::vector<double>(8, 0));
  f.dgain.fill([](index_t) { return 3; });
  f.backward(2);
  CHECK(f.dgain.values() == std::vector<double>(8, 3));
  support::run(2, [&](auto& ctx) {
    auto args = f.backward();
    args.into = store::write;
    op::rms_norm<P>::backward(ctx, args);
  });
  CHECK(f.dgain.values() == std::vector<double>(8, 0));
  CHECK(f.intact());
}

TEST_CASE("rms_norm on one's own pointers, as the manual shows it") {
  fixture<fp32> f({5, 33}, 0);
  guarded<float> y(0, 5, 33);
  cpu_context<> ctx;
  op::rms_norm<fp32>::forward(ctx, f.plain());
  normalize(f.x.get().data(), f.gain.get().data(), y.get().data(), 5, 33);
  CHECK(y.values() == f.y.values());
}

TEST_CASE("rms_norm says what does not fit") {
  using P = fp32;
  fixture<P> f({4, 8}, 0), other({3, 9}, 0);
  guarded<float> none(0, 0, 0);
  const auto forward = [&](auto&& change) {
    auto args = f.with_residual();
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.y = other.y; }) == "rms_norm.forward: y has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.y = f.y.get().columns(0, 7); }) ==
        "rms_norm.forward: y has 7 columns, x has 8");
  CHECK(forward([&](auto& a) { a.gain = other.gain; }) == "rms_norm.forward: gain has 9 columns, x has 8");
  CHECK(forward([&](auto& a) { a.rstd = other.rstd; }) == "rms_norm.forward: rstd has 3 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.sum = {}; }) == "rms_norm.forward: sum has 0 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.residual = {}; }) == "rms_norm.forward: residual has 0 tokens, x has 4");
  CHECK(forward([&](auto& a) { a.epsilon = 0; }) == "rms_norm.forward: epsilon must be positive");
  CHECK(forward([&](auto& a) { a.x = view<const float, 2>(nullptr, 4, 8); }) ==
        "rms_norm.forward: x has 32 elements and a null pointer");

  const auto backward = [&](auto&& change) {
    auto args = f.backward();
    change(args);
    return args.check().message();
  };
  CHECK(backward([](auto&) {}) == "");
  CHECK(backward([&](auto& a) { a.x = other.x; }) == "rms_norm.backward: x has 3 tokens, dy has 4");
  CHECK(backward([&](auto& a) { a.rstd = {}; }) == "rms_norm.backward: rstd has 0 tokens, dy has 4");
  CHECK(backward([&](auto& a) { a.dx = other.dx; }) == "rms_norm.backward: dx has 3 tokens, dy has 4");
  CHECK(backward([&](auto& a) { a.dgain = other.dgain; }) ==
        "rms_norm.backward: dgain has 9 columns, dy has 8");
  CHECK(backward([&](auto& a) { a.d_residual = other.x; }) ==
        "rms_norm.backward: d_residual has 3 tokens, dy has 4");

  auto ctx = support::context(1);
  auto bad = f.with_residual();
  bad.y = other.y;
  CHECK(support::raised([&] { op::rms_norm<P>::forward(ctx, bad); }) ==
        "rms_norm.forward: y has 3 tokens, x has 4");
}
