#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every .hpp compiles alone, twice in one file, without a warning; and all of them compile among hostile macros.
source "$(dirname "$0")/../support/script.sh"

# What a header needs beyond the standard library; without it the header cannot be tried.
available() {
  local needed
  case $1 in
    dsv3/comm/mpi.hpp) needed=mpi.h ;;
    dsv3/comm/cuda/nccl.hpp) needed=nccl.h ;;
    dsv3/text.hpp | dsv3/text/*) needed=pcre2.h ;;
    *) return 0 ;;
  esac
  printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\n' "$needed" | $CXX $DSV3_FLAGS -E -x c++ - > /dev/null 2>&1
}

compile() {
  local header=$1 file
  file=$scratch/$(printf '%s' "$header" | tr / _).cpp
  printf '#include <%s>\n#include <%s>\nint main() {}\n' "$header" "$header" > "$file"
  if ! $CXX $DSV3_FLAGS $DSV3_OPENMP_FLAG -Wall -Wextra -Werror -fsyntax-only "$file" > "$file.log" 2>&1; then
    echo "<$header> does not compile alone:"
    head -n 12 "$file.log"
    return 1
  fi
}

count=0
running=0
while read -r header; do
  if ! available "$header"; then
    echo "not tried, its dependency is not installed: $header"
    continue
  fi
  count=$((count + 1))
  printf '#include <%s>\n' "$header" >> "$scratch/every.hpp"
  (compile "$header" > "$scratch/$count.out" 2>&1 || touch "$scratch/$count.failed") &
  running=$((running + 1))
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n
    running=$((running - 1))
  fi
done < <(cd "$DSV3_SOURCE/include" && find dsv3 -name '*.hpp' | sort)
wait
[ "$count" -gt 20 ] || fail "only $count headers found in $DSV3_SOURCE/include/dsv3"
for mark in "$scratch"/*.failed; do
  [ -e "$mark" ] && fail "$(cat "${mark%.failed}.out")"
done

# Other people's headers come first: the macros are a test of ours, not of theirs.
cat > "$scratch/every.cpp" <<END
#include <algorithm>
#include <random>
#include <regex>
#if __has_include(<cblas.h>)
#include <cblas.h>
#endif
#if __has_include(<omp.h>)
#include <omp.h>
#endif
#if __has_include(<nlohmann/json.hpp>)
#include <nlohmann/json.hpp>
#endif
#if __has_include(<mpi.h>)
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#endif
#if __has_include(<nccl.h>)
#include <nccl.h>
#endif
#include "hostile_macros.hpp"
#include "every.hpp"
END
$CXX $DSV3_FLAGS $DSV3_OPENMP_FLAG -I"$DSV3_SOURCE/tests/structure" -Wall -Wextra -Werror -fsyntax-only \
  "$scratch/every.cpp" > "$scratch/every.log" 2>&1 ||
  fail "a header uses a name that other headers define as a macro: $(head -n 20 "$scratch/every.log")"

echo "$count headers compiled alone"
finish
