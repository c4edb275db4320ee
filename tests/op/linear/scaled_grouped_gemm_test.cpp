// SPDX-License-Identifier: MIT
#include <dsv3/cpu/linear/scaled_gemm.hpp>
#include <dsv3/cpu/linear/scaled_grouped_gemm.hpp>

#include <oracle/grouped_gemm.hpp>
#include <oracle/scaled_matrix.hpp>
#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/run.hpp>
#include <support/scaled.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

/// The recipe's precision with outputs that are not rounded, to see the sums.
struct unrounded : fp8_tilewise {
  using activation = float;
};

/// How tokens lie: `alignment` rows at a time for each expert, or `spacing` rows whatever the count.
struct expert_case {
  const char* name;
  std::vector<std::int32_t> counts;
  std::int32_t alignment = 1, spacing = 0;
};

std::vector<expert_case> expert_cases() {
  return {{"uneven", {3, 0, 130, 1}},
          {"aligned", {3, 0, 128, 1, 257}, 128},
          {"masked", {3, 0, 131, 1}, 1, 200},
          {"all on the last", {0, 0, 0, 290}, 16},
          {"all on the first", {140, 0, 0, 0}},
          {"no tokens", {0, 0, 0}, 8},
          {"one expert", {170}},
          {"many", {7, 19, 0, 1, 12, 23, 6, 5, 128, 2, 9, 17, 30, 0, 64, 11}, 4}};
}

constexpr double bystander = 777;  // what rows hold that nobody may write

template <class Gradient>
constexpr oracle::narrow_format format_of = std::is_same_v<Gradient, fp8_e4m3> ? oracle::e4m3 : oracle::e5m2;

std::size_t size(index_t i) { return static_cast<std::size_t>(i); }

oracle::scaled_matrix tiles_of(index_t rows, index_t columns, std::uint64_t stream, index_t tile_rows,
                               oracle::narrow_format format) {
  const random_stream random(20260101, stream);
  std::vector<double> numbers;
  for (index_t i = 0; i < rows * columns; ++i)
    numbers.push_back(random.normal(static_cast<std::uint64_t>(i)) * (1 + i / columns % 5));
  return oracle::quantized(numbers, size(rows), size(columns), size(tile_rows), 128, format);
}

/// All tensors of the experts' products; without a gap, rows lie as copy engines ask for where widths are
/// multiples of 16. Padding of inputs is poison, that of outputs holds `bystander`.
/// `*_values` are what the live numbers stand for; what backward reads transposed is drawn on its own.
template <class P, class Gradient = fp8_e4m3>
struct fixture {
  using op = dsv3::op::scaled_grouped_gemm<P, Gradient>;
  std::vector<std::int32_t> offsets, counts;
  oracle::grouped_extents extents;
  index_t experts, in, out, capacity;
  row_groups groups;
  support::scaled_operand<fp8_e4m3, row_tile> x, x_t;
  support::scaled_operand<Gradient, row_tile> dy, dy_t;
  support::scaled_operand<fp8_e4m3, block_tile> w;
  std::vector<double> x_values, dy_values, w_values, x_t_values, dy_t_values;
  guarded<activation<P>> y, dx;
  guarded<gradient<P>, 3> dw;
  scaled_product_options product;

