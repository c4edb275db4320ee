// SPDX-License-Identifier: MIT
// Weights to 8-bit codes with one scale per block, and back: against a search among all codes, and again.
#include <dsv3/cpu/quant/tile_quantizer.hpp>
#include <dsv3/exec/random.hpp>
#include <dsv3/io/block_codec.hpp>
#include <dsv3/io/safetensors/block_weight.hpp>

#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace dsv3;

namespace {

constexpr index_t edge = 128;

// A matrix in 8 bits that owns its memory.
struct blocks {
  blocks(index_t r, index_t c)
      : rows(r),
        columns(c),
        codes(static_cast<std::size_t>(r * c)),
        scales(static_cast<std::size_t>(ceil_div(r, edge) * ceil_div(c, edge))) {}
  scaled_view<fp8_e4m3, block_tile> values() {
    const index_t across = ceil_div(columns, edge);
    return {view<fp8_e4m3, 2>{codes.data(), rows, columns},
            {scales.data(), {ceil_div(rows, edge), across}, {across, index_t{1}}}};
  }
  bool same(const blocks& other) const {
    bool equal = scales == other.scales;
    for (std::size_t i = 0; i < codes.size(); ++i) equal = equal && codes[i].bits == other.codes[i].bits;
    return equal;
  }

  index_t rows, columns;
  std::vector<fp8_e4m3> codes;
  std::vector<float> scales;
};

template <class T>
blocks quantized(const std::vector<T>& x, index_t rows, index_t columns) {
  blocks result{rows, columns};
  quantize_blocks<T>(view<const T, 2>{x.data(), rows, columns}, result.values(), "x");
  return result;
}

template <class T>
std::vector<T> dequantized(blocks& from) {
  std::vector<T> x(from.codes.size());
  for (index_t r = 0; r < from.rows; ++r) dequantize_row<T>(from.values(), r, x.data() + r * from.columns);
  return x;
}

// Numbers of every size: blocks differ by orders of magnitude, one is all zeros.
std::vector<float> numbers(index_t rows, index_t columns, std::uint64_t seed) {
  const random_stream random{seed, 3};
  std::vector<float> x(static_cast<std::size_t>(rows * columns));
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < columns; ++c) {
      const index_t block = r / edge * 3 + c / edge;
      const double size = block % 4 == 3 ? 0.0 : std::pow(10.0, static_cast<double>(block % 5 * 4 - 9));
      x[static_cast<std::size_t>(r * columns + c)] =
          static_cast<float>(size * random.normal(static_cast<std::uint64_t>(r * columns + c)));
    }
  return x;
}

// The code nearest to `value` among the 127 not negative ones, of two the one with an even last bit.
std::uint8_t nearest_code(double value) {
  std::uint8_t best = 0;
  for (std::uint8_t code = 1; code < 0x7F; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    const auto number = [&](int e, int m) { return e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10); };
    const double here = std::fabs(value - number(exponent, mantissa)),
                 there = std::fabs(value - number(best >> 3, best & 7));
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return best;
}

}  // namespace

TEST_CASE("every block is scaled by its largest value, and each code is the nearest") {
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{140, 300}, {1, 1}, {128, 128}, {3, 129}}) {
    const std::vector<float> x = numbers(rows, columns, 1);
    const blocks y = quantized(x, rows, columns);
    const index_t across = ceil_div(columns, edge);
    for (std::size_t b = 0; b < y.scales.size(); ++b) {
      const index_t r0 = static_cast<index_t>(b) / across * edge,
                    c0 = static_cast<index_t>(b) % across * edge;
      float amax = 0;
      for (index_t r = r0; r < std::min(rows, r0 + edge); ++r)
        for (index_t c = c0; c < std::min(columns, c0 + edge); ++c)
          amax = std::max(amax, std::fabs(x[static_cast<std::size_t>(r * columns + c)]));
      CHECK(y.scales[b] == (amax == 0 ? 1e-12f : amax) / 448);
    }
    index_t different = 0;
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) {
        const auto at = static_cast<std::size_t>(r * columns + c);
        const float scaled = x[at] / y.scales[static_cast<std::size_t>(r / edge * across + c / edge)];
        different +=
            y.codes[at].bits != (nearest_code(std::fabs(scaled)) | (std::signbit(scaled) ? 0x80 : 0));
      }
    CHECK(different == 0);
  }
}

