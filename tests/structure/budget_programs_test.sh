#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The trainer, in four precisions, builds from nothing in two and a half minutes on two cores at most.
source "$(dirname "$0")/../support/script.sh"
[ -d "$DSV3_SOURCE/examples/train" ] || skip "there is no trainer"

begin=$(date +%s)
"$CMAKE" -S "$DSV3_SOURCE" -B "$scratch/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$CXX" \
  -DDSV3_TESTS=OFF -DDSV3_BENCH=OFF > "$scratch/log" 2>&1 &&
  "$CMAKE" --build "$scratch/build" --target dsv3-train -j 2 >> "$scratch/log" 2>&1 ||
  fail "the trainer does not build: $(tail -n 12 "$scratch/log")"
taken=$(($(date +%s) - begin))
echo "dsv3-train from nothing: $taken s, at most 150 are allowed"
[ "$taken" -le 150 ] || fail "dsv3-train takes $taken s from nothing, at most 150 are allowed"
finish
