// SPDX-License-Identifier: MIT
#include <dsv3/cpu/linear/grouped_gemm.hpp>

#include <oracle/grouped_gemm.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

/// How tokens lie: `alignment` rows at a time for each expert, or `spacing` rows whatever the count.
struct expert_case {
  const char* name;
  std::vector<std::int32_t> counts;
  std::int32_t alignment = 1, spacing = 0;
};

std::vector<expert_case> expert_cases() {
  std::vector<std::int32_t> many;
  for (std::int32_t e = 0; e < 64; ++e) many.push_back(e * 37 % 23);
  return {{"uneven", {3, 0, 5, 1}},
          {"aligned", {3, 0, 5, 1, 8}, 8},
          {"masked", {3, 0, 5, 1, 12}, 1, 12},
          {"all on the last", {0, 0, 0, 90}, 16},
          {"all on the first", {90, 0, 0, 0}},
          {"no tokens", {0, 0, 0}, 8},
          {"one expert", {17}},
          {"one much larger", {2, 330, 64, 0}, 4},
          {"many", many, 4}};
}

constexpr double bystander = 777;  // what rows hold that nobody may write

/// All tensors of the experts' products. Padding rows of inputs are poison, those of outputs hold
/// `bystander`.
template <class P>
struct fixture {
  using op = dsv3::op::grouped_gemm<P>;
  std::vector<std::int32_t> offsets, counts;
  oracle::grouped_extents extents;
  index_t experts, in, out;
  guarded<activation<P>> x, dx, y, dy;
  guarded<weight<P>, 3> w;
  guarded<gradient<P>, 3> dw;

  fixture(const expert_case& c, index_t in_, index_t out_, index_t gap)
      : offsets(offsets_of(c)),
        counts(c.counts),
        extents{static_cast<std::size_t>(in_),
                static_cast<std::size_t>(out_),
                {offsets.begin(), offsets.end()},
                {counts.begin(), counts.end()}},
        experts(static_cast<index_t>(counts.size())),
        in(in_),
        out(out_),
        x(gap, offsets.back() + 2, in),
        dx(2 * gap, offsets.back() + 2, in),
        y(gap % 8 == 0 ? gap : gap + 1, offsets.back() + 2, out),
        dy(gap, offsets.back() + 2, out),
        w(gap, experts, out, in),
        dw(2 * gap, experts, out, in) {
    fill_live(x, 1), fill_live(dy, 2), w.normal(3), dw.normal(4);
    y.fill([](index_t) { return bystander; }), dx.fill([](index_t) { return bystander; });
  }

  static std::vector<std::int32_t> offsets_of(const expert_case& c) {
    std::vector<std::int32_t> result{0};
    for (const std::int32_t count : c.counts)
      result.push_back(result.back() +
                       static_cast<std::int32_t>(c.spacing > 0 ? c.spacing : round_up(count, c.alignment)));
    return result;
  }

  void fill_live(guarded<activation<P>>& rows, std::uint64_t stream) {
    const random_stream random(20260101, stream);
    const auto all = rows.get();
    std::uint64_t at = 0;
    for (std::size_t e = 0; e < counts.size(); ++e)
      for (index_t r = offsets[e]; r < offsets[e] + counts[e]; ++r)
        for (index_t i = 0; i < all.extent(1); ++i) all(r, i) = activation<P>(random.normal(at++));
  }

  template <class T>
  ragged_view<T> ragged(guarded<std::remove_const_t<T>>& rows) {
    return {rows.get(), view<const std::int32_t, 1>{offsets.data(), experts + 1},
            view<const std::int32_t, 1>{counts.data(), experts}};
  }

  void forward(int threads) {
    support::run(threads, [&](auto& ctx) {
      op::forward(ctx, {.x = ragged<const activation<P>>(x), .w = w, .y = ragged<activation<P>>(y)});
    });
  }
  void backward_data(int threads) {
    support::run(threads, [&](auto& ctx) {
      op::backward_data(ctx,
                        {.dy = ragged<const activation<P>>(dy), .w = w, .dx = ragged<activation<P>>(dx)});
    });
  }
  void backward_weights(int threads, store into = store::add) {
    support::run(threads, [&](auto& ctx) {
      op::backward_weights(ctx, {.dy = ragged<const activation<P>>(dy),
                                 .x = ragged<const activation<P>>(x),
                                 .dw = dw,
                                 .into = into});
    });
  }
  void all(int threads) { forward(threads), backward_data(threads), backward_weights(threads); }

