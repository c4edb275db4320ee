// SPDX-License-Identifier: MIT
#include <dsv3/cpu/loss/cross_entropy.hpp>

#include <oracle/cross_entropy.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

struct shape_case {
  index_t tokens, vocab;
};
constexpr shape_case shapes[] = {{1, 1},    {3, 2},    {5, 65},    {33, 129},
                                 {4, 1024}, {3, 2049}, {2, 40005}, {70, 300}};

/// Logits, every third target ignored, outputs poisoned and the loss at zero.
template <class P>
struct fixture {
  using acc = accumulator<P>;
  index_t tokens, vocab;
  guarded<acc> logits, dlogits;
  guarded<std::int32_t, 1> targets;
  guarded<double, 1> loss;
  guarded<acc, 1> lse;
  double scale = 0.125;

  fixture(shape_case c, index_t gap)
      : tokens(c.tokens),
        vocab(c.vocab),
        logits(gap, tokens, vocab),
        dlogits(gap + 8, tokens, vocab),
        targets(0, tokens),
        loss(0, 1),
        lse(0, tokens) {
    logits.normal(1, 3);
    const random_stream random(7, 0);
    targets.fill([&](index_t t) {
      return t % 3 == 1 ? -1 : static_cast<int>(random.below(static_cast<std::uint64_t>(vocab), t));
    });
    loss.fill([](index_t) { return 0.0; });
  }

  typename op::cross_entropy<P>::forward_args forward_args() {
    return {.logits = logits, .targets = targets, .scale = scale, .loss = loss, .lse = lse};
  }
  typename op::cross_entropy<P>::backward_args backward_args() {
    return {.logits = logits, .targets = targets, .lse = lse, .scale = scale, .dlogits = dlogits};
  }
  void forward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::cross_entropy<P>::forward(ctx, forward_args()); });
  }
  void backward(int threads = 2) {
    support::run(threads, [&](auto& ctx) { op::cross_entropy<P>::backward(ctx, backward_args()); });
  }
  oracle::cross_entropy_result expected() {
    const std::vector<double> wide = targets.values();
    return oracle::cross_entropy(logits.values(), {wide.begin(), wide.end()}, scale);
  }
  double total() { return loss.values()[0]; }
  bool intact() {
    return logits.intact() && dlogits.intact() && targets.intact() && loss.intact() && lse.intact();
  }
};

// The mean loss of [tokens, vocab] logits, which become their own gradient.
double loss_and_gradient(float* logits, const std::int32_t* targets, int tokens, int vocab) {
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, 64 + sizeof(double) * tokens}};
  const view z{logits, tokens, vocab};
  const view<const std::int32_t, 1> t{targets, tokens};
  std::vector<float> lse(tokens);
  double loss = 0;
  const view<float, 1> l{lse.data(), tokens};
  const double scale = 1.0 / tokens;
  op::cross_entropy<fp32>::forward(
      ctx, {.logits = z, .targets = t, .scale = scale, .loss = view{&loss, 1}, .lse = l});
  op::cross_entropy<fp32>::backward(ctx, {.logits = z, .targets = t, .lse = l, .scale = scale, .dlogits = z});
  return loss;
}

}  // namespace

TEST_CASE_TEMPLATE("cross_entropy agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  // Logits and sums are accumulators, which are float in bf16_mixed: its results are as near as those of
  // fp32.
  constexpr double row = std::min(support::tolerance<P>::row, support::tolerance<fp32>::row);
  for (const shape_case shape : shapes)
    for (const index_t gap : {0, 3, 7}) {
      CAPTURE(shape.tokens);
      CAPTURE(shape.vocab);
      CAPTURE(gap);
      fixture<P> f(shape, gap);
      f.forward(), f.backward();
      const auto expected = f.expected();
      CHECK(std::fabs(f.total() - expected.loss) <= row * std::max(std::fabs(expected.loss), 0.1));
      CHECK(support::worst_row(f.lse.values(), expected.lse, 1, 1) <= row);
      CHECK(support::worst_row(f.dlogits.values(), expected.dlogits, f.vocab, f.scale) <= row);
      CHECK(f.intact());
    }
}

