#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A run that saves at every step is killed at random moments, DSV3_KILLS times: it always finds its newest
# checkpoint whole and ends as the run that nobody killed. Then checkpoints are damaged by hand.
source "$(dirname "$0")/../support/small_run.sh"
kills=${DSV3_KILLS:-40}
steps=20
flags+=(--steps $steps --save-every 1 --eval-every 10)
whole=$scratch/whole run=$scratch/run

milliseconds() { date +%s%3N; }
begin=$(milliseconds)
train --out "$whole" > /dev/null || fail "a run ends with $?"
step_time=$((($(milliseconds) - begin) / steps + 1))

pointer() { cat "$run/latest" 2> /dev/null; }
killed=0 in_save=0 without=0 finished=0
while [ "$killed" -lt "$kills" ]; do
  before=$(pointer)
  : > "$scratch/output"  # the kill may come before the program has its own
  "$DSV3_BIN/dsv3-train" "${flags[@]}" --out "$run" --resume auto > "$scratch/output" 2> "$scratch/errors" &
  victim=$!
  # From before the first line of main to the fourth save, the early moments more often.
  sleep "$(awk -v random="$RANDOM" -v step="$step_time" \
    'BEGIN { print (random / 32768) ^ 2 * (4 * step + 20) / 1000 }')"
  kill -s KILL $victim 2> /dev/null
  wait $victim 2> /dev/null
  code=$?
  if [ $code -eq 137 ]; then
    killed=$((killed + 1))
    compgen -G "$run/step-*.tmp-*" > /dev/null && in_save=$((in_save + 1))
    [ -n "$(pointer)" ] || without=$((without + 1))
  elif [ $code -ne 0 ]; then
    fail "after $killed kills, from \"$before\": exit code $code, $(cat "$scratch/errors")"
    break
  fi
  # What was saved before is where it went on, without a remark; what is saved now is not older.
  line=$(grep '^goes on from' "$scratch/output")
  if [ -n "$before" ] && [ -n "$line" ] && [ "$line" != "goes on from $run/$before" ]; then
    fail "kill $killed: latest was $before, the run $line"
  fi
  [[ $(pointer) < $before ]] && fail "kill $killed: latest was $before and is $(pointer)"
  if [ $code -eq 0 ] || [ "$(pointer)" = "step-000000$steps" ]; then
    train --out "$run" --resume auto > /dev/null 2> "$scratch/errors" ||
      fail "the end: $(cat "$scratch/errors")"
    same "$whole" "$run" "killed $killed times"
    finished=$((finished + 1))
    rm -r "$run"
  fi
done
train --out "$run" --resume auto > /dev/null 2> "$scratch/errors" || fail "the end: $(cat "$scratch/errors")"
same "$whole" "$run" "killed $killed times"
left=$(find "$run" -name '*.tmp-*' -o -name '*.dsv3-part')
[ -z "$left" ] || fail "what the killed left behind stays: $left"
echo "$killed kills, $in_save in a save, $without before a checkpoint; $((finished + 1)) runs ended alike"
[ $((in_save * 10)) -ge "$kills" ] || fail "only $in_save of $killed kills hit a save"

# ---- damage ------------------------------------------------------------------------------------------------
last=$run/step-000000$steps before=$run/step-000000$((steps - 1))
cp -r "$run" "$scratch/kept"
again() { rm -r "$run" && cp -r "$scratch/kept" "$run"; }
flip() {  # one bit in the middle of a file
  local middle=$(($(stat -c %s "$1") / 2)) byte
  byte=$(od -An -tu1 -j $middle -N 1 "$1")
  overwrite "$1" $middle "\\x$(printf %x $((byte ^ 1)))"
}
# goes_on PATTERN WHAT   with this line about the checkpoint, and to the same end
goes_on() {
  local line
  line=$(train --out "$run" --resume auto 2> "$scratch/errors" | grep '^goes on from')
  # shellcheck disable=SC2053
  [[ $line == $1 ]] || fail "$2: $line$(cat "$scratch/errors"), expected: $1"
  same "$whole" "$run" "$2"
}
for file in "$last"/*; do
  name=${file##*/}
  again && flip "$file"
  goes_on "goes on from $before: $last/$name*; the newest whole checkpoint is ${before##*/}" \
    "a changed bit in $name"
  again && truncate -s -2 "$file"
  goes_on "goes on from $before: $last/$name*; the newest whole checkpoint is ${before##*/}" "a short $name"
  again && rm "$file"
  goes_on "goes on from $before: $last/$name*; the newest whole checkpoint is ${before##*/}" "no $name"
done
again && rm -r "$last"
goes_on "goes on from $before: $last/state.json: *; the newest whole checkpoint is ${before##*/}" \
  "latest names nothing"
again && rm -r "$last" "$run/latest"
goes_on "goes on from $before: $run/latest names no checkpoint; *" "no latest"
again && rm -r "$last" && echo elsewhere > "$run/latest"
goes_on "goes on from $before: $run/latest names no checkpoint; *" "latest names no step"

again && cp -r "$before" "$last.tmp-1" && touch "$run/.report.html.1-0.dsv3-part"
goes_on "goes on from $last" "what a killed run had begun"
[ -z "$(find "$run" -name '*.tmp-*' -o -name '*.dsv3-part')" ] || fail "what a killed run had begun stays"

again && flip "$last/model.safetensors" && flip "$before/state.safetensors"
refuses 1 "$run: no whole checkpoint found: $last/model.safetensors is damaged: *" \
  dsv3-train "${flags[@]}" --out "$run" --resume auto
again && flip "$last/state.safetensors"
refuses 1 "$last/state.safetensors is damaged: *" \
  dsv3-train "${flags[@]}" --out "$scratch/other" --resume "$last"
[ ! -e "$scratch/other" ] || fail "a refused checkpoint leaves a folder"
finish
