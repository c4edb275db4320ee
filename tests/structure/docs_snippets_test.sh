#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Code in the pages stands, line by line, in the file that the page names above it with <!-- from FILE -->; links
# between pages lead to files. Indentation and blank lines may differ.
source "$(dirname "$0")/../support/script.sh"
cd "$DSV3_SOURCE" || exit 1

find docs README.md -name '*.md' | sort > "$scratch/pages"
while read -r page; do
  awk -v page="$page" '
    function trimmed(line) { gsub(/[ \t]+/, " ", line); gsub(/^ | $/, "", line); return line }
    function load(file,   line) {
      if (file in lines_of) return
      lines_of[file] = 0
      while ((getline line < file) > 0)
        if (trimmed(line) != "") text[file, ++lines_of[file]] = trimmed(line)
      close(file)
    }
    function stands_in(file,   at, i) {
      load(file)
      for (at = 1; at + count - 1 <= lines_of[file]; at++) {
        for (i = 1; i <= count && text[file, at + i - 1] == block[i]; i++) {}
        if (i > count) return 1
      }
      return 0
    }
    /^<!-- from .* -->$/ { file = $3; next }
    /^```/ && inside { inside = 0
      if (file != "" && !stands_in(file)) { printf "%s: the code before line %d is not in %s\n", page, FNR, file; bad = 1 }
      if (file != "") checked++
      file = ""; next }
    /^```/ { inside = 1; count = 0; next }
    inside && trimmed($0) != "" { block[++count] = trimmed($0) }
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
