#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-forward in every precision, and one sentence with the right exit code for input that makes no sense.
# What it computes is compared by tests/model/golden_test.cpp.
source "$(dirname "$0")/../support/script.sh"
forward=$DSV3_BIN/dsv3-forward
[ -x "$forward" ] || skip "$forward is not built"
golden=$DSV3_SOURCE/tests/data/golden
out=$scratch/out.safetensors

for precision in fp32 bf16 fp64 fp8; do
  rm -f "$out"
  "$forward" --model "$golden/tiny_mtp" --ids "$golden/tiny_mtp/golden.safetensors" --out "$out" \
    --precision $precision ||
    fail "--precision $precision exits with $?"
  head -c 20000 "$out" | grep -aq '"mtp.1.logits"' || fail "--precision $precision writes no MTP logits"
  head -c 20000 "$out" | grep -aq '"grad.' &&
    fail "--precision $precision writes gradients that were not asked for"
done


# In 8-bit tiles: the file's own, or quantised as it is read; the loss is near that in single precision.
loss() {  # MODEL ARGUMENTS...   in thousandths
  local model=$1 header at
  shift
  "$forward" --model "$golden/$model" --ids "$golden/$model/golden.safetensors" --out "$out" "$@" ||
    fail "$model $* exits with $?"
  header=$(od -An -t u8 -N 8 "$out")
  at=$(head -c 100000 "$out" | grep -aoE '"loss":[{]"data_offsets":\[[0-9]+' | grep -oE '[0-9]+$')
  od -An -t f4 -j $((8 + header + at)) -N 4 "$out" | awk '{ printf "%d", 1000 * $1 }'
}
for model in tiny_mtp tiny_mtp_fp8; do
  wide=$(loss $model --precision fp32) narrow=$(loss $model --precision fp8)
  [ "$narrow" -ne "$wide" ] || fail "$model: --precision fp8 computes what fp32 does"
  [ $((narrow - wide)) -gt -100 ] && [ $((narrow - wide)) -lt 100 ] ||
    fail "$model: the loss is $narrow thousandths in fp8, $wide in fp32"
  head -c 200000 "$out" | grep -aq '"grad.' && fail "$model: gradients that were not asked for"
done
loss tiny_mtp --precision fp8 --grad > "$scratch/with_gradients"
head -c 200000 "$out" | grep -aq '"grad.model.layers.1.mlp.experts.' || fail "--precision fp8 --grad writes no gradients"

# refuses CODE SENTENCE MODEL IDS ARGUMENTS...
refuses() {
  local code=$1 sentence=$2 model=$3 ids=$4 found
  shift 4
  rm -f "$out"
  found=$("$forward" --model "$model" --ids "$ids" --out "$out" "$@" 2>&1 > /dev/null)
  [ $? -eq "$code" ] || fail "$model $ids $* does not exit with $code"
  [ "$found" = "dsv3-forward: $sentence" ] || fail "$model $ids $* says: $found"
  [ ! -e "$out" ] || fail "$model $ids $* leaves a file"
}
tiny=$golden/tiny ids=$golden/tiny/golden.safetensors
refuses 2 "--gard is not a known flag, the nearest is --grad" "$tiny" "$ids" --gard
refuses 1 "$scratch/none: cannot be opened: No such file or directory" "$scratch/none" "$ids"
refuses 1 "$tiny/model.safetensors: tensor input_ids is missing" "$tiny" "$tiny/model.safetensors"
first=$("$forward" --model "$golden/tiny_mtp" --ids "$ids" --out "$out" 2>&1)
[ $? -eq 1 ] || fail "a token beyond the vocabulary does not exit with 1"
[[ $first =~ ^"dsv3-forward: $ids: input_ids["[01]", "[0-9]+"] is "[0-9]+", expected 0 to 95"$ ]] ||
  fail "a token beyond the vocabulary: $first"

mkdir "$scratch/cut"
cp "$tiny/config.json" "$scratch/cut"
head -c 100000 "$tiny/model.safetensors" > "$scratch/cut/model.safetensors"
found=$("$forward" --model "$scratch/cut" --ids "$ids" --out "$out" 2>&1)
[ $? -eq 1 ] && [[ $found == *"ends at byte"* ]] || fail "a truncated file: $found"
found=$("$forward" --model "$tiny" --ids "$ids" --out /dev/full/out 2>&1)
[ "$found" = "dsv3-forward: /dev/full/out: cannot be created: Not a directory" ] ||
  fail "a folder that cannot be: $found"
finish
