#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# dsv3-tokenize: a trained tokenizer gives text back, packs it, and every refusal is one sentence.
source "$(dirname "$0")/../support/program.sh"
needs dsv3-tokenize
tokenize=$DSV3_BIN/dsv3-tokenize
words=$scratch/words/tokenizer.json
data=$DSV3_SOURCE/tests/data/tokenizers/trained/corpus.txt

# runs ARGUMENTS...   must succeed
runs() { "$tokenize" "$@" > "$scratch/output" 2> "$scratch/errors" || fail "$* exits with $?: $(cat "$scratch/errors")"; }

runs train --data "$data" --vocab 600 --to "$words"
grep -q "^$words: 600 tokens from 0.0 MiB in 1 files (0 left out), [0-9]* words, [0-9.]* s$" "$scratch/errors" ||
  fail "train says $(cat "$scratch/errors")"
runs train --data "$data" --vocab 600 --to "$scratch/again.json" --threads 3
cmp -s "$words" "$scratch/again.json" || fail "another number of threads learns another vocabulary"
runs train --data "$data" --vocab 400 --to "$scratch/gpt2.json" --cut gpt2 --special '<|endoftext|>' '<pad>'
grep -q '"<pad>": 1,' "$scratch/gpt2.json" || fail "--special tokens do not have the first ids"

# There and back: any bytes.
{ cat "$data" && printf 'x\xff\xfe\x80 \xe4\xb8 \xf0\x9f\x98\x80 <pad> \x01\r\n'; } > "$scratch/text"
for flags in "" "--ordinary"; do
  runs encode --tokenizer "$scratch/gpt2.json" --file "$scratch/text" $flags
  [ "$(wc -l < "$scratch/output")" -eq 1 ] || fail "encode prints $(wc -l < "$scratch/output") lines, expected 1"
  cp "$scratch/output" "$scratch/ids$flags"
  runs decode --tokenizer "$scratch/gpt2.json" --file "$scratch/ids$flags"
  cmp -s "$scratch/output" "$scratch/text" || fail "encode $flags and decode do not give the text back"
done
cmp -s "$scratch/ids" "$scratch/ids--ordinary" && fail "--ordinary reads special tokens"
"$tokenize" decode --tokenizer "$scratch/gpt2.json" --skip-special < "$scratch/ids" > "$scratch/output"
sed 's/ <pad> /  /' "$scratch/text" | cmp -s - "$scratch/output" || fail "--skip-special leaves something else out"
printf 'a b' | "$tokenize" encode --tokenizer "$scratch/words" --frame > "$scratch/output"
[ "$(cut -d ' ' -f 1 "$scratch/output")" = 0 ] || fail "--frame does not begin with the begin of a text"
[ "$(printf '' | "$tokenize" encode --tokenizer "$words" --json)" = '{"bytes":0,"ids":[],"tokens":0}' ] ||
  fail "--json of nothing is something else"

# Packed, a document a file, and the text of all documents again.
mkdir "$scratch/texts"
for name in one two three; do printf '%s, %s and $name\n' $name $name > "$scratch/texts/$name.txt"; done
printf 'a\0b' > "$scratch/texts/binary"
for to in a.dsv3tok a.bin; do
  runs pack --tokenizer "$words" --data "$scratch/texts" --to "$scratch/$to"
  grep -q "^$scratch/$to: [0-9]* tokens in 3 documents from 0.0 MiB (1 files left out)$" "$scratch/errors" ||
    fail "pack says $(cat "$scratch/errors")"
  runs decode --tokenizer "$words" --file "$scratch/$to" --skip-special
  [ "$(sort "$scratch/output")" = "$(cat "$scratch"/texts/*.txt | sort)" ] || fail "$to holds other text"
  runs decode --tokenizer "$words" --file "$scratch/$to"
  [ "$(grep -o '<｜begin▁of▁sentence｜>[a-z]' "$scratch/output" | wc -l)" -eq 3 ] ||
    fail "$to does not hold three documents: $(cat "$scratch/output")"
