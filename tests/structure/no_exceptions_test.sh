#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Without exceptions the library prints its sentence and aborts, and everything without files compiles.
source "$(dirname "$0")/../support/script.sh"

$CXX $DSV3_FLAGS $DSV3_OPENMP_FLAG -Wall -Wextra -Werror -fno-exceptions -DDSV3_NO_EXCEPTIONS \
  "$DSV3_SOURCE/tests/structure/no_exceptions/program.cpp" -c -o "$scratch/program.o" 2> "$scratch/log" &&
  $CXX $DSV3_OPENMP_FLAG "$scratch/program.o" -o "$scratch/program" ${DSV3_LIBRARIES:-} 2>> "$scratch/log" ||
  fail "the program does not build: $(head -n 12 "$scratch/log")"

(ulimit -c 0; exec "$scratch/program") > "$scratch/output" 2>&1
code=$?
[ "$code" -eq 134 ] || fail "exit code $code, expected 134, that of abort"
expected="dsv3: scratch: 64 bytes asked for, 0 of 0 left; measure() tells what the arena must hold"
[ "$(cat "$scratch/output")" = "$expected" ] || fail "printed '$(cat "$scratch/output")', expected '$expected'"
finish
