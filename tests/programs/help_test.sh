#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every program explains its flags, says its version, and names the flag that was probably meant.
source "$(dirname "$0")/../support/program.sh"
programs=()
for folder in "$DSV3_SOURCE"/examples/*/; do
  program=dsv3-$(basename "$folder")
  [ -x "$DSV3_BIN/$program" ] && programs+=("$program")
done
[ ${#programs[@]} -gt 0 ] || skip "no program is built in $DSV3_BIN"

version=$(sed -nE 's/^#define DSV3_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+)$/\2/p' \
  "$DSV3_SOURCE/include/dsv3/version.hpp" | paste -sd .)
for program in "${programs[@]}"; do
  help=$("$DSV3_BIN/$program" --help 2> "$scratch/errors") || fail "$program --help exits with $?"
  [ ! -s "$scratch/errors" ] || fail "$program --help complains: $(cat "$scratch/errors")"
  [ "$(head -n 1 <<< "$help" | wc -w)" -ge 5 ] || fail "$program --help does not begin with what it is for"
  flags=$(grep -oE '^ +(-[a-z],)?--[a-z0-9-]+' <<< "$help" | grep -oE -- '--.*')
  [ "$(wc -l <<< "$flags")" -ge 6 ] || fail "$program --help lists only $flags"
  found=$("$DSV3_BIN/$program" --version) || fail "$program --version exits with $?"
  [ "$found" = "$version" ] || fail "$program --version says $found, expected $version"
  first=$(grep -vE -- '--(help|version)$' <<< "$flags" | head -n 1)
  refuses 2 "${first}x is not a known flag, the nearest is $first" "$program" "${first}x"
  refuses 2 "--zzzzzzzz is not a known flag" "$program" --zzzzzzzz
done
finish
