// SPDX-License-Identifier: MIT
// Which products the library is given, and what is remembered of it.
#include <dsv3/cuda/linear/gemm.cuh>
#include <dsv3/exec/measure.hpp>

#include <support/guarded.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;
using support::guarded;

namespace {

struct layer {
  guarded<bf16> x, w, y;
  layer(index_t gap, index_t tokens) : x(gap, tokens, 64), w(gap, 32, 64), y(gap, tokens, 32) {
    x.normal(1), w.normal(2);
  }
  op::gemm<bf16_mixed>::forward_args args(store into = store::write) {
    return {.x = x, .w = w, .y = y, .into = into};
  }
};

void forward(cuda_context<>& ctx, const op::gemm<bf16_mixed>::forward_args& args) {
  const auto work = [&](auto& any) { op::gemm<bf16_mixed>::forward(any, args); };
  static cuda::device_memory memory;  // outlives what is cut from it, also where the work raises
  ctx.scratch = scratch_arena{memory, measure(ctx, work)};
  work(ctx);
  synchronize(ctx);
}

}  // namespace

TEST_CASE("a shape is asked for once, whatever lies in it") {
  cuda::device gpu;
  cuda_context<> ctx{.state = {&gpu}};
  layer one(0, 128), two(0, 128), longer(0, 256);
  CHECK(gpu.products().size() == 0);
  forward(ctx, one.args());
  const auto first = one.y.values();
  forward(ctx, one.args()), forward(ctx, two.args());
  CHECK(gpu.products().size() == 1);
  CHECK(one.y.values() == first);
  forward(ctx, one.args(store::add)), forward(ctx, longer.args());
  CHECK(gpu.products().size() == 3);
}

TEST_CASE("what the library has no name for is multiplied without it") {
  cuda::device gpu;
  cuda_context<> ctx{.state = {&gpu}};
  layer apart(0, 3);
  const view<bf16, 2> x = apart.x;
  auto args = apart.args();
  args.x = {x.data(), {3, 64}, {0, 1}};  // the same row three times
  forward(ctx, args);
  CHECK(gpu.products().size() == 0);
  const auto y = apart.y.get();
  for (index_t t = 0; t < 3; ++t)
    for (index_t o = 0; o < 32; ++o) {
      float sum = 0;
      for (index_t i = 0; i < 64; ++i) sum += float(x(0, i)) * float(apart.w.get()(o, i));
      CHECK(float(y(t, o)) == doctest::Approx(sum).epsilon(0.01).scale(1));
    }
}

TEST_CASE("a context without a device is told what it lacks") {
  cuda_context<> ctx;
  layer one(0, 128);
  std::string sentence;
  try {
    forward(ctx, one.args());
  } catch (const error& failure) {
    sentence = failure.what();
  }
  CHECK(sentence == "gemm.forward: the context has no cuda::device, which keeps the plans of products");
}
