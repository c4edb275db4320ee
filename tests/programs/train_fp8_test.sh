#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Training in 8-bit tiles: a shadow changes nothing, every choice of the recipe has its flag, and bad ones their sentence.
source "$(dirname "$0")/../support/small_run.sh"
flags+=(--precision fp8 --steps 6 --eval-every 0 --print-every 1)

train --out "$scratch/plain" > "$scratch/plain.txt" || fail "a run ends with $?"
train --out "$scratch/shadowed" --shadow bf16 --shadow-every 2 > /dev/null || fail "a run with a shadow ends with $?"
same "$scratch/plain" "$scratch/shadowed" "the run beside a shadow"
[ ! -e "$scratch/plain/shadow.jsonl" ] || fail "a run without a shadow has its log"
log=$scratch/shadowed/shadow.jsonl
[ "$(grep -c '"step":6,.*gradient_error' "$log")" -gt 20 ] || fail "the shadow logs no gradients of step 6"
grep -q '"operand":"model.layers.0.self_attn.q_b_proj.weight, input"' "$log" || fail "the shadow names no operand"
grep -q '"operand":"model.layers.1.mlp.experts.down_proj.weight, output gradient along tokens"' "$log" ||
  fail "the shadow names no gradient of an expert"
[ "$(grep -c '"step":[135],' "$log")" -eq 0 ] || fail "the shadow logs steps that it should leave out"

loss() { tail -n 1 "$1/run.jsonl" | grep -o '"eval_ce":[^,]*'; }
seen=" $(loss "$scratch/plain") "
for choice in "accumulator hopper" "gradients block" "gradients tensor" "inputs block" "inputs tensor" \
  "gradient-format e5m2" "scales power-of-two" "exchanged-scales real" "attention-output e4m3" "swiglu-input bf16"; do
  train --out "$scratch/$choice" --fp8-${choice% *} "${choice#* }" > /dev/null || fail "--fp8-$choice ends with $?"
  found=$(loss "$scratch/$choice")
  [[ $seen != *" $found "* ]] || fail "--fp8-$choice changes nothing"
  seen+="$found "
done

# sentence EXPECTED FLAGS...
sentence() {
  local expected=$1 found
  shift
  if found=$("$DSV3_BIN/dsv3-train" "$@" --out "$scratch/refused" 2>&1); then fail "$*: is accepted"; fi
  [[ $found == *"$expected"* ]] || fail "$*: says \"$found\", expected \"$expected\""
}
sentence "--fp8-promotion is 100, expected a multiple of 128, or 0" --precision fp8 --fp8-promotion 100
sentence "--fp8-scales is given, --precision is bf16: expected --precision fp8 beside it" --precision bf16 \
  --fp8-scales real
sentence "--shadow is given, --precision is fp32: expected --precision fp8 beside it" --shadow bf16

# An infinity in the weights stops the run, with the operand that met it first.
if train --lr 1e30 --warmup 0 --max-bad-steps 2 --out "$scratch/burst" > "$scratch/burst.txt" 2>&1; then
  fail "a run that bursts ends well"
fi
grep -q 'a number quantised for model.layers.* is not finite' "$scratch/burst.txt" ||
  fail "a run that bursts says: $(tail -n 1 "$scratch/burst.txt")"
finish
