#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What dsv3-train saves, transformers loads and computes the same with. PYTHON names an interpreter that
# has the packages.
source "$(dirname "$0")/../support/script.sh"
python=${PYTHON:-python3}
"$python" -c 'import torch, safetensors, transformers' > /dev/null 2>&1 ||
  skip "$python has not the packages torch, transformers and safetensors"
for program in dsv3-train dsv3-forward; do
  [ -x "$DSV3_BIN/$program" ] || skip "$DSV3_BIN/$program is not built"
done
for precision in fp32 bf16; do
  "$DSV3_BIN/dsv3-train" --preset tiny --data "$DSV3_SOURCE/docs" --steps 2 --batch 2 --seq 64 --seed 1 \
    --precision $precision --out "$scratch/$precision" > "$scratch/log" 2>&1 ||
    fail "dsv3-train: $(tail -n 3 "$scratch/log")"
  "$python" "$DSV3_SOURCE/tests/golden/transformers_loads.py" \
    "$scratch/$precision/$(cat "$scratch/$precision/latest")" "$DSV3_BIN/dsv3-forward" 2> "$scratch/log" ||
    fail "$precision: $(tail -n 1 "$scratch/log")"
done
finish
