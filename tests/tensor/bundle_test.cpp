// SPDX-License-Identifier: MIT
// Bundles: the table of contents, parts inside parts, placement, twins, and `owned`.
#include <dsv3/exec/memory.hpp>
#include <dsv3/tensor/bundle.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using dsv3::index_t;
using dsv3::shape;
using dsv3::view;

namespace {

struct pair_config {
  index_t rows = 0, columns = 0;
};

template <class Matrix, class Vector = Matrix>
struct pair_tensors {
  pair_config config;
  view<Matrix, 2> matrix;  // [rows, columns]
  view<Vector, 1> gain;    // [columns]

  template <class Visit, class... Self>
  static void each_field(const pair_config& c, Visit&& visit, Self&... self) {
    visit("matrix", shape{c.rows, c.columns}, self.matrix...);
    visit("gain", shape{c.columns}, self.gain...);
  }
};

struct stack_config {
  index_t layers = 0;
  pair_config pair;
  bool kept = true;
};

template <class Matrix, class Vector = Matrix>
struct stack_tensors {
  stack_config config;
  view<Matrix, 2> head;  // [2, columns], or empty where it is not kept
  std::vector<pair_tensors<Matrix, Vector>> layers;

  template <class Visit, class... Self>
  static void each_field(const stack_config& c, Visit&& visit, Self&... self) {
    visit("head", c.kept ? shape{2, c.pair.columns} : shape{}, self.head...);
    (dsv3::resize_parts(self.layers, c.layers), ...);
    for (index_t i = 0; i < c.layers; ++i)
      dsv3::each_part("layers." + std::to_string(i) + ".", c.pair, visit,
                      self.layers[static_cast<std::size_t>(i)]...);
  }
};

using stack = stack_tensors<float, double>;
using stack_view = stack_tensors<const float, const double>;

const stack_config two_layers{.layers = 2, .pair = {3, 5}};

bool aligned(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % dsv3::memory_alignment == 0;
}

}  // namespace

TEST_CASE("a bundle visits its fields in declaration order, parts with their prefix") {
  dsv3::host_memory memory;
  dsv3::owned<stack> weights{memory, two_layers};
  std::vector<std::string> names;
  dsv3::for_each_field(
      [&](const std::string& name, const shape& s, auto& field) {
        names.push_back(name + " " + to_string(s));
        CHECK(field.extents() == s);
        CHECK(aligned(field.data()));
        CHECK(field.contiguous());
      },
      static_cast<stack&>(weights));
  const std::vector<std::string> expected{"head [2, 5]", "layers.0.matrix [3, 5]", "layers.0.gain [5]",
                                          "layers.1.matrix [3, 5]", "layers.1.gain [5]"};
  CHECK(names == expected);
}

TEST_CASE("bytes and elements are those of the fields") {
  // Fields take whole cache lines: 40, 60 and 40 bytes are one line each.
  CHECK(dsv3::bytes_of<stack>(two_layers) == 5 * 64);
  CHECK(dsv3::elements_of<stack>(two_layers) == 10 + 2 * (15 + 5));
  CHECK(dsv3::bytes_of<stack>(stack_config{.layers = 0, .pair = {3, 5}, .kept = false}) == 0);
  CHECK(dsv3::bytes_of<pair_tensors<float>>(pair_config{1, 17}) == 2 * 128);
}

TEST_CASE("fields do not overlap and stay inside their block") {
  dsv3::host_memory memory;
  dsv3::owned<stack> weights{memory, two_layers};
  auto mark = [&](const std::string&, const shape&, auto& field, double value) {
    for (index_t i = 0; i < field.size(); ++i) field.flat()(i) = static_cast<float>(value);
  };
  double value = 0;
  dsv3::for_each_field([&](const std::string& n, const shape& s, auto& field) { mark(n, s, field, ++value); },
                       static_cast<stack&>(weights));
  value = 0;
  dsv3::for_each_field(
      [&](const std::string&, const shape&, auto& field) {
        ++value;
        for (index_t i = 0; i < field.size(); ++i) CHECK(field.flat()(i) == value);
      },
      static_cast<stack&>(weights));
  CHECK(value == 5);
}

TEST_CASE("bundles of one table are walked in lockstep") {
  dsv3::host_memory memory;
  dsv3::owned<stack> a{memory, two_layers}, b{memory, two_layers};
  dsv3::for_each_field(
      [&](const std::string&, const shape&, auto& from, auto& to) {
        CHECK(from.data() != to.data());
        for (index_t i = 0; i < from.size(); ++i) to.flat()(i) = from.flat()(i) = static_cast<float>(i);
      },
      static_cast<stack&>(a), static_cast<stack&>(b));
  CHECK(b.layers[1].matrix(2, 4) == 14);
}

TEST_CASE("a field that is not kept is empty and takes no bytes") {
  dsv3::host_memory memory;
  dsv3::owned<stack> part{memory, stack_config{.layers = 1, .pair = {3, 5}, .kept = false}};
  CHECK(part.head.empty());
  CHECK(part.head.data() == nullptr);
  CHECK(part.bytes() == 2 * 64);
}

TEST_CASE("the twin sees the same memory") {
  dsv3::host_memory memory;
  dsv3::owned<stack> weights{memory, two_layers};
  const auto twin = dsv3::twin_of<stack_view>(static_cast<const stack&>(weights));
  CHECK(twin.config.layers == 2);
  CHECK(twin.layers[1].config.columns == 5);
  CHECK(twin.head.data() == weights.head.data());
  CHECK(twin.layers[1].gain.data() == weights.layers[1].gain.data());
}

TEST_CASE("owned gives its memory back, once, and moves") {
  dsv3::host_memory memory;
  const auto bytes = dsv3::bytes_of<stack>(two_layers);
  {
    dsv3::owned<stack> first{memory, two_layers};
    CHECK(memory.in_use() == bytes);
    dsv3::owned<stack> second = std::move(first);
    CHECK(memory.in_use() == bytes);
    dsv3::owned<stack> third{memory, two_layers};
    CHECK(memory.in_use() == 2 * bytes);
    third = std::move(second);
    CHECK(memory.in_use() == bytes);
    third.layers[0].gain(4) = 7;
    CHECK(third.layers[0].gain(4) == 7);
    CHECK_FALSE(std::is_copy_constructible_v<dsv3::owned<stack>>);
  }
  CHECK(memory.in_use() == 0);
  CHECK(memory.peak() == 2 * bytes);
}

TEST_CASE("the host says what it could not allocate") {
  dsv3::host_memory memory;
  const std::size_t absurd = std::size_t{1} << 62;
  CHECK_THROWS_WITH_AS(dsv3::memory_block(memory, absurd),
                       "host memory: 4611686018427387904 bytes could not be allocated", dsv3::error);
  CHECK(memory.in_use() == 0);
  CHECK(memory.allocate(0) == nullptr);
}
