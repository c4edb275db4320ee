#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Public types are the same symbols under g++ and nvcc: objects of the two compilers call each other.
source "$(dirname "$0")/../support/script.sh"
[ -n "$NVCC" ] || skip "no nvcc found"

here=$DSV3_SOURCE/tests/structure/link
$CXX $DSV3_FLAGS -Wall -Wextra -Werror -c "$here/host.cpp" -o "$scratch/host.o" || fail "g++ does not compile its half"
$NVCC $DSV3_FLAGS -arch="sm_$DSV3_CUDA_ARCHITECTURE" -c "$here/device.cu" -o "$scratch/device.o" ||
  fail "nvcc does not compile its half"
$NVCC "$scratch/host.o" "$scratch/device.o" -o "$scratch/program" || fail "the two halves do not link"
"$scratch/program" || fail "the two halves disagree about a value"
finish