  bool intact() {
    return x.intact() && dx.intact() && w.intact() && y.intact() && dy.intact() && dw.intact();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("grouped_gemm agrees with the oracle", P, fp64_reference, fp32, bf16_mixed) {
  constexpr double row = support::tolerance<P>::row;
  struct widths {
    index_t in, out;
  };
  for (const expert_case& experts : expert_cases())
    for (const widths width :
         {widths{1, 1}, widths{7, 5}, widths{64, 48}, widths{136, 264}, widths{290, 131}})
      for (const int threads : {1, 2, 3}) {
        CAPTURE(experts.name);
        CAPTURE(width.in);
        CAPTURE(width.out);
        CAPTURE(threads);
        fixture<P> f(experts, width.in, width.out, threads == 1 ? 0 : 3);
        auto y = f.y.values(), dx = f.dx.values(), dw = f.dw.values();
        oracle::grouped_gemm(f.extents, f.x.values(), f.w.values(), y);
        oracle::grouped_gemm_data(f.extents, f.dy.values(), f.w.values(), dx);
        oracle::grouped_gemm_weights(f.extents, f.dy.values(), f.x.values(), dw);
        f.all(threads);
        CHECK(support::worst_row(f.y.values(), y, width.out, std::sqrt(double(width.in))) <= row);
        CHECK(support::worst_row(f.dx.values(), dx, width.in, std::sqrt(double(width.out))) <= row);
        CHECK(support::worst_row(f.dw.values(), dw, width.in, 10) <= row);
        CHECK(f.intact());
      }
}

TEST_CASE("grouped_gemm agrees with the oracle over many tiles") {
  using P = bf16_mixed;
  constexpr double row = support::tolerance<P>::row;
  for (const index_t out : {1032, 1000})  // an odd and an even number of tiles
    for (const index_t gap : {0, 8}) {
      CAPTURE(out);
      CAPTURE(gap);
      fixture<P> f({"", {2, 330, 0, 128, 65}, 8}, 328, out, gap);
      auto y = f.y.values(), dx = f.dx.values(), dw = f.dw.values();
      oracle::grouped_gemm(f.extents, f.x.values(), f.w.values(), y);
      oracle::grouped_gemm_data(f.extents, f.dy.values(), f.w.values(), dx);
      oracle::grouped_gemm_weights(f.extents, f.dy.values(), f.x.values(), dw);
      f.all(2);
      CHECK(support::worst_row(f.y.values(), y, f.out, std::sqrt(328.)) <= row);
      CHECK(support::worst_row(f.dx.values(), dx, f.in, std::sqrt(double(out))) <= row);
      CHECK(support::worst_row(f.dw.values(), dw, f.in, 10) <= row);
      std::fill(dw.begin(), dw.end(), 0.0);
      oracle::grouped_gemm_weights(f.extents, f.dy.values(), f.x.values(), dw);
      f.dw.fill([](index_t) { return support::poison<double>(); });
      f.backward_weights(2, store::write);
      CHECK(support::worst_row(f.dw.values(), dw, f.in, 10) <= row);
      CHECK(f.intact());
    }
}

TEST_CASE_TEMPLATE("grouped_gemm writes gradients of all experts, whatever they held", P, fp64_reference,
                   fp32, bf16_mixed) {
  for (const expert_case& experts : expert_cases())
    for (const index_t width : {7, 136}) {
      CAPTURE(experts.name);
      CAPTURE(width);
      fixture<P> f(experts, width, width + 128, width == 7 ? 1 : 0);
      std::vector<double> dw(f.dw.values().size(), 0.0);
      oracle::grouped_gemm_weights(f.extents, f.dy.values(), f.x.values(), dw);
      f.dw.fill([](index_t) { return support::poison<double>(); });
      f.backward_weights(2, store::write);
      CHECK(support::worst_row(f.dw.values(), dw, width, 10) <= support::tolerance<P>::row);
      const auto found = f.dw.values();
      bool idle_zero = true;
      const std::size_t matrix = found.size() / f.counts.size();
      for (std::size_t i = 0; i < found.size(); ++i)
        if (f.counts[i / matrix] == 0) idle_zero = idle_zero && found[i] == 0;
      CHECK(idle_zero);
      CHECK(f.intact());
    }
}

TEST_CASE_TEMPLATE("grouped_gemm leaves padding and idle experts alone", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const expert_case& experts : expert_cases()) {
    CAPTURE(experts.name);
    fixture<P> f(experts, 30, 20, 1);
    const auto y = f.y.values(), dw = f.dw.values();
    f.all(2);
    std::vector<bool> live(y.size());
    for (std::size_t e = 0; e < f.counts.size(); ++e)
      for (std::size_t r = f.extents.offsets[e]; r < f.extents.offsets[e] + f.extents.counts[e]; ++r)
        for (std::size_t o = 0; o < 20; ++o) live[r * 20 + o] = true;
    const auto y_after = f.y.values(), dw_after = f.dw.values();
    bool padding_kept = true, live_written = true, idle_kept = true;
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (live[i])
        live_written = live_written && std::isfinite(y_after[i]) && y_after[i] != y[i];
      else
        padding_kept = padding_kept && y_after[i] == y[i];
    }
    for (std::size_t e = 0; e < f.counts.size(); ++e)
      for (std::size_t i = e * 600; i < (e + 1) * 600; ++i)
        if (f.counts[e] == 0) idle_kept = idle_kept && dw_after[i] == dw[i];
    CHECK(padding_kept);
    CHECK(live_written);
    CHECK(idle_kept);
  }
}