  fixture(const expert_case& c, index_t in_, index_t out_, index_t gap)
      : offsets(offsets_of(c)),
        counts(c.counts),
        extents{size(in_), size(out_), {offsets.begin(), offsets.end()}, {counts.begin(), counts.end()}},
        experts(static_cast<index_t>(counts.size())),
        in(in_),
        out(out_),
        capacity(round_up(offsets.back() + 2, gap == 0 ? 16 : 1)),
        groups{view<const std::int32_t, 1>{offsets.data(), experts + 1},
               view<const std::int32_t, 1>{counts.data(), experts}, c.spacing > 0 ? c.spacing : c.alignment},
        x(gap, 1, capacity, in, capacity, ceil_div(in, 128)),
        x_t(gap == 0 ? 0 : gap + 1, 1, in, capacity, in, groups.tiles(capacity),
            support::scales_lie::by_column),
        dy(2 * gap, 1, capacity, out, capacity, ceil_div(out, 128), support::scales_lie::by_column),
        dy_t(gap, 1, out, capacity, out, groups.tiles(capacity)),
        w(gap, experts, out, in, ceil_div(out, 128), ceil_div(in, 128)),
        x_values(size(capacity * in), NAN),
        dy_values(size(capacity * out), NAN),
        x_t_values(x_values),
        dy_t_values(dy_values),
        y(gap == 0 ? 0 : gap + 1, capacity, out),
        dx(2 * gap, capacity, in),
        dw(2 * gap, experts, out, in) {
    for (index_t e = 0; e < experts; ++e) {
      const std::uint64_t stream = 10 * static_cast<std::uint64_t>(e);
      auto weights = tiles_of(out, in, stream, 128, oracle::e4m3);
      w.put(weights, e, 0, 0, 0, 0);
      for (const double value : weights.values()) w_values.push_back(value);
      put_rows(e, tiles_of(counts[size(e)], in, stream + 1, 1, oracle::e4m3), x, x_values);
      put_rows(e, tiles_of(counts[size(e)], out, stream + 2, 1, format_of<Gradient>), dy, dy_values);
      put_columns(e, tiles_of(in, counts[size(e)], stream + 3, 1, oracle::e4m3), x_t, x_t_values);
      put_columns(e, tiles_of(out, counts[size(e)], stream + 4, 1, format_of<Gradient>), dy_t, dy_t_values);
    }
    y.fill([](index_t) { return bystander; }), dx.fill([](index_t) { return bystander; });
    dw.normal(4);
  }

  static std::vector<std::int32_t> offsets_of(const expert_case& c) {
    std::vector<std::int32_t> result{0};
    for (const std::int32_t count : c.counts)
      result.push_back(result.back() +
                       static_cast<std::int32_t>(c.spacing > 0 ? c.spacing : round_up(count, c.alignment)));
    return result;
  }

  // An expert's rows, and what they stand for as rows of [capacity, width].
  void put_rows(index_t e, oracle::scaled_matrix m, auto& to, std::vector<double>& values) {
    to.put(m, 0, offsets[size(e)], 0, offsets[size(e)], 0);
    const auto live = m.values();
    std::copy(live.begin(), live.end(), values.begin() + offsets[size(e)] * static_cast<index_t>(m.columns));
  }
  // An expert's columns, its tiles where the contract numbers them; the values as rows of [capacity, width].
  void put_columns(index_t e, oracle::scaled_matrix m, auto& to, std::vector<double>& values) {
    to.put(m, 0, 0, offsets[size(e)], 0, offsets[size(e)] / 128 + e);
    const auto live = m.values();
    for (std::size_t i = 0; i < m.rows; ++i)
      for (std::size_t t = 0; t < m.columns; ++t)
        values[(size(offsets[size(e)]) + t) * m.rows + i] = live[i * m.columns + t];
  }

  void forward(int threads) {
    support::run(threads, [&](auto& ctx) {
      op::forward(ctx, {.x = x.get(), .w = w.stack(), .groups = groups, .y = y, .product = product});
    });
  }
  void backward_data(int threads) {
    support::run(threads, [&](auto& ctx) {
      op::backward_data(ctx,
                        {.dy = dy.get(), .w = w.stack(), .groups = groups, .dx = dx, .product = product});
    });
  }
  void backward_weights(int threads, store into = store::add) {
    support::run(threads, [&](auto& ctx) {
      op::backward_weights(ctx, {.dy_t = dy_t.get(),
                                 .x_t = x_t.get(),
                                 .groups = groups,
                                 .dw = dw,
                                 .into = into,
                                 .product = product});
    });
  }
  void all(int threads) { forward(threads), backward_data(threads), backward_weights(threads); }

  bool intact() {
    return x.intact() && dx.intact() && w.intact() && y.intact() && dy.intact() && dw.intact() &&
           x_t.intact() && dy_t.intact();
  }
};

