#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Ranks as real processes: what every engine must do, and that nothing hangs when a rank is killed, stopped, fails, or
# calls something else.
source "$(dirname "$0")/../support/script.sh"
launcher=${MPIEXEC-$(command -v mpirun)}
program=$DSV3_BUILD/tests/comm.mpi_program
[ -n "$launcher" ] || skip "no MPI was found (Debian: libopenmpi-dev openmpi-bin)"
[ -x "$program" ] || skip "$program is not built"

# Several ranks a core, as whoever runs the tests; what MPI itself leaves behind is not asked about.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0

# ranks COUNT WHAT
ranks() {
  timeout -k 5 120 "$launcher" -np "$1" "$program" "$2" > "$scratch/log" 2>&1 ||
    fail "$1 ranks, $2: ended with $?: $(head -n 20 "$scratch/log")"
  grep -q "^$2: $1 ranks agree" "$scratch/log" || fail "$1 ranks, $2: $(head -n 20 "$scratch/log")"
}
ranks 1 cases
ranks 2 cases
ranks 4 cases
ranks 8 cases
ranks 4 exchanges

# disturbed HOW SENTENCE...: four ranks, one of which does that; they end soon, with an error and the sentences.
disturbed() {
  local began=$SECONDS code
  timeout -k 5 60 "$launcher" -np 4 "$program" "$1" "$limit" > "$scratch/log" 2>&1
  code=$?
  [ $code -ne 0 ] && [ $code -ne 124 ] || fail "$1: ended with $code"
  [ $((SECONDS - began)) -le 40 ] || fail "$1: took $((SECONDS - began)) s, at most 40 are allowed"
  local sentence
  for sentence in "${@:2}"; do
    grep -qE "$sentence" "$scratch/log" || fail "$1: expected '$sentence': $(head -n 20 "$scratch/log")"
  done
}
limit=60
last="#[0-9]+ step 7 layer 2: all_reduce of 4000 bytes among 4 ranks, not finished"
disturbed killed "rank 1 .*signal 9" "$last"
limit=5 disturbed stopped "mpi: rank [023] of 4 waits in all_reduce for rank 1 to send [0-9]+ bytes since 5 s" "$last"
disturbed raises "rank 1 ends: the third shard is missing" "$last"
disturbed aborts "is stopped in all_reduce: the disk is full"
disturbed leaves "rank 1 "
disturbed differs "mpi: rank 0 of 4 calls all_reduce of 4000 bytes, sum of float, rank 1 all_reduce of 20 bytes, sum of float"
disturbed sends "mpi: rank 0 of 4 expects 40 bytes from rank 1 in exchange, which sends more"
disturbed calls "mpi: rank [0-3] of 4 calls barrier of 0 bytes, rank [0-3] all_reduce of 4000 bytes, sum of float|all_reduce of 4000 bytes, sum of float, rank 1 barrier of 0 bytes"
finish
