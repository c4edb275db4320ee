// SPDX-License-Identifier: MIT
// The only header that asks which compiler is at work.
#pragma once

#include <dsv3/version.hpp>

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "dsv3 needs C++20: compile with -std=c++20 or later"
#endif

// The inline namespace of everything public. A macro that changes behaviour appends to the name, so that
// object files built with and without it cannot be linked into one set of symbols.
#if defined(DSV3_NO_EXCEPTIONS)
#define DSV3_ABI v0_no_exceptions
#else
#define DSV3_ABI v0
#endif

#if defined(__CUDACC__)
#define DSV3_HOST_DEVICE __host__ __device__
#else
#define DSV3_HOST_DEVICE
#endif

// Whether device code is being compiled for the instructions that only compute capability 9.0a has.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV3_SM90A 1
#else
#define DSV3_SM90A 0
#endif

#define DSV3_FORCE_INLINE inline __attribute__((always_inline))

// Loop hints. They are empty where the compiler was not asked for OpenMP, so that user builds stay free of
// unknown-pragma warnings; the loops mean the same either way, up to the order of floating-point sums.
#if defined(_OPENMP)
#define DSV3_OPENMP 1
#define DSV3_PRAGMA(text) _Pragma(#text)
#define DSV3_SIMD DSV3_PRAGMA(omp simd)
#define DSV3_SIMD_SUM(...) DSV3_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define DSV3_SIMD_MAX(...) DSV3_PRAGMA(omp simd reduction(max : __VA_ARGS__))
#else
#define DSV3_OPENMP 0
#define DSV3_SIMD
#define DSV3_SIMD_SUM(...)
#define DSV3_SIMD_MAX(...)
#endif

// Whether the compiler is a host's and lets a source name the vectors of AVX-512 with byte permutations.
#if defined(__AVX512BW__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && !defined(__CUDACC__)
#define DSV3_AVX512 1
#else
#define DSV3_AVX512 0
#endif

// Unrolls the next loop of a few, constant, rounds, so that what it indexes can stay in registers.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define DSV3_UNROLL _Pragma("GCC unroll 16")
#elif defined(__clang__) && !defined(__CUDACC__)
#define DSV3_UNROLL _Pragma("unroll")
#else
#define DSV3_UNROLL
#endif
