// SPDX-License-Identifier: MIT
#include <dsv3/cpu/optim/adamw.hpp>

#include <oracle/adamw.hpp>
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

/// One tensor in the middle of its training: random weights and gradients, moments at zero.
template <class P, class Weight = weight<P>>
struct fixture {
  guarded<gradient<P>, 1> g;
  guarded<master<P>, 1> p;
  guarded<Weight, 1> w;
  guarded<moment<P>, 1> m, v;
  guarded<double, 1> scale, pace;
  double learning_rate = 0.01;
  adamw_config config;
  index_t step = 1;

  explicit fixture(index_t n) : g(0, n), p(0, n), w(0, n), m(0, n), v(0, n), scale(0, 1), pace(0, 3) {
    p.normal(2);
    m.fill([](index_t) { return 0.0; }), v.fill([](index_t) { return 0.0; });
    scale.fill([](index_t) { return 0.5; });
    next_gradient();
  }
  void next_gradient() { g.normal(100 + static_cast<std::uint64_t>(step), 0.3); }

  typename op::adamw<P, Weight>::step_args args() {
    const auto now = config.pace(learning_rate, step);
    pace.fill([&](index_t i) { return now[static_cast<std::size_t>(i)]; });
    return {.g = g, .scale = scale, .p = p, .w = w, .m = m, .v = v, .config = config, .pace = pace};
  }
  void run(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::adamw<P, Weight>::step(ctx, args()); });
  }
  bool intact() {
    return g.intact() && p.intact() && w.intact() && m.intact() && v.intact() && scale.intact();
  }
};

/// Rounds to 8 bits of mantissa, ties to even, by arithmetic alone; what bf16 does to numbers that are not
/// subnormal.
double to_eight_bits(double x) {
  if (x == 0) return 0;
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
}

constexpr index_t lengths[] = {1, 15, 16, 100, 4097, 40000};

template <class Args, class Visit>
void for_each_of(Args& args, Visit&& visit) {
  visit(args.g), visit(args.p), visit(args.w), visit(args.m), visit(args.v);
}

void adamw_step(const float* g, float* p, float* m, float* v, std::int64_t n, std::int64_t count) {
  cpu_context<> ctx{.threads = 2};
  const double scale = 1;
  const adamw_config config;
  const auto pace = config.pace(2.2e-4, count);
  op::adamw<fp32>::step(ctx, {.g = view{g, n},
                              .scale = view{&scale, 1},
                              .p = view{p, n},
                              .w = view{p, n},
                              .m = view{m, n},
                              .v = view{v, n},
                              .config = config,
                              .pace = view{pace.data(), 3}});
}

}  // namespace

TEST_CASE_TEMPLATE("adamw follows the oracle over many steps", P, fp64_reference, fp32) {
  constexpr double tolerance = support::tolerance<P>::row;
  for (const index_t n : lengths) {
    CAPTURE(n);
    fixture<P> f(n);
    std::vector<oracle::adamw> expected(static_cast<std::size_t>(n));
    const std::vector<double> start = f.p.values();
    for (std::size_t i = 0; i < start.size(); ++i) expected[i].p = start[i];
    for (f.step = 1; f.step <= 6; ++f.step) {
      f.next_gradient();
      f.learning_rate = 0.01 / static_cast<double>(f.step);
      f.run();
      const std::vector<double> g = f.g.values();
      std::vector<double> p, m, v;
      for (std::size_t i = 0; i < g.size(); ++i) {
        expected[i].step(0.5 * g[i], f.learning_rate, static_cast<int>(f.step), [](double x) { return x; });
        p.push_back(expected[i].p), m.push_back(expected[i].m), v.push_back(expected[i].v);
      }
      CHECK(support::worst_row(f.p.values(), p, 1, 0.1) <= tolerance);
      CHECK(support::worst_row(f.m.values(), m, 1, 0.01) <= tolerance);
      CHECK(support::worst_row(f.v.values(), v, 1, 1e-4) <= tolerance);
      CHECK(f.w.values() == f.p.values());
    }
    CHECK(f.intact());
  }
}

