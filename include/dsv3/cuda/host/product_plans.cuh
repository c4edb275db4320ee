// SPDX-License-Identifier: MIT
// Products of dense matrices through cuBLASLt, with the algorithm of every shape remembered.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>
#include <dsv3/number/bf16.hpp>

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

namespace dsv3::inline DSV3_ABI::cuda {

/// A matrix in global memory, or `batch` of them, `step` elements apart. Rows lie `stride` elements apart,
/// the elements of a row side by side.
struct matrix_operand {
  const void* data;
  cudaDataType type;
  index_t stride, step = 0;
  bool turned = false;  // the product reads it transposed
};

/// d = a · b, or d += a · b: a is [m, k], or [k, m] turned; b is [k, n], or [n, k] turned; d is [m, n].
struct matrix_product {
  const char* name;  // the operation's, for errors
  index_t m, n, k, batch = 1;
  matrix_operand a, b, d;
  bool add = false;
};

/// The library's name of an element type.
template <class T>
constexpr cudaDataType library_type() {
  if constexpr (std::is_same_v<T, double>)
    return CUDA_R_64F;
  else if constexpr (std::is_same_v<T, bf16>)
    return CUDA_R_16BF;
  else {
    static_assert(std::is_same_v<T, float>);
    return CUDA_R_32F;
  }
}

/// Owns the library's handle and what its heuristic answered. May be used by several threads.
///
/// Sums run in double for double and in float for all else, without TF32. Algorithms that divide k add the
/// parts up in an order of their own, always the same; so results repeat bit for bit. A product of at most
/// `few_rows` rows runs an algorithm that takes any number up to so many, so that a row gets the same bits
/// whichever others come with it.
class product_plans {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;
  static constexpr index_t few_rows = 16;

  product_plans() { succeed(cublasLtCreate(&library_), "cuBLASLt"); }
  ~product_plans() { (void)cublasLtDestroy(library_); }
  product_plans(const product_plans&) = delete;
  product_plans& operator=(const product_plans&) = delete;

  /// Runs the product on `stream`, or returns false where the library has no algorithm for it: nothing has
  /// happened then. `workspace` has workspace_bytes and is aligned to 256.
  bool run(cudaStream_t stream, const matrix_product& p, void* workspace) {
    if (!describable(p)) return false;
    const plan& chosen = plan_of(p);
    if (!chosen.found) return false;
    description d(p, p.m);
    const double one = 1, zero = 0;
    const float one_float = 1, zero_float = 0;
    const bool wide = p.d.type == CUDA_R_64F;
    const void* alpha = wide ? static_cast<const void*>(&one) : &one_float;
    const void* nothing = wide ? static_cast<const void*>(&zero) : &zero_float;
    void* out = const_cast<void*>(p.d.data);
    succeed(cublasLtMatmul(library_, &d.operation, alpha, p.b.data, &d.first, p.a.data, &d.second,
                           p.add ? alpha : nothing, out, &d.result, out, &d.result, &chosen.algorithm,
                           workspace, workspace_bytes, stream),
            p.name);
    return true;
  }

  /// How many shapes have a plan.
  std::size_t size() {
    const std::lock_guard hold(lock_);
    return plans_.size();
  }

 private:
  struct plan {
    cublasLtMatmulAlgo_t algorithm = {};
    bool found = false;
  };
  using key = std::array<index_t, 14>;

  // The library counts columns first, so it is told the transposed product: dᵀ = bᵀ · aᵀ.
  struct description {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t first, second, result;

    description(const matrix_product& p, index_t m) {
      const bool wide = p.d.type == CUDA_R_64F;
      succeed(cublasLtMatmulDescInit(&operation, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                     wide ? CUDA_R_64F : CUDA_R_32F),
              p.name);
      set(CUBLASLT_MATMUL_DESC_TRANSA, p.b.turned, p.name);
      set(CUBLASLT_MATMUL_DESC_TRANSB, p.a.turned, p.name);
      lay(first, p.b, p.b.turned ? p.n : p.k, p.b.turned ? p.k : p.n, p);
      lay(second, p.a, p.a.turned ? p.k : m, p.a.turned ? m : p.k, p);
      lay(result, p.d, m, p.n, p);
    }

