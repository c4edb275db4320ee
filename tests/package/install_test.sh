#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A separate project finds the installed package by component, and is told in one sentence what it cannot have.
source "$(dirname "$0")/../support/script.sh"
export CXX

"$CMAKE" -S "$DSV3_SOURCE" -B "$scratch/library" -DDSV3_TESTS=OFF -DDSV3_EXAMPLES=OFF -DDSV3_BENCH=OFF \
  -DCMAKE_INSTALL_PREFIX="$scratch/prefix" > "$scratch/log" 2>&1 &&
  "$CMAKE" --install "$scratch/library" >> "$scratch/log" 2>&1 ||
  { fail "the library does not install: $(tail -n 8 "$scratch/log")"; finish; }

# The installed package must not lean on the tree it came from.
grep -rlF "$DSV3_SOURCE" "$scratch/prefix" && fail "these installed files name the source folder"
for header in $(cd "$DSV3_SOURCE/include" && find dsv3 \( -name '*.hpp' -o -name '*.cuh' \)); do
  [ -e "$scratch/prefix/include/$header" ] || fail "$header was not installed"
done

consume() {
  rm -rf "$scratch/consumer"
  "$CMAKE" -S "$DSV3_SOURCE/examples/consumer" -B "$scratch/consumer" -DCMAKE_PREFIX_PATH="$scratch/prefix" "$@" \
    > "$scratch/log" 2>&1 &&
    "$CMAKE" --build "$scratch/consumer" >> "$scratch/log" 2>&1 ||
    { fail "the consumer does not build with '$*': $(tail -n 12 "$scratch/log")"; return; }
  "$scratch/consumer/consumer" > "$scratch/output"
  diff "$DSV3_SOURCE/tests/package/expected.txt" "$scratch/output" || fail "the consumer prints something else with '$*'"
}
consume
consume -DDSV3_BLAS=OFF

# ask COMPONENTS SENTENCE: a project that asks for these components.
ask() {
  mkdir -p "$scratch/ask"
  printf '%s\n' 'cmake_minimum_required(VERSION 3.25)' 'project(ask LANGUAGES CXX)' \
    "find_package(dsv3 CONFIG REQUIRED $1)" 'file(WRITE ${CMAKE_BINARY_DIR}/unit.cpp "int main() {}")' \
    'foreach(target IN ITEMS dsv3 cpu cuda io text mpi nccl)' '  if(TARGET dsv3::${target})' \
    '    message(STATUS "has dsv3::${target}")' '  endif()' 'endforeach()' > "$scratch/ask/CMakeLists.txt"
  rm -rf "$scratch/asked"
  "$CMAKE" -S "$scratch/ask" -B "$scratch/asked" -DCMAKE_PREFIX_PATH="$scratch/prefix" > "$scratch/log" 2>&1
  tr -s ' \n' ' ' < "$scratch/log" | grep -qF -- "$2" || fail "asked for '$1', expected '$2': $(tail -n 12 "$scratch/log")"
}
ask "" "-- has dsv3::dsv3 -- Configuring done"
ask "COMPONENTS cpu" "-- has dsv3::dsv3 -- has dsv3::cpu -- Configuring done"
if [ -n "$NVCC" ]; then
  ask "COMPONENTS cuda" "-- has dsv3::dsv3 -- has dsv3::cuda -- Configuring done"
fi
ask "COMPONENTS io" "-- has dsv3::dsv3 -- has dsv3::io -- Configuring done"
ask "COMPONENTS text" "-- has dsv3::dsv3 -- has dsv3::io -- has dsv3::text -- Configuring done"
if [ -n "${MPIEXEC-}" ]; then
  ask "COMPONENTS mpi" "-- has dsv3::dsv3 -- has dsv3::mpi -- Configuring done"
fi
if grep -q '^NCCL_LIBRARY:FILEPATH=/' "$scratch/library/CMakeCache.txt"; then
  ask "COMPONENTS nccl" "-- has dsv3::dsv3 -- has dsv3::nccl -- Configuring done"
fi
ask "COMPONENTS sound" "dsv3 has no component 'sound'; it has cpu, cuda, io, mpi, nccl and text"
finish