TEST_CASE("cross_entropy rounds gradients once to a narrower type") {
  for (const shape_case shape : shapes)
    for (const index_t gap : {0, 3}) {
      CAPTURE(shape.tokens);
      CAPTURE(shape.vocab);
      CAPTURE(gap);
      fixture<bf16_mixed> f(shape, gap);
      guarded<bf16> narrow(gap + 4, f.tokens, f.vocab);
      f.forward(), f.backward();
      support::run(2, [&](auto& ctx) {
        op::cross_entropy<bf16_mixed, bf16>::backward(
            ctx,
            {.logits = f.logits, .targets = f.targets, .lse = f.lse, .scale = f.scale, .dlogits = narrow});
      });
      const auto wide = f.dlogits.values(), found = narrow.values();
      bool rounded = true;
      for (std::size_t i = 0; i < found.size(); ++i)
        rounded =
            rounded && found[i] == static_cast<double>(static_cast<float>(bf16(static_cast<float>(wide[i]))));
      CHECK(rounded);
      CHECK(narrow.intact());
    }
}

TEST_CASE("cross_entropy gradients are the slopes of the oracle") {
  fixture<fp64_reference> f({4, 11}, 2);
  f.forward(), f.backward();
  const std::vector<double> wide = f.targets.values();
  const std::vector<int> targets(wide.begin(), wide.end());
  std::vector<double> logits = f.logits.values(), slopes;
  for (double& number : logits)
    slopes.push_back(support::central_difference(number, support::difference_step, [&] {
      return oracle::cross_entropy(logits, targets, f.scale).loss;
    }));
  CHECK(support::worst_row(f.dlogits.values(), slopes, f.vocab, f.scale) <= support::difference_tolerance);
}

TEST_CASE_TEMPLATE("cross_entropy adds the loss and writes the rest", P, fp64_reference, fp32) {
  fixture<P> f({9, 50}, 1);
  f.forward(), f.backward();
  const double once = f.total();
  CHECK(once > 0);
  const auto lse = f.lse;
  const auto dlogits = f.dlogits;
  f.forward(), f.backward();
  CHECK(f.total() == 2 * once);
  CHECK(f.lse.same_bits(lse));
  CHECK(f.dlogits.same_bits(dlogits));
}

TEST_CASE_TEMPLATE("cross_entropy in chunks of tokens is cross_entropy", P, fp64_reference, fp32) {
  fixture<P> whole({40, 77}, 1), parts({40, 77}, 1);
  whole.forward();
  for (const index_range rows : {index_range{0, 16}, index_range{16, 32}, index_range{32, 40}})
    support::run(2, [&](auto& ctx) {
      auto args = parts.forward_args();
      args.logits = args.logits.rows(rows.begin, rows.end);
      args.targets = args.targets.rows(rows.begin, rows.end);
      args.lse = args.lse.rows(rows.begin, rows.end);
      op::cross_entropy<P>::forward(ctx, args);
    });
  CHECK(parts.total() == doctest::Approx(whole.total()).epsilon(1e-14));
  CHECK(parts.lse.same_bits(whole.lse));
}

TEST_CASE_TEMPLATE("cross_entropy gives the same bits on any number of threads", P, fp64_reference, fp32) {
  fixture<P> one({97, 523}, 1);
  one.forward(1), one.backward(1);
  for (const int threads : {1, 2, 3, 7}) {
    fixture<P> other({97, 523}, 1);
    other.forward(threads), other.backward(threads);
    CAPTURE(threads);
    CHECK(other.loss.same_bits(one.loss));
    CHECK(other.lse.same_bits(one.lse));
    CHECK(other.dlogits.same_bits(one.dlogits));
  }
}

