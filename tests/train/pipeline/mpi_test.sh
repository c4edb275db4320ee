#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Pipeline schedules on ranks that are real processes.
source "$(dirname "$0")/../../support/script.sh"
launcher=${MPIEXEC-$(command -v mpirun)}
program=$DSV3_BUILD/tests/train.pipeline.mpi_program
[ -n "$launcher" ] || skip "no MPI was found (Debian: libopenmpi-dev openmpi-bin)"
[ -x "$program" ] || skip "$program is not built"

# Several ranks a core, as whoever runs the tests; what MPI itself leaves behind is not asked about.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0

for ranks in 1:6 2:8 4:8 5:6; do  # and how many schedules there are
  timeout -k 5 120 "$launcher" -np "${ranks%:*}" "$program" > "$scratch/log" 2> "$scratch/errors" ||
    fail "${ranks%:*} ranks end with $?: $(head -n 20 "$scratch/errors")"
  found=$(grep -c micro-batches "$scratch/log")
  [ "$found" -eq "${ranks#*:}" ] || fail "${ranks%:*} ranks ran $found schedules, expected ${ranks#*:}"
done
finish
