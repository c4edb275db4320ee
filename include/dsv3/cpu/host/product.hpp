// SPDX-License-Identifier: MIT
// One serial matrix product on raw pointers: through CBLAS where the build has one, through our blocked loop
// otherwise.
#pragma once

#include <dsv3/base/index.hpp>

#include <algorithm>
#include <limits>
#include <type_traits>

#if !defined(DSV3_BLAS)
#define DSV3_BLAS 0
#endif
#if DSV3_BLAS
#include <cblas.h>
#if DSV3_OPENMP
#include <omp.h>
#endif
#endif

namespace dsv3::inline DSV3_ABI::cpu {

/// Whether an operand of a product is read as it lies or with rows and columns exchanged.
enum class transpose { no, yes };

namespace detail {

// The loop's tile of sums is register_rows x register_columns and stays in vector registers; blocks of the
// operands are copied so that the loop reads them in order. The two blocks take depth * (rows + columns)
// elements of stack.
template <class T>
struct product_blocks {
#if defined(__AVX512F__)
  static constexpr index_t register_bytes = 64, register_rows = 12;
#elif defined(__AVX__)
  static constexpr index_t register_bytes = 32, register_rows = 6;
#else
  static constexpr index_t register_bytes = 16, register_rows = 4;
#endif
  static constexpr index_t register_columns = 2 * register_bytes / index_t{sizeof(T)};
  static constexpr index_t depth = 256, rows = 8 * register_rows, columns = 4 * register_columns;
};

// Copies a [lines, depth] block as panels of `width` lines, each depth-major; lines beyond the last are zero.
// `along` is the distance of two elements of a line, `across` that of two lines.
template <index_t width, class T>
void pack_panels(const T* from, index_t across, index_t along, index_t lines, index_t depth, T* to) {
  for (index_t first = 0; first < lines; first += width, to += width * depth) {
    const index_t live = std::min(width, lines - first);
    const T* panel = from + first * across;
    for (index_t p = 0; p < depth; ++p) {
      for (index_t i = 0; i < live; ++i) to[p * width + i] = panel[i * across + p * along];
      for (index_t i = live; i < width; ++i) to[p * width + i] = T(0);
    }
  }
}

// sums[i][j] = Σ_p a[p][i] · b[p][j]
template <class T>
void multiply_panels(index_t depth, const T* a, const T* b, T* sums) {
  constexpr index_t rows = product_blocks<T>::register_rows, columns = product_blocks<T>::register_columns;
  T tile[rows][columns] = {};
  for (index_t p = 0; p < depth; ++p, a += rows, b += columns) {
    DSV3_UNROLL
    for (index_t i = 0; i < rows; ++i) {
      DSV3_SIMD
      for (index_t j = 0; j < columns; ++j) tile[i][j] += a[i] * b[j];
    }
  }
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j) sums[i * columns + j] = tile[i][j];
}

// The part of a tile that lies inside c goes there.
template <class T>
void put_sums(const T* sums, index_t rows, index_t columns, T alpha, T keep, T* c, index_t ldc) {
  for (index_t i = 0; i < rows; ++i, sums += product_blocks<T>::register_columns, c += ldc) {
    if (keep == T(0)) {
      for (index_t j = 0; j < columns; ++j) c[j] = alpha * sums[j];
    } else {
      for (index_t j = 0; j < columns; ++j) c[j] = alpha * sums[j] + keep * c[j];
    }
  }
}

}  // namespace detail

