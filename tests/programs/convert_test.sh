#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-convert: the bits of torch, round trips, threads, shards, what lies beside weights, damage, and one sentence for
# what makes no sense.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-convert dsv3-forward
golden=$DSV3_SOURCE/tests/data/golden

# to DTYPE FROM TO FLAGS...
to() {
  local type=$1 from=$2 to=$3
  shift 3
  "$DSV3_BIN/dsv3-convert" --from "$from" --to "$to" --dtype "$type" "$@" > "$scratch/said" 2>&1 ||
    fail "$from to $type: $(tail -n 1 "$scratch/said")"
}
same() { cmp -s "$1/model.safetensors" "$2/model.safetensors" || fail "$1 and $2 hold other weights"; }
holds() { head -c 20000 "$1/model.safetensors" | grep -aq "$2" || fail "$1 holds no $2"; }
cd "$scratch" || exit 1

# Files of the same tensors are the same bytes: a copy stands for what torch has made.
to fp8 "$golden/tiny_mtp_fp8" mtp.torch
to fp8 "$golden/tiny_mtp" mtp.ours
same mtp.torch mtp.ours
grep -q '"weight_block_size": \[' mtp.ours/config.json || fail "no quantization_config where there was none"

to fp8 "$golden/tiny_fp8" kept
for type in fp32 bf16; do
  to $type "$golden/tiny_fp8" $type
  grep -q quantization_config $type/config.json && fail "$type keeps quantization_config"
  to fp8 $type $type.again
  holds $type.again '"model.layers.0.mlp.up_proj.weight_scale_inv":{"data_offsets":\[[0-9]*,[0-9]*\],"dtype":"F32"'
done
same kept bf16.again
to fp32 fp32.again fp32.later
same fp32 fp32.later
to fp8 fp32.later fp32.last
same fp32.again fp32.last
grep -q '"torch_dtype": "float32"' fp32/config.json || fail "fp32 keeps torch_dtype"
grep -q '"torch_dtype": "bfloat16"' bf16/config.json || fail "bf16 changes torch_dtype"
to bf16 "$golden/tiny" narrow
holds narrow 'mlp.gate.e_score_correction_bias":{"data_offsets":\[[0-9]*,[0-9]*\],"dtype":"F32"'
for threads in 1 3; do
  to fp8 "$golden/tiny" threads.$threads --threads $threads
done
same threads.1 threads.3

# The model computes the same from codes as from what they stand for.
for folder in "$golden/tiny_fp8" fp32; do
  "$DSV3_BIN/dsv3-forward" --model "$folder" --ids "$golden/tiny_fp8/golden.safetensors" \
    --out "$(basename "$folder").logits" || fail "dsv3-forward on $folder"
done
cmp -s tiny_fp8.logits fp32.logits || fail "logits differ"

