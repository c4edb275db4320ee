#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Training on real processes: every way to share the work has the losses, gradients and weights of one rank.
source "$(dirname "$0")/../support/script.sh"
launcher=${MPIEXEC-$(command -v mpirun)}
program=${DSV3_TRAIN_PROGRAM:-$DSV3_BUILD/tests/train.mpi_program}
[ -n "$launcher" ] || skip "no MPI was found (Debian: libopenmpi-dev openmpi-bin)"
[ -x "$program" ] || skip "$program is not built"

# Several ranks a core, as whoever runs the tests.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_WAIT_POLICY=passive
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0

# trains DATA EXPERT PIPELINE SCHEDULE MICRO_BATCHES
trains() {
  local count=$(($1 * $2 * $3))
  timeout -k 5 200 "$launcher" -np $count "$program" "$@" > "$scratch/log" 2>&1 ||
    fail "$*: ended with $?: $(head -n 10 "$scratch/log")"
  grep -q "^$count ranks train as one" "$scratch/log" || fail "$*: $(head -n 10 "$scratch/log")"
}
trains 4 1 1 1f1b 2
trains 1 4 1 1f1b 2
trains 1 1 4 zb1p 6
trains 1 1 4 dualpipe 8
trains 2 2 2 1f1b 3
trains 2 2 2 dualpipe 4
trains 1 2 4 dualpipe_v 8
finish