/// c = alpha · op(a) · op(b) + beta · c  with op(a) [m, k], op(b) [k, n], c [m, n], on this thread only.
/// Everything is row-major; lda, ldb, ldc are the distances between stored rows. Any extent may be zero.
/// Where beta is zero c is never read.
template <class T>
void blocked_product(transpose ta, transpose tb, index_t m, index_t n, index_t k,
                     std::type_identity_t<T> alpha, const T* a, index_t lda, const T* b, index_t ldb,
                     std::type_identity_t<T> beta, T* c, index_t ldc) {
  using blocks = detail::product_blocks<T>;
  constexpr index_t rows = blocks::register_rows, columns = blocks::register_columns;
  if (k == 0) {
    for (index_t i = 0; i < m; ++i)
      for (index_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
    return;
  }
  const index_t a_row = ta == transpose::no ? lda : 1, a_depth = ta == transpose::no ? 1 : lda;
  const index_t b_column = tb == transpose::no ? 1 : ldb, b_depth = tb == transpose::no ? ldb : 1;
  alignas(64) T a_block[blocks::rows * blocks::depth], b_block[blocks::columns * blocks::depth];
  alignas(64) T sums[rows * columns];
  for (index_t p0 = 0; p0 < k; p0 += blocks::depth) {
    const index_t depth = std::min(blocks::depth, k - p0);
    const T keep = p0 == 0 ? beta : T(1);  // what c holds enters once
    for (index_t j0 = 0; j0 < n; j0 += blocks::columns) {
      const index_t width = std::min(blocks::columns, n - j0);
      detail::pack_panels<columns>(b + j0 * b_column + p0 * b_depth, b_column, b_depth, width, depth,
                                   b_block);
      for (index_t i0 = 0; i0 < m; i0 += blocks::rows) {
        const index_t height = std::min(blocks::rows, m - i0);
        detail::pack_panels<rows>(a + i0 * a_row + p0 * a_depth, a_row, a_depth, height, depth, a_block);
        for (index_t j = 0; j < width; j += columns)
          for (index_t i = 0; i < height; i += rows) {
            detail::multiply_panels(depth, a_block + i * depth, b_block + j * depth, sums);
            detail::put_sums(sums, std::min(rows, height - i), std::min(columns, width - j), alpha, keep,
                             c + (i0 + i) * ldc + j0 + j, ldc);
          }
      }
    }
  }
}

#if DSV3_BLAS
namespace detail {

// OpenBLAS on OpenMP asks the calling task how many threads it may use (omp_get_max_threads). That number
// belongs to the task, not to the process: set to one for the duration of a call it keeps the product on this
// thread, whether or not we are inside a parallel region, and nobody else can see it.
class calling_thread_only {
 public:
#if DSV3_OPENMP
  calling_thread_only() : allowed_(omp_get_max_threads()) {
    if (allowed_ != 1) omp_set_num_threads(1);
  }
  ~calling_thread_only() {
    if (allowed_ != 1) omp_set_num_threads(allowed_);
  }
  calling_thread_only(const calling_thread_only&) = delete;
  calling_thread_only& operator=(const calling_thread_only&) = delete;

 private:
  int allowed_;
#endif
};

// CBLAS wants a leading dimension of at least the stored width, even where there is only one row.
inline int leading_dimension(index_t distance, index_t stored_rows, index_t stored_columns) {
  return static_cast<int>(stored_rows > 1 ? distance : std::max<index_t>(stored_columns, 1));
}

}  // namespace detail

/// Whether CBLAS can be asked for this product: its numbers are 32-bit, and rows may not overlap.
inline bool blas_takes(transpose ta, transpose tb, index_t m, index_t n, index_t k, index_t lda, index_t ldb,
                       index_t ldc) {
  constexpr index_t most = std::numeric_limits<int>::max();
  const auto stored = [](index_t rows, index_t columns, index_t distance) {
    return rows <= most && columns <= most &&
           (rows <= 1 || (distance >= columns && distance <= most && distance > 0));
  };
  return stored(m, n, ldc) && (ta == transpose::no ? stored(m, k, lda) : stored(k, m, lda)) &&
         (tb == transpose::no ? stored(k, n, ldb) : stored(n, k, ldb));
}

/// The same by cblas_sgemm or cblas_dgemm, on this thread alone; only where blas_takes.
template <class T>
void blas_product(transpose ta, transpose tb, index_t m, index_t n, index_t k, std::type_identity_t<T> alpha,
                  const T* a, index_t lda, const T* b, index_t ldb, std::type_identity_t<T> beta, T* c,
                  index_t ldc) {
  [[maybe_unused]] const detail::calling_thread_only here;
  const bool na = ta == transpose::no, nb = tb == transpose::no;
  const int a_distance = detail::leading_dimension(lda, na ? m : k, na ? k : m);
  const int b_distance = detail::leading_dimension(ldb, nb ? k : n, nb ? n : k);
  const auto call = [&](auto gemm) {
    gemm(CblasRowMajor, na ? CblasNoTrans : CblasTrans, nb ? CblasNoTrans : CblasTrans, static_cast<int>(m),
         static_cast<int>(n), static_cast<int>(k), alpha, a, a_distance, b, b_distance, beta, c,
         detail::leading_dimension(ldc, m, n));
  };
  if constexpr (std::is_same_v<T, float>)
    call(cblas_sgemm);
  else
    call(cblas_dgemm);
}
#endif

/// The product everything in the CPU wing uses: CBLAS where the build has one and it can express the product,
/// our loop otherwise. Serial; call it from the parts of a parallel loop, or on the calling thread.
template <class T>
void product(transpose ta, transpose tb, index_t m, index_t n, index_t k, std::type_identity_t<T> alpha,
             const T* a, index_t lda, const T* b, index_t ldb, std::type_identity_t<T> beta, T* c,
             index_t ldc) {
#if DSV3_BLAS
  if (blas_takes(ta, tb, m, n, k, lda, ldb, ldc)) {
    blas_product(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return;
  }
#endif
  blocked_product(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace dsv3::inline DSV3_ABI::cpu
