#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs what is missing where it may, builds, and runs the tests.
#
#   tests/run.sh                         everything
#   tests/run.sh -L op                   the rest of the line goes to ctest: here the tests labelled op
#   tests/run.sh --preset asan -L exec   another preset; with -L only these folders are built
set -eu
cd "$(dirname "$0")/.."
source cmake/install_packages.sh

preset=cpu
if [ "${1:-}" = --preset ]; then
  preset=${2:?--preset wants a name: cpu, asan or cuda}
  shift 2
fi

need_packages g++:g++ cmake:cmake make:make doctest/doctest.h:doctest-dev \
  nlohmann/json.hpp:nlohmann-json3-dev pcre2.h:libpcre2-dev CLI/CLI.hpp:libcli11-dev benchmark/benchmark.h:libbenchmark-dev cblas.h:libopenblas-openmp-dev \
  mpicxx:libopenmpi-dev mpirun:openmpi-bin

# Ninja where there is one, unless the folder was made with something else.
if [ -z "${CMAKE_GENERATOR:-}" ] && [ ! -e "build/$preset/CMakeCache.txt" ] && command -v ninja > /dev/null; then
  export CMAKE_GENERATOR=Ninja
fi
cmake --preset "$preset"

# -L 'a|b' alone names folders of tests, and each has a target of its own.
targets=()
if [ "${1:-}" = -L ]; then
  for folder in ${2//|/ }; do targets+=(--target "tests.$folder"); done
fi
cmake --build --preset "$preset" -j "$(nproc)" ${targets[@]+"${targets[@]}"}
exec ctest --preset "$preset" -j "$(nproc)" "$@"
