#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-plan gives the published figures, and one sentence with the right exit code for what makes no sense.
source "$(dirname "$0")/../support/script.sh"
plan=$DSV3_BIN/dsv3-plan
[ -x "$plan" ] || skip "$plan is not built"

# has SIZE "key": number ...   in the JSON of a named size
has() {
  local size=$1 entry
  shift
  "$plan" --preset "$size" --json > "$scratch/$size.json" || fail "--preset $size --json exits with $?"
  for entry in "$@"; do
    grep -q "\"${entry%=*}\": ${entry#*=},\?\$" "$scratch/$size.json" ||
      fail "--preset $size says no ${entry%=*} of ${entry#*=}"
  done
}
has v3 total=671026419200 activated=37552297472 activated_without_embedding=36625618432 \
  routed_experts=653908770816 unique=11610068224 stored=13463426304 file_total=684489845504 \
  experts_and_router=11320164608 \
  model=70272 model_with_mtp=71424 fp8_model=40016 plain_attention_model=4997120 \
  matrix_parameters=36624596992 forward_causal=83485794304 training_causal=250457382912 \
  training_non_causal=281152192512 \
  training_with_mtp_causal=260649271296 mtp_matrix_parameters=1614741504 attention_per_key_and_layer=278528
has v2 total=235741434880 activated=21375800320 activated_without_embedding=20851512320
has v2-lite total=15706484224 activated=2661150208 activated_without_embedding=2451435008 model=31104
has moonlight total=15960110208 activated=2914776192 activated_without_embedding=2579231872 model=31104
has tiny total=6134704 activated=2595760 activated_without_embedding=2464688 unique=1920432 model=640
has mini total=168898432 activated=36777856 activated_without_embedding=34680704 unique=26921920 model=2560

"$plan" --preset tiny --explain | grep -q '= 2 (kv_rank + qk_rope)' || fail "--explain shows no formula"

# The plan of training: bf16 adds matrices beside their masters, less is kept on request.
"$plan" --preset tiny --json --batch 4 --seq 64 --precision bf16 > "$scratch/bf16.json"
"$plan" --preset tiny --json --batch 4 --seq 64 --keep inputs > "$scratch/inputs.json"
"$plan" --preset tiny --json --batch 4 --seq 64 > "$scratch/all.json"
number() { sed -n "s/^ *\"$2\": \([0-9]*\),\?\$/\1/p" "$scratch/$1.json" | tail -n 1; }
[ "$(number all weights)" -eq 0 ] || fail "fp32 weights lie beside their masters"
[ "$(number bf16 weights)" -gt $((2 * 7000000)) ] || fail "bf16 weights take $(number bf16 weights) bytes"
[ "$(number bf16 moments)" -eq "$(number bf16 masters)" ] ||
  fail "two bf16 moments do not take the bytes of one master"
[ "$(number inputs activations)" -lt "$(number all activations)" ] ||
  fail "--keep inputs keeps as much as everything"

# refuses CODE SENTENCE ARGUMENTS...
refuses() {
  local code=$1 sentence=$2 found
  shift 2
  found=$("$plan" "$@" 2>&1 > /dev/null)
  [ $? -eq "$code" ] || fail "dsv3-plan $* does not exit with $code"
  [ "$found" = "dsv3-plan: $sentence" ] || fail "dsv3-plan $* says: $found"
}
refuses 2 "--presett is not a known flag, the nearest is --preset" --presett v3
sizes="tiny, mini, moonlight, v2-lite, v2, v3"
refuses 2 "model: no size is named \"tny\", expected one of $sizes; the nearest is tiny" --preset tny
refuses 2 "$scratch/none.json: cannot be opened: No such file or directory" --config "$scratch/none.json"
refuses 2 "--batch times --seq is more than 2147483647 tokens, expected at most that many" \
  --preset tiny --batch 1000000 --seq 1000000
"$plan" --preset tiny --json | sed -n '/"config": {/,/^  },/p' | sed '1s/.*/{/; $s/,$//' \
  > "$scratch/config.json"
"$plan" --config "$scratch" --json > "$scratch/read.json" || fail "a config of our own is refused"
cmp -s "$scratch/read.json" "$scratch/tiny.json" ||
  fail "a config that was read gives other figures than the named size"
sed -i 's/"hidden_size"/"hiden_size"/' "$scratch/config.json"
refuses 2 "$scratch/config.json: hidden_size is missing, expected an integer from 1 to 1048576" \
  --config "$scratch"
finish
