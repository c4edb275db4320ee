#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-train on several ranks: the steps of one rank, whatever is shared among them; runs go on with other ranks; and
# counts that do not divide are refused.
source "$(dirname "$0")/../support/small_run.sh"
sed -i 's/"num_hidden_layers": 2/"num_hidden_layers": 4/' "$scratch/config.json"
flags+=(--precision fp64 --steps 6 --accumulate 8 --save-every 3 --eval-every 3)

# losses RUN   step, losses and norm of every step, and of every evaluation
losses() {
  sed -nE 's/.*"step":([0-9]+).*"loss":([^,]+),.*"ce":([^,]+),.*"grad_norm":([^,}]+).*/\1 \2 \3 \4/p' "$1/run.jsonl"
  sed -nE 's/.*"step":([0-9]+).*"eval_ce":([^,}]+).*/\1 \2/p' "$1/run.jsonl"
}
# close RUN OTHER WHAT   the same but for the order of sums
close() {
  paste <(losses "$1") <(losses "$2") | awk '
    { half = NF / 2
      for (i = 1; i <= half; i++) {
        d = $i - $(i + half)
        if (d < 0) d = -d
        if (d > 1e-9 * ($i < 0 ? -$i : $i)) exit 1
      } }
    END { if (NR < 8) exit 1 }' || fail "$3: other losses: $(losses "$2" | tail -n 3)"
}

train --out "$scratch/one" > /dev/null || fail "one rank ends with $?"
layouts=("--ranks 2" "--ranks 4 --expert-ranks 2" "--ranks 2 --pipeline-ranks 2 --pipeline-schedule zb1p"
  "--ranks 4 --expert-ranks 2 --pipeline-ranks 2 --pipeline-schedule dualpipe"
  "--ranks 2 --pipeline-ranks 2 --pipeline-schedule dualpipe_v")
for i in "${!layouts[@]}"; do
  read -ra layout <<< "${layouts[i]}"
  train --out "$scratch/ranks" "${layout[@]}" > "$scratch/output" || fail "${layouts[i]} ends with $?"
  close "$scratch/one" "$scratch/ranks" "${layouts[i]}"
  [ "$(grep -c '^step 6/6 ' "$scratch/output")" -eq 1 ] || fail "${layouts[i]}: rank 0 does not speak alone"
  # Twice the same bits, and on from the middle too.
  train --out "$scratch/again" "${layout[@]}" --resume "$scratch/ranks/step-00000003" > /dev/null ||
    fail "${layouts[i]} cannot go on"
  diff -r "$scratch/ranks/step-00000006" "$scratch/again/step-00000006" > "$scratch/difference" ||
    fail "${layouts[i]}: $(cat "$scratch/difference")"
  # With other ranks, and with one.
  read -ra other <<< "${layouts[(i + 1) % ${#layouts[@]}]}"
  for next in "--ranks 1" "${other[*]}"; do
    read -ra words <<< "$next"
    rm -r "$scratch/again"
    cp -r "$scratch/ranks" "$scratch/again"
    rm -r "$scratch/again/step-00000006"
    echo step-00000003 > "$scratch/again/latest"
    train --out "$scratch/again" --resume auto "${words[@]}" > /dev/null ||
      fail "${layouts[i]}, then $next: cannot go on"
    close "$scratch/one" "$scratch/again" "${layouts[i]}, then $next"
  done
  rm -r "$scratch/ranks" "$scratch/again"
done

# A signal finishes the step on all ranks.
"$DSV3_BIN/dsv3-train" "${flags[@]}" --steps 4000 --ranks 4 --expert-ranks 2 --out "$scratch/stopped" > "$scratch/output" &
run=$!
until [ -s "$scratch/output" ] && grep -q '^step 1/' "$scratch/output"; do sleep 0.1; done
kill -s TERM $run
wait $run || fail "stopped on four ranks: exit code $?"
grep -q '^stopped after step ' "$scratch/output" || fail "stopped on four ranks: $(tail -n 1 "$scratch/output")"

# ---- processes, where MPI is there and the program was built with it ---------------------------------------
launcher=${MPIEXEC-$(command -v mpirun)}
if [ -n "$launcher" ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  export OMPI_MCA_btl_vader_single_copy_mechanism=none
  program=("$DSV3_BIN/dsv3-train" "${flags[@]}")
  timeout 300 "$launcher" -np 4 "${program[@]}" --expert-ranks 2 --pipeline-ranks 2 --out "$scratch/processes" \
    > "$scratch/output" 2>&1 || fail "four processes: $(tail -n 5 "$scratch/output")"
  close "$scratch/one" "$scratch/processes" "four processes"
  rm -r "$scratch/processes/step-00000006"
  echo step-00000003 > "$scratch/processes/latest"
  train --out "$scratch/processes" --resume auto --ranks 2 > /dev/null || fail "threads cannot go on with processes' steps"
  close "$scratch/one" "$scratch/processes" "four processes, then two threads"
  timeout 60 "$launcher" -np 1 "${program[@]}" --out "$scratch/told" : -np 1 "${program[@]}" --out "$scratch/told" --seed 2 \
    > "$scratch/output" 2>&1 && fail "processes that are told other seeds train"
  grep -q "handshake: rank 1 has --seed '2', rank 0 '1'" "$scratch/output" || fail "other seeds: $(cat "$scratch/output")"
  timeout 60 "$launcher" -np 2 "${program[@]}" --ranks 4 > "$scratch/output" 2>&1 && fail "two processes are four ranks"
  grep -q -- "--ranks is 4, Open MPI started 2 processes" "$scratch/output" || fail "$(cat "$scratch/output")"
fi

# ---- refusals ----------------------------------------------------------------------------------------------
usage() {
  local sentence=$1
  shift
  refuses 2 "$sentence" dsv3-train "${flags[@]}" --out "$scratch/refused" "$@"
}
usage "--ranks is 6, expected a multiple of --expert-ranks times --pipeline-ranks, 4" --ranks 6 --expert-ranks 4
usage "--expert-ranks is 3, the model's 4 experts do not divide among them" --ranks 3 --expert-ranks 3
usage "--accumulate is 8, expected a multiple of the 3 ranks that read batches of their own" --ranks 3
usage "pipeline: found 8 stages for 4 blocks, expected 1 to 4" --ranks 8 --pipeline-ranks 8
usage "dualpipe: 3 micro-batches, expected an even number" \
  --ranks 2 --pipeline-ranks 2 --pipeline-schedule dualpipe --accumulate 3
usage "--shadow compares the steps of one rank, --ranks is 2" --ranks 2 --precision fp8 --shadow bf16
usage '--pipeline-schedule: found "gpipe", expected one of 1f1b, zb1p, dualpipe, dualpipe_v' --pipeline-schedule gpipe
finish
