#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-train refuses bad flags, configs, data, checkpoints and disks with one sentence each and leaves nothing
# half done; steps that are not finite change nothing, are counted and named, and end the run.
source "$(dirname "$0")/../support/small_run.sh"
may_mount
out=$scratch/out

# usage SENTENCE FLAGS...   a call that makes no sense; nothing may be there afterwards
usage() {
  local sentence=$1
  shift
  refuses 2 "$sentence" dsv3-train --out "$out" "$@"
  [ ! -e "$out" ] || fail "dsv3-train $* leaves $(ls -A "$out")"
}

# ---- flags -------------------------------------------------------------------------------------------------
usage "--stps is not a known flag, the nearest is --steps" --stps 10
usage "--zebra is not a known flag" --zebra
usage 'found "more", expected a flag' more
usage "--data: *" --data
usage 'model: no size is named "tny", expected one of tiny, midi, mini, *; the nearest is tiny' --preset tny
usage "v2: its router scores by softmax, this trainer routes by sigmoid and bias" --preset v2
usage "*--preset*--config*" --preset tiny --config "$scratch/config.json"
usage '--precision: found "fp16", expected one of fp32, bf16, fp8, fp64' --precision fp16
usage '--device is cuda: this program was built without CUDA, expected a build with -DDSV3_CUDA=ON' --device cuda
usage '--device: found "tpu", expected one of auto, cpu, cuda' --device tpu
for flag in steps batch seq accumulate keep eval-rows print-every load-every max-bad-steps; do
  for value in 0 -1 1.5 1e3 many 99999999999999999999; do
    usage "--$flag: found \"$value\", expected a whole number *" --$flag $value
  done
done
for value in -1 x; do
  for flag in seed save-every eval-every warmup; do
    usage "--$flag: found \"$value\", expected a whole number *" --$flag $value
  done
done
for value in 0 5000; do
  usage "--threads: found \"$value\", expected a whole number from 1 to 4096" --threads $value
done
for flag in lr init-std epsilon clip; do
  for value in 0 -1 nan inf x; do
    usage "--$flag: found \"$value\", expected a positive number" --$flag $value
  done
done
for flag in lr-final weight-decay bias-update balance mtp-weight temperature; do
  for value in -1 nan x; do
    usage "--$flag: found \"$value\", expected a number of at least 0" --$flag $value
  done
done
for flag in held-out lr-hold; do
  for value in -0.1 1.1 nan; do
    usage "--$flag: found \"$value\", expected a share from 0 to 1" --$flag $value
  done
done
for flag in beta1 beta2; do usage "--$flag: found \"1\", expected a number from 0 to below 1" --$flag 1; done

# ---- configs -----------------------------------------------------------------------------------------------
# config SENTENCE SED_SCRIPT   the small config, changed
config() {
  sed "$2" "$scratch/config.json" > "$scratch/changed.json"
  usage "$scratch/changed.json: $1" --data "$scratch/text" --seq 16 --config "$scratch/changed.json"
}
sizes="an integer from 1 to 1048576"
config "hiden_size is not a known key, the nearest is hidden_size" \
  's/"hidden_size"/"hiden_size": 32, "hidden_size"/'
config "hidden_size is missing, expected $sizes" 's/"hidden_size": 32,//'
for key in hidden_size num_hidden_layers intermediate_size moe_intermediate_size num_attention_heads \
  kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim q_lora_rank n_group topk_group; do
  config "$key is 0, expected $sizes" "s/\"$key\": [0-9]*/\"$key\": 0/"
done
config "vocab_size is 257, byte tokens need at least 258: *" 's/258/257/'
config 'hidden_size is "32", expected *' 's/"hidden_size": 32/"hidden_size": "32"/'
config "hidden_size is 32.5, expected *" 's/"hidden_size": 32/"hidden_size": 32.5/'
config "*must be positive and even: rotary channels come in pairs, found qk_rope_head_dim 5" \
  's/"qk_rope_head_dim": 4/"qk_rope_head_dim": 5/'
config "router: the groups must divide the experts, found experts 4, groups 3" 's/"n_group": 2/"n_group": 3/'
config "router: kept groups must be between 1 and the groups, found kept groups 3, groups 2" \
  's/"topk_group": 1/"topk_group": 3/'
config "router: top_k must be between 1 and *, found top_k 3, experts 4, groups 2, kept groups 1" \
  's/"num_experts_per_tok": 2/"num_experts_per_tok": 3/'
config "first_k_dense_replace is 3, expected an integer from 0 to 2" \
  's/"first_k_dense_replace": 1/"first_k_dense_replace": 3/'