TEST_CASE("grouped_gemm gradients are the slopes of the oracle") {
  fixture<fp64_reference> f({"", {2, 0, 3}, 4}, 4, 3, 1);
  f.dw.fill([](index_t) { return 0; });
  f.all(2);
  std::vector<double> x = f.x.values(), w = f.w.values();
  const std::vector<double> dy = f.dy.values();
  const auto loss = [&] {
    std::vector<double> y(dy.size(), 0);
    oracle::grouped_gemm(f.extents, x, w, y);
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i)
      if (std::isfinite(dy[i])) total += dy[i] * y[i];
    return total;
  };
  std::vector<double> dx = f.dx.values(), dw;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (std::isfinite(x[i])) dx[i] = support::central_difference(x[i], support::difference_step, loss);
  for (double& number : w) dw.push_back(support::central_difference(number, support::difference_step, loss));
  CHECK(support::worst_row(f.dx.values(), dx, 4) <= support::difference_tolerance);
  CHECK(support::worst_row(f.dw.values(), dw, 4, 1e-3) <= support::difference_tolerance);
}

TEST_CASE_TEMPLATE("grouped_gemm writes activation gradients and adds weight gradients", P, fp64_reference,
                   fp32) {
  fixture<P> f({"", {30, 0, 70}, 8}, 40, 50, 1);
  f.dw.fill([](index_t) { return 0; });
  f.all(2);
  const auto y = f.y, dx = f.dx;
  auto twice = f.dw.values();
  for (double& value : twice) value *= 2;
  f.all(2);
  CHECK(f.y.same_bits(y));
  CHECK(f.dx.same_bits(dx));
  CHECK(support::worst_row(f.dw.values(), twice, 40) <= support::tolerance<P>::row);
}

TEST_CASE_TEMPLATE("grouped_gemm gives each of a few rows the same bits whichever come with it", P,
                   fp64_reference, fp32, bf16_mixed) {
  // Row r of an expert against the same row alone with it; the others have other numbers of rows, some many.
  fixture<P> together({"", {16, 0, 3, 40, 1, 9, 8}}, 301, 83, 3);
  for (const int threads : {1, 2, 3}) {
    together.forward(threads);
    for (const index_t expert : {0, 2, 4, 5, 6})
      for (index_t r = 0; r < together.counts[static_cast<std::size_t>(expert)]; ++r) {
        const index_t row = together.offsets[static_cast<std::size_t>(expert)] + r;
        guarded<activation<P>> y(0, 1, 83);
        const std::vector<std::int32_t> starts{0, 1}, one{1};
        const view<const std::int32_t, 1> offsets{starts.data(), 2}, counts{one.data(), 1};
        support::run(1, [&](auto& ctx) {
          fixture<P>::op::forward(ctx, {.x = {together.x.get().rows(row, row + 1), offsets, counts},
                                        .w = together.w.get().rows(expert, expert + 1),
                                        .y = {y, offsets, counts}});
        });
        CHECK(std::memcmp(y.get()[0].data(), together.y.get()[row].data(), 83 * sizeof(activation<P>)) == 0);
      }
  }
}

