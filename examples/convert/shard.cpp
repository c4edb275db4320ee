// SPDX-License-Identifier: MIT
// Tensors in stripes of 128 rows: read, converted, written, and read again.
#include "shard.hpp"

#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/io/safetensors/block_weight.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

namespace dsv3_convert {

using namespace dsv3;

namespace {

constexpr index_t stripe_rows = block_tile::rows;

// Rows [first, first + rows) of a matrix, or that many elements of a tensor of any shape.
tensor_entry part_of(const tensor_entry& tensor, index_t first, std::vector<index_t> extents) {
  const index_t row = (extents.size() == 2 ? extents[1] : 1) * bytes_of(tensor.type);
  tensor_entry part = tensor;
  part.bytes =
      tensor.bytes.subspan(static_cast<std::size_t>(first * row), static_cast<std::size_t>(extents[0] * row));
  part.extents = std::move(extents);
  return part;
}

// Calls act(first row, rows) for every stripe of a matrix whose bytes are read here, and lets them go.
template <class Act>
void each_stripe(const tensor_entry& matrix, Act&& act) {
  const index_t rows = matrix.extents[0], columns = matrix.extents[1];
  const auto stripe = [&](index_t first) {
    return part_of(matrix, first, {std::clamp<index_t>(rows - first, 0, stripe_rows), columns});
  };
  for (index_t first = 0; first < rows; first += stripe_rows) {
    const tensor_entry here = stripe(first);
    if (first + stripe_rows < rows) read_ahead(stripe(first + stripe_rows).bytes);
    act(first, here);
    let_go(here.bytes);
  }
  let_go(matrix.bytes);  // a page that is read brings its neighbours back
}

// Codes and scales of one stripe, in memory.
struct coded_stripe {
  coded_stripe(index_t r, index_t c)
      : rows(r),
        columns(c),
        codes(static_cast<std::size_t>(r * c)),
        scales(static_cast<std::size_t>(ceil_div(c, block_tile::columns))) {}
  scaled_view<fp8_e4m3, block_tile> values() {
    const auto tiles = static_cast<index_t>(scales.size());
    return {view<fp8_e4m3, 2>{codes.data(), rows, columns},
            {scales.data(), {index_t{1}, tiles}, {tiles, index_t{1}}}};
  }

  index_t rows, columns;
  std::vector<fp8_e4m3> codes;
  std::vector<float> scales;
};

// One tensor from the source into the file.
class tensor_writer {
 public:
  tensor_writer(const planned_tensor& tensor, safetensors_writer& writer, const progress& done)
      : from_(tensor.from), tensor_(tensor), writer_(writer), done_(done) {}

  void write() {
    if (tensor_.quantized()) {
      from_.type == dtype::f64   ? quantize<double>()
      : from_.type == dtype::f32 ? quantize<float>()
                                 : quantize<bf16>();
    } else if (from_.type == dtype::f8_e4m3 && tensor_.type != from_.type) {
      tensor_.type == dtype::bf16 ? dequantize<bf16>() : dequantize<float>();
    } else {
      if (tensor_.scales) const block_weight checked{from_, *tensor_.scales};
      tensor_.type == from_.type ? copy() : tensor_.type == dtype::bf16 ? convert<bf16>() : convert<float>();
    }
  }

 private:
  template <class T>
  void append(const std::string& name, const std::vector<T>& values) {
    writer_.append(name, std::as_bytes(std::span(values)));
  }

  template <class From>
  void quantize() {
    each_stripe(from_, [&](index_t first, const tensor_entry& stripe) {
      const tensor_values<From, 2> values{stripe};
      coded_stripe coded{stripe.extents[0], stripe.extents[1]};
      quantize_blocks<From>(values.values(), coded.values(), from_.where(), first);
      append(from_.name, coded.codes);
      append(scale_name(from_.name), coded.scales);
      done_(stripe.bytes.size());
    });
  }

  template <class To>
  void dequantize() {
    if (!tensor_.scales) return convert<To>();
    const block_weight weight{from_, *tensor_.scales};
    each_stripe(from_, [&](index_t first, const tensor_entry& stripe) {
      const index_t columns = stripe.extents[1];
      std::vector<To> wide(stripe.bytes.size());
      for (index_t r = 0; r < stripe.extents[0]; ++r)
        dequantize_row(weight.values(), first + r, wide.data() + r * columns);
      append(from_.name, wide);
      done_(stripe.bytes.size());
    });
  }

