#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Trains a model on one text in FP32, BF16 and 8 bits, with several seeds, and once more with each choice of the 8-bit
# recipe changed; writes the losses to docs/data/fp8_study and draws docs/figures/fp8_*.svg. Picks up where it was
# stopped: runs that are finished are not repeated, others go on from their last checkpoint.
#
#   bench/train/fp8_study.sh [--out DIR] [--jobs N] [--threads N] [--seeds "1 2 3"] [--steps N] [--only "NAME ..."]
#                            [--device cpu|cuda] [--preset NAME] [--label NAME]
#
# --jobs runs go at a time, each with --threads threads (a run's bits depend on their number). --only lists runs by
# name; without it all are made. On a GPU the runs with short sums are left out: its matrix units have sums of their
# own. --label names a study other than the CPU's of `midi`: docs/data/fp8_study_NAME and figures of that name.
# --no-report leaves out the last part, for machines that only make runs.
# DSV3_BIN names the folder of programs (build/cpu/bin).
set -eu
cd "$(dirname "$0")/../.."
bin=${DSV3_BIN:-build/cpu/bin}
out=runs/fp8_study jobs=1 threads=2 seeds="1 2 3" steps=2000 only="" report=1 device=cpu preset=midi label=""
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2 && shift 2 ;;
    --jobs) jobs=$2 && shift 2 ;;
    --threads) threads=$2 && shift 2 ;;
    --seeds) seeds=$2 && shift 2 ;;
    --steps) steps=$2 && shift 2 ;;
    --only) only=$2 && shift 2 ;;
    --device) device=$2 && shift 2 ;;
    --preset) preset=$2 && shift 2 ;;
    --label) label=$2 && shift 2 ;;
    --no-report) report=0 && shift ;;
    *) echo "fp8_study.sh: $1 is unknown, expected one of the options that the head of the file names" >&2 && exit 2 ;;
  esac
done

# name: flags
studied="fp32: --precision fp32
bf16: --precision bf16
fp8: --precision fp8
short-sums: --precision fp8 --fp8-accumulator hopper --fp8-promotion 0
short-sums-promoted: --precision fp8 --fp8-accumulator hopper
block-gradients: --precision fp8 --fp8-gradients block
e5m2-gradients: --precision fp8 --fp8-gradient-format e5m2
power-of-two-scales: --precision fp8 --fp8-scales power-of-two
real-scales: --precision fp8 --fp8-exchanged-scales real
e4m3-attention-output: --precision fp8 --fp8-attention-output e4m3
tensor-scales: --precision fp8 --fp8-inputs tensor --fp8-gradients tensor --fp8-weights tensor"

mkdir -p "$out"
mapfile -t data < <(find README.md include examples bench tests docs -type f \
  \( -name '*.md' -o -name '*.?pp' -o -name '*.sh' -o -name '*.py' \) ! -path '*/data/*' | LC_ALL=C sort)
if [ ! -e "$out/text.txt" ]; then  # one text for all runs
  cat "${data[@]}" > "$out/text.unfinished.$$"
  mv "$out/text.unfinished.$$" "$out/text.txt"
fi

train_one() {  # name, seed, flags
  local folder="$out/$1-$2"
  [ -e "$folder/finished" ] && return
  GOMP_SPINCOUNT=2000 "$bin/dsv3-train" --device "$device" --preset "$preset" --data "$out/text.txt" --out "$folder" \
    --resume auto --seed "$2" --steps "$steps" --batch 8 --seq 128 --threads "$threads" --lr 8e-4 --lr-final 2e-5 \
    --lr-hold 0.2 --warmup 200 --init-std 0.02 --bias-update 0.01 --eval-every 0 --eval-rows 64 --eval-draft 0 --sample-bytes 0 --save-every 250 \
    --print-every 250 $3 > "$folder.log" 2>&1 || { echo "$1, seed $2: failed, see $folder.log" && return 1; }
  touch "$folder/finished"
  echo "$1, seed $2: $(grep 'held-out' "$folder.log" | tail -1)"
}
export -f train_one
export bin out steps threads device preset

for seed in $seeds; do
  while IFS=: read -r name flags; do
    if [ "$device" = cuda ] && [[ $name == short-sums* ]]; then continue; fi
    if [ -z "$only" ] || [[ " $only " == *" $name "* ]]; then
      printf '%s\0%s\0%s\0' "$name" "$seed" "$flags"
    fi
  done <<< "$studied"
done | xargs -0 -n 3 -P "$jobs" bash -c 'train_one "$@"' train_one

if [ "$report" = 1 ]; then python3 bench/train/fp8_study.py "$out" "$bin/dsv3-plot" $label; fi