template <class P, class Gradient>
void agrees(const expert_case& experts, index_t in, index_t out, int threads, scaled_product_options product,
            double row, double weight_row) {
  CAPTURE(experts.name);
  CAPTURE(in);
  CAPTURE(out);
  CAPTURE(threads);
  fixture<P, Gradient> f(experts, in, out, threads == 1 ? 0 : 3);
  f.product = product;
  // Rows that belong to nobody keep what they held; experts without rows keep their gradient.
  auto y = f.y.values(), dx = f.dx.values(), dw = f.dw.values();
  oracle::grouped_gemm(f.extents, f.x_values, f.w_values, y);
  oracle::grouped_gemm_data(f.extents, f.dy_values, f.w_values, dx);
  oracle::grouped_gemm_weights(f.extents, f.dy_t_values, f.x_t_values, dw);
  f.all(threads);
  CHECK(support::worst_row(f.y.values(), y, out, std::sqrt(double(in))) <= row);
  CHECK(support::worst_row(f.dx.values(), dx, in, std::sqrt(double(out))) <= row);
  CHECK(support::worst_row(f.dw.values(), dw, in, 10) <= weight_row);

  // Written, those of experts without rows are zero.
  std::fill(dw.begin(), dw.end(), 0.0);
  oracle::grouped_gemm_weights(f.extents, f.dy_t_values, f.x_t_values, dw);
  f.dw.fill([](index_t) { return support::poison<double>(); });
  f.backward_weights(threads, store::write);
  CHECK(support::worst_row(f.dw.values(), dw, in, 10) <= weight_row);
  CHECK(f.intact());
}

}  // namespace

TEST_CASE_TEMPLATE("scaled_grouped_gemm agrees with the oracle", Gradient, fp8_e4m3, fp8_e5m2) {
  constexpr double floats = support::tolerance<fp32>::row, bf16s = support::tolerance<bf16_mixed>::row;
  // Hopper's own matrix unit is asked for floats and gives what it has, where it takes the shape.
  constexpr double given = support::on_hopper ? support::few_bits_row : floats;
  struct widths {
    index_t in, out;
  };
  for (const expert_case& experts : expert_cases())
    for (const widths width : {widths{1, 1}, widths{130, 131}}) {
      agrees<unrounded, Gradient>(experts, width.in, width.out, 1, {}, floats, given);  // rows without gaps
      agrees<fp8_tilewise, Gradient>(experts, width.in, width.out, 2, {}, bf16s, floats);
      agrees<unrounded, Gradient>(experts, width.in, width.out, 3, {accumulator_model::hopper_fp22, 128},
                                  support::few_bits_row, support::few_bits_row);
    }
}

TEST_CASE_TEMPLATE("scaled_grouped_gemm agrees with the oracle over aligned rows", Gradient, fp8_e4m3,
                   fp8_e5m2) {
  // Hopper's own matrix unit is asked for floats and gives what it has.
  constexpr double floats = support::on_hopper ? support::few_bits_row : support::tolerance<fp32>::row;
  constexpr double bf16s = support::tolerance<bf16_mixed>::row;
  for (const expert_case& experts : expert_cases()) {
    agrees<fp8_tilewise, Gradient>(experts, 16, 48, 1, {}, bf16s, floats);
    agrees<fp8_tilewise, Gradient>(experts, 144, 272, 1, {}, bf16s, floats);
  }
  agrees<fp8_tilewise, Gradient>({"several tiles", {700, 0, 1, 520}, 64}, 272, 400, 1, {}, bf16s, floats);
  agrees<fp8_tilewise, Gradient>({"tiles of tokens", {700, 640, 1031}}, 400, 144, 1, {}, bf16s, floats);
}