config 'line 2, byte *: key "model_type" found twice in one object, expected distinct keys' \
  's/"vocab_size"/"model_type": 1, "vocab_size"/'
config "line *, byte *" '$d'
quantised='{"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}'
config "weights in 8 bits cannot be trained, expected no quantization_config" \
  "s/\"model_type\"/\"quantization_config\": $quantised, \"model_type\"/"
config 'quantization_config: fmt is "e5m2", expected e4m3, 8-bit weights in blocks' \
  "s/\"model_type\"/\"quantization_config\": ${quantised/e4m3/e5m2}, \"model_type\"/"
usage "$scratch/none.json: cannot be opened: No such file or directory" --config "$scratch/none.json"
usage "$scratch/text/config.json: cannot be opened: No such file or directory" --config "$scratch/text"
usage "--seq is 65, the model is for at most 64 positions" --config "$scratch/config.json" --seq 65

# ---- data --------------------------------------------------------------------------------------------------
data() {  # data SENTENCE PATH...
  local sentence=$1
  shift
  usage "$sentence" --config "$scratch/config.json" --seq 16 --data "$@"
}
nothing="expected at least one file that is not empty and has no zero byte"
mkdir "$scratch/empty" "$scratch/binary" "$scratch/short"
data "data: $scratch/none does not exist, expected a file or a folder of text" "$scratch/none"
data "data: $scratch/none does not exist, expected a file or a folder of text" "$scratch/text" "$scratch/none"
data "data: no text found in $scratch/empty, $nothing" "$scratch/empty"
: > "$scratch/empty/file.txt"
data "data: no text found in $scratch/empty, $nothing" "$scratch/empty"
head -c 5000 /dev/zero > "$scratch/binary/zeros"
data "data: no text found in $scratch/binary, $nothing" "$scratch/binary"
data "data: no text found in $scratch/empty, $scratch/binary, $nothing" "$scratch/empty" "$scratch/binary"
data "/dev/null: found a folder or device, expected a regular file" /dev/null
echo "too little" > "$scratch/short/text"
refuses 1 "data: 12 tokens of training text, one row needs 18: give more text or a smaller --seq" \
  dsv3-train --config "$scratch/config.json" --seq 16 --out "$out" --data "$scratch/short"
refuses 1 "data: 0 tokens of training text, one row needs 18: give more text or a smaller --seq" \
  dsv3-train "${flags[@]}" --out "$out" --held-out 1
[ ! -e "$out" ] || fail "refused data leave a folder"

# ---- checkpoints of something else -------------------------------------------------------------------------
run=$scratch/run
flags+=(--steps 12 --save-every 4 --eval-every 0 --out "$run")
train > /dev/null || fail "a run ends with $?"
cp -r "$run" "$scratch/kept"
# other CODE SENTENCE FLAGS...   the finished run is not touched
other() {
  local code=$1 sentence=$2
  shift 2
  refuses "$code" "$sentence" dsv3-train "${flags[@]}" "$@"
  diff -r "$run" "$scratch/kept" || fail "dsv3-train $* changes a run that it refuses"
}
last=$run/step-00000012
flags_without_config=("${flags[@]:2}")
other 2 "--out is $run, which holds the checkpoints of a run: expected another folder, or --resume auto"
sed 's/"hidden_size": 32/"hidden_size": 64/' "$scratch/config.json" > "$scratch/wide.json"
flags=(--config "$scratch/wide.json" "${flags_without_config[@]}")
other 1 "$last/config.json*hidden_size*32*64*" --resume auto
flags=(--config "$scratch/config.json" "${flags_without_config[@]}")
other 1 "$last/state.json: precision is \"fp32\", expected this run's, bf16" --resume auto --precision bf16
other 1 "$run*: the checkpoint's seed is 1, --seed is 2" --resume auto --seed 2
other 1 "$run*: the checkpoint was trained on other text (checksum *" --resume auto --held-out 0.5
other 1 "$run*: the checkpoint's rows have 16 tokens, --seq is 8" --resume auto --seq 8
other 1 "$scratch/none*" --resume "$scratch/none"
other 1 "$scratch/text*" --resume "$scratch/text"

# ---- where nothing can be written --------------------------------------------------------------------------
touch "$scratch/file"
refuses 1 "$scratch/file: folder cannot be made: Not a directory" \
  dsv3-train "${flags[@]}" --out "$scratch/file"
refuses 1 "$scratch/file/run: folder cannot be made: Not a directory" \
  dsv3-train "${flags[@]}" --out "$scratch/file/run"
mkdir "$scratch/blocked" && mkdir "$scratch/blocked/run.jsonl"
refuses 1 "$scratch/blocked/run.jsonl: cannot be opened for writing: Is a directory" \
  dsv3-train "${flags[@]}" --out "$scratch/blocked"

