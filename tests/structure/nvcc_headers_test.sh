#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every header compiles with nvcc without a warning: one file per top folder with all its headers, or with
# DSV3_ONE_BY_ONE=1 one file per header, which takes some seconds for each.
source "$(dirname "$0")/../support/script.sh"
[ -n "$NVCC" ] || skip "no nvcc found"

# Headers of parts whose dependency is not installed cannot be tried.
present() {
  printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\n' "$1" |
    $CXX $DSV3_FLAGS -I"$(dirname "$NVCC")/../include" -E -x c++ - > /dev/null 2>&1
}
left_out='^$'
present mpi.h || left_out="$left_out|^dsv3/comm/mpi"
present nccl.h || left_out="$left_out|^dsv3/comm/cuda/nccl"
present pcre2.h || left_out="$left_out|^dsv3/text"
headers=$(cd "$DSV3_SOURCE/include" && find dsv3 \( -name '*.hpp' -o -name '*.cuh' \) | sort | grep -Ev "$left_out")

for header in $headers; do
  if [ -n "${DSV3_ONE_BY_ONE:-}" ]; then
    unit=$(printf '%s' "$header" | tr /. __)
  else
    unit=$(printf '%s' "$header" | sed -E 's,^dsv3/,,; s,/.*$,,; s,\..*$,_umbrella,')
  fi
  printf '#include <%s>\n' "$header" >> "$scratch/$unit.cu"
done

compile() {
  $NVCC $DSV3_FLAGS -arch="sm_$DSV3_CUDA_ARCHITECTURE" -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror \
    ${DSV3_OPENMP_FLAG:+-Xcompiler $DSV3_OPENMP_FLAG} -c "$1" -o "${1%.cu}.o" > "${1%.cu}.log" 2>&1 ||
    touch "${1%.cu}.failed"
}

running=0
for unit in "$scratch"/*.cu; do
  compile "$unit" &
  running=$((running + 1))
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n
    running=$((running - 1))
  fi
done
wait
for mark in "$scratch"/*.failed; do
  [ -e "$mark" ] || continue
  fail "nvcc refuses the headers of $(basename "${mark%.failed}"): $(head -n 12 "${mark%.failed}.log")"
done
echo "$(printf '%s\n' "$headers" | wc -l) headers compiled with nvcc"
finish
