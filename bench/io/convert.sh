#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-convert on a synthetic folder of GB gigabytes (8), to 8 bits and back to bf16: peak memory, and the time against
# that of a plain copy of the wide folder, synced, in the same run. Every timed part begins with its source out of
# the page cache. Needs three times GB under FOLDER (a temporary folder).
# usage: bench/io/convert.sh     with DSV3_BIN, GB, THREADS, FOLDER from the environment
set -eu
export LC_ALL=C
here=$(cd "$(dirname "$0")/../.." && pwd)
convert=${DSV3_BIN:-$here/build/cpu/bin}/dsv3-convert gb=${GB:-8} threads=${THREADS:-$(nproc)}
work=$(mktemp -d "${FOLDER:-${TMPDIR:-/tmp}}/dsv3-convert-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# 7 MiB of bf16 numbers between 0.008 and 0.03, of both signs: what a weight looks like. They repeat.
awk 'BEGIN { srand(1)
  for (i = 0; i < 3670016; ++i) printf "%c%c", 1 + int(255 * rand()), rand() < 0.5 ? 60 : 188 }' > numbers

# expert FILE COUNT   so many experts' matrices, 2048 x 7168 as in the released files: 28 MiB each
experts() {
  local bytes=$((2 * 2048 * 7168)) header="" i length digits=""
  for ((i = 0; i < $2; ++i)); do
    header+=${header:+,}"\"$1.experts.$i.up_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[2048,7168],"
    header+="\"data_offsets\":[$((i * bytes)),$(((i + 1) * bytes))]}"
  done
  header="{$header}"
  length=${#header}
  for ((i = 0; i < 8; ++i)); do digits+=$(printf '\\x%02x' $((length >> 8 * i & 255))); done
  { printf "$digits" && printf '%s' "$header" && for ((i = 0; i < 4 * $2; ++i)); do cat numbers; done; } > "$1"
}
mkdir wide
map=""
for ((shard = 1; shard <= gb; ++shard)); do
  name=model-$shard.safetensors
  experts "$name" 34 && mv "$name" wide/
  for ((i = 0; i < 34; ++i)); do map+="${map:+, }\"$name.experts.$i.up_proj.weight\": \"$name\""; done
done
echo "{\"metadata\": {}, \"weight_map\": {$map}}" > wide/model.safetensors.index.json
echo '{"model_type": "deepseek_v3", "torch_dtype": "bfloat16"}' > wide/config.json

# Writes a folder to the disk and forgets it.
cold() { sync "$1"/* && for file in "$1"/*; do dd if="$file" iflag=nocache count=0 status=none; done; }
seconds() { echo $((($(date +%s%N) - begin) / 1000000)) | awk '{ printf "%.2f", $1 / 1000 }'; }
# converted TYPE FROM TO   peak memory is read until the process ends
converted() {
  local peak=0 found
  cold "$2"
  begin=$(date +%s%N)
  "$convert" --from "$2" --to "$3" --dtype "$1" --threads "$threads" > said &
  local process=$!
  while found=$(awk '/VmHWM/ { print $2 }' /proc/$process/status 2> /dev/null) && [ -n "$found" ]; do
    peak=$found
    sleep 0.05
  done
  wait $process
  time=$(seconds)
  peak_mb=$(awk -v kb="$peak" 'BEGIN { printf "%.0f", kb * 1024 / 1e6 }')
}
bytes=$(cat wide/*.safetensors | wc -c)
cold wide
begin=$(date +%s%N)
cp -r wide copy && sync copy/*
copy_time=$(seconds)
rm -r copy
report() {
  awk -v bytes="$bytes" -v time="$time" -v copy="$copy_time" -v peak="$peak_mb" -v what="$1" 'BEGIN {
    printf "%-18s %6.2f s  %.2f GB/s, %.2f of the copy'"'"'s rate, peak memory %s MB\n", what, time,
      bytes / time / 1e9, copy / time, peak }'
}
awk -v bytes="$bytes" -v time="$copy_time" 'BEGIN {
  printf "%.2f GB of bf16\n%-18s %6.2f s  %.2f GB/s\n", bytes / 1e9, "cp and sync", time, bytes / time / 1e9 }'
converted fp8 wide narrow && report "bf16 to 8 bits"
rm -r wide
converted bf16 narrow wide && report "8 bits to bf16"