# ---- full disks --------------------------------------------------------------------------------------------
# A save that fails leaves the checkpoints before as they are; with room again the run ends as ever.
last=step-00000012 before=step-00000008
stopped_at_8() {  # a copy of the run that has not come further; sets `at`
  at=$1
  cp -r "$scratch/kept" "$at" && rm -r "$at/$last" && echo $before > "$at/latest"
}
goes_on() {
  local left
  diff -r "$scratch/kept/$before" "$at/$before" || fail "$1: the checkpoint before is another"
  [ "$(cat "$at/latest")" = $before ] || fail "$1: the newest checkpoint is $(cat "$at/latest")"
  left=$(find "$at" -name "$last*" -o -name '*.dsv3-part')
  [ -z "$left" ] || fail "$1: a save that failed leaves $left"
  train --out "$at" --resume auto > /dev/null || fail "$1: the run cannot go on"
  same "$scratch/kept" "$at" "$1"
}
state_bytes=$(stat -c %s "$scratch/kept/$last/state.safetensors")
stopped_at_8 "$scratch/limited"
ulimit -S -f $((state_bytes / 1024 - 10))
refuses 1 "$at/$last.tmp-*/state.safetensors: * more bytes cannot be written: File too large" \
  dsv3-train "${flags[@]}" --out "$at" --resume auto
ulimit -S -f unlimited
goes_on "a limit on the size of files"

if [ "$DSV3_MAY_MOUNT" = yes ]; then
  disk=$scratch/disk
  mkdir "$disk" && mount -t tmpfs -o size=4m none "$disk"
  fill() {  # leaves so many bytes
    head -c $(($(df --output=avail -B 1 "$disk" | tail -n 1) - $1)) /dev/zero > "$disk/filler"
  }
  stopped_at_8 "$disk/run"
  fill $((state_bytes + 65536))  # the weights find room, the state does not
  refuses 1 "$at/$last.tmp-*/state.safetensors: disk full, * more bytes wanted, * free" \
    dsv3-train "${flags[@]}" --out "$at" --resume auto
  rm "$disk/filler"
  goes_on "a full disk"
  rm -r "$at" && stopped_at_8 "$disk/run" && fill 0
  refuses 1 "$at/settings.json: disk full, * more bytes wanted, 0 free" \
    dsv3-train "${flags[@]}" --out "$at" --resume auto
  rm "$disk/filler"
  goes_on "a disk without room for a line"
  mount -o remount,ro "$disk"
  refuses 1 "$disk/other: folder cannot be made: Read-only file system" \
    dsv3-train "${flags[@]}" --out "$disk/other"
  umount "$disk"
else
  echo "no file systems may be mounted here: full and read-only disks are not tried"
fi

# ---- steps that are not finite -----------------------------------------------------------------------------
# said RUN STEPS   the log counts these steps and names what was not finite
said() {
  local number=0 step
  for step in $2; do
    number=$((number + 1))
    grep "^{\"step\":$step," "$1/run.jsonl" | grep "\"skipped\":$number," | grep -q '"bad":"the [a-z].*"' ||
      fail "step $step of the log: $(grep "^{\"step\":$step," "$1/run.jsonl")"
    grep -q "^step $step is skipped: the .* is not finite$" "$scratch/output" ||
      fail "step $step is skipped in silence"
  done
}
refuses 1 "step 3: the * is not finite, like in the 2 steps before; there is no checkpoint yet" \
  dsv3-train "${flags[@]}" --out "$scratch/wild" --init-std 1e30 --max-bad-steps 3
said "$scratch/wild" "1 2 3"
[ ! -e "$scratch/wild/latest" ] || fail "a checkpoint of a run without an update"

# The first step at this rate makes weights that no later step survives; the checkpoint before it stays.
stopped_at_8 "$scratch/burst"
refuses 1 "step 13: the * is not finite, like in the 3 steps before; the last good checkpoint is * step 8" \
  dsv3-train "${flags[@]}" --out "$at" --resume auto --lr 1e30 --lr-hold 1 --steps 40 --max-bad-steps 4
said "$at" "10 11 12 13"
goes_on "steps that are not finite"

# ---- what writes nothing -----------------------------------------------------------------------------------
train --out "$out" --dry-run | grep -q '^ *[0-9]* parameters$' || fail "--dry-run shows no parameters"
train --out "$out" --help | grep -q -- '--resume' || fail "--help shows no --resume"
train --version | grep -qE '^[0-9]+\.[0-9]+\.[0-9]+$' || fail "--version shows none"
[ ! -e "$out" ] || fail "--dry-run, --help or --version leaves files"
finish
