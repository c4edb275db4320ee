// SPDX-License-Identifier: MIT
// How far sums of K products are off when a matrix unit adds them with few bits, by how often they move to a
// float.
//
//   op.linear.promotion_error [DATA.csv FIGURE.svg]        prints the table; writes it and draws it where
//   asked to
#include <dsv3/cpu/linear/scaled_gemm.hpp>
#include <dsv3/exec/measure.hpp>
#include <dsv3/io/svg_plot.hpp>

#include <support/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace dsv3;

/// Sums as they are, not rounded to bf16.
struct unrounded : fp8_tilewise {
  using activation = float;
};

constexpr index_t size = 1024, deepest = 16384;  // size x size sums

struct summation {
  const char* name;
  scaled_product_options product;
};
constexpr summation summations[] = {{"never promoted", {accumulator_model::hopper_fp22, 0}},
                                    {"every 1024", {accumulator_model::hopper_fp22, 1024}},
                                    {"every 512", {accumulator_model::hopper_fp22, 512}},
                                    {"every 256", {accumulator_model::hopper_fp22, 256}},
                                    {"every 128", {accumulator_model::hopper_fp22, 128}},
                                    {"FP32 sums", {accumulator_model::fp32, 128}}};

/// Normal numbers in 8 bits, spread over most of the format's range: nothing but the sum is at work.
void draw(const support::tensor<fp8_e4m3>& codes, const support::tensor<double>& numbers,
          std::uint64_t stream) {
  const random_stream random(20260101, stream);
  cpu::parallel_ranges(
      static_cast<int>(std::thread::hardware_concurrency()), size * deepest, 4096,
      [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) {
          const auto code = fp8_e4m3(static_cast<float>(64 * random.normal(static_cast<std::uint64_t>(i))));
          codes.get().data()[i] = code;
          numbers.get().data()[i] = static_cast<double>(static_cast<float>(code));
        }
      });
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  support::tensor<fp8_e4m3> x(size, deepest), w(size, deepest);
  support::tensor<double> x_numbers(size, deepest), w_numbers(size, deepest), exact(size, size);
  support::tensor<float> y(size, size);
  draw(x, x_numbers, 1), draw(w, w_numbers, 2);
  const float scale = 1;
  const auto one_scale = [&](index_t rows, index_t columns) {
    const index_t extents[] = {rows, columns}, strides[] = {0, 0};
    return view<const float, 2, strided>{&scale, extents, strides};
  };

  std::string table = "k,sum,largest_error,rms_error\n";
  std::vector<plot_series> curves;
  for (const summation& each : summations)
    curves.push_back({.name = each.name, .x = {}, .y = {}, .marked = true});
  for (index_t k = 128; k <= deepest; k *= 2) {
    constexpr index_t part = 64;
    cpu::parallel_parts(threads, size / part, [&](index_t p) {
      cpu::product(cpu::transpose::no, cpu::transpose::yes, part, size, k, 1.0,
                   x_numbers.get()[p * part].data(), deepest, w_numbers.get().data(), deepest, 0.0,
                   exact.get()[p * part].data(), size);
    });
    double magnitudes = 0, squares = 0;
    for (index_t i = 0; i < size * size; ++i) {
      const double value = exact.get().data()[i];
      magnitudes += std::fabs(value), squares += value * value;
    }
    for (std::size_t s = 0; s < std::size(summations); ++s) {
      const auto work = [&](auto& ctx) {
        op::scaled_gemm<unrounded>::forward(ctx,
                                            {.x = {x.get().columns(0, k), one_scale(size, k / 128)},
                                             .w = {w.get().columns(0, k), one_scale(size / 128, k / 128)},
                                             .y = y,
                                             .product = summations[s].product});
      };
      host_memory memory;
      cpu_context<> ctx{.threads = threads};
      ctx.scratch = scratch_arena{memory, measure(ctx, work)};
      work(ctx);
      double largest = 0, error_squares = 0;
      for (index_t i = 0; i < size * size; ++i) {
        const double error = static_cast<double>(y.get().data()[i]) - exact.get().data()[i];
        largest = std::max(largest, std::fabs(error)), error_squares += error * error;
      }
      largest /= magnitudes / static_cast<double>(size * size);
      char row[128];
      std::snprintf(row, sizeof row, "%ld,\"%s\",%.4g,%.4g\n", static_cast<long>(k), summations[s].name,
                    largest, std::sqrt(error_squares / squares));
      table += row;
      curves[s].x.push_back(std::log2(static_cast<double>(k))), curves[s].y.push_back(largest);
    }
  }
  std::fputs(table.c_str(), stdout);
  if (argc != 3) return 0;
  const auto write = [](const char* path, const std::string& text) {
    std::ofstream file{path};
    file << text << std::flush;
    if (!file) raise(std::string(path) + ": cannot be written");
  };
  write(argv[1], table);
  write(argv[2], line_plot({.title = "Sums in FP22 by how often they are promoted, and in FP32",
                            .x_label = "log2 of the number of products",
                            .y_label = "largest error / mean magnitude",
                            .log_y = true},
                           curves) +
                     "\n");
  return 0;
}