TEST_CASE("scaled_grouped_gemm leaves padding and idle experts alone") {
  for (const expert_case& experts : expert_cases())
    for (const auto accumulator : {accumulator_model::fp32, accumulator_model::hopper_fp22}) {
      CAPTURE(experts.name);
      const bool aligned = accumulator == accumulator_model::fp32;
      const std::size_t in = aligned ? 32 : 30, out = aligned ? 16 : 20;
      fixture<fp8_tilewise> f(experts, static_cast<index_t>(in), static_cast<index_t>(out), aligned ? 0 : 1);
      f.product.accumulator = accumulator;
      const auto y = f.y.values(), dw = f.dw.values();
      f.all(2);
      std::vector<bool> live(y.size());
      for (std::size_t e = 0; e < f.counts.size(); ++e)
        for (std::size_t r = f.extents.offsets[e]; r < f.extents.offsets[e] + f.extents.counts[e]; ++r)
          for (std::size_t o = 0; o < out; ++o) live[r * out + o] = true;
      const auto y_after = f.y.values(), dw_after = f.dw.values();
      bool padding_kept = true, live_written = true, idle_kept = true;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (live[i])
          live_written = live_written && std::isfinite(y_after[i]) && y_after[i] != y[i];
        else
          padding_kept = padding_kept && y_after[i] == y[i];
      }
      for (std::size_t i = 0; i < dw.size(); ++i)
        if (f.counts[i / (in * out)] == 0) idle_kept = idle_kept && dw_after[i] == dw[i];
      CHECK(padding_kept);
      CHECK(live_written);
      CHECK(idle_kept);
    }
}

TEST_CASE("scaled_grouped_gemm without groups is scaled_gemm") {
  fixture<fp8_tilewise> f({"", {150}}, 140, 131, 1);
  f.forward(2), f.backward_data(2);
  guarded<bf16> y(0, 150, 131), dx(0, 150, 140);
  const auto live = [](auto operand) {
    operand.values = operand.values.rows(0, 150), operand.scales = operand.scales.rows(0, 150);
    return operand;
  };
  support::run(2, [&](auto& ctx) {
    fixture<fp8_tilewise>::op::forward(
        ctx, {.x = live(f.x.get()), .w = f.w.stack(), .groups = {}, .y = y, .product = {}});
    dsv3::op::scaled_gemm<fp8_tilewise>::backward_data(
        ctx, {.dy = live(f.dy.get()), .w = f.w.stack()[0], .dx = dx, .product = {}});
  });
  for (index_t r = 0; r < 150; ++r) {
    CHECK(std::memcmp(y.get()[r].data(), f.y.get()[r].data(), 131 * sizeof(bf16)) == 0);
    CHECK(std::memcmp(dx.get()[r].data(), f.dx.get()[r].data(), 140 * sizeof(bf16)) == 0);
  }
}

TEST_CASE("scaled_grouped_gemm writes activation gradients and adds weight gradients") {
  fixture<unrounded> f({"", {30, 0, 170}, 8}, 40, 50, 1);
  f.dw.fill([](index_t) { return 0; });
  f.all(2);
  const auto y = f.y, dx = f.dx;
  auto twice = f.dw.values();
  for (double& value : twice) value *= 2;
  f.all(2);
  CHECK(f.y.same_bits(y));
  CHECK(f.dx.same_bits(dx));
  CHECK(support::worst_row(f.dw.values(), twice, 40) <= support::tolerance<fp32>::row);
}

TEST_CASE("scaled_grouped_gemm repeats its bits") {
  for (const expert_case& experts : expert_cases())
    for (const int threads : {1, 2, 3})
      for (const auto accumulator : {accumulator_model::fp32, accumulator_model::hopper_fp22}) {
        CAPTURE(experts.name);
        CAPTURE(threads);
        const bool few_bits = accumulator == accumulator_model::hopper_fp22;
        const bool aligned = threads == 1;
        const index_t in = aligned ? 144 : 130, out = aligned ? 96 : 90, gap = aligned ? 0 : 1;
        fixture<fp8_tilewise> one(experts, in, out, gap), other(experts, in, out, gap);
        one.product.accumulator = other.product.accumulator = accumulator;
        one.all(few_bits ? 1 : threads), other.all(threads);  // few bits: whatever the threads
        CHECK(other.y.same_bits(one.y));
        CHECK(other.dx.same_bits(one.dx));
        CHECK(other.dw.same_bits(one.dw));
      }
}

