#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The cost of including the CPU wing whole: under four seconds with g++ -O0. The best of three, as others may be at work.
source "$(dirname "$0")/../support/script.sh"

echo '#include <dsv3/cpu.hpp>' > "$scratch/unit.cpp"
best=
for attempt in 1 2 3; do
  begin=$(date +%s%N)
  $CXX $DSV3_FLAGS $DSV3_OPENMP_FLAG -O0 -c "$scratch/unit.cpp" -o "$scratch/unit.o" ||
    { fail "#include <dsv3/cpu.hpp> does not compile"; finish; }
  taken=$((($(date +%s%N) - begin) / 1000000))
  [ -n "$best" ] && [ "$best" -le "$taken" ] || best=$taken
done
echo "#include <dsv3/cpu.hpp>: $best ms, at most 4000 are allowed"
[ "$best" -lt 4000 ] || fail "including the CPU wing takes $best ms, at most 4000 are allowed"
finish
