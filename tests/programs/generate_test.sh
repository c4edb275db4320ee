#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-generate on a model that dsv3-train has just trained: the same text with and without drafts, in any batch and on
# any number of threads; what it prints; and one sentence with the right exit code for what cannot be done.
source "$(dirname "$0")/../support/small_run.sh"
needs dsv3-generate

train --steps 120 --lr 5e-3 --init-std 0.05 --out "$scratch/run" > "$scratch/log" 2>&1 ||
  { fail "the model does not train: $(tail -n 3 "$scratch/log")"; finish; }
grep -q '"eval_mtp":.*"drafts_accepted_1":[01.].*"drafts_accepted_2":[01.].*"tokens_per_decode_step":[1-3]' \
  "$scratch/run/run.jsonl" || fail "evaluations do not say what became of drafts: $(grep eval "$scratch/run/run.jsonl")"
model=$scratch/run/$(cat "$scratch/run/latest")
generate() { timeout 300 "$DSV3_BIN/dsv3-generate" --model "$model" "$@" 2> "$scratch/figures"; }

prompt=$'1041\n1042\n'
plain=$(generate --prompt "$prompt" --max-new 40)
[ -n "$plain" ] || fail "nothing is generated: $(cat "$scratch/figures")"
figures='^prompt 11 tokens at [0-9.]+/s; decoded 39 tokens at [0-9.]+/s, 1.00 per step; cache [0-9]+ bytes, 160 per token$'
grep -qE "$figures" "$scratch/figures" || fail "the closing line is: $(cat "$scratch/figures")"
for draft in 1 2 3; do
  [ "$(generate --prompt "$prompt" --max-new 40 --draft $draft)" = "$plain" ] || fail "--draft $draft writes another text"
  grep -qE "drafts accepted [0-9.]+ % at depth 1.*$( ((draft > 1)) && echo " % at depth $draft")" "$scratch/figures" ||
    fail "--draft $draft does not say what was accepted: $(cat "$scratch/figures")"
done
for flags in "--no-stream" "--prefill-tokens 1" "--prefill-form absorbed" "--prefill-form expanded" "--threads 1" "--threads 2"; do
  # shellcheck disable=SC2086
  [ "$(generate --prompt "$prompt" --max-new 40 $flags)" = "$plain" ] || fail "$flags writes another text"
done
narrow=$(generate --prompt "$prompt" --max-new 40 --cache fp8)
[ -n "$narrow" ] || fail "nothing is generated over a cache in 8 bits: $(cat "$scratch/figures")"
grep -qE 'cache [0-9]+ bytes, 56 per token$' "$scratch/figures" ||
  fail "the closing line over a cache in 8 bits is: $(cat "$scratch/figures")"
for flags in "--draft 2" "--threads 1" "--prefill-tokens 3"; do
  # shellcheck disable=SC2086
  [ "$(generate --prompt "$prompt" --max-new 40 --cache fp8 $flags)" = "$narrow" ] ||
    fail "--cache fp8 $flags writes another text"
done
for precision in bf16 fp8; do
  text=$(generate --prompt "$prompt" --max-new 40 --precision $precision)
  [ -n "$text" ] || fail "nothing is generated in $precision: $(cat "$scratch/figures")"
  [ "$(generate --prompt "$prompt" --max-new 40 --precision $precision --no-record)" = "$text" ] ||
    fail "--precision $precision --no-record writes another text"
done
[ -n "$(generate --prompt "$prompt" --max-new 40 --precision fp8 --cache fp8 --draft 2)" ] ||
  fail "nothing is generated in fp8 with drafts: $(cat "$scratch/figures")"
refuses 2 "--precision: found \"fp4\", expected one of fp32, bf16, fp64, fp8" dsv3-generate --model "$model" \
  --prompt a --precision fp4
[ "$(generate --prompt "$prompt" --max-new 40 --echo)" = "$prompt$plain" ] || fail "--echo does not print the prompt first"
[ "$("$DSV3_BIN/dsv3-generate" --model "$scratch/run" --prompt "$prompt" --max-new 40 2> "$scratch/figures")" = "$plain" ] ||
  fail "a run's folder does not stand for its newest checkpoint"
printf '%s' "$prompt" > "$scratch/prompt"
[ "$(generate --prompt-file "$scratch/prompt" --max-new 40)" = "$plain" ] || fail "--prompt-file writes another text"

# Several answers, whatever the batch; each is what it is alone.
several=$(generate --prompt "$prompt" --prompt "10" --samples 2 --max-new 20 --temperature 0.8 --seed 3)
[ "$(grep -c '^== prompt' <<< "$several")" -eq 4 ] || fail "four answers are announced as: $several"
for batch in 1 3; do
  [ "$(generate --prompt "$prompt" --prompt "10" --samples 2 --max-new 20 --temperature 0.8 --seed 3 --batch $batch)" = \
    "$several" ] || fail "--batch $batch writes other answers"
done
alone=$(generate --prompt "10" --max-new 20 --temperature 0.8 --seed 4)
[[ $several == *"$alone" ]] || fail "the last of several answers is not what it is alone"

# JSON: the pieces make the text, and the tokens are there.
generate --prompt "$prompt" --max-new 12 --json > "$scratch/lines"
tail -n 1 "$scratch/lines" | grep -qE '"text":".*","tokens":\[[0-9,]+\],"finish":"length"\}$' ||
  fail "the last line of --json is: $(tail -n 1 "$scratch/lines")"
[ "$(generate --prompt "$prompt" --max-new 12 --json --no-stream | wc -l)" -eq 1 ] || fail "--no-stream prints pieces"

# A stop text ends the answer before itself, also where it comes token by token.
stop=${plain:6:3}
[ "$(generate --prompt "$prompt" --max-new 40 --stop "$stop" --draft 2; echo .)" = "${plain%%"$stop"*}"$'\n.' ] ||
  fail "--stop does not end the text before the stop text"

# Bytes that are no UTF-8 are tokens like any others.
generate --prompt $'10\xff\xc3' --max-new 4 > /dev/null || fail "bytes that are no UTF-8 are refused"

no() { refuses "$1" "$2" dsv3-generate --model "$model" "${@:3}"; }
no 2 "no prompt is given, expected --prompt or --prompt-file"
no 2 "prompt 1 is empty, expected some text" --prompt ""
no 2 "prompt 1 has 81 tokens, the model has 64 positions (max_position_embeddings)" --prompt "$(seq -s, 30)"
no 1 "$scratch/none: *" --prompt-file "$scratch/none"
mkdir "$scratch/foreign"
cp "$model"/* "$scratch/foreign"
cp "$DSV3_SOURCE/tests/data/tokenizers/gpt2/tokenizer.json" "$scratch/foreign"
refuses 2 "the tokenizer has ids up to *, the model's vocab_size is 258, expected at least *" dsv3-generate \
  --model "$scratch/foreign" --prompt a
rm "$scratch/foreign/tokenizer.json"
refuses 1 "*tokenizer.json*" dsv3-generate --model "$scratch/foreign" --prompt a
refuses 2 "--draft is 1, the model has no MTP module to draft with (num_nextn_predict_layers is 0)" dsv3-generate \
  --model "$DSV3_SOURCE/tests/data/golden/tiny" --prompt a --draft 1
finish
