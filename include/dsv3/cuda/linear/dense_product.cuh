// SPDX-License-Identifier: MIT
// Dense products for the operations that need them: cuBLASLt where it takes them, a plain kernel otherwise.
#pragma once

#include <dsv3/cuda/host/device.cuh>
#include <dsv3/cuda/host/launch.cuh>
#include <dsv3/cuda/linear/plain_product.cuh>
#include <dsv3/op/linear/store.hpp>
#include <dsv3/tensor/view.hpp>

#include <cstdint>
#include <string>
#include <type_traits>

namespace dsv3::inline DSV3_ABI::cuda::detail {

// ---- configuration ----------------------------------------------------------------------------------------

/// One operand: how its rows lie, and whether the product reads them as columns.
template <class T>
struct dense_operand_of {
  view<T, 3> matrices;  // [batch, rows, columns]
  bool turned = false;

  explicit dense_operand_of(const view<T, 3>& x, bool turn = false) : matrices(x), turned(turn) {}
  explicit dense_operand_of(const view<T, 2>& x, bool turn = false)
      : matrices(x.data(), {1, x.extent(0), x.extent(1)}, {0, x.stride(0), 1}), turned(turn) {}

  index_t rows() const { return matrices.extent(turned ? 2 : 1); }
  index_t columns() const { return matrices.extent(turned ? 1 : 2); }
  index_t row_stride() const { return matrices.stride(turned ? 2 : 1); }
  index_t column_stride() const { return matrices.stride(turned ? 1 : 2); }
  matrix_operand described() const {
    return {.data = matrices.data(),
            .type = library_type<std::remove_const_t<T>>(),
            .stride = matrices.stride(1),
            .step = matrices.stride(0),
            .turned = turned};
  }
};

/// What cuBLASLt's algorithms may write to between their kernels.
inline void* library_workspace(scratch_arena& arena) {
  constexpr std::size_t alignment = 256;
  auto* room = arena.take<std::byte>(static_cast<index_t>(product_plans::workspace_bytes + alignment));
  return room + (alignment - reinterpret_cast<std::uintptr_t>(room) % alignment) % alignment;
}

// ---- selection --------------------------------------------------------------------------------------------

/// The library multiplies two of a kind, and gives the sums' type or theirs.
template <class A, class B, class D>
inline constexpr bool library_takes = std::is_same_v<A, B> &&
                                      (std::is_same_v<D, A> ||
                                       (std::is_same_v<A, bf16> && std::is_same_v<D, float>));
/// What a path_list calls such a product. The rare shapes that the library has no algorithm for, such as rows
/// that overlap, are not told apart.
template <class A, class B, class D>
inline constexpr const char* dense_path = library_takes<A, B, D> ? "cuBLASLt" : backend::cuda::path;

// ---- kernels ----------------------------------------------------------------------------------------------

template <class Acc, class A, class B, class D>
__global__ void __launch_bounds__(plain_threads, 2)
    plain_product_kernel(const plain_product<A, B, D> first, index_t a_step, index_t b_step, index_t d_step) {
  plain_product<A, B, D> own = first;
  own.a += blockIdx.z * a_step, own.b += blockIdx.z * b_step, own.d += blockIdx.z * d_step;
  multiply_plain<Acc>(own, static_cast<index_t>(blockIdx.x) * plain_tile,
                      static_cast<index_t>(blockIdx.y) * plain_tile);
}

// ---- launch -----------------------------------------------------------------------------------------------

/// d = a · b, or d += a · b, matrix by matrix. `name` is the record's; `workspace` is library_workspace().
template <class Acc, class Ctx, class A, class B, class D>
void multiply_dense(Ctx& ctx, const char* name, const dense_operand_of<const A>& a,
                    const dense_operand_of<const B>& b, const view<D, 3>& d, store into, void* workspace) {
  if (d.empty()) return;
  const index_t m = d.extent(1), n = d.extent(2), k = a.columns(), batch = d.extent(0);
  if constexpr (library_takes<A, B, D>) {
    device* gpu = device_of(ctx);
    if (gpu == nullptr)
      raise(std::string(name) + ": the context has no cuda::device, which keeps the plans of products");
    if (gpu->products().run(ctx.stream,
                            {.name = name,
                             .m = m,
                             .n = n,
                             .k = k,
                             .batch = batch,
                             .a = a.described(),
                             .b = b.described(),
                             .d = dense_operand_of<D>(d).described(),
                             .add = into == store::add},
                            workspace))
      return;
  }
  const plain_product<A, B, D> plain{.a = a.matrices.data(),
                                     .a_i = a.row_stride(),
                                     .a_l = a.column_stride(),
                                     .b = b.matrices.data(),
                                     .b_l = b.row_stride(),
                                     .b_j = b.column_stride(),
                                     .d = d.data(),
                                     .d_i = d.stride(1),
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .add = into == store::add};
  const dim3 grid(static_cast<unsigned>(ceil_div(m, plain_tile)),
                  static_cast<unsigned>(ceil_div(n, plain_tile)), static_cast<unsigned>(batch));
  launch(name, ctx.stream, {.grid = grid, .block = plain_threads}, plain_product_kernel<Acc, A, B, D>, plain,
         a.matrices.stride(0), b.matrices.stride(0), d.stride(0));
}

}  // namespace dsv3::inline DSV3_ABI::cuda::detail
