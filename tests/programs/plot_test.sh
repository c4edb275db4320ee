#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-plot draws the logs of runs, and says in one sentence why it cannot.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-plot
mkdir "$scratch/a" "$scratch/empty"
for step in 1 2 3 4; do
  printf '{"step":%d,"ce":%d,"max_vio":[1,%d],"grad_norm":null}\n' $step $((6 - step)) $((2 * step - 1))
done > "$scratch/a/run.jsonl"
sed 's/"ce":/"ce":1/' "$scratch/a/run.jsonl" > "$scratch/b.jsonl"

plot() { "$DSV3_BIN/dsv3-plot" "$@" --out "$scratch/figure.svg" || fail "dsv3-plot $* exits with $?"; }
shows() { grep -q -- "$1" "$scratch/figure.svg" || fail "the figure shows no $1"; }
plot --run "first=$scratch/a" --run "second=$scratch/b.jsonl" --title "Two & more" --y-label nats --log
shows first && shows second && shows 'Two &amp; more' && shows nats
plot --run "first=$scratch/a" --field max_vio
whole=$(cat "$scratch/figure.svg")
plot --run "first=$scratch/a" --field max_vio --smooth 2
[ "$whole" != "$(cat "$scratch/figure.svg")" ] || fail "--smooth 2 changes nothing"
rm "$scratch/figure.svg"

cannot() {  # cannot CODE SENTENCE ARGUMENTS...
  local code=$1 sentence=$2
  shift 2
  refuses "$code" "$sentence" dsv3-plot "$@" --out "$scratch/figure.svg"
}
cannot 2 "--run is required"
cannot 2 "--feild is not a known flag, the nearest is --field" --run "a=$scratch/a" --feild ce
cannot 2 "--run: found \"$scratch/a\", expected NAME=FOLDER" --run "$scratch/a"
cannot 2 "--smooth: *" --run "a=$scratch/a" --smooth 0
cannot 1 "$scratch/none: cannot be opened: No such file or directory" --run "a=$scratch/none"
cannot 1 "$scratch/empty/run.jsonl: cannot be opened: No such file or directory" --run "a=$scratch/empty"
cannot 1 "$scratch/a/run.jsonl: no row has a field \"cee\"" --run "a=$scratch/a" --field cee
cannot 1 "$scratch/a/run.jsonl: no row has a field \"grad_norm\"" --run "a=$scratch/a" --field grad_norm
cannot 1 "$scratch/a/run.jsonl: no row has a field \"ce\"" --run "a=$scratch/a" --smooth 5
for row in '{"step":1,"ce":' '[1]' '{"ce":1}' '{"step":"1","ce":1}' '{"step":1,"ce":"1"}' \
  '{"step":1,"ce":[1,"2"]}'; do
  printf '%s\n' "$row" > "$scratch/bad.jsonl"
  cannot 1 "$scratch/bad.jsonl: row 1*" --run "a=$scratch/bad.jsonl"
done
refuses 1 "$scratch/none/figure.svg: cannot be created: No such file or directory" \
  dsv3-plot --run "a=$scratch/a" --out "$scratch/none/figure.svg"
[ ! -e "$scratch/figure.svg" ] || fail "refused work leaves a figure behind"
finish
