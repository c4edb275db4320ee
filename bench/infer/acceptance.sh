#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# How many of its own drafts a trained model accepts, and what that is worth: trains `tiny` as examples/train.sh does, but
# on nineteen of twenty files, and lets it go on from the beginnings of the others with 0 to 4 drafts a step. Prints a
# table, and draws acceptance by depth over training into the file that is given.
#
#   bench/infer/acceptance.sh [FIGURE.svg]        build/cpu must be built; DSV3_BIN names another folder of programs
set -eu
cd "$(dirname "$0")/../.."
bin=${DSV3_BIN:-build/cpu/bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT-2000}"

count=0 training=() prompts=()
while read -r file; do
  count=$((count + 1))
  if [ $((count % 20)) -eq 0 ]; then
    head -c 200 "$file" > "$work/prompt.$count"
    prompts+=(--prompt-file "$work/prompt.$count")
  else
    training+=("$file")
  fi
done < <(find README.md docs include examples tests bench -type f \( -name '*.md' -o -name '*.?pp' \) ! -path '*/data/*' |
  LC_ALL=C sort)

"$bin/dsv3-tokenize" train --data "${training[@]}" --vocab 512 --to "$work/tokenizer.json"
"$bin/dsv3-train" --preset tiny --batch 8 --seq 128 --steps 600 --lr 4e-3 --lr-final 2e-4 --lr-hold 0.4 --warmup 20 \
  --init-std 0.02 --bias-update 0.01 --eval-every 50 --eval-draft 4 --sample-bytes 0 --out "$work/run" \
  --tokenizer "$work/tokenizer.json" --data "${training[@]}"

for temperature in 0 0.7; do
  echo "temperature $temperature, $((${#prompts[@]} / 2)) beginnings of files that were not trained on, one at a time"
  for draft in 0 1 2 3 4; do
    "$bin/dsv3-generate" --model "$work/run" "${prompts[@]}" --batch 1 --max-new 96 --past-end --draft "$draft" \
      --temperature "$temperature" 2>&1 > /dev/null | sed "s/^/  draft $draft: /"
  done
done

if [ $# -gt 0 ]; then
  curves=()
  for depth in 1 2 3 4; do
    sed -n "s/\"drafts_accepted_$depth\"/\"accepted\"/p" "$work/run/run.jsonl" > "$work/depth.$depth.jsonl"
    curves+=(--run "depth $depth=$work/depth.$depth.jsonl")
  done
  "$bin/dsv3-plot" "${curves[@]}" --field accepted --smooth 1 --title "Drafts accepted on held-out text" \
    --y-label "share of the judged ones" --out "$1"
fi
