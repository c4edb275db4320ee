// SPDX-License-Identifier: MIT
#include <dsv3/cpu/optim/global_norm.hpp>

#include <dsv3/number/bf16.hpp>

#include <oracle/global_norm.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr index_t lengths[] = {1, 7, 64, 16383, 16384, 16385, 270001};

template <class Element>
void accumulate(guarded<Element, 1>& x, guarded<double, 1>& sum, int threads = 2) {
  support::run(threads, [&](auto& ctx) { op::global_norm<Element>::accumulate(ctx, {.x = x, .sum = sum}); });
}

guarded<double, 1> scalar(double value) {
  guarded<double, 1> result(0, 1);
  result.fill([&](index_t) { return value; });
  return result;
}

struct clip {
  double norm, scale;
};
clip finish(double sum, double limit) {
  guarded<double, 1> from = scalar(sum), norm(0, 1), scale(0, 1);
  support::run(1, [&](auto& ctx) {
    op::global_norm<float>::finish(ctx, {.sum = from, .limit = limit, .norm = norm, .scale = scale});
  });
  CHECK((norm.intact() && scale.intact() && from.intact()));
  return {norm.values()[0], scale.values()[0]};
}

double clip_factor(const float* gradients, std::int64_t n, double limit) {
  double sum = 0, norm = 0, scale = 0;
  host_memory memory;
  cpu_context<> ctx{.threads = 2};
  const auto work = [&](auto& any) {
    op::global_norm<float>::accumulate(any, {.x = view{gradients, n}, .sum = view{&sum, 1}});
    op::global_norm<float>::finish(
        any, {.sum = view{&sum, 1}, .limit = limit, .norm = view{&norm, 1}, .scale = view{&scale, 1}});
  };
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  work(ctx);
  return scale;
}

}  // namespace

TEST_CASE_TEMPLATE("global_norm adds the squares of every element", Element, double, float, bf16) {
  guarded<double, 1> sum = scalar(3);
  double expected = 3;
  for (const index_t n : lengths) {
    CAPTURE(n);
    guarded<Element, 1> x(0, n);
    x.normal(static_cast<std::uint64_t>(n));
    accumulate(x, sum);
    expected += oracle::square_sum(x.values());
    CHECK(std::fabs(sum.values()[0] - expected) <= 1e-13 * expected);
    CHECK((x.intact() && sum.intact()));
  }
}

TEST_CASE_TEMPLATE("global_norm takes numbers that start anywhere", Element, double, float, bf16) {
  guarded<Element, 1> x(0, 40001);
  x.normal(4);
  for (const index_t first : {1, 2, 3, 4, 8, 39999}) {
    CAPTURE(first);
    guarded<double, 1> sum = scalar(0);
    support::run(2, [&](auto& ctx) {
      op::global_norm<Element>::accumulate(ctx, {.x = x.get().rows(first, 40001), .sum = sum});
    });
    const std::vector<double> all = x.values();
    const double expected = oracle::square_sum({all.begin() + first, all.end()});
    CHECK(std::fabs(sum.values()[0] - expected) <= 1e-13 * expected);
  }
}

