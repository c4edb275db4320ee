#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Same seed, same threads: bitwise the same run. A run that was stopped ends as if it never was.
source "$(dirname "$0")/../support/small_run.sh"
flags+=(--steps 60 --save-every 7 --eval-every 6 --accumulate 2 --print-every 1)

# stop_at STEP SIGNAL FLAGS...   sends the signal when the line of this step, or of a later one, is read
stop_at() {
  local step=$1 signal=$2 line last="" sent="" run
  shift 2
  mkfifo "$scratch/lines"
  "$DSV3_BIN/dsv3-train" "${flags[@]}" "$@" > "$scratch/lines" &
  run=$!
  while read -r line; do
    last=$line
    if [[ -z $sent && $line =~ ^step\ ([0-9]+)/ ]] && [ "${BASH_REMATCH[1]}" -ge "$step" ]; then
      kill -s "$signal" $run
      sent=yes
    fi
  done < "$scratch/lines"
  wait $run || fail "stopped by $signal at step $step: exit code $?"
  rm "$scratch/lines"
  if [[ $last =~ ^"stopped after step "([0-9]+)"; the same command with --resume auto goes on"$ ]]; then
    stops+=" ${BASH_REMATCH[1]}"
  elif [[ $last != "report: "* ]]; then  # the signal came after the last step
    fail "stopped by $signal at step $step, its last line is: $last"
  fi
}

for precision in fp32 bf16 fp8; do
  whole=$scratch/$precision
  train --precision $precision --out "$whole" > "$scratch/$precision.txt" ||
    fail "$precision: a run ends with $?"
  [ "$(rows "$whole" | grep -c '"lr"')" -eq 60 ] || fail "$precision: the log does not have 60 steps"
  [ "$(rows "$whole" | grep -c '"eval_ce"')" -eq 11 ] ||
    fail "$precision: the log does not have 11 evaluations"

  train --precision $precision --out "$scratch/again" > /dev/null ||
    fail "$precision: the second run ends with $?"
  same "$whole" "$scratch/again" "$precision again"

  # At the first step, one after the other, at an evaluation, at a save, at the last step.
  stops=""
  for stop in 1:TERM 2:INT 6:TERM 14:INT 23:TERM 37:INT 59:TERM 60:INT; do
    stop_at "${stop%:*}" "${stop#*:}" --precision $precision --out "$scratch/stopped" --resume auto
  done
  train --precision $precision --out "$scratch/stopped" --resume auto > /dev/null ||
    fail "$precision: cannot go on"
  echo "$precision: stopped after steps$stops"
  same "$whole" "$scratch/stopped" "$precision stopped after steps$stops"
  [ "$(wc -w <<< "$stops")" -ge 3 ] || fail "$precision: only stopped after steps$stops"

  # From a checkpoint of another folder; the log begins there.
  train --precision $precision --out "$scratch/other" --resume "$scratch/again/step-00000056" > /dev/null ||
    fail "$precision: cannot go on in another folder"
  diff <(rows "$whole" | grep -E '"step":(57|58|59|60),') <(rows "$scratch/other") ||
    fail "$precision: other rows elsewhere"
  diff -r "$whole/step-00000060" "$scratch/other/step-00000060" ||
    fail "$precision: another checkpoint elsewhere"
  rm -r "$scratch/again" "$scratch/stopped" "$scratch/other"
done

# Another seed is another run, and so are other precisions: what is compared above can differ.
train --out "$scratch/seed" --seed 2 > /dev/null
[ "$(rows "$scratch/fp32")" != "$(rows "$scratch/seed")" ] || fail "--seed changes nothing"
[ "$(rows "$scratch/fp32")" != "$(rows "$scratch/bf16")" ] || fail "--precision changes nothing"
finish