TEST_CASE_TEMPLATE("grouped_gemm repeats its bits", P, fp64_reference, fp32, bf16_mixed) {
  for (const expert_case& experts : expert_cases())
    for (const int threads : {1, 2, 3}) {
      CAPTURE(experts.name);
      CAPTURE(threads);
      fixture<P> one(experts, 130, 90, 1), other(experts, 130, 90, 1);
      one.all(threads), other.all(threads);
      CHECK(other.y.same_bits(one.y));
      CHECK(other.dx.same_bits(one.dx));
      CHECK(other.dw.same_bits(one.dw));
    }
}

TEST_CASE_TEMPLATE("grouped_gemm keeps bad numbers in their row and expert", P, fp64_reference, fp32,
                   bf16_mixed) {
  for (const float bad : {NAN, INFINITY}) {
    fixture<P> f({"", {4, 5}, 8}, 6, 7, 1);
    f.x.get()(2, 3) = activation<P>(bad);  // a row of expert 0
    f.w.get()(1, 4, 1) = weight<P>(bad);   // a column of expert 1
    f.forward(2);
    for (index_t r = 0; r < 4; ++r)
      for (index_t o = 0; o < 7; ++o) CHECK(std::isfinite(double(f.y.get()(r, o))) == (r != 2));
    for (index_t r = 8; r < 13; ++r)
      for (index_t o = 0; o < 7; ++o) CHECK(std::isfinite(double(f.y.get()(r, o))) == (o != 4));
  }
}

TEST_CASE("grouped_gemm says what does not fit") {
  using P = fp32;
  using op = dsv3::op::grouped_gemm<P>;
  fixture<P> f({"", {4, 5}, 8}, 6, 7, 0), other({"", {4, 5, 6}, 8}, 9, 8, 0);
  const auto x = f.ragged<const float>(f.x), dy = f.ragged<const float>(f.dy);
  const auto y = f.ragged<float>(f.y), dx = f.ragged<float>(f.dx);

  const auto forward = [&](auto&& change) {
    op::forward_args args{.x = x, .w = f.w, .y = y};
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.w = other.w; }) ==
        "grouped_gemm.forward: w has 3 experts, x as groups has 2");
  CHECK(forward([&](auto& a) { a.x.rows = other.x; }) == "grouped_gemm.forward: w has 6 columns, x has 9");
  CHECK(forward([&](auto& a) { a.y.counts = other.ragged<float>(other.y).counts; }) ==
        "grouped_gemm.forward: y has 3 groups, x has 2");
  CHECK(forward([&](auto& a) { a.y.rows = other.y; }) ==
        "grouped_gemm.forward: y has 8 columns, w as rows has 7");
  CHECK(forward([&](auto& a) { a.y.rows = f.y.get().rows(0, 9); }) ==
        "grouped_gemm.forward: y has 9 rows, x has 18");

  const auto data = [&](auto&& change) {
    op::backward_data_args args{.dy = dy, .w = f.w, .dx = dx};
    change(args);
    return args.check().message();
  };
  CHECK(data([](auto&) {}) == "");
  CHECK(data([&](auto& a) { a.w = other.w; }) ==
        "grouped_gemm.backward_data: w has 3 experts, dy as groups has 2");
  CHECK(data([&](auto& a) { a.dy.rows = other.y; }) ==
        "grouped_gemm.backward_data: dy has 8 columns, w as rows has 7");
  CHECK(data([&](auto& a) { a.dx.rows = other.dx; }) ==
        "grouped_gemm.backward_data: dx has 9 columns, w has 6");

  const auto weights = [&](auto&& change) {
    op::backward_weights_args args{.dy = dy, .x = x, .dw = f.dw};
    change(args);
    return args.check().message();
  };
  CHECK(weights([](auto&) {}) == "");
  CHECK(weights([&](auto& a) { a.dw = other.dw; }) ==
        "grouped_gemm.backward_weights: dw has 3 experts, dy as groups has 2");
  CHECK(weights([&](auto& a) { a.x.rows = other.x; }) ==
        "grouped_gemm.backward_weights: dw has 6 columns, x has 9");
  CHECK(weights([&](auto& a) { a.dy.rows = other.y; }) ==
        "grouped_gemm.backward_weights: dw has 7 rows, dy as columns has 8");

  cpu_context<> ctx;
  op::forward_args bad{.x = x, .w = other.w, .y = y};
  CHECK(support::raised([&] { op::forward(ctx, bad); }) ==
        "grouped_gemm.forward: w has 3 experts, x as groups has 2");
}