TEST_CASE_TEMPLATE("cross_entropy writes the gradient over the logits", P, fp64_reference, fp32) {
  for (const shape_case shape : shapes) {
    fixture<P> apart(shape, 2), over(shape, 2);
    apart.forward(), apart.backward(), over.forward();
    support::run(2, [&](auto& ctx) {
      auto args = over.backward_args();
      args.dlogits = over.logits;
      op::cross_entropy<P>::backward(ctx, args);
    });
    CHECK(over.logits.values() == apart.dlogits.values());
    CHECK(over.logits.intact());
  }
}

TEST_CASE_TEMPLATE("cross_entropy ignores a target of -1 but not the row's statistics", P, fp64_reference,
                   fp32) {
  fixture<P> f({6, 20}, 1);
  for (index_t v = 0; v < 20; ++v) f.logits.get()(4, v) = accumulator<P>(NAN);  // row 4 is ignored
  f.forward(), f.backward();
  CHECK(std::isfinite(f.total()));
  const std::vector<double> dlogits = f.dlogits.values(), lse = f.lse.values();
  for (const std::size_t ignored : {1, 4})
    for (std::size_t v = 0; v < 20; ++v) CHECK(dlogits[ignored * 20 + v] == 0);
  CHECK(std::isfinite(lse[1]));
  CHECK(std::isnan(lse[4]));

  f.targets.fill([](index_t) { return -1; });
  f.loss.fill([](index_t) { return 0.0; });
  f.forward();
  CHECK(f.total() == 0);
}

TEST_CASE_TEMPLATE("cross_entropy of huge and of equal logits", P, fp64_reference, fp32) {
  fixture<P> f({3, 40}, 0);
  f.targets.fill([](index_t t) { return static_cast<int>(t); });
  f.scale = 1;
  f.logits.fill([](index_t i) {
    const index_t row = i / 40, column = i % 40;
    return row == 0   ? 1e30
           : row == 1 ? (column == 1 ? 1e4 : -1e4)
                      : -3e4;  // equal; certain; equal and far below
  });
  f.forward(), f.backward();
  CHECK(f.total() == doctest::Approx(2 * std::log(40.0)).epsilon(1e-6));
  const std::vector<double> d = f.dlogits.values();
  CHECK(d[40 + 1] == 0);
  CHECK(d[40 + 2] == 0);
  CHECK(d[80 + 3] ==
        doctest::Approx(1.0 / 40).epsilon(1e-2));  // lse near -3e4 has four digits behind the point in float
}

TEST_CASE_TEMPLATE("cross_entropy takes -infinity as impossible and hides no bad number", P, fp64_reference,
                   fp32) {
  using acc = accumulator<P>;
  const acc infinity = std::numeric_limits<acc>::infinity();
  fixture<P> masked({1, 50}, 1);
  masked.targets.fill([](index_t) { return 7; });
  for (index_t v = 8; v < 50; ++v) masked.logits.get()(0, v) = -infinity;
  masked.forward(), masked.backward();
  std::vector<double> possible = masked.logits.values();
  possible.resize(8);
  const auto expected = oracle::cross_entropy(possible, {7}, masked.scale);
  CHECK(masked.total() == doctest::Approx(expected.loss).epsilon(1e-6));
  for (index_t v = 8; v < 50; ++v) CHECK(masked.dlogits.get()(0, v) == 0);

  masked.targets.fill([](index_t) { return 9; });  // the target itself is impossible
  masked.forward();
  CHECK(masked.total() == INFINITY);

  for (const acc bad : {infinity, acc(NAN), acc(-NAN)})
    for (const index_t at : {0, 7, 13, 48}) {
      fixture<P> f({3, 49}, 1);
      f.targets.fill([](index_t) { return 7; });
      f.logits.get()(1, at) = bad;
      f.forward(), f.backward();
      CHECK(!std::isfinite(f.total()));
      CHECK(!std::isfinite(f.lse.get()(1)));
      CHECK(std::isfinite(f.lse.get()(0)));
      CHECK(std::isfinite(f.lse.get()(2)));
      for (index_t v = 0; v < 49; ++v) {
        CHECK(!std::isfinite(f.dlogits.get()(1, v)));
        CHECK(std::isfinite(f.dlogits.get()(2, v)));
      }
    }

  fixture<P> empty({1, 5}, 0);
  empty.targets.fill([](index_t) { return 2; });
  empty.logits.fill([&](index_t) { return -infinity; });
  empty.forward();
  CHECK(std::isnan(empty.total()));
}