TEST_CASE("adamw stores bf16 moments rounded to nearest even, and reads what it stores") {
  for (const index_t n : lengths) {
    CAPTURE(n);
    fixture<bf16_mixed> f(n);
    // A result so near to the middle of two bf16 numbers that float and double may fall on different sides
    // must be one of the two; there may be few.
    index_t wrong = 0, between = 0;
    const auto rounded = [&](double found, double exact, double slack) {
      if (found == to_eight_bits(exact)) return;
      ++(found == to_eight_bits(exact + slack) || found == to_eight_bits(exact - slack) ? between : wrong);
    };
    for (f.step = 1; f.step <= 4; ++f.step) {
      f.next_gradient();
      const std::vector<double> p = f.p.values(), m = f.m.values(), v = f.v.values(), g = f.g.values();
      f.run();
      const std::vector<double> p_after = f.p.values(), m_after = f.m.values(), v_after = f.v.values();
      std::vector<double> p_expected, w_expected;
      for (std::size_t i = 0; i < g.size(); ++i) {
        const double slope = 0.5 * g[i];
        rounded(m_after[i], 0.9 * m[i] + 0.1 * slope, 1e-7 * (std::fabs(m[i]) + std::fabs(slope)));
        rounded(v_after[i], 0.95 * v[i] + 0.05 * slope * slope, 1e-6 * v_after[i]);
        oracle::adamw one;
        one.p = p[i], one.m = m[i], one.v = v[i];
        bool mean = false;  // the oracle stores the mean, then the square: it gets those the library stored
        one.step(slope, f.learning_rate, static_cast<int>(f.step),
                 [&](double) { return (mean = !mean) ? m_after[i] : v_after[i]; });
        p_expected.push_back(one.p);
        w_expected.push_back(to_eight_bits(p_after[i]));
      }
      CHECK(support::worst_row(p_after, p_expected, 1, 0.1) <= 1e-6);
      CHECK(f.w.values() == w_expected);
    }
    CHECK(wrong == 0);
    CHECK(between <= n / 1000 + 1);
    CHECK(f.intact());
  }
}

TEST_CASE_TEMPLATE("adamw divides by the root of the corrected moment: the first step is the sign", P,
                   fp64_reference, fp32, bf16_mixed) {
  fixture<P> f(64);
  f.config.weight_decay = 0;
  const std::vector<double> before = f.p.values(), g = f.g.values();
  f.run();
  const std::vector<double> after = f.p.values();
  for (std::size_t i = 0; i < g.size(); ++i)
    CHECK((before[i] - after[i]) / f.learning_rate == doctest::Approx(g[i] > 0 ? 1 : -1).epsilon(0.02));
}

