# SPDX-License-Identifier: MIT
# Sourced by the test scripts. CTest sets these variables; the defaults let a script be started by hand.
set -u
export LC_ALL=C
DSV3_SOURCE=${DSV3_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
DSV3_BUILD=${DSV3_BUILD:-$DSV3_SOURCE/build/cpu}
DSV3_BIN=${DSV3_BIN:-$DSV3_BUILD/bin}
CMAKE=${CMAKE:-cmake}
CXX=${CXX:-g++}
NVCC=${NVCC-$(command -v nvcc)}
DSV3_CUDA_ARCHITECTURE=${DSV3_CUDA_ARCHITECTURE:-90a}
DSV3_FLAGS=${DSV3_FLAGS:--std=c++20 -I$DSV3_SOURCE/include -DDSV3_BLAS=0}
DSV3_OPENMP_FLAG=${DSV3_OPENMP_FLAG--fopenmp}

# A folder of the script's own, removed at its end.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

failures=0
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  failures=$((failures + 1))
}
skip() {
  printf 'skipped: %s\n' "$*"
  exit 77
}
finish() {
  [ "$failures" -eq 0 ] || exit 1
  exit 0
}
