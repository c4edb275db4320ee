// SPDX-License-Identifier: MIT
// Hopper's kernel for scaled tiles in every shape of tile, whatever the choice would be, beside the body for
// any GPU, which is compared with the oracle: sums that go round all stages, experts of many sizes.
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm_sm90.cuh>
#include <dsv3/exec/random.hpp>

#include <support/compare.hpp>
#include <support/tolerances.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <vector>

using namespace dsv3;
using namespace dsv3::cuda::detail;

namespace {

using P = fp8_tilewise;
using op_type = op::scaled_grouped_gemm<P>;

cuda_context<> context() {
  static cuda::device gpu;
  return {.state = {&gpu}};
}
bool on_hopper() {
  auto ctx = context();
  return cuda::device_of(ctx)->is_hopper();
}

/// Random finite codes, and scales that differ from tile to tile.
struct operand {
  std::vector<fp8_e4m3> codes;
  std::vector<float> scales;

  operand(index_t count, index_t tiles, std::uint64_t stream)
      : codes(static_cast<std::size_t>(count)), scales(static_cast<std::size_t>(tiles)) {
    const random_stream random(20260101, stream);
    for (std::size_t i = 0; i < codes.size(); ++i)
      codes[i] = fp8_e4m3(static_cast<float>(64 * random.normal(i)));
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f * static_cast<float>(1 + i % 7);
  }
};

template <class T>
std::vector<double> numbers(const std::vector<T>& from) {
  return {from.begin(), from.end()};
}

struct rows_of_experts {
  std::vector<std::int32_t> counts{300, 0, 1, 1180, 128, 64, 0, 517}, offsets{0};
  index_t alignment;

  explicit rows_of_experts(index_t of_offsets) : alignment(of_offsets) {
    for (const std::int32_t count : counts)
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(round_up(count, alignment)));
  }
  index_t experts() const { return static_cast<index_t>(counts.size()); }
  index_t capacity() const { return round_up(offsets.back(), 16); }
  row_groups groups() const {
    return {view<const std::int32_t, 1>{offsets.data(), experts() + 1},
            view<const std::int32_t, 1>{counts.data(), experts()}, alignment};
  }
};

/// run(T{}, output) for every shape of tile, twice: near what the body for any GPU makes, and always the same
/// bits.
template <class Number, class Run, class Expected>
void same_for_all_shapes(std::vector<Number> initial, index_t width, double tolerance, Run&& run,
                         Expected&& expected) {
  auto made = initial;
  expected(made);
  const auto one = [&]<class T>(T shape) {
    auto output = initial;
    run(shape, output);
    CAPTURE(T::rows);
    CAPTURE(T::columns);
    CHECK(support::worst_row(numbers(output), numbers(made), width) <= tolerance);
    return output;
  };
  const auto bits = one(tall_tiles{});
  const auto agrees = [&](const auto& other) {
    CHECK(std::memcmp(other.data(), bits.data(), bits.size() * sizeof(Number)) == 0);
  };
  agrees(one(tall_tiles{}));
  agrees(one(square_tiles{})), agrees(one(square_tiles{}));
  agrees(one(narrow_tiles{})), agrees(one(narrow_tiles{}));
}

}  // namespace

