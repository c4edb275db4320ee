#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-train with a tokenizer: text or packed files, the same after a stop, and never with another tokenizer.
source "$(dirname "$0")/../support/small_run.sh"
needs dsv3-tokenize
for name in docs examples; do
  "$DSV3_BIN/dsv3-tokenize" train --data "$DSV3_SOURCE/$name" --vocab 400 --to "$scratch/$name.json" \
    2> "$scratch/errors" || fail "no tokenizer of $name: $(cat "$scratch/errors")"
done
mkdir "$scratch/words"
mv "$scratch/docs.json" "$scratch/words/tokenizer.json"
mkdir "$scratch/docs"
cp "$DSV3_SOURCE"/docs/*.md "$scratch/docs"
flags=(--config "$scratch/config.json" --vocab 400 --batch 2 --seq 16 --threads 2 --warmup 4 --steps 12
  --save-every 5 --keep 9 --eval-every 6 --sample-bytes 40)

# One run and the same run in two parts, from text and from files of tokens.
for kind in text fim packed llm_c; do
  data=("$scratch/docs")
  case $kind in
    fim) data+=(--fim-rate 0.5) ;;
    packed) data=("$scratch/a.dsv3tok" "$scratch/b.dsv3tok") ;;
    llm_c) data=("$scratch/a.bin") ;;
  esac
  for to in "${data[@]}"; do
    [[ $to == *.dsv3tok || $to == *.bin ]] || continue
    "$DSV3_BIN/dsv3-tokenize" pack --tokenizer "$scratch/words" --data "$scratch/docs" --to "$to" \
      --fim-rate 0.1 2> "$scratch/errors" || fail "$to cannot be packed: $(cat "$scratch/errors")"
  done
  run=$scratch/$kind
  train --tokenizer "$scratch/words" --data "${data[@]}" --out "$run" > "$scratch/output" 2> "$scratch/errors" ||
    fail "$kind: a run ends with $?: $(cat "$scratch/errors")"
  grep -q "held-out text: cross entropy [0-9.]* nats per token" "$scratch/output" ||
    fail "$kind: tokens are not counted: $(cat "$scratch/output")"
  grep -q '^---- [4-9][0-9] bytes drawn after "The "' "$scratch/output" || fail "$kind: no sample of 40 bytes"
  grep -q "^The " "$scratch/output" || fail "$kind: the sample does not go on from its beginning"
  cmp "$run/step-00000012/tokenizer.json" "$scratch/words/tokenizer.json" ||
    fail "$kind: the checkpoint does not hold the tokenizer"
  grep -q '"bos_token_id": 0,' "$run/step-00000012/config.json" || fail "$kind: the model begins with another id"
  train --tokenizer "$scratch/words" --data "${data[@]}" --out "$run-again" --resume "$run/step-00000005" \
    > /dev/null || fail "$kind: cannot go on"
  diff -r "$run/step-00000012" "$run-again/step-00000012" || fail "$kind: another checkpoint after a stop"
done

# Of bytes too the folder is complete.
small=(--config "$scratch/config.json" --batch 2 --seq 16 --threads 2 --sample-bytes 0 --data "$scratch/docs")
"$DSV3_BIN/dsv3-train" "${small[@]}" --steps 2 --out "$scratch/bytes" > /dev/null || fail "bytes: ends with $?"
[ "$("$DSV3_BIN/dsv3-tokenize" encode --tokenizer "$scratch/bytes/step-00000002" --frame <<< hi)" = "256 104 105 10" ] ||
  fail "bytes: the checkpoint's tokenizer is another"

go_on() { refuses 1 "$1" dsv3-train "${flags[@]}" --out "$scratch/text" --resume auto "${@:2}"; }
go_on "$scratch/text: the checkpoint was trained with the tokenizer of checksum *, this run has the one of *" \
  --tokenizer "$scratch/examples.json" --data "$scratch/docs"
go_on "$scratch/text/step-00000012/config.json: bos_token_id is 0, this run has 256" --data "$scratch/docs"
go_on "$scratch/text: the checkpoint was trained on other text *" --tokenizer "$scratch/words" \
  --data "$scratch/docs" --fim-rate 0.5
refuse() { refuses 2 "$1" dsv3-train "${flags[@]}" --out "$scratch/none" "${@:2}"; }
refuse "$scratch/words: the tokenizer has ids up to 399, the model's vocab_size is 399, expected at least 400" \
  --tokenizer "$scratch/words" --vocab 399
refuse "$scratch/none.json: cannot be opened: No such file or directory" --tokenizer "$scratch/none.json"
refuse "$scratch/a.dsv3tok holds the tokens of a tokenizer: expected that tokenizer to be given" \
  --data "$scratch/a.dsv3tok"
refuse "$scratch/a.dsv3tok was packed with the tokenizer of checksum *" --tokenizer "$scratch/examples.json" \
  --data "$scratch/a.dsv3tok"
refuse "data: files of tokens and text found together, expected one of them" --tokenizer "$scratch/words" \
  --data "$scratch/a.dsv3tok" "$scratch/docs"
refuse "data: $scratch/a.dsv3tok holds tokens, whose documents cannot be told otherwise any more: *" \
  --tokenizer "$scratch/words" --data "$scratch/a.dsv3tok" --fim-rate 0.1
refuse "*: the tokenizer has no tokens for fill-in-the-middle, expected *" --data "$scratch/docs" --fim-rate 0.1
head -c 3000 "$scratch/a.bin" > "$scratch/cut.bin"
refuse "$scratch/cut.bin has 3000 bytes, its header announces *" --tokenizer "$scratch/words" \
  --data "$scratch/cut.bin"
finish
