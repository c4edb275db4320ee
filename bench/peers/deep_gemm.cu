// SPDX-License-Identifier: MIT
// DeepGEMM's kernels for Hopper beside ours, in one process, on the same operands. DeepGEMM picks a shape of
// tiles by a model of the card; here every shape of its family that a compile can afford is tried, and the
// quickest counts. What it computes is compared with ours first. Needs copies of both projects:
//
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -gencode=arch=compute_90a,code=sm_90a -Xcompiler -fopenmp \
//     -I include -I bench -I DEEP_GEMM/deep_gemm/include -I CUTLASS/include \
//     bench/peers/deep_gemm.cu -lcublasLt -lbenchmark -o deep_gemm
#include <dsv3/cuda/linear/scaled_gemm.cuh>
#include <dsv3/cuda/linear/scaled_gemm_sm90.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm.cuh>
#include <dsv3/cuda/linear/scaled_grouped_gemm_sm90.cuh>

#include <support/cuda_bench.hpp>
#include <support/sizes.hpp>

#include <deep_gemm/impls/sm90_fp8_gemm_1d1d.cuh>
#include <deep_gemm/impls/sm90_fp8_gemm_1d2d.cuh>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using namespace dsv3;
using deep_gemm::GemmType;
using support::deepseek_v3;

using codes = support::device_scaled_tensor<fp8_e4m3, row_tile>;
using weights = support::device_scaled_tensor<fp8_e4m3, block_tile, 3>;

constexpr std::uint32_t align_up(std::uint32_t n, std::uint32_t to) { return (n + to - 1) / to * to; }

// Two ways to share loads between the two blocks of a cluster, or none.
enum class multicast { none, of_rows, of_columns };

template <class T, int Rank>
CUtensorMap boxes(const view<T, Rank>& tensor, const int (&box)[2], int swizzle) {
  const view<T, 2> rows{tensor.data(), tensor.size() / tensor.extent(Rank - 1), tensor.extent(Rank - 1)};
  return dsv3::cuda::tensor_map("deep_gemm", rows, box,
                                swizzle == 128  ? dsv3::cuda::box_swizzle::bytes_128
                                : swizzle == 64 ? dsv3::cuda::box_swizzle::bytes_64
                                : swizzle == 32 ? dsv3::cuda::box_swizzle::bytes_32
                                                : dsv3::cuda::box_swizzle::none);
}

// Rows' scales as DeepGEMM reads them: [tiles across, rows].
view<const float, 2> scales_of(const codes& x) {
  const auto lying = x.get().scales;
  return view<const float, 2>{lying.data(), lying.extent(1), lying.extent(0)};
}

constexpr int swizzle_of(int columns, int bytes) {
  for (const int width : {128, 64, 32})
    if (columns * bytes % width == 0) return width;
  return 0;
}

/// y = x wᵀ over blocks of BlockM rows, of one expert each.
template <GemmType Type, index_t In, index_t Out, int Groups, int BlockM, int BlockN, multicast Shared>
void product(cudaStream_t stream, const codes& x, const weights& w, const view<std::int32_t, 1>& layout,
             const view<bf16, 2>& y, index_t rows) {
  constexpr int swizzle = swizzle_of(BlockN, 2);
  constexpr std::uint32_t output = align_up(BlockM * BlockN * 2, 1024);
  constexpr std::uint32_t extra =
      output + 16 * 16 + align_up(static_cast<std::uint32_t>(In / 128 * 4 * (128 % BlockN == 0 ? 1 : 2)), 8);
  constexpr std::uint32_t stage = BlockM * 128 + BlockN * 128 + align_up(BlockM * 4, 128);
  constexpr int stages = static_cast<int>((232448 - extra) / stage);
  constexpr int math_threads = BlockM <= 64 ? 128 : 256;
  constexpr unsigned cluster = Shared == multicast::none ? 1 : 2;
  const auto kernel =
      deep_gemm::sm90_fp8_gemm_1d2d_impl<cute::UMMA::Major::K, 0, Out, In, Groups, BlockM, BlockN, 128, 128,
                                         128, swizzle, stages, 128, math_threads, cluster,
                                         Shared == multicast::of_rows, 132, Type, cutlass::bfloat16_t,
                                         deep_gemm::epilogue::transform::EpilogueIdentity>;
  const auto a = x.get().values;
  const auto b = w.get().values;
  const view<const float, 2> sfa = scales_of(x);
  const bool masked = Type == GemmType::MGroupedMasked;
  dsv3::cuda::launch(
      "deep_gemm", stream,
      {.grid = 132, .block = 128 + math_threads, .shared_bytes = extra + stages * stage, .cluster = cluster},
      kernel, const_cast<float*>(w.get().scales.data()), layout.data(),
      static_cast<std::uint32_t>(masked ? rows / Groups : rows), static_cast<std::uint32_t>(Out),
      static_cast<std::uint32_t>(In), boxes(a, {BlockM, 128}, 128), boxes(b, {BlockN, 128}, 128),
      boxes(view<const bf16, 2>(y), {BlockM, swizzle == 0 ? BlockN : swizzle / 2}, swizzle),
      boxes(sfa, {1, BlockM}, 0));
}

