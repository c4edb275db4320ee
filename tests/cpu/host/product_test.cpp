// SPDX-License-Identifier: MIT
// The serial product, by BLAS (where the build has one) and by our own loop, against sums written out.
#include <dsv3/cpu/host/parallel.hpp>
#include <dsv3/cpu/host/product.hpp>

#include <support/compare.hpp>
#include <support/guarded.hpp>
#include <support/sparse_memory.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#if DSV3_OPENMP
#include <omp.h>
#endif

using namespace dsv3;
using cpu::transpose;
using support::guarded;

namespace {

/// The products under test; all have one signature.
template <class T>
using product_function = void (*)(transpose, transpose, index_t, index_t, index_t, std::type_identity_t<T>,
                                  const T*, index_t, const T*, index_t, std::type_identity_t<T>, T*, index_t);

template <class T>
struct named_product {
  std::string name;
  product_function<T> call;
};

template <class T>
const std::vector<named_product<T>>& products() {
  static const std::vector<named_product<T>> all = {
    {"product", cpu::product<T>},
    {"blocked_product", cpu::blocked_product<T>},
#if DSV3_BLAS
    {"blas_product", cpu::blas_product<T>},
#endif
  };
  return all;
}

constexpr transpose orientations[] = {transpose::no, transpose::yes};

/// Operands with gaps between their rows; everything outside is poison.
template <class T>
struct fixture {
  transpose ta, tb;
  index_t m, n, k;
  guarded<T> a, b, c;

  fixture(transpose ta_, transpose tb_, index_t m_, index_t n_, index_t k_, index_t gap)
      : ta(ta_),
        tb(tb_),
        m(m_),
        n(n_),
        k(k_),
        a(gap, ta == transpose::no ? m : k, ta == transpose::no ? k : m),
        b(gap + 1, tb == transpose::no ? k : n, tb == transpose::no ? n : k),
        c(2 * gap, m, n) {
    a.normal(1), b.normal(2);
  }

  void run(product_function<T> product, double alpha, double beta) {
    const auto va = a.get(), vb = b.get(), vc = c.get();
    product(ta, tb, m, n, k, T(alpha), va.data(), va.stride(0), vb.data(), vb.stride(0), T(beta), vc.data(),
            vc.stride(0));
  }

  std::vector<double> expected(double alpha, double beta, const std::vector<double>& before) {
    const std::vector<double> va = a.values(), vb = b.values();
    std::vector<double> result;
    for (index_t i = 0; i < m; ++i)
      for (index_t j = 0; j < n; ++j) {
        double sum = 0;
        for (index_t p = 0; p < k; ++p)
          sum += va[static_cast<std::size_t>(ta == transpose::no ? i * k + p : p * m + i)] *
                 vb[static_cast<std::size_t>(tb == transpose::no ? p * n + j : j * k + p)];
        result.push_back(alpha * sum + (beta == 0 ? 0 : beta * before[result.size()]));
      }
    return result;
  }

  bool intact() { return a.intact() && b.intact() && c.intact(); }
};

template <class T>
constexpr double row_tolerance = sizeof(T) == 8 ? 1e-12 : 2e-5;

}  // namespace

TEST_CASE_TEMPLATE("products agree with the sums, whatever the orientation, extents and gaps", T, float,
                   double) {
  struct extents {
    index_t m, n, k;
  };
  constexpr extents cases[] = {{1, 1, 1},   {1, 70, 33},  {70, 1, 33},    {12, 32, 256}, {13, 33, 257},
                               {5, 3, 600}, {97, 129, 5}, {100, 140, 31}, {64, 64, 1},   {250, 131, 300}};
  for (const auto& product : products<T>())
    for (const transpose ta : orientations)
      for (const transpose tb : orientations)
        for (const extents e : cases)
          for (const double beta : {0.0, 1.0, -0.5}) {
            CAPTURE(product.name);
            CAPTURE(e.m);
            CAPTURE(e.n);
            CAPTURE(e.k);
            CAPTURE(beta);
            const double alpha = beta == 1 ? 1 : 0.25;
            fixture<T> f(ta, tb, e.m, e.n, e.k, beta == 1 ? 0 : 3);
            if (beta != 0) f.c.normal(3);  // otherwise poison, which must not be read
            const auto expected = f.expected(alpha, beta, f.c.values());
            f.run(product.call, alpha, beta);
            const double scale =
                std::sqrt(static_cast<double>(e.k));  // of a sum; a row of one may be near zero
            CHECK(support::worst_row(f.c.values(), expected, e.n, scale) <= row_tolerance<T>);
            CHECK(f.intact());
          }
}

TEST_CASE_TEMPLATE("products with an empty extent", T, float, double) {
  for (const auto& product : products<T>())
    for (const transpose ta : orientations)
      for (const transpose tb : orientations) {
        CAPTURE(product.name);
        fixture<T> no_rows(ta, tb, 0, 5, 4, 0), no_columns(ta, tb, 5, 0, 4, 0);
        no_rows.run(product.call, 1, 0), no_columns.run(product.call, 1, 0);
        CHECK(no_rows.intact());
        CHECK(no_columns.intact());

        fixture<T> no_depth(ta, tb, 3, 4, 0, 2);
        no_depth.run(product.call, 1, 0);
        CHECK(no_depth.c.values() == std::vector<double>(12, 0));
        no_depth.c.normal(3);
        const auto before = no_depth.c.values();
        no_depth.run(product.call, 1, 1);
        CHECK(no_depth.c.values() == before);
        CHECK(no_depth.intact());
      }
}