# ---- shards, and what lies beside them ---------------------------------------------------------------------
# Text is finite whatever numbers it is read as.
mkdir source
text() { cat "$DSV3_SOURCE"/docs/*.md | head -c "$1"; }
# shard FILE HEADER BYTES
shard() {
  safetensors "source/$1" "$2" 0
  text "$3" >> "source/$1"
}
a=model-00001-of-00002.safetensors b=model-00002-of-00002.safetensors
shard $a '{"l.q_a_proj.weight": {"dtype": "BF16", "shape": [130, 140], "data_offsets": [0, 36400]},
  "l.router.weight": {"dtype": "F32", "shape": [3], "data_offsets": [36400, 36412]}}  ' 36412
shard $b '{"l.up_proj.weight": {"dtype": "F32", "shape": [20, 300], "data_offsets": [0, 24000]},
  "l.ids": {"dtype": "I64", "shape": [1], "data_offsets": [24000, 24008]}}' 24008
printf '{"metadata": {"total_size": 1}, "weight_map": {"l.q_a_proj.weight": "%s", "l.router.weight": "%s",
  "l.up_proj.weight": "%s", "l.ids": "%s"}}' $a $a $b $b > source/model.safetensors.index.json
echo '{"model_type": "deepseek_v3", "torch_dtype": "bfloat16"}' > source/config.json
for file in tokenizer.json generation_config.json LICENSE-CODE modeling.py state.json notes.bin; do
  echo "$file" > source/$file
done
said=$("$DSV3_BIN/dsv3-convert" --from source --to none --dtype fp8 --dry-run)
[[ $said == *"$a: 2 tensors, 1 to 8 bits, 0 from 8 bits, 0.000 GB to 0.000 GB"*"nothing was written" ]] ||
  fail "--dry-run says $said"
[ ! -e none ] || fail "--dry-run makes a folder"
to fp8 source shards
for name in $a $b model.safetensors.index.json config.json conversion.json tokenizer.json \
  generation_config.json LICENSE-CODE modeling.py; do
  [ -s shards/$name ] || fail "$name is missing"
done
[ "$(ls -A shards | wc -l)" -eq 9 ] || fail "more than that was written: $(ls -A shards)"
grep -q "\"l.up_proj.weight_scale_inv\": \"$b\"" shards/model.safetensors.index.json || fail "the index"
grep -q '"total_size": 24248' shards/model.safetensors.index.json ||
  fail "$(grep total_size shards/model.safetensors.index.json), expected 18200 + 16 + 12 + 6000 + 12 + 8"

# ---- going on ----------------------------------------------------------------------------------------------
cp -r shards whole
rm shards/$b shards/config.json
touch shards/.$b.1-0.dsv3-part
to fp8 source shards
grep -q "^$a (1 of 2): verified, it was there\$" said || fail "a file that is there is made again: $(cat said)"
diff -r shards whole > diff || fail "gone on, other files: $(cat diff)"
overwrite shards/$a 500 x
to fp8 source shards
grep -q "^$a (1 of 2): shards/$a: .*; it is written again\$" said || fail "damage: $(cat said)"
diff -r shards whole > diff || fail "after damage, other files: $(cat diff)"
overwrite shards/$a 18000 x
to fp8 source shards
grep -q "^$a (1 of 2): shards/$a: tensor l.q_a_proj.weight is damaged: .*; it is written again\$" said ||
  fail "damage: $(cat said)"
diff -r shards whole > diff || fail "after damage, other files: $(cat diff)"

refuses 1 'shards/conversion.json: begun with --dtype fp8, asked to go on with --dtype bf16; remove the folder to *' \
  dsv3-convert --from source --to shards --dtype bf16
cp -rp source other
touch other/$b
refuses 1 "shards/conversion.json: $b of the source is not what it was when this conversion began; remove *" \
  dsv3-convert --from other --to shards --dtype fp8
refuses 1 "shards/conversion.json: this conversion was begun with other files or flags; remove *" \
  dsv3-convert --from source --to shards --dtype fp8 --unscaled-codes
diff -r shards whole > diff || fail "a refused call changes files: $(cat diff)"
mkdir full && touch full/model.safetensors
refuses 1 'full/model.safetensors: found, expected an empty folder or one that a conversion has begun' \
  dsv3-convert --from source --to full --dtype fp8
if command -v flock > /dev/null; then
  mkdir busy
  exec 9< busy
  flock 9
  refuses 1 'busy: another dsv3-convert is writing there' dsv3-convert --from source --to busy --dtype fp8
  exec 9<&-
fi

# ---- what makes no sense -----------------------------------------------------------------------------------
refuses 2 '--to is the folder of --from, expected another one' \
  dsv3-convert --from source --to "$scratch/source" --dtype fp8
refuses 2 '--dtype: found "int8", expected one of fp8, bf16, fp32' dsv3-convert --from source --to x --dtype int8
refuses 2 '--threads: found "0", expected a whole number *' \
  dsv3-convert --from source --to x --dtype fp8 --threads 0
refuses 1 'nowhere/config.json: cannot be opened: No such file or directory' \
  dsv3-convert --from nowhere --to x --dtype fp8
refuses 1 '/dev/null/x: folder cannot be made: Not a directory' \
  dsv3-convert --from source --to /dev/null/x --dtype fp8

# single HEADER BYTES CONFIG   a folder with one file
single() {
  rm -rf source x && mkdir source
  shard model.safetensors "$1" "$2"
  echo "$3" > source/config.json
}
refused() {
  refuses 1 "$1" dsv3-convert --from source --to x --dtype "${2:-bf16}"
  [ -z "$(ls -A x 2> /dev/null | grep -v '^conversion.json$')" ] || fail "a refused call leaves $(ls -A x)"
}
quantised='{"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}'
codes='"o_proj.weight": {"dtype": "F8_E4M3", "shape": [130, 4], "data_offsets": [0, 520]}'
# scales SHAPE BYTES
scales() {
  printf '"o_proj.weight_scale_inv": {"dtype": "F32", "shape": %s, "data_offsets": [520, %d]}' "$1" $((520 + $2))
}
file=source/model.safetensors
single "{$codes, $(scales '[2, 1]' 8)}" 528 "$quantised"
to bf16 source x
single "{$codes, $(scales '[1, 2]' 8)}" 528 "$quantised"
refused "$file: tensor o_proj.weight_scale_inv has shape [1, 2], expected [2, 1]: one scale per 128 x 128 block of *"
single "{$codes}" 520 "$quantised"
refused "$file: tensor o_proj.weight has type F8_E4M3 and no o_proj.weight_scale_inv was found, expected the scales *"
to bf16 source x --unscaled-codes
single "{$codes, $(scales '[2, 1]' 8)}" 528 '{}'
refused "$file: tensor o_proj.weight has type F8_E4M3, expected quantization_config in the config.json beside it *"
single "{$codes, $(scales '[2, 1]' 8)}" 520 "$quantised"
head -c 8 /dev/zero >> $file
for type in fp8 bf16; do
  rm -rf x
  refused "$file: tensor o_proj.weight_scale_inv[0, 0] is 0.000000, expected a positive finite scale" $type
done
single "{${codes//o_proj/o_porj}, $(scales '[2, 1]' 8)}" 528 "$quantised"
refused "$file: tensor o_porj.weight has type F8_E4M3 and no o_porj.weight_scale_inv was found, *"
single "{${codes//F8_E4M3/I8}, $(scales '[2, 1]' 8)}" 528 "$quantised"
refused "$file: tensor o_proj.weight_scale_inv found beside o_proj.weight of type I8, expected scales of F8_E4M3 alone"
single "{$(scales '[2, 1]' 8)}" 8 "$quantised"
sed -i 's/520, 528/0, 8    /' $file
refused "$file: tensor o_proj.weight_scale_inv scales no tensor, expected o_proj.weight of F8_E4M3 beside it" fp8
single "{$codes}" 520 "${quantised/e4m3/e5m2}"
refused 'source/config.json: quantization_config: fmt is "e5m2", expected e4m3, *'
single '{"norm.weight": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}' 4 '{}'
refused "$file: tensor norm.weight has type F16, expected F64, F32, BF16 or F8_E4M3"
single '{"a.o_proj.weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}' 10 '{}'
printf '\x80\x7f' >> $file
refused "$file: tensor a.o_proj.weight[1, 2] is inf, expected a finite number: no 8-bit code stands for it" fp8
single '{"a.o_proj.weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}' 12 \
  "${quantised/\"fmt\"/\"scale_fmt\": \"ue8m0\", \"fmt\"}"
refused "$file: tensor a.o_proj.weight is not in 8 bits, and config.json says that scales are powers of two, *" fp8
finish