TEST_CASE("global_norm neither overflows nor loses small squares in double") {
  guarded<float, 1> huge(0, 3), tiny(0, 40000);
  huge.fill([](index_t) { return 3e38; });
  tiny.fill([](index_t i) { return i == 0 ? 1.0 : 1e-6; });
  guarded<double, 1> sum = scalar(0);
  accumulate(huge, sum);
  CHECK(sum.values()[0] == doctest::Approx(3 * 9e76).epsilon(1e-6));
  sum = scalar(0);
  accumulate(tiny, sum);
  CHECK(sum.values()[0] - 1 == doctest::Approx(39999e-12).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("global_norm gives the same bits on any number of threads", Element, double, float, bf16) {
  for (const index_t n : lengths) {
    guarded<Element, 1> x(0, n);
    x.normal(9);
    guarded<double, 1> one = scalar(0);
    accumulate(x, one, 1);
    for (const int threads : {1, 2, 3, 7}) {
      CAPTURE(threads);
      guarded<double, 1> other = scalar(0);
      accumulate(x, other, threads);
      CHECK(other.same_bits(one));
    }
  }
}

TEST_CASE_TEMPLATE("global_norm shows a bad number wherever it stands", Element, double, float, bf16) {
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const index_t at : {index_t{0}, index_t{16384}, index_t{39999}}) {
      guarded<Element, 1> x(0, 40000);
      x.normal(5);
      x.get()(at) = Element(bad);
      guarded<double, 1> sum = scalar(0);
      accumulate(x, sum);
      CHECK(!std::isfinite(sum.values()[0]));
    }
}

TEST_CASE_TEMPLATE("global_norm adds many tensors at once", Element, double, float, bf16) {
  // More of them than one launch takes, some empty, some that start between the packs of a vector.
  std::vector<index_t> all_lengths(lengths, lengths + 7);
  for (index_t i = 0; i < 700; ++i) all_lengths.push_back(i % 50);
  std::vector<guarded<Element, 1>> tensors;
  tensors.reserve(all_lengths.size());
  std::vector<view<const Element, 1>> list;
  double expected = 5;
  for (const index_t n : all_lengths) {
    tensors.emplace_back(0, n + 1);
    tensors.back().normal(static_cast<std::uint64_t>(n) + tensors.size());
    list.push_back(tensors.back().get().rows(n % 2, n + n % 2));
    std::vector<double> values;
    for (index_t i = 0; i < n; ++i) values.push_back(static_cast<double>(list.back()(i)));
    expected += oracle::square_sum(values);
  }
  const auto run = [&](int threads) {
    guarded<double, 1> sum = scalar(5);
    support::run(threads, [&](auto& ctx) {
      op::global_norm<Element>::accumulate_all(ctx, {.tensors = list, .sum = sum});
    });
    CHECK(sum.intact());
    return sum;
  };
  const guarded<double, 1> sum = run(2);
  CHECK(std::fabs(guarded<double, 1>(sum).values()[0] - expected) <= 1e-13 * expected);
  CHECK(run(1).same_bits(sum));
  CHECK(run(3).same_bits(sum));
}

TEST_CASE("global_norm of nothing adds nothing") {
  guarded<float, 1> none(0, 0);
  guarded<double, 1> sum = scalar(2);
  accumulate(none, sum);
  CHECK(sum.values()[0] == 2);
}

TEST_CASE("global_norm scales to the limit and never up") {
  CHECK(finish(25, 1).norm == 5);
  CHECK(finish(25, 1).scale == doctest::Approx(1 / (5 + 1e-6)).epsilon(1e-15));
  CHECK(finish(25, 10).scale == 1);
  CHECK(finish(0, 1).scale == 1);
  CHECK(finish(0, 1).norm == 0);
  CHECK(finish(1, 1).scale == doctest::Approx(1 / (1 + 1e-6)).epsilon(1e-15));
}

TEST_CASE("global_norm gives no finite scale to a norm that is not finite") {
  for (const double bad : {double(INFINITY), double(NAN)}) {
    CHECK(!std::isfinite(finish(bad, 1).norm));
    CHECK(!std::isfinite(finish(bad, 1).scale));
  }
}

TEST_CASE("global_norm on one's own pointers, as the manual shows it") {
  const std::vector<float> gradients = {3, 0, -4};
  CHECK(clip_factor(gradients.data(), 3, 1) == doctest::Approx(1 / (5 + 1e-6)).epsilon(1e-15));
}

TEST_CASE("global_norm says what does not fit") {
  using op_type = op::global_norm<float>;
  guarded<float, 1> x(0, 4);
  guarded<double, 1> one(0, 1), two(0, 2);
  const auto accumulate = [&](view<const float, 1> from, view<double, 1> sum) {
    return op_type::accumulate_args{.x = from, .sum = sum}.check().message();
  };
  CHECK(accumulate(x, one) == "");
  CHECK(accumulate(x, two) == "global_norm.accumulate: sum has 2 elements, a scalar has 1");
  CHECK(accumulate(view<const float, 1>(nullptr, 4), one) ==
        "global_norm.accumulate: x has 4 elements and a null pointer");
  const view<const float, 1> list[] = {x, view<const float, 1>(nullptr, 4)};
  CHECK(op_type::accumulate_all_args{.tensors = list, .sum = one}.check().message() ==
        "global_norm.accumulate_all: tensor 1 has 4 elements and a null pointer");
  CHECK(op_type::accumulate_all_args{.tensors = list, .sum = two}.check().message() ==
        "global_norm.accumulate_all: sum has 2 elements, a scalar has 1");
  const auto finish = [&](double limit, view<double, 1> norm, view<double, 1> scale) {
    return op_type::finish_args{.sum = one, .limit = limit, .norm = norm, .scale = scale}.check().message();
  };
  CHECK(finish(1, one, one) == "");
  CHECK(finish(0, one, one) == "global_norm.finish: the limit must be positive");
  CHECK(finish(NAN, one, one) == "global_norm.finish: the limit must be positive");
  CHECK(finish(1, two, one) == "global_norm.finish: norm has 2 elements, a scalar has 1");
  CHECK(finish(1, one, {}) == "global_norm.finish: scale has 0 elements, a scalar has 1");
}

TEST_CASE("other numbers that are not finite make the factor NaN, and leave the norm") {
  for (const double bad : {double(NAN), double(INFINITY), -double(INFINITY), 3.0}) {
    guarded<double, 1> sum = scalar(25), norm(0, 1), scale(0, 1), losses(0, 3);
    losses.fill([&](index_t i) { return i == 1 ? bad : 1.0; });
    support::run(1, [&](auto& ctx) {
      op::global_norm<float>::finish(
          ctx, {.sum = sum, .limit = 10, .finite = losses, .norm = norm, .scale = scale});
    });
    CHECK(norm.values()[0] == 5);
    CHECK(std::isnan(scale.values()[0]) == !std::isfinite(bad));
    if (std::isfinite(bad)) CHECK(scale.values()[0] == 1);
  }
}
