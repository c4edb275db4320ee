#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-convert killed at any moment: what has its final name is whole, the next run goes on, and the end is the same.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-convert
cd "$scratch" || exit 1
shards=12 columns=4096 rows=768 kills=${KILLS:-25}

# Text, read as BF16, is finite.
bytes=$((2 * rows * columns))
while [ "$(stat -c %s words 2> /dev/null || echo 0)" -lt $bytes ]; do cat "$DSV3_SOURCE"/docs/*.md >> words; done
mkdir source
echo '{"model_type": "deepseek_v3"}' > source/config.json
map=""
for ((i = 1; i <= shards; ++i)); do
  printf -v name 'model-%05d-of-%05d.safetensors' $i $shards
  safetensors "source/$name" "{\"$i.o_proj.weight\":
    {\"dtype\": \"BF16\", \"shape\": [$rows, $columns], \"data_offsets\": [0, $bytes]}}" 0
  head -c $bytes words >> "source/$name"
  map+="${map:+, }\"$i.o_proj.weight\": \"$name\""
done
echo "{\"metadata\": {}, \"weight_map\": {$map}}" > source/model.safetensors.index.json

convert() { "$DSV3_BIN/dsv3-convert" --from source --to "$1" --dtype fp8 > said 2> errors; }
begin=$(date +%s%N)
convert whole || fail "$(cat errors)"
run_time=$((($(date +%s%N) - begin) / 1000000))

killed=0 finished=0 between=0
for ((attempt = 0; attempt < 8 * kills && killed < kills; ++attempt)); do
  "$DSV3_BIN/dsv3-convert" --from source --to run --dtype fp8 > said 2> errors &
  victim=$!
  sleep "$(awk -v random="$RANDOM" -v time="$run_time" 'BEGIN { print random / 32768 * time / 1500 }')"
  kill -s KILL $victim 2> /dev/null
  wait $victim 2> /dev/null
  code=$?
  if [ $code -eq 137 ]; then
    killed=$((killed + 1))
    compgen -G 'run/.*.dsv3-part' > /dev/null && between=$((between + 1))
  elif [ $code -ne 0 ]; then
    fail "after $killed kills: exit code $code, $(cat errors)"
    break
  fi
  for file in run/*; do
    [ "$file" = 'run/*' ] && continue  # killed before the first
    cmp -s "$file" "whole/${file#run/}" || fail "kill $killed: $file is not what it is at the end"
  done
  if [ $code -eq 0 ]; then
    diff -r run whole > difference || fail "killed $killed times: $(cat difference)"
    finished=$((finished + 1))
    rm -r run
  fi
done
convert run || fail "the end: $(cat errors)"
diff -r run whole > difference || fail "killed $killed times: $(cat difference)"
echo "$killed kills, $between while writing a file; $((finished + 1)) runs ended alike"
[ $((between * 10)) -ge "$killed" ] || fail "only $between of $killed kills hit a file that was being written"
finish
