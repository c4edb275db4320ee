// SPDX-License-Identifier: MIT
// What kernels say of arguments that break a contract: the first breach, once, with its numbers.
#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>

#include <doctest/doctest.h>

#include <string>

using namespace dsv3;

namespace {

__global__ void complain(cuda::misuse about, long long first, long long second, long long third) {
  about.report(first, second, third);
}
__global__ void complain_of_fraction(cuda::misuse about, double value) {
  about.report(1, __double_as_longlong(value));
}
// Every thread finds something wrong.
__global__ void complain_together(cuda::misuse about) {
  const int thread = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  about.report(thread, thread);
}

struct wing {
  cuda::device gpu;
  cuda_context<> ctx{.state = {&gpu}};

  template <class... Parameters, class... Arguments>
  void start(unsigned blocks, void (*kernel)(Parameters...), const Arguments&... arguments) {
    cuda::launch("complain", ctx.stream, {.grid = blocks, .block = 64}, kernel, arguments...);
  }
  std::string said() {
    return attempt([&] { synchronize(ctx); }).message();
  }
};

}  // namespace

TEST_CASE("a report is the sentence with its numbers, raised by the next wait, once") {
  wing w;
  w.start(1, complain, cuda::misuse_of(w.ctx, "rows[{}] is {}, expected less than {}"), 3LL, -5LL,
          7000000000LL);
  CHECK(w.said() == "rows[3] is -5, expected less than 7000000000");
  CHECK(w.said() == "");
  w.start(1, complain, cuda::misuse_of(w.ctx, "nothing to fill in"), 1LL, 2LL, 3LL);
  CHECK(w.said() == "nothing to fill in");
  w.start(1, complain, cuda::misuse_of(w.ctx, "rows[{}] is odd", "pick.forward"), 1LL, 0LL, 0LL);
  CHECK(w.said() == "pick.forward: rows[1] is odd");
  w.start(1, complain_of_fraction, cuda::misuse_of(w.ctx, "weights[{}] is {f}"), -0.25);
  CHECK(w.said() == "weights[1] is -0.250000");
}

TEST_CASE("of many breaches one is reported, whole") {
  wing w;
  w.start(64, complain_together, cuda::misuse_of(w.ctx, "{} = {}"));
  const std::string said = w.said();
  CAPTURE(said);
  const std::size_t sign = said.find(" = ");
  REQUIRE(sign != std::string::npos);
  CHECK(said.substr(0, sign) == said.substr(sign + 3));
  CHECK(w.said() == "");
}

TEST_CASE("two contexts of one device share its report, two devices do not") {
  wing w;
  cuda_context<backend::hopper> other{.state = {{&w.gpu}}};
  w.start(1, complain, cuda::misuse_of(other, "{}"), 1LL, 0LL, 0LL);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  wing separate;
  CHECK(separate.said() == "");
  CHECK(w.said() == "1");
}