   private:
    void set(cublasLtMatmulDescAttributes_t what, bool turned, const char* name) {
      const cublasOperation_t answer = turned ? CUBLAS_OP_T : CUBLAS_OP_N;
      succeed(cublasLtMatmulDescSetAttribute(&operation, what, &answer, sizeof(answer)), name);
    }
    static void lay(cublasLtMatrixLayoutOpaque_t& layout, const matrix_operand& x, index_t rows,
                    index_t columns, const matrix_product& p) {
      // The stride of a single row means nothing, and may be less than the library wants to see.
      const index_t stride = std::max(x.stride, columns);
      succeed(cublasLtMatrixLayoutInit(&layout, x.type, static_cast<std::uint64_t>(columns),
                                       static_cast<std::uint64_t>(rows), stride),
              p.name);
      if (p.batch == 1) return;
      const auto batch = static_cast<std::int32_t>(p.batch);
      succeed(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                               sizeof(batch)),
              p.name);
      succeed(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &x.step,
                                               sizeof(x.step)),
              p.name);
    }
  };

  static void succeed(cublasStatus_t answer, const char* name) {
    if (answer != CUBLAS_STATUS_SUCCESS) raise(std::string(name) + ": " + cublasLtGetStatusString(answer));
  }

  // Rows that overlap have no name in the library, nor has an empty sum.
  static bool describable(const matrix_product& p) {
    const auto apart = [](const matrix_operand& x, index_t rows, index_t columns) {
      return rows == 1 || x.stride >= columns;
    };
    return p.k > 0 && p.batch <= std::numeric_limits<std::int32_t>::max() &&
           apart(p.a, p.a.turned ? p.k : p.m, p.a.turned ? p.m : p.k) &&
           apart(p.b, p.b.turned ? p.n : p.k, p.b.turned ? p.k : p.n) && apart(p.d, p.m, p.n);
  }

  // What divides the address of every row, up to 256.
  static std::uint32_t alignment(const matrix_operand& x) {
    const std::uint64_t element = x.type == CUDA_R_64F ? 8 : x.type == CUDA_R_32F ? 4 : 2;
    const auto any = reinterpret_cast<std::uint64_t>(x.data) |
                     static_cast<std::uint64_t>(x.stride) * element |
                     static_cast<std::uint64_t>(x.step) * element | 256;
    return std::uint32_t{1} << std::countr_zero(any);
  }

  static key key_of(const matrix_product& p) {
    const auto operand = [](const matrix_operand& x) {
      return static_cast<index_t>(x.type) * 1024 + alignment(x) * 2 + (x.turned ? 1 : 0);
    };
    return {p.m,        p.n,      p.k,      p.batch,  p.add,        p.a.stride,   p.b.stride,
            p.d.stride, p.a.step, p.b.step, p.d.step, operand(p.a), operand(p.b), operand(p.d)};
  }

  const plan& plan_of(const matrix_product& p) {
    const std::lock_guard hold(lock_);
    const auto [place, added] = plans_.try_emplace(key_of(p));
    if (!added) return place->second;
    return place->second = p.m <= few_rows && !p.a.turned ? ask_for_few(p) : ask(p);
  }

  // The first algorithm that takes any number of rows up to few_rows.
  plan ask_for_few(const matrix_product& p) const {
    description most(p, few_rows);
    for (const plan& candidate : ask(p, most)) {
      bool takes_all = true;
      for (index_t m = 1; m < few_rows && takes_all; ++m) {
        description fewer(p, m);
        takes_all = takes(candidate, fewer);
      }
      if (takes_all) return candidate;
    }
    return {};
  }
  plan ask(const matrix_product& p) const {
    description exact(p, p.m);
    const std::vector<plan> candidates = ask(p, exact);
    return candidates.empty() ? plan{} : candidates.front();
  }

  bool takes(const plan& candidate, description& d) const {
    cublasLtMatmulHeuristicResult_t answer;
    return cublasLtMatmulAlgoCheck(library_, &d.operation, &d.first, &d.second, &d.result, &d.result,
                                   &candidate.algorithm, &answer) == CUBLAS_STATUS_SUCCESS &&
           answer.workspaceSize <= workspace_bytes;
  }

  // The library's candidates, the one it thinks best first.
  std::vector<plan> ask(const matrix_product& p, description& d) const {
    cublasLtMatmulPreferenceOpaque_t wish;
    succeed(cublasLtMatmulPreferenceInit(&wish), p.name);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      succeed(cublasLtMatmulPreferenceSetAttribute(&wish, what, &value, sizeof(value)), p.name);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    // Never "in place": that would round partial sums to the output's type.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.d));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.d));
    constexpr int most = 16;
    cublasLtMatmulHeuristicResult_t answers[most];
    int count = 0;
    if (cublasLtMatmulAlgoGetHeuristic(library_, &d.operation, &d.first, &d.second, &d.result, &d.result,
                                       &wish, most, answers, &count) != CUBLAS_STATUS_SUCCESS)
      return {};
    std::vector<plan> found;
    for (int i = 0; i < count; ++i)
      if (answers[i].state == CUBLAS_STATUS_SUCCESS)
        found.push_back({.algorithm = answers[i].algo, .found = true});
    return found;
  }

  cublasLtHandle_t library_ = nullptr;
  std::mutex lock_;
  std::map<key, plan> plans_;  // its elements stay where they are
};

}  // namespace dsv3::inline DSV3_ABI::cuda
