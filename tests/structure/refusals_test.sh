#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Calls that must not compile. Each file of refusals/ says in its comments how many error lines g++ must give and what
# they must say, and compiles when DSV3_ALLOWED is defined, so that nothing else is wrong with it.
source "$(dirname "$0")/../support/script.sh"

count=0
for file in "$DSV3_SOURCE"/tests/structure/refusals/*.cpp; do
  name=$(basename "$file" .cpp)
  count=$((count + 1))
  if ! $CXX $DSV3_FLAGS -Wall -Wextra -Werror -DDSV3_ALLOWED -fsyntax-only "$file" > "$scratch/$name.log" 2>&1; then
    fail "$name does not compile in its allowed form: $(head -n 8 "$scratch/$name.log")"
    continue
  fi
  if $CXX $DSV3_FLAGS -fsyntax-only "$file" > "$scratch/$name.log" 2>&1; then
    fail "$name compiles"
    continue
  fi
  errors=$(grep -c ': error: ' "$scratch/$name.log")
  wanted=$(sed -n 's,^// errors: ,,p' "$file")
  [ "$errors" = "$wanted" ] || fail "$name gives $errors errors, expected $wanted: $(cat "$scratch/$name.log")"
  sed -n 's,^// says: ,,p' "$file" > "$scratch/$name.says"
  [ -s "$scratch/$name.says" ] || fail "$name names no sentence"
  while read -r sentence; do
    grep -qF -- "$sentence" "$scratch/$name.log" ||
      fail "$name does not say '$sentence': $(cat "$scratch/$name.log")"
  done < "$scratch/$name.says"
done
[ "$count" -gt 0 ] || fail "no file in refusals/"
echo "$count calls refused"
finish
