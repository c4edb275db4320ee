#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A project that adds this folder gets the targets and none of our tests, programs, warnings or requirements.
source "$(dirname "$0")/../support/script.sh"
export CXX

mkdir "$scratch/project"
cat > "$scratch/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
add_subdirectory($DSV3_SOURCE dsv3)
add_executable(consumer $DSV3_SOURCE/examples/consumer/main.cpp)
target_link_libraries(consumer PRIVATE dsv3::cpu)
message(STATUS "tests \${DSV3_TESTS}, examples \${DSV3_EXAMPLES}, bench \${DSV3_BENCH}, native \${DSV3_NATIVE}")
END
"$CMAKE" -S "$scratch/project" -B "$scratch/build" > "$scratch/log" 2>&1 &&
  "$CMAKE" --build "$scratch/build" --verbose >> "$scratch/log" 2>&1 ||
  { fail "the outer project does not build: $(tail -n 12 "$scratch/log")"; finish; }
grep -qF "tests OFF, examples OFF, bench OFF, native OFF" "$scratch/log" || fail "our own programs are on: $(cat "$scratch/log")"
grep -qE -- "-Werror|-march=native" "$scratch/log" && fail "our own compiler flags reach the outer project"
"$scratch/build/consumer" | diff "$DSV3_SOURCE/tests/package/expected.txt" - || fail "the consumer prints something else"
finish