TEST_CASE("Hopper multiplies the experts' rows in tiles of every shape") {
  if (!on_hopper()) return;
  auto ctx = context();
  constexpr index_t in = 1680, out = 400, tiles = ceil_div(in, 128), blocks = ceil_div(out, 128);
  for (const index_t alignment : {1, 128})
    for (const store into : {store::write, store::add}) {
      CAPTURE(alignment);
      const rows_of_experts rows(alignment);
      const index_t capacity = rows.capacity();
      const operand x(capacity * in, capacity * tiles, 1),
          w(rows.experts() * out * in, rows.experts() * blocks * tiles, 2);
      const index_t scale_extents[] = {rows.experts(), blocks, tiles},
                    scale_strides[] = {blocks * tiles, tiles, 1}, row_extents[] = {capacity, tiles},
                    row_strides[] = {1, capacity};
      op_type::forward_args args{.x = {view<const fp8_e4m3, 2>{x.codes.data(), capacity, in},
                                       {x.scales.data(), row_extents, row_strides}},
                                 .w = {view<const fp8_e4m3, 3>{w.codes.data(), rows.experts(), out, in},
                                       {w.scales.data(), scale_extents, scale_strides}},
                                 .groups = rows.groups(),
                                 .y = {}};
      const auto problem = [&](std::vector<bf16>& y) {
        args.y = view<bf16, 2>{y.data(), capacity, out};
        auto p = problem_of<P, fp8_e4m3>(args);
        p.into = into;
        return p;
      };
      const std::vector<bf16> initial(static_cast<std::size_t>(capacity * out), bf16(7.0f));
      same_for_all_shapes(
          initial, out, support::tolerance<bf16_mixed>::row,
          [&]<class T>(T, std::vector<bf16>& y) {
            launch_scaled_hopper<grouped_by::rows, T>("test", ctx.stream, problem(y), args.x.values,
                                                      args.w.values, cuda::multiprocessors());
            synchronize(ctx);
          },
          [&](std::vector<bf16>& y) {
            launch_scaled_product<grouped_by::rows, sum_runs::along>("test", ctx.stream, problem(y));
            synchronize(ctx);
          });
    }
}

TEST_CASE("Hopper multiplies the experts' tokens in tiles of every shape") {
  if (!on_hopper()) return;
  auto ctx = context();
  constexpr index_t in = 304, out = 528;
  for (const index_t alignment : {16, 128}) {  // what the copy engine takes
    CAPTURE(alignment);
    const rows_of_experts rows(alignment);
    const index_t capacity = rows.capacity(), tiles = rows.groups().tiles(capacity);
    const operand dy_t(out * capacity, out * tiles, 1), x_t(in * capacity, in * tiles, 2);
    const index_t dy_extents[] = {out, tiles}, dy_strides[] = {tiles, 1}, x_extents[] = {in, tiles},
                  x_strides[] = {1, in};
    op_type::backward_weights_args args{.dy_t = {view<const fp8_e4m3, 2>{dy_t.codes.data(), out, capacity},
                                                 {dy_t.scales.data(), dy_extents, dy_strides}},
                                        .x_t = {view<const fp8_e4m3, 2>{x_t.codes.data(), in, capacity},
                                                {x_t.scales.data(), x_extents, x_strides}},
                                        .groups = rows.groups(),
                                        .dw = {}};
    const auto problem = [&](std::vector<float>& dw) {
      args.dw = view<float, 3>{dw.data(), rows.experts(), out, in};
      return problem_of<P, fp8_e4m3>(args);
    };
    const std::vector<float> initial(static_cast<std::size_t>(rows.experts() * out * in), 7.0f);
    same_for_all_shapes(
        initial, in, support::few_bits_row,
        [&]<class T>(T, std::vector<float>& dw) {
          launch_scaled_hopper<grouped_by::terms, T>("test", ctx.stream, problem(dw), args.dy_t.values,
                                                     stack_of_one(args.x_t.values), cuda::multiprocessors());
          synchronize(ctx);
        },
        [&](std::vector<float>& dw) {
          launch_scaled_product<grouped_by::terms, sum_runs::along>("test", ctx.stream, problem(dw));
          synchronize(ctx);
        });
  }
}

TEST_CASE("codes are turned over byte by byte, with zeros behind them") {
  auto ctx = context();
  constexpr index_t matrices = 2, rows = 203, columns = 170, stride = 208;
  const operand from(matrices * rows * columns, 1, 1);
  std::vector<fp8_e4m3> to(static_cast<std::size_t>(matrices * columns * stride));
  const view<const fp8_e4m3, 3> source{from.codes.data(), matrices, rows, columns};
  const index_t extents[] = {matrices, columns, rows}, strides[] = {columns * stride, stride, 1};
  launch_transpose("test", ctx.stream, source, view<fp8_e4m3, 3>{to.data(), extents, strides}, row_groups{},
                   1);
  synchronize(ctx);
  index_t wrong = 0;
  for (index_t m = 0; m < matrices; ++m)
    for (index_t c = 0; c < columns; ++c)
      for (index_t r = 0; r < stride; ++r) {
        const std::uint8_t found = to[static_cast<std::size_t>((m * columns + c) * stride + r)].bits;
        wrong += found != (r < rows ? source(m, r, c).bits : 0);
      }
  CHECK(wrong == 0);
}