TEST_CASE("scaled_grouped_gemm says what does not fit") {
  using op = fixture<fp8_tilewise>::op;
  fixture<fp8_tilewise> f({"", {4, 5}, 8}, 6, 7, 1), other({"", {4, 5, 6}, 8}, 9, 8, 1);
  const auto forward = [&](auto&& change) {
    op::forward_args args{.x = f.x.get(), .w = f.w.stack(), .groups = f.groups, .y = f.y, .product = {}};
    change(args);
    return args.check().message();
  };
  CHECK(forward([](auto&) {}) == "");
  CHECK(forward([&](auto& a) { a.w = other.w.stack(); }) ==
        "scaled_grouped_gemm.forward: w has 3 experts, the groups has 2");
  CHECK(forward([&](auto& a) { a.x = other.x.get(); }) ==
        "scaled_grouped_gemm.forward: w has 6 columns, x has 9");
  CHECK(forward([&](auto& a) { a.y = other.y; }) ==
        "scaled_grouped_gemm.forward: y has 8 columns, w as rows has 7");
  CHECK(forward([&](auto& a) { a.y = f.y.get().rows(0, 9); }) ==
        "scaled_grouped_gemm.forward: y has 9 rows, x has 18");
  CHECK(forward([&](auto& a) { a.w.scales = a.w.scales.rows(0, 1); }) ==
        "scaled_grouped_gemm.forward: w as scales has 1 matrices, w as tiles has 2");
  CHECK(forward([&](auto& a) { a.product.promotion = 1; }) ==
        "scaled_grouped_gemm.forward: the promotion interval must be a multiple of 128, or 0, found interval "
        "1");

  const auto data = [&](auto&& change) {
    op::backward_data_args args{
        .dy = f.dy.get(), .w = f.w.stack(), .groups = f.groups, .dx = f.dx, .product = {}};
    change(args);
    return args.check().message();
  };
  CHECK(data([](auto&) {}) == "");
  CHECK(data([&](auto& a) { a.w = other.w.stack(); }) ==
        "scaled_grouped_gemm.backward_data: w has 3 experts, the groups has 2");
  CHECK(data([&](auto& a) { a.dy = other.dy.get(); }) ==
        "scaled_grouped_gemm.backward_data: dy has 8 columns, w as rows has 7");
  CHECK(data([&](auto& a) { a.dx = other.dx; }) ==
        "scaled_grouped_gemm.backward_data: dx has 9 columns, w has 6");

  const auto weights = [&](auto&& change) {
    op::backward_weights_args args{
        .dy_t = f.dy_t.get(), .x_t = f.x_t.get(), .groups = f.groups, .dw = f.dw, .product = {}};
    change(args);
    return args.check().message();
  };
  CHECK(weights([](auto&) {}) == "");
  CHECK(weights([&](auto& a) { a.dw = other.dw; }) ==
        "scaled_grouped_gemm.backward_weights: dw has 3 experts, the groups has 2");
  CHECK(weights([&](auto& a) { a.x_t = other.x_t.get(); }) ==
        "scaled_grouped_gemm.backward_weights: x_t has 26 columns, dy_t has 18");
  CHECK(weights([&](auto& a) { a.dy_t.values = a.dy_t.values.rows(0, 6); }) ==
        "scaled_grouped_gemm.backward_weights: dw has 7 rows, dy_t has 6");
  CHECK(weights([&](auto& a) { a.x_t.scales = a.x_t.scales.columns(0, 1); }) ==
        "scaled_grouped_gemm.backward_weights: x_t as scales has 1 columns, the groups as tiles has 3");
  CHECK(weights([&](auto& a) { a.dy_t.scales = a.dy_t.scales.rows(0, 5); }) ==
        "scaled_grouped_gemm.backward_weights: dy_t as scales has 5 rows, dy_t has 7");

  cpu_context<> ctx;
  op::forward_args bad{.x = f.x.get(), .w = other.w.stack(), .groups = f.groups, .y = f.y, .product = {}};
  CHECK(support::raised([&] { op::forward(ctx, bad); }) ==
        "scaled_grouped_gemm.forward: w has 3 experts, the groups has 2");
}