TEST_CASE_TEMPLATE("bad numbers stay in their row and column", T, float, double) {
  for (const auto& product : products<T>())
    for (const double bad : {double(NAN), double(INFINITY)}) {
      CAPTURE(product.name);
      fixture<T> f(transpose::no, transpose::yes, 25, 45, 50, 1);
      f.a.get()(7, 3) = T(bad);   // row 7 of c
      f.b.get()(40, 9) = T(bad);  // column 40 of c
      f.run(product.call, 1, 0);
      for (index_t i = 0; i < 25; ++i)
        for (index_t j = 0; j < 45; ++j) CHECK(std::isfinite(f.c.get()(i, j)) == (i != 7 && j != 40));
    }
}

TEST_CASE_TEMPLATE("products reach beyond 2^31 elements", T, float, double) {
  constexpr index_t rows = 4, distance = (index_t{1} << 30) + 3;  // the last row starts at 3 * 2^30
  const support::sparse<T> a(rows * distance), c(rows * distance);
  for (const auto& product : products<T>()) {
    CAPTURE(product.name);
    for (index_t i = 0; i < rows; ++i)
      for (index_t p = 0; p < 2; ++p) a.data()[i * distance + p] = T(10 * i + p + 1);
    const T b[2] = {2, -1};
    product.call(transpose::no, transpose::no, rows, 1, 2, 1, a.data(), distance, b, 1, 0, c.data(),
                 distance);
    for (index_t i = 0; i < rows; ++i) CHECK(c.data()[i * distance] == T(2 * (10 * i + 1) - (10 * i + 2)));
    const T ones[rows] = {1, 1, 1, 1};
    T sums[2];
    product.call(transpose::yes, transpose::no, 2, 1, rows, 1, a.data(), distance, ones, 1, 0, sums, 1);
    CHECK(sums[0] == 64);  // 1 + 11 + 21 + 31
    CHECK(sums[1] == 68);
  }
}

TEST_CASE_TEMPLATE("rows further apart than a 32-bit number, and rows that are one", T, float, double) {
  constexpr index_t distance = (index_t{1} << 31) + 5;
  const support::sparse<T> a(2 * distance);
  a.data()[0] = 3, a.data()[distance] = 4;
  const T b = 5;
  T c[2] = {};
  cpu::product(transpose::no, transpose::no, 2, 1, 1, 1, a.data(), distance, &b, 1, 0, c, 1);
  CHECK(c[0] == 15);
  CHECK(c[1] == 20);

  const T row[3] = {1, 2, 3}, ones[3] = {1, 1, 1};
  cpu::product(transpose::no, transpose::yes, 2, 1, 3, 1, row, 0, ones, 3, 0, c,
               1);  // both rows of a are `row`
  CHECK(c[0] == 6);
  CHECK(c[1] == 6);
}

#if DSV3_BLAS
TEST_CASE("what CBLAS can be asked") {
  constexpr index_t most = std::numeric_limits<int>::max();
  const auto takes = [](index_t m, index_t n, index_t k, index_t lda, index_t ldb, index_t ldc) {
    return cpu::blas_takes(transpose::no, transpose::yes, m, n, k, lda, ldb, ldc);
  };
  CHECK(takes(4, 5, 6, 6, 6, 5));
  CHECK(takes(4, 5, 6, most, most, most));
  CHECK_FALSE(takes(4, 5, 6, most + 1, 6, 5));
  CHECK_FALSE(takes(4, 5, 6, 6, most + 1, 5));
  CHECK_FALSE(takes(4, 5, 6, 6, 6, most + 1));
  CHECK_FALSE(takes(4, 5, 6, 5, 6, 5));
  CHECK_FALSE(takes(most + 1, 1, 1, 1, 1, 1));
  CHECK(takes(1, 5, 6, 0, 6, 0));  // a single row has no distance to the next
}
#endif

#if DSV3_OPENMP && DSV3_BLAS && defined(__linux__)
namespace {
int threads_of_this_process() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "Threads:") {
      int threads = 0;
      status >> threads;
      return threads;
    }
  return -1;
}
}  // namespace

TEST_CASE("a product stays on the calling thread and changes nobody's number of threads") {
  omp_set_num_threads(4);
  const int before = threads_of_this_process();
  fixture<float> f(transpose::no, transpose::no, 512, 512, 512, 0);
  f.run(cpu::blas_product<float>, 1, 0);
  CHECK(threads_of_this_process() == before);
  CHECK(omp_get_max_threads() == 4);
}
#endif

TEST_CASE_TEMPLATE("products made side by side are the same", T, float, double) {
  for (const auto& product : products<T>()) {
    CAPTURE(product.name);
    std::vector<fixture<T>> f(6, fixture<T>(transpose::no, transpose::yes, 60, 70, 300, 1));
    cpu::parallel_parts(3, 6, [&](index_t p) { f[static_cast<std::size_t>(p)].run(product.call, 1, 0); });
    for (const fixture<T>& one : f) CHECK(one.c.same_bits(f[0].c));
  }
}
