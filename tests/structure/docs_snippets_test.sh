#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Code in the pages stands in the file that the page names above it with <!-- from FILE -->, up to white space; links
# between pages lead to files.
source "$(dirname "$0")/../support/script.sh"
cd "$DSV3_SOURCE" || exit 1

find docs README.md -name '*.md' | sort > "$scratch/pages"
while read -r page; do
  awk -v page="$page" '
    function bare(line) { gsub(/[ \t]+/, "", line); return line }
    function stands_in(file,   line) {
      if (!(file in text)) {
        text[file] = ""
        while ((getline line < file) > 0) text[file] = text[file] bare(line)
        close(file)
      }
      return index(text[file], block) > 0
    }
    /^<!-- from .* -->$/ { file = $3; next }
    /^```/ && inside { inside = 0
      if (file != "" && !stands_in(file)) { printf "%s: the code before line %d is not in %s\n", page, FNR, file; bad = 1 }
      if (file != "") checked++
      file = ""; next }
    /^```/ { inside = 1; block = ""; next }
    inside { block = block bare($0) }
    END { print checked + 0 > "/dev/stderr"; exit bad }' "$page" 2>> "$scratch/checked" || fail "the code above"
  folder=$(dirname "$page")
  awk '/^```/ { inside = !inside; next } !inside { gsub(/`[^`]*`/, ""); print }' "$page" |
    grep -oE '\]\([^)#: ]+\)' | sed 's/^](//; s/)$//' | while read -r target; do
    [ -e "$folder/$target" ] || echo "$page: $target does not exist"
  done >> "$scratch/broken"
done < "$scratch/pages"
[ "$(awk '{ sum += $1 } END { print sum }' "$scratch/checked")" -gt 5 ] || fail "almost no code in the pages is checked"
[ ! -s "$scratch/broken" ] || { cat "$scratch/broken"; fail "the links above"; }
finish