done
[ "$(od -An -tu4 -N8 "$scratch/a.bin" | xargs)" = "20240801 7" ] || fail "a.bin does not begin as llm.c's files do"
runs pack --tokenizer "$words" --data "$scratch/texts" --to "$scratch/threads.dsv3tok" --threads 3
cmp -s "$scratch/a.dsv3tok" "$scratch/threads.dsv3tok" || fail "another number of threads packs another file"
runs pack --tokenizer "$words" --data "$scratch/texts" --to "$scratch/fim.dsv3tok" --fim-rate 1 --seed 3
runs decode --tokenizer "$words" --file "$scratch/fim.dsv3tok"
[ "$(grep -o '<｜fim▁\(begin\|hole\|end\)｜>' "$scratch/output" | sort | uniq -c | awk '{ print $1 }' | xargs)" = "3 3 3" ] ||
  fail "--fim-rate 1 does not cut every document: $(cat "$scratch/output")"
runs pack --data "$scratch/texts" --to "$scratch/bytes.dsv3tok"
[ "$(stat -c %s "$scratch/bytes.dsv3tok")" -gt 64 ] || fail "bytes cannot be packed"

refuses 2 "A subcommand is required" dsv3-tokenize
refuses 2 "--vocabs is not a known flag, the nearest is --vocab" dsv3-tokenize train --vocabs 3
refuses 2 "--to is required" dsv3-tokenize train --data "$data"
refuses 2 "data: /nowhere does not exist, expected a file or a folder of text" \
  dsv3-tokenize train --data /nowhere --to "$scratch/x.json"
refuses 2 "--data: no text found, expected at least one file that is not empty and has no zero byte" \
  dsv3-tokenize train --data "$scratch/texts/binary" --to "$scratch/x.json"
refuses 2 "tokenizer: a vocabulary of 261 is asked for, expected 262 to 1073741823: *" \
  dsv3-tokenize train --data "$data" --vocab 261 --to "$scratch/x.json"
refuses 2 "tokenizer: special token 1 is \"<a>\" for the second time, expected distinct texts" \
  dsv3-tokenize train --data "$data" --special '<a>' '<a>' --to "$scratch/x.json"
refuses 2 '--cut: found "x", expected one of deepseek-v3, gpt2' \
  dsv3-tokenize train --data "$data" --cut x --to "$scratch/x.json"
refuses 2 "$scratch/none.json: cannot be opened: No such file or directory" \
  dsv3-tokenize encode --tokenizer "$scratch/none.json"
refuses 2 "$scratch/none.txt: cannot be opened: No such file or directory" \
  dsv3-tokenize encode --tokenizer "$words" --file "$scratch/none.txt"
printf '1 600' > "$scratch/ids"
refuses 2 "decode: id 600 found at position 1, expected 0 to 599" \
  dsv3-tokenize decode --tokenizer "$words" --file "$scratch/ids"
printf '1 2,3' > "$scratch/ids"
refuses 2 "$scratch/ids: found \"2,3\", expected ids separated by white space" \
  dsv3-tokenize decode --tokenizer "$words" --file "$scratch/ids"
refuses 2 "--to is x.txt, expected the name of a file in .dsv3tok or .bin" \
  dsv3-tokenize pack --tokenizer "$words" --data "$data" --to x.txt
refuses 2 "the tokenizer has no tokens for fill-in-the-middle, expected *" \
  dsv3-tokenize pack --tokenizer "$scratch/gpt2.json" --fim-rate 0.1 --data "$data" --to "$scratch/x.bin"
refuses 2 '--fim-rate: found "2", expected a share from 0 to 1' \
  dsv3-tokenize pack --tokenizer "$words" --fim-rate 2 --data "$data" --to "$scratch/x.bin"
head -c 90 "$scratch/a.dsv3tok" > "$scratch/cut.dsv3tok"
refuses 1 "$scratch/cut.dsv3tok has 90 bytes, its header announces *" \
  dsv3-tokenize decode --tokenizer "$words" --file "$scratch/cut.dsv3tok"
for file in x.json x.bin; do [ ! -e "$scratch/$file" ] || fail "a refused call leaves $file behind"; done
finish