TEST_CASE_TEMPLATE("adamw decays weights that have no gradient", P, fp64_reference, fp32) {
  fixture<P> f(8);
  f.g.fill([](index_t) { return 0.0; });
  const std::vector<double> before = f.p.values();
  f.run();
  const std::vector<double> after = f.p.values();
  for (std::size_t i = 0; i < 8; ++i)
    CHECK(after[i] == doctest::Approx(before[i] * (1 - 0.01 * 0.1)).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("adamw changes no bit when the scale is not finite", P, fp64_reference, fp32, bf16_mixed) {
  for (const double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    fixture<P> f(1000);
    f.run();
    const auto p = f.p;
    const auto w = f.w;
    const auto m = f.m, v = f.v;
    f.scale.fill([&](index_t) { return bad; });
    f.g.fill([&](index_t) { return NAN; });
    f.step = 2;
    f.run();
    CHECK(f.p.same_bits(p));
    CHECK(f.w.same_bits(w));
    CHECK(f.m.same_bits(m));
    CHECK(f.v.same_bits(v));
  }
}

TEST_CASE_TEMPLATE("adamw may read the weights from the masters", P, fp64_reference, fp32) {
  fixture<P> apart(5000), over(5000);
  for (apart.step = 1; apart.step <= 2; ++apart.step) {
    apart.run();
    over.step = apart.step;
    support::run(2, [&](auto& ctx) {
      auto args = over.args();
      args.w = over.p;
      op::adamw<P>::step(ctx, args);
    });
  }
  CHECK(over.p.same_bits(apart.p));
}

TEST_CASE("adamw writes weights of another type than the precision's") {
  fixture<bf16_mixed, float> f(50);  // a norm's gain: the forward pass reads the master's type
  f.run();
  CHECK(f.w.values() == f.p.values());
}

TEST_CASE_TEMPLATE("adamw gives the same bits on any number of threads", P, fp64_reference, fp32,
                   bf16_mixed) {
  constexpr index_t n = 270001;  // enough for several threads
  fixture<P> one(n);
  for (one.step = 1; one.step <= 3; ++one.step) one.run(1);
  for (const int threads : {1, 2, 3, 7}) {
    CAPTURE(threads);
    fixture<P> other(n);
    for (other.step = 1; other.step <= 3; ++other.step) other.run(threads);
    CHECK(other.p.same_bits(one.p));
    CHECK(other.w.same_bits(one.w));
    CHECK(other.m.same_bits(one.m));
    CHECK(other.v.same_bits(one.v));
  }
}

TEST_CASE_TEMPLATE("adamw lets a bad gradient spoil only its own number", P, fp64_reference, fp32,
                   bf16_mixed) {
  fixture<P> clean(40), hurt(40);
  hurt.g.get()(17) = gradient<P>(NAN);
  clean.run(), hurt.run();
  const std::vector<double> a = clean.p.values(), b = hurt.p.values();
  for (std::size_t i = 0; i < 40; ++i) {
    if (i == 17)
      CHECK(std::isnan(b[i]));
    else
      CHECK(b[i] == a[i]);
  }
}

TEST_CASE_TEMPLATE("adamw takes the smallest gradients without dividing by zero", P, fp64_reference, fp32,
                   bf16_mixed) {
  fixture<P> f(64);
  f.g.fill([](index_t i) { return i % 2 == 0 ? 1e-30 : 0.0; });
  f.run();
  for (const double p : f.p.values()) CHECK(std::isfinite(p));
}

TEST_CASE("adamw of nothing does nothing") {
  fixture<fp32> f(0);
  f.run();
  CHECK(f.intact());
}

TEST_CASE("adamw on one's own pointers, as the manual shows it") {
  fixture<fp32> apart(100), own(100);
  apart.scale.fill([](index_t) { return 1.0; });
  apart.learning_rate = 2.2e-4;
  apart.run();
  adamw_step(own.g.get().data(), own.p.get().data(), own.m.get().data(), own.v.get().data(), 100, 1);
  CHECK(support::worst_row(own.p.values(), apart.p.values(), 1, 0.1) <= support::tolerance<fp32>::row);
}

TEST_CASE_TEMPLATE("adamw takes tensors that start anywhere", P, fp64_reference, fp32, bf16_mixed) {
  constexpr index_t n = 1000;
  fixture<P> whole(n), parts(n);
  whole.run();
  for (const index_range range :
       {index_range{0, 1}, index_range{1, 4}, index_range{4, 333}, index_range{333, n}})
    support::run(2, [&](auto& ctx) {
      auto args = parts.args();
      const auto cut = [&](auto& tensor) { tensor = tensor.rows(range.begin, range.end); };
      cut(args.g), cut(args.p), cut(args.w), cut(args.m), cut(args.v);
      op::adamw<P>::step(ctx, args);
    });
  CHECK(support::worst_row(parts.p.values(), whole.p.values(), 1, 0.1) <= 1e-6);
  CHECK(support::worst_row(parts.m.values(), whole.m.values(), 1, 0.01) <= 1e-2);
  CHECK(support::worst_row(parts.v.values(), whole.v.values(), 1, 1e-4) <= 1e-2);
  CHECK(parts.intact());
}

TEST_CASE_TEMPLATE("adamw moves many tensors at once as one by one", P, fp64_reference, fp32, bf16_mixed) {
  // More of them than one launch takes, some empty, some that start between the packs of a vector.
  std::vector<index_t> all_lengths(lengths, lengths + 6);
  for (index_t i = 0; i < 300; ++i) all_lengths.push_back(i % 40);
  std::vector<fixture<P>> apart, together;
  for (const index_t n : all_lengths) apart.emplace_back(n + 3), together.emplace_back(n + 3);
  for (const int threads : {1, 3}) {
    std::vector<typename op::adamw<P>::tensor> list;
    for (std::size_t i = 0; i < apart.size(); ++i) {
      const index_t n = all_lengths[i], first = i % 2;
      const auto cut = [&](auto& args) {
        for_each_of(args, [&](auto& part) { part = part.rows(first, first + n); });
      };
      auto one = apart[i].args(), other = together[i].args();
      cut(one), cut(other);
      const bool decays = i % 3 != 0;
      if (!decays) one.config.weight_decay = 0;
      support::run(threads, [&](auto& ctx) { op::adamw<P>::step(ctx, one); });
      list.push_back({other.g, other.p, other.w, other.m, other.v, decays});
    }
    const auto shared = together[0].args();
    support::run(threads, [&](auto& ctx) {
      op::adamw<P>::step_all(
          ctx, {.tensors = list, .scale = shared.scale, .config = shared.config, .pace = shared.pace});
    });
    bool same = true;
    for (std::size_t i = 0; i < apart.size(); ++i) {
      fixture<P>&a = apart[i], &b = together[i];
      same = same && a.p.same_bits(b.p) && a.w.same_bits(b.w) && a.m.same_bits(b.m) && a.v.same_bits(b.v);
      CHECK(b.intact());
    }
    CHECK(same);
  }
}

TEST_CASE("adamw says what does not fit") {
  fixture<fp32> f(8), other(7);
  guarded<double, 1> two(0, 2);
  const auto check = [&](auto&& change) {
    auto args = f.args();
    change(args);
    return args.check().message();
  };
  CHECK(check([](auto&) {}) == "");
  CHECK(check([&](auto& a) { a.p = other.p; }) == "adamw.step: p has 7 elements, g has 8");
  CHECK(check([&](auto& a) { a.w = other.w; }) == "adamw.step: w has 7 elements, g has 8");
  CHECK(check([&](auto& a) { a.m = other.m; }) == "adamw.step: m has 7 elements, g has 8");
  CHECK(check([&](auto& a) { a.v = other.v; }) == "adamw.step: v has 7 elements, g has 8");
  CHECK(check([&](auto& a) { a.scale = two; }) == "adamw.step: scale has 2 elements, a scalar has 1");
  CHECK(check([&](auto& a) { a.pace = two; }) == "adamw.step: pace has 2 elements, config.pace has 3");
  const auto good = f.args();
  const op::adamw<fp32>::tensor list[] = {{good.g, good.p, good.w, good.m, good.v},
                                          {good.g, good.p, good.w, other.m, good.v}};
  const op::adamw<fp32>::step_all_args all{
      .tensors = list, .scale = good.scale, .config = {}, .pace = good.pace};
  CHECK(all.check().message() == "adamw.step_all: of tensor 1, adamw.step: m has 7 elements, g has 8");
  CHECK(support::raised([] { adamw_config{}.pace(1e-3, 0); }) ==
        "adamw: step 0 found, steps are counted from 1");
  CHECK(check([&](auto& a) { a.g = view<const float, 1>(nullptr, 8); }) ==
        "adamw.step: g has 8 elements and a null pointer");
}
