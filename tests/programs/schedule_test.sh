#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-schedule gives the published figures, draws what it simulates, and refuses what no schedule can have.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-schedule
schedule=$DSV3_BIN/dsv3-schedule

# says PATTERN ARGUMENTS...   a line of the answer; spaces stand for any number of them
says() {
  local pattern=${1// / +}
  shift
  "$schedule" "$@" > "$scratch/answer" || fail "dsv3-schedule $* exits with $?"
  grep -Eq -- "$pattern" "$scratch/answer" || fail "dsv3-schedule $* says no \"$pattern\": $(cat "$scratch/answer")"
}
says '^1f1b 8 81 21 \(21\) 74\.1 % 8 \(8\) 1$'
says '^zb1p 8 67 7 \(7\) 89\.6 % 8 \(8\) 1$'
says '^dualpipe 8 66 6 \(6\) 90\.9 % 9 \(9\) 2$'
says '^dualpipe_v 8 66 6 \(6\) 90\.9 % 9 \(9\) 1$' --ranks 4 --micro-batches 10
says '^dualpipe 16 206 14 \(14\)' --ranks 16 --micro-batches 64
says '^dualpipe 8 57\.6 4\.2 \(4\.2\)' --overlapped 2.4
says '^dualpipe 8 .* 7\.2 \(7\.8\)' --input-gradient 1.2 --weight-gradient 0.8
says '^dualpipe 7 ranks, expected an even number$' --ranks 7
says '^bubble, most of a rank 6 6$' --method dualpipe
says '^ 3 3, 4 60 6 9 4 2$' --method dualpipe
says '^rank 1: F0 F0 B0 F0 B0 F0 B0 B0$' --method 1f1b --ranks 3 --micro-batches 4 --lists
says '^rank 3: F0 F1 F0 F1 F0 F1 F0 F1 F0 B1 F1\|B0 ' --method dualpipe --lists
without=$("$schedule" --method zb1p --transfer 0.1 | grep makespan)
with=$("$schedule" --method zb1p --transfer 0.1 --blocking | grep makespan)
[ "$without" != "$with" ] || fail "--blocking changes nothing"

"$schedule" --method dualpipe --svg "$scratch/a.svg" --trace "$scratch/a.json" > "$scratch/answer" ||
  fail "drawing exits with $?"
pairs=$(grep -o 'class="b[01]"[^>]*height="11.00"' "$scratch/a.svg" | wc -l)
[ "$pairs" -eq 82 ] || fail "the picture shows $pairs overlapped pairs, expected 82"
[ "$(grep -o '"ph":"s"' "$scratch/a.json" | wc -l)" -eq 280 ] || fail "the trace does not show 280 messages sent"
[ "$(grep -o '"ph":"f"' "$scratch/a.json" | wc -l)" -eq 280 ] || fail "the trace does not show 280 messages received"
for figure in 1f1b:8:20 zb1p:8:20 dualpipe:8:20 dualpipe_v:4:10; do
  IFS=: read -r method ranks micro_batches <<< "$figure"
  "$schedule" --method "$method" --ranks "$ranks" --micro-batches "$micro_batches" --svg "$scratch/b.svg" > /dev/null
  cmp -s "$scratch/b.svg" "$DSV3_SOURCE/docs/figures/pipeline_$method.svg" ||
    fail "docs/figures/pipeline_$method.svg is not what --method $method draws"
done
boxes=$("$schedule" --method dualpipe --lists | sed -n 's/^rank [0-9]: //p' | wc -w)
[ "$(grep -o '"ph":"X"' "$scratch/a.json" | wc -l)" -eq "$boxes" ] || fail "the trace does not show $boxes computings"

refuses 2 '--method: found "gpipe", expected one of 1f1b, zb1p, dualpipe, dualpipe_v' dsv3-schedule --method gpipe
refuses 2 "dualpipe: 7 ranks, expected an even number" dsv3-schedule --method dualpipe --ranks 7
refuses 2 "dualpipe: 14 micro-batches for 8 ranks, expected at least 16" \
  dsv3-schedule --method dualpipe --micro-batches 14
refuses 2 "dualpipe: 21 micro-batches, expected an even number" dsv3-schedule --method dualpipe --micro-batches 21
refuses 2 '--ranks: found "0", expected a whole number from 1 to 4096' dsv3-schedule --ranks 0
refuses 2 '--forward: found "-1", expected a number of at least 0' dsv3-schedule --forward -1
refuses 2 "--ranks times --micro-batches is 4096000, expected at most 2097152" \
  dsv3-schedule --ranks 4096 --micro-batches 1000
refuses 2 "--svg shows one schedule, expected --method" dsv3-schedule --svg "$scratch/c.svg"
refuses 2 "--trace shows one schedule, expected --method" dsv3-schedule --trace "$scratch/b.json"
refuses 1 "$scratch/none/a.svg: cannot be created: No such file or directory" \
  dsv3-schedule --method 1f1b --svg "$scratch/none/a.svg"
finish