TEST_CASE("the codes and scales of torch") {
  const std::string folder = "tests/data/golden/tiny_fp8/";
  const safetensors_file before{folder + "unquantised.safetensors"}, after{folder + "model.safetensors"};
  index_t ragged = 0;
  for (const tensor_entry& tensor : before.tensors()) {
    CAPTURE(tensor.name);
    const tensor_values<bf16, 2> weight{tensor};
    const index_t rows = tensor.extents[0], columns = tensor.extents[1];
    blocks ours{rows, columns};
    quantize_blocks<bf16>(weight.values(), ours.values(), tensor.name);
    const block_weight theirs{after.tensor(tensor.name), after.tensor(scale_name(tensor.name))};
    blocks expected{rows, columns};
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c) {
        expected.values().values(r, c) = theirs.values().values(r, c);
        expected.values().scales(r / edge, c / edge) = theirs.values().scale_of(r, c);
      }
    CHECK(ours.same(expected));
    ragged += ours.scales.size() > 1;
  }
  CHECK(before.tensors().size() == 2 * 5 + 3 + 15);
  CHECK(ragged > 10);
}

// Where no block is small the quantiser of training gives the same bits, there and back.
TEST_CASE("the codes and scales of the CPU's quantiser") {
  const random_stream random{6, 6};
  std::vector<float> x(300 * 520), back(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(0.006 * random.normal(i));
  blocks ours = quantized(x, 300, 520), theirs{300, 520};
  using quantizer = op::tile_quantizer<float, fp8_e4m3, block_tile>;
  support::run(2, [&](auto& ctx) {
    quantizer::forward(ctx, {.x = view<const float, 2>{x.data(), 300, 520}, .y = theirs.values()});
  });
  CHECK(ours.same(theirs));
  support::run(2, [&](auto& ctx) {
    quantizer::dequantize(ctx, {.x = ours.values(), .y = view<float, 2>{back.data(), 300, 520}});
  });
  CHECK(back == dequantized<float>(ours));
}

TEST_CASE("no matrix") {
  blocks none{0, 300};
  quantize_blocks<float>(view<const float, 2>{nullptr, 0, 300}, none.values(), "none");
  CHECK(none.codes.empty());
}

// The scale of what came back is the scale, whatever number was the largest of the block.
TEST_CASE("scales survive a second derivation") {
  std::uint64_t differ = 0, codes = 0;
  const auto look = [&](float amax) {
    const float scale = block_scale(amax);
    differ += block_scale(448.0f * scale) != scale;
    codes += fp8_e4m3(amax / scale).bits != 0x7E;
  };
  for (std::uint32_t mantissa = 0; mantissa < 1u << 23; ++mantissa)
    look(__builtin_bit_cast(float, (127u << 23) + mantissa));
  const random_stream random{5, 5};
  for (std::uint64_t i = 0; i < 1'000'000; ++i) {
    const std::uint32_t exponent = 127 - 39 + static_cast<std::uint32_t>(random.uniform(2 * i) * 166);
    look(__builtin_bit_cast(
        float, (exponent << 23) + static_cast<std::uint32_t>(random.uniform(2 * i + 1) * 0x7FFFFF)));
  }
  look(std::numeric_limits<float>::max());
  CHECK(differ == 0);
  CHECK(codes == 0);
}

TEST_CASE("quantised, dequantised and quantised again, every bit is the same") {
  for (const auto& [rows, columns] : {std::pair<index_t, index_t>{300, 520}, {7, 5}}) {
    std::vector<float> x = numbers(rows, columns, 2);
    blocks once = quantized(x, rows, columns);
    CHECK(quantized(dequantized<float>(once), rows, columns).same(once));
    CHECK(quantized(dequantized<double>(once), rows, columns).same(once));

    // By way of bf16 where the numbers were of bf16.
    std::vector<bf16> narrow(x.begin(), x.end());
    blocks of_narrow = quantized(narrow, rows, columns);
    CHECK(quantized(dequantized<bf16>(of_narrow), rows, columns).same(of_narrow));
  }
}

TEST_CASE("what comes back is the product, rounded once") {
  const std::vector<float> x = numbers(130, 260, 3);
  blocks y = quantized(x, 130, 260);
  const std::vector<double> wide = dequantized<double>(y);
  const std::vector<float> middle = dequantized<float>(y);
  const std::vector<bf16> narrow = dequantized<bf16>(y);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t r = i / 260, c = i % 260;
    const double exact =
        static_cast<double>(static_cast<float>(y.codes[i])) * y.scales[r / 128 * 3 + c / 128];
    REQUIRE(wide[i] == exact);
    REQUIRE(middle[i] == static_cast<float>(exact));
    REQUIRE(narrow[i].bits == bf16(static_cast<float>(exact)).bits);
    // Half a step of three bits, or of the smallest numbers.
    const double bound = std::max(std::fabs(exact) / 15, y.scales[r / 128 * 3 + c / 128] * 0.001);
    REQUIRE(std::fabs(exact - x[i]) <= bound);
  }
}

TEST_CASE("what is not finite is refused by its place") {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> x = numbers(130, 260, 4);
    x[129 * 260 + 200] = bad;
    CHECK(support::raised([&] { quantized(x, 130, 260); }) ==
          "x[129, 200] is " + std::to_string(bad) +
              ", expected a finite number: no 8-bit code stands for it");
  }
}