  template <class To>
  void convert() {
    each_piece([&](const tensor_entry& piece) {
      std::vector<To> converted(static_cast<std::size_t>(piece.elements()));
      if (piece.type == dtype::f8_e4m3)  // without scales
        for (std::size_t i = 0; i < converted.size(); ++i)
          converted[i] = static_cast<To>(fp8_e4m3::from_bits(std::to_integer<std::uint8_t>(piece.bytes[i])));
      else
        read_converted(piece, std::span(converted));
      append(from_.name, converted);
    });
  }

  void copy() {
    each_piece([&](const tensor_entry& piece) { writer_.append(from_.name, piece.bytes); });
  }

  template <class Act>
  void each_piece(Act&& act) {
    constexpr index_t most = 1 << 20;
    for (index_t first = 0; first < from_.elements(); first += most) {
      const tensor_entry piece = part_of(from_, first, {std::min(most, from_.elements() - first)});
      act(piece);
      let_go(piece.bytes);
      done_(piece.bytes.size());
    }
  }

  const tensor_entry& from_;
  const planned_tensor& tensor_;
  safetensors_writer& writer_;
  const progress& done_;
};

// Good where codes and scales are those of the numbers that they stand for.
status survives(const tensor_entry& codes, const tensor_entry& scales) {
  const block_weight weight{codes, scales};
  status answer;
  each_stripe(codes, [&](index_t first, const tensor_entry& stripe) {
    const index_t rows = stripe.extents[0], columns = stripe.extents[1];
    std::vector<float> meant(static_cast<std::size_t>(rows * columns));
    for (index_t r = 0; r < rows; ++r) dequantize_row(weight.values(), first + r, meant.data() + r * columns);
    coded_stripe again{rows, columns};
    quantize_blocks<float>(view<const float, 2>{meant.data(), rows, columns}, again.values(), codes.where(),
                           first);
    bool same = std::memcmp(again.codes.data(), stripe.bytes.data(), stripe.bytes.size()) == 0;
    for (index_t c = 0; c < columns; c += block_tile::columns)
      same = same && again.values().scale_of(0, c) == weight.values().scale_of(first, c);
    if (!same && answer)
      answer = status{codes.where() + " gives other codes when what rows " + std::to_string(first) + " to " +
                      std::to_string(first + rows - 1) + " stand for is quantised again"};
  });
  return answer;
}

}  // namespace

void write_shard(const std::string& folder, const planned_shard& shard, const request& asked,
                 const progress& done) {
  safetensors_writer writer{(std::filesystem::path(folder) / shard.name).string(), shard.metadata};
  for (const planned_tensor& tensor : shard.tensors) {
    writer.declare(tensor.from.name, tensor.type, tensor.from.extents);
    if (tensor.quantized())
      writer.declare(scale_name(tensor.from.name), dtype::f32, scale_extents(tensor.from.extents));
  }
  writer.begin();
  cpu::parallel_parts(asked.threads, static_cast<index_t>(shard.tensors.size()), [&](index_t i) {
    tensor_writer{shard.tensors[static_cast<std::size_t>(i)], writer, done}.write();
  });
  for (const planned_tensor& tensor : shard.tensors) let_go(tensor.from.bytes);
  writer.commit();
}

status verify_shard(const std::string& folder, const planned_shard& shard, int threads) {
  return attempt([&] {
    const safetensors_file file{(std::filesystem::path(folder) / shard.name).string()};
    std::size_t expected = shard.tensors.size();
    const auto holds = [&](const std::string& name, dtype type, const std::vector<index_t>& extents) {
      const tensor_entry& found = file.tensor(name);
      if (found.type != type || found.extents != extents)
        raise(found.where() + " is " + std::string(to_string(found.type)) + " " + to_string(found.extents) +
              ", expected " + std::string(to_string(type)) + " " + to_string(extents));
    };
    for (const planned_tensor& tensor : shard.tensors) {
      holds(tensor.from.name, tensor.type, tensor.from.extents);
      if (!tensor.quantized()) continue;
      holds(scale_name(tensor.from.name), dtype::f32, scale_extents(tensor.from.extents));
      ++expected;
    }
    if (file.tensors().size() != expected)
      raise(file.path() + ": " + std::to_string(file.tensors().size()) + " tensors found, expected " +
            std::to_string(expected));
    require(file.verify());
    cpu::parallel_parts(threads, static_cast<index_t>(shard.tensors.size()), [&](index_t i) {
      const planned_tensor& tensor = shard.tensors[static_cast<std::size_t>(i)];
      if (!tensor.quantized()) return;
      require(survives(file.tensor(tensor.from.name), file.tensor(scale_name(tensor.from.name))));
    });
  });
}

}  // namespace dsv3_convert
