// SPDX-License-Identifier: MIT
// The same tests as in a build without BLAS.
#undef DSV3_BLAS
#define DSV3_BLAS 0
#include "gemm_test.cpp"