/// dw (+)= dyᵀ x of each expert, from operands that lie expert by expert, [Out, rows] and [In, rows] each.
template <index_t In, index_t Out, int Groups, int BlockM, int BlockN>
void weights_product(cudaStream_t stream, const codes& dy, const codes& x,
                     const view<std::int32_t, 1>& counts, std::byte* maps, const view<float, 3>& dw,
                     index_t rows) {
  constexpr std::uint32_t output = align_up(BlockM * BlockN * 4, 1024);
  constexpr std::uint32_t extra = output + 16 * 16 + 4 * sizeof(CUtensorMap);
  constexpr std::uint32_t stage =
      BlockM * 128 + BlockN * 128 + align_up(BlockM * 4, 128) + align_up(BlockN * 4, 128);
  constexpr int stages = static_cast<int>((232448 - extra) / stage);
  constexpr int math_threads = BlockM <= 64 ? 128 : 256;
  const auto kernel =
      deep_gemm::sm90_fp8_gemm_1d1d_impl<Out, In, 0, Groups, BlockM, BlockN, 128, 128, 128, stages, 128,
                                         math_threads, 1, false, 132, GemmType::KGroupedContiguous, float>;
  const auto a = dy.get().values, b = x.get().values;
  const index_t each = rows / Groups;
  const view<const fp8_e4m3, 2> first_a{a.data(), Out, each}, first_b{b.data(), In, each};
  const auto sfa = x.get().scales;
  const view<const float, 2> scales_a{dy.get().scales.data(), rows / 128, Out},
      scales_b{sfa.data(), rows / 128, In};
  dsv3::cuda::launch(
      "deep_gemm", stream, {.grid = 132, .block = 128 + math_threads, .shared_bytes = extra + stages * stage},
      kernel, reinterpret_cast<__nv_fp8_e4m3*>(const_cast<fp8_e4m3*>(a.data())),
      reinterpret_cast<__nv_fp8_e4m3*>(const_cast<fp8_e4m3*>(b.data())), counts.data(),
      reinterpret_cast<cute::TmaDescriptor*>(maps), static_cast<std::uint32_t>(Out),
      static_cast<std::uint32_t>(In), static_cast<std::uint32_t>(rows), boxes(first_a, {BlockM, 128}, 128),
      boxes(first_b, {BlockN, 128}, 128), boxes(scales_a, {1, BlockM}, 0), boxes(scales_b, {1, BlockN}, 0),
      boxes(view<const float, 3>(dw), {64, BlockN}, 0));
}

template <class T>
std::vector<float> on_host(const view<T, 2>& from) {
  std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(from.size()));
  dsv3::cuda::require(
      cudaMemcpy(values.data(), from.data(), values.size() * sizeof(T), cudaMemcpyDeviceToHost), "a result");
  std::vector<float> found;
  for (const auto& value : values) found.push_back(static_cast<float>(value));
  return found;
}

template <class T>
void require_same(const view<T, 2>& ours, const view<T, 2>& theirs) {
  const std::vector<float> a = on_host(ours), b = on_host(theirs);
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    apart += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(a[i]), 2);
  }
  if (!(apart <= 1e-4 * size))
    raise("DeepGEMM computes something else: " + std::to_string(std::sqrt(apart / size)));
}