TEST_CASE_TEMPLATE("cross_entropy of no tokens adds nothing", P, fp64_reference, fp32, bf16_mixed) {
  fixture<P> f({0, 8}, 0);
  f.forward(), f.backward();
  CHECK(f.total() == 0);
  CHECK(f.intact());
}

TEST_CASE("cross_entropy sums the tokens in double") {
  fixture<fp32> f({20000, 3}, 0);
  f.scale = 1;
  f.logits.fill([](index_t i) { return i % 3 == 0 ? 1e-3 : 0.0; });
  f.targets.fill([](index_t) { return 0; });
  f.forward();
  const auto expected = f.expected();
  CHECK(std::fabs(f.total() - expected.loss) <=
        3e-7 * expected.loss);  // a float sum would be off by 1e-5 and more
}

TEST_CASE("cross_entropy names the target that is no token") {
  using P = fp32;
  fixture<P> f({6, 20}, 0);
  const auto forward = [&] { f.forward(3); };
  const auto backward = [&] { f.backward(3); };
  f.targets.get()(3) = 20, f.targets.get()(5) = -2;
  const auto lse = f.lse;
  CHECK(support::raised(forward) ==
        "cross_entropy.forward: the target of token 3 is 20, expected -1 (ignored) or an id below 20");
  CHECK(support::raised(backward) ==
        "cross_entropy.backward: the target of token 3 is 20, expected -1 (ignored) or an id below 20");
  f.targets.get()(3) = 19;
  CHECK(support::raised(forward) ==
        "cross_entropy.forward: the target of token 5 is -2, expected -1 (ignored) or an id below 20");
  CHECK(f.lse.same_bits(lse));
  CHECK(f.total() == 0);
}

TEST_CASE("cross_entropy on one's own pointers, as the manual shows it") {
  fixture<fp32> f({6, 33}, 0);
  f.scale = 1.0 / 6;
  const auto expected = f.expected();
  const double loss = loss_and_gradient(f.logits.get().data(), f.targets.get().data(), 6, 33);
  CHECK(loss == doctest::Approx(expected.loss).epsilon(1e-6));
  constexpr double row = support::tolerance<fp32>::row;
  CHECK(support::worst_row(f.logits.values(), expected.dlogits, f.vocab, f.scale) <= row);
}

TEST_CASE("cross_entropy says what does not fit") {
  using P = fp32;
  fixture<P> f({4, 8}, 0), other({3, 9}, 0);
  guarded<double, 1> two(0, 2);
  const auto forward = [&](auto&& change) {
    auto args = f.forward_args();
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.targets = other.targets; }) ==
        "cross_entropy.forward: targets has 3 tokens, logits has 4");
  CHECK(forward([&](auto& a) { a.lse = {}; }) == "cross_entropy.forward: lse has 0 tokens, logits has 4");
  CHECK(forward([&](auto& a) { a.loss = two; }) ==
        "cross_entropy.forward: loss has 2 elements, a scalar has 1");
  CHECK(forward([&](auto& a) { a.logits = view<const float, 2>(nullptr, 4, 8); }) ==
        "cross_entropy.forward: logits has 32 elements and a null pointer");
  const auto backward = [&](auto&& change) {
    auto args = f.backward_args();
    change(args);
    return args.check().message();
  };
  CHECK(backward([](auto&) {}) == "");
  CHECK(backward([&](auto& a) { a.dlogits = other.dlogits; }) ==
        "cross_entropy.backward: dlogits has 3 tokens, logits has 4");
  CHECK(backward([&](auto& a) { a.dlogits = f.dlogits.get().columns(0, 7); }) ==
        "cross_entropy.backward: dlogits has 7 columns, logits has 8");
}
