#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What the build says of options and packages: one sentence for each.
source "$(dirname "$0")/../support/script.sh"
export CXX

# configure SENTENCE OPTION...
configure() {
  local sentence=$1
  shift
  "$CMAKE" -S "$DSV3_SOURCE" -B "$scratch/build" "$@" > "$scratch/log" 2>&1
  tr -s ' \n' ' ' < "$scratch/log" | grep -qF -- "$sentence" ||
    fail "with '$*' the build does not say '$sentence': $(tail -n 8 "$scratch/log")"
  rm -rf "$scratch/build"
}
library="-DDSV3_TESTS=OFF -DDSV3_EXAMPLES=OFF -DDSV3_BENCH=OFF"
configure "DSV3_BLAS is 'maybe', expected AUTO, ON or OFF" $library -DDSV3_BLAS=maybe
configure "products through the library's own loops" $library -DDSV3_BLAS=OFF
configure "products through the library's own loops" $library -DCMAKE_DISABLE_FIND_PACKAGE_CBLAS=ON
configure "DSV3_BLAS is ON and no OpenBLAS with cblas.h was found (Debian: libopenblas-openmp-dev)" \
  $library -DDSV3_BLAS=ON -DCMAKE_DISABLE_FIND_PACKAGE_CBLAS=ON
configure "no OpenMP found, operations run on one thread" $library -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON
configure "Build files have been written" $library -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
configure "doctest was not found and our tests, examples and benches need it (Debian: doctest-dev)" \
  -DDSV3_EXAMPLES=OFF -DDSV3_BENCH=OFF -DCMAKE_DISABLE_FIND_PACKAGE_doctest=ON
finish