struct trial {
  std::string tiles;
  double seconds = 0;
};

// The quickest of several shapes of tiles; one that does not start is left out.
class race {
 public:
  explicit race(cudaStream_t stream) : ctx_(support::context<>()) { ctx_.stream = stream; }
  template <class Work>
  void enter(const std::string& tiles, Work&& work) {
    const double seconds = support::median_seconds(ctx_, work);
    if (best_.seconds == 0 || seconds < best_.seconds) best_ = {tiles, seconds};
  }
  const trial& best() const { return best_; }

 private:
  cuda_context<> ctx_;
  trial best_;
};

void print(const char* what, double flops, double ours, const trial& theirs) {
  std::printf("%-44s ours %8.1f us %7.1f TFLOP/s   DeepGEMM %8.1f us %7.1f TFLOP/s (%s)   %.2f times\n", what,
              1e6 * ours, flops / ours * 1e-12, 1e6 * theirs.seconds, flops / theirs.seconds * 1e-12,
              theirs.tiles.c_str(), theirs.seconds / ours);
  std::fflush(stdout);
}

template <GemmType Type, index_t In, index_t Out, int Groups, int BlockM, int BlockN>
void enter_shared(race& all, const codes& x, const weights& w, const view<std::int32_t, 1>& layout,
                  const view<bf16, 2>& y, index_t rows, cudaStream_t stream) {
  const std::string tiles = std::to_string(BlockM) + " x " + std::to_string(BlockN);
  all.enter(tiles + ", rows shared", [&] {
    product<Type, In, Out, Groups, BlockM, BlockN, multicast::of_rows>(stream, x, w, layout, y, rows);
  });
  all.enter(tiles + ", columns shared", [&] {
    product<Type, In, Out, Groups, BlockM, BlockN, multicast::of_columns>(stream, x, w, layout, y, rows);
  });
}

template <index_t In, index_t Out, int Groups>
void forward_of_experts(const char* what, index_t each) {
  using op = dsv3::op::scaled_grouped_gemm<fp8_tilewise>;
  const index_t rows = Groups * each;
  const codes x(rows, In, 1);
  const weights w(Groups, Out, In, 3);
  const support::device_tensor<bf16> ours(rows, Out), theirs(rows, Out);
  support::device_tensor<std::int32_t, 1> offsets(Groups + 1), counts(Groups), expert_of(rows);
  offsets.generate([&](index_t i) { return static_cast<std::int32_t>(i * each); });
  counts.generate([&](index_t) { return static_cast<std::int32_t>(each); });
  expert_of.generate([&](index_t i) { return static_cast<std::int32_t>(i / each); });
  auto ctx = support::context<backend::hopper>();
  const row_groups groups{offsets, counts, 128};
  const auto work = [&](auto& at) {
    op::forward(at, {.x = x.get(), .w = w.get(), .groups = groups, .y = ours});
  };
  ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
  const double seconds = support::median_seconds(ctx, [&] { work(ctx); });
  race all{ctx.stream};
  constexpr auto type = GemmType::MGroupedContiguous;
  enter_shared<type, In, Out, Groups, 128, 112>(all, x, w, expert_of, theirs, rows, ctx.stream);
  enter_shared<type, In, Out, Groups, 128, 128>(all, x, w, expert_of, theirs, rows, ctx.stream);
  enter_shared<type, In, Out, Groups, 128, 160>(all, x, w, expert_of, theirs, rows, ctx.stream);
  enter_shared<type, In, Out, Groups, 128, 192>(all, x, w, expert_of, theirs, rows, ctx.stream);
  require_same<bf16>(ours, theirs);
  print(what, 2.0 * static_cast<double>(rows * In * Out), seconds, all.best());
}

