#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every source of ours begins with its licence, keeps to 110 columns unless a raw string stands there, and has no tab, trailing space or missing last line.
source "$(dirname "$0")/../support/script.sh"
cd "$DSV3_SOURCE" || exit 1

find include tests bench examples cmake .ci CMakeLists.txt -type f \( -name '*.hpp' -o -name '*.cuh' -o -name '*.cpp' \
  -o -name '*.cu' -o -name '*.sh' -o -name '*.cmake' -o -name '*.awk' -o -name '*.py' -o -name CMakeLists.txt \
  -o -path .ci/run \) | sort > "$scratch/files"
[ "$(wc -l < "$scratch/files")" -gt 50 ] || fail "only $(wc -l < "$scratch/files") sources found"

xargs awk '
  function complain(sentence) { printf "%s:%d: %s\n", FILENAME, FNR, sentence; breaches++ }
  FNR == 1 { licensed = 0 }
  FNR <= 2 && /SPDX-License-Identifier: MIT$/ { licensed = 1 }
  FNR == 2 && !licensed { complain("does not begin with the licence line") }
  /\t/ { complain("has a tab") }
  /[ \r]$/ { complain("ends in a space") }
  FILENAME ~ /\.(hpp|cuh|cpp|cu)$/ {
    text = $0
    gsub(/[\200-\277]/, "", text)  # continuation bytes of UTF-8 take no column
    if (length(text) > 110 && !/R"\(/) complain("has " length(text) " columns, at most 110 are allowed")
  }
  # nvcc 13.0 forgets the names of such a list where what is assigned to depends on a template.
  FILENAME ~ /\.(hpp|cuh|cu)$/ && /^[ ]*[a-z_0-9]+((\.|->)[a-z_0-9]+)* = \{$|^[ ]*[a-z_0-9]+((\.|->)[a-z_0-9]+)* = \{\./ {
    complain("assigns from a list with names, expected the type before the list")
  }
  END { exit breaches > 0 }' < "$scratch/files" || fail "the form above"
while read -r file; do
  [ -z "$(tail -c 1 "$file")" ] || fail "$file does not end with a newline"
done < "$scratch/files"
finish