template <index_t In, index_t Out>
void forward_dense(const char* what, index_t tokens) {
  using op = dsv3::op::scaled_gemm<fp8_tilewise>;
  const codes x(tokens, In, 1);
  const weights w(1, Out, In, 3);
  const support::device_tensor<bf16> ours(tokens, Out), theirs(tokens, Out);
  auto ctx = support::context<backend::hopper>();
  const auto work = [&](auto& at) { op::forward(at, {.x = x.get(), .w = w.get()[0], .y = ours}); };
  ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
  const double seconds = support::median_seconds(ctx, [&] { work(ctx); });
  race all{ctx.stream};
  constexpr auto type = GemmType::Normal;
  enter_shared<type, In, Out, 1, 128, 128>(all, x, w, {}, theirs, tokens, ctx.stream);
  enter_shared<type, In, Out, 1, 128, 160>(all, x, w, {}, theirs, tokens, ctx.stream);
  enter_shared<type, In, Out, 1, 128, 192>(all, x, w, {}, theirs, tokens, ctx.stream);
  enter_shared<type, In, Out, 1, 256, 128>(all, x, w, {}, theirs, tokens, ctx.stream);
  require_same<bf16>(ours, theirs);
  print(what, 2.0 * static_cast<double>(tokens * In * Out), seconds, all.best());
}

template <index_t In, index_t Out, int Groups>
void weights_of_experts(const char* what, index_t each) {
  using op = dsv3::op::scaled_grouped_gemm<fp8_tilewise>;
  const index_t rows = Groups * each;
  const codes x(In, rows, rows / 128, 1), dy(Out, rows, rows / 128, 2);
  const support::device_tensor<float, 3> ours(Groups, Out, In), theirs(Groups, Out, In);
  support::device_tensor<std::int32_t, 1> offsets(Groups + 1), counts(Groups);
  support::device_tensor<std::uint8_t, 1> maps(132 * 2 * static_cast<index_t>(sizeof(CUtensorMap)));
  offsets.generate([&](index_t i) { return static_cast<std::int32_t>(i * each); });
  counts.generate([&](index_t) { return static_cast<std::int32_t>(each); });
  auto ctx = support::context<backend::hopper>();
  const row_groups groups{offsets, counts, 128};
  const auto work = [&](auto& at) {
    op::backward_weights(at, {.dy_t = dy.get(), .x_t = x.get(), .groups = groups, .dw = ours});
  };
  ctx.scratch = scratch_arena{support::gpu_memory(), measure(ctx, work)};
  const double seconds = support::median_seconds(ctx, [&] { work(ctx); });
  race all{ctx.stream};
  const auto enter = [&](const char* tiles, auto run) { all.enter(tiles, run); };
  auto* place = reinterpret_cast<std::byte*>(maps.get().data());
  enter("128 x 104",
        [&] { weights_product<In, Out, Groups, 128, 104>(ctx.stream, dy, x, counts, place, theirs, rows); });
  enter("128 x 120",
        [&] { weights_product<In, Out, Groups, 128, 120>(ctx.stream, dy, x, counts, place, theirs, rows); });
  enter("128 x 152",
        [&] { weights_product<In, Out, Groups, 128, 152>(ctx.stream, dy, x, counts, place, theirs, rows); });
  print(what, 2.0 * static_cast<double>(rows * In * Out), seconds, all.best());
}

}  // namespace

int main() {
  try {
    if (!support::gpu().is_hopper()) raise("deep_gemm: this GPU is no Hopper");
    constexpr index_t hidden = deepseek_v3.hidden, inner = deepseek_v3.expert_inner;
    forward_of_experts<hidden, 2 * inner, 4>("experts forward, 4 x 8192 x (4096, 7168)", 8192);
    forward_of_experts<hidden, 2 * inner, 8>("experts forward, 8 x 4096 x (4096, 7168)", 4096);
    forward_of_experts<inner, hidden, 4>("experts forward, 4 x 8192 x (7168, 2048)", 8192);
    forward_of_experts<inner, hidden, 8>("experts forward, 8 x 4096 x (7168, 2048)", 4096);
    forward_dense<hidden, 2 * inner>("dense forward, 4096 x (4096, 7168)", 4096);
    forward_dense<16384, hidden>("dense forward, 4096 x (7168, 16384)", 4096);
    forward_dense<inner, hidden>("dense forward, 4096 x (7168, 2048)", 4096);
    weights_of_experts<hidden, 2 * inner, 4>("experts' weights, 4 x 8192 x (4096, 7168)", 8192);
    weights_of_experts<hidden, 2 * inner, 8>("experts' weights, 8 x 4096 x (4096, 7168)", 4096);
    return 0;
  } catch (const dsv3::error& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
