#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the CUDA wing for the GPU of this machine and runs what only a GPU can: tests, compute-sanitizer, benches and a
# training run. One table at the end says what came out, and what was not run. Nothing is downloaded.
#
#   tests/gpu.sh                          everything, under nine minutes on 16 cores
#   tests/gpu.sh --only tests             one part: tests, sanitize, bench or train; may be given more than once
#   tests/gpu.sh --frameworks DIR         doctest, Google Benchmark, nlohmann/json, CLI11 and PCRE2 from DIR/include and
#                                         DIR/lib rather than the system's
#   tests/gpu.sh --gather DIR             fills such a folder from this machine, and ends
#   tests/gpu.sh --architecture 80        code for another compute capability than the GPU's own
#   tests/gpu.sh --build DIR --report DIR where things go: build/gpu, and report/ in there
#
# Ends with 0 when everything that was run is good, 1 when something is not, 2 for a wrong call, 77 without a GPU.
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
root=$PWD

say() { printf '%s\n' "$*"; }
wrong() {
  say "tests/gpu.sh: $*" >&2
  exit 2
}
absolute() { case $1 in /*) printf %s "$1" ;; *) printf %s "$root/$1" ;; esac; }

parts="" frameworks="" gather="" architecture="" build=$root/build/gpu report=""
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || wrong "'$1' is no option, or wants a value; the head of this file names them"
  case $1 in
    --only)
      case $2 in tests | sanitize | bench | train) parts="$parts $2" ;; *) wrong "--only is '$2', expected tests, sanitize, bench or train" ;; esac ;;
    --frameworks) frameworks=$(absolute "$2") ;;
    --gather) gather=$(absolute "$2") ;;
    --architecture) architecture=$2 ;;
    --build) build=$(absolute "$2") ;;
    --report) report=$(absolute "$2") ;;
    *) wrong "'$1' is no option; the head of this file names them" ;;
  esac
  shift 2
done
[ -z "$frameworks" ] || [ -d "$frameworks" ] || wrong "--frameworks: $frameworks is no folder"
report=${report:-$build/report}
cores=$(nproc)
CXX=${CXX:-g++}

# ---- the frameworks --------------------------------------------------------------------------------------------------
# Name, header, library.
framework_list="doctest doctest/doctest.h -
benchmark benchmark/benchmark.h benchmark
json nlohmann/json.hpp -
CLI11 CLI/CLI.hpp -
PCRE2 pcre2.h pcre2-8"

# Where the compiler finds a header; empty where it does not.
header_at() {
  printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\n' "$1" |
    $CXX -std=c++20 ${frameworks:+"-I$frameworks/include"} -E -x c++ - 2> /dev/null |
    sed -n "s,^# [0-9]* \"\\(.*/$1\\)\".*,\\1,p" | head -n 1
}

if [ -n "$gather" ]; then
  mkdir -p "$gather/include" "$gather/lib"
  while read -r name header library; do
    found=$(header_at "$header")
    [ -n "$found" ] || { say "$name: <$header> was not found"; continue; }
    case $header in
      */*) cp -rL "$(dirname "$found")" "$gather/include/" ;;
      *) cp -L "$found" "$gather/include/" ;;
    esac
    [ "$library" = - ] || for suffix in a so; do  # one that needs no other file is enough
      file=$($CXX -print-file-name="lib$library.$suffix")
      case $file in /*) cp -L "$file"* "$gather/lib/" && break ;; esac
    done
    say "$name: $found"
  done <<< "$framework_list"
  exit 0
fi

lacking=""
while read -r name header library; do
  [ -n "$(header_at "$header")" ] || lacking="$lacking $name"
done <<< "$framework_list"
# lacks NAME...   the first of these that is lacking
lacks() {
  local name
  for name in "$@"; do case " $lacking " in *" $name "*) printf %s "$name"; return ;; esac; done
}

# ---- the machine -----------------------------------------------------------------------------------------------------
for folder in "${CUDA_HOME:-/usr/local/cuda}/bin" /usr/local/cuda/compute-sanitizer; do
  [ -d "$folder" ] && PATH=$PATH:$folder
done
nvcc=$(command -v nvcc) || wrong "no nvcc was found in PATH or /usr/local/cuda/bin"
version=$(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
gpu=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader 2> /dev/null | head -n 1)
if [ -n "$gpu" ]; then
  capability=$(printf %s "$gpu" | cut -d, -f2 | tr -d ' .')
else
  capability=$(__nvcc_device_query 2> /dev/null | grep -oE '^[0-9]+' | head -n 1)
  gpu=${capability:+compute capability $capability}
fi
if [ -z "$gpu" ] && [ -z "$architecture" ]; then
  say "skipped: no NVIDIA GPU was found; with --architecture 90a the parts are built, and say themselves that they cannot run"
  exit 77
fi
if [ -z "$architecture" ]; then
  architecture=$capability
  [ "$capability" != 90 ] || architecture=90a
fi
say "GPU: ${gpu:-none}; nvcc $version for sm_$architecture; $cores cores"

mkdir -p "$build" "$report"
rm -rf "${report:?}"/*
began=$(date +%s)
elapsed() { printf %s $(($(date +%s) - began)); }

# One row of the last table; `result` is ok, FAILED or not run.
bad=0
row() {
  printf '%-9s  %-7s  %s\n' "$1" "$2" "$3" >> "$report/rows"
  printf '[%4s s] %s: %s: %s\n' "$(elapsed)" "$1" "$2" "$3"
  [ "$2" != FAILED ] || bad=1
}
wanted() { [ -z "$parts" ] || case " $parts " in *" $1 "*) ;; *) return 1 ;; esac; }

# ---- building --------------------------------------------------------------------------------------------------------
missing_tests=$(lacks doctest json PCRE2) missing_bench=$(lacks benchmark PCRE2) missing_train=$(lacks json CLI11 PCRE2)
builds_tests=OFF builds_bench=OFF builds_train=OFF
if wanted tests || wanted sanitize; then [ -n "$missing_tests" ] || builds_tests=ON; fi
if wanted bench && [ -z "$missing_bench" ]; then builds_bench=ON; fi
if wanted train || wanted sanitize; then [ -n "$missing_train" ] || builds_train=ON; fi

generator=() onwards=(-k)
if command -v ninja > /dev/null; then generator=(-G Ninja) onwards=(-k 0); fi
# configure FOLDER LOG OPTION...
configure() {
  local folder=$1 log=$2 made_with=("${generator[@]}")
  shift 2
  [ ! -e "$folder/CMakeCache.txt" ] || made_with=()
  cmake "${made_with[@]}" -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$CXX" -DDSV3_CUDA=ON \
    -DDSV3_NVCC="$nvcc" -DCMAKE_CUDA_ARCHITECTURES="$architecture" -DDSV3_FRAMEWORKS="$frameworks" "$@" > "$log" 2>&1
}
# build_targets FOLDER LOG TARGET...   goes on after what does not compile
build_targets() {
  local folder=$1 log=$2
  shift 2
  cmake --build "$folder" -j "$cores" --target "$@" -- "${onwards[@]}" >> "$log" 2>&1
}
names_of() { ls "$build/$1" 2> /dev/null | grep -vE '\.(cu|d|o)$'; }

# Few sources take minutes to compile, and each of the two builds has some: side by side they cost the time of one. The
# trainer has a folder of its own, as two builds in one would be in each other's way.
programs=$build/programs marks=$build/marks
rm -rf "$marks"
mkdir -p "$marks"
trap 'kill $(jobs -p) 2> /dev/null; exit 130' INT TERM
until_marked() { until [ -e "$marks/$1" ]; do sleep 1; done; }
if [ $builds_tests = ON ] || [ $builds_bench = ON ]; then
  if ! configure "$build" "$report/build.log" -DDSV3_TESTS=$builds_tests -DDSV3_BENCH=$builds_bench -DDSV3_EXAMPLES=OFF; then
    tail -n 20 "$report/build.log"
    row build FAILED "cmake does not configure, see $report/build.log"
    exit 1
  fi
  grep -h "^-- no GPU test" "$report/build.log"
fi
(
  [ $builds_tests = OFF ] || build_targets "$build" "$report/build.log" gpu.tests
  touch "$marks/tests"
  [ $builds_bench = OFF ] || build_targets "$build" "$report/build.log" gpu.benches
  touch "$marks/benches"
) &
(
  [ $builds_train = OFF ] || {
    configure "$programs" "$report/programs.log" -DDSV3_TESTS=OFF -DDSV3_BENCH=OFF -DDSV3_EXAMPLES=ON &&
      build_targets "$programs" "$report/programs.log" dsv3-train
  }
  touch "$marks/programs"
) &

# ---- tests -----------------------------------------------------------------------------------------------------------
if ! wanted tests; then
  row tests "not run" "not asked for"
elif [ -n "$missing_tests" ]; then
  row tests "not run" "$missing_tests was not found; --frameworks names a folder that has it"
else
  # Each runs as soon as it is built, several at a time: a GPU test is mostly its start.
  expected=$(cd "$build" && ctest -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p')
  waiting=$expected
  while [ -n "$waiting" ]; do
    built=""
    [ ! -e "$marks/tests" ] || built=yes
    ready="" rest=""
    for name in $waiting; do
      program=$build/gpu/$name
      # What the linker still writes is younger than this.
      if [ -x "$program" ] && { [ -n "$built" ] || [ -z "$(find "$program" -newermt '3 seconds ago')" ]; }; then
        ready="$ready${ready:+|}$name"
      else
        rest="$rest $name"
      fi
    done
    waiting=${rest# }
    if [ -n "$ready" ]; then
      (cd "$build" && ctest -L '^gpu$' -R "^($ready)\$" -j 4 --output-on-failure) >> "$report/tests.log" 2>&1
    elif [ -n "$built" ]; then
      break
    else
      sleep 2
    fi
  done
  touch "$report/tests.log"
  count() { grep -cE "^ *[0-9]+/[0-9]+ Test +#.*$1" "$report/tests.log"; }
  passed=$(count ' Passed ') skipped=$(count '\*\*\*Skipped') all=$(wc -w <<< "$expected")
  detail="$passed of $all passed, $skipped skipped"
  names=$(sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*\*\*\*(Failed|Timeout|Exception|Not Run).*/\1/p' "$report/tests.log")
  names=$(printf '%s' "$names" | tr '\n' ' ')
  if [ "$all" -eq 0 ] || [ $((passed + skipped)) -ne "$all" ]; then
    row tests FAILED "$detail${names:+; failed: $names}${waiting:+; not built: $waiting}"
  elif [ "$passed" -eq 0 ]; then
    row tests "not run" "$detail"
  else
    row tests ok "$detail"
  fi
fi

# A stopped run ends as if it never was, bit for bit; beside the sanitizers, as nothing is measured here.
(
  until_marked programs
  if wanted train && [ -x "$programs/bin/dsv3-train" ] && [ -n "$capability" ]; then
    DSV3_BIN=$programs/bin timeout 240 bash tests/programs/train_resume_test.sh > "$report/resume.log" 2>&1
    echo $? > "$report/resume.code"
  fi
  touch "$marks/resumed"
) &

# ---- compute-sanitizer -----------------------------------------------------------------------------------------------
# Every tool over every test and over two steps of the trainer, as many as the time allows; what it did not allow is
# said. A test case begins runs as long as its share lasts, so that each makes its first, the small ones. What runs
# longer than a program's share is stopped: it has then been watched for so long. Left out is far_rows: its tensors of
# 2^31 elements would be watched byte by byte, by kernels that the other tests run too.
export sanitizer_logs=$report/sanitize sanitizer_share=30 sanitizer_deadline DSV3_TEST_SHARE
# sanitize_one TOOL PROGRAM ARGUMENTS...
sanitize_one() {
  local tool=$1 log code
  shift
  log=$sanitizer_logs/$tool.$(basename "$1")
  [ "$(date +%s)" -lt "$sanitizer_deadline" ] || { echo unstarted > "$log.code"; return; }
  # Tests provoke refusals of the runtime on purpose, and one a breakdown in a process of its own.
  local watched=(--target-processes application-only)
  [ "$tool" != memcheck ] || watched+=(--report-api-errors no)
  timeout -k 5 "$sanitizer_share" compute-sanitizer --tool "$tool" "${watched[@]}" --error-exitcode 99 --print-limit 20 \
    "$@" > "$log.log" 2>&1
  code=$?
  grep -q 'ERROR SUMMARY: [1-9]' "$log.log" && code=99
  grep -qE '^=+ (Error: )?(Device not supported|Target application terminated before)' "$log.log" && code=unsupported
  echo $code > "$log.code"
}
export -f sanitize_one
if ! wanted sanitize; then
  row sanitize "not run" "not asked for"
elif [ -n "$missing_tests" ]; then
  row sanitize "not run" "$missing_tests was not found; --frameworks names a folder that has it"
elif ! command -v compute-sanitizer > /dev/null; then
  row sanitize "not run" "no compute-sanitizer was found"
elif [ -z "$capability" ]; then
  row sanitize "not run" "there is no GPU"
else
  mkdir -p "$sanitizer_logs"
  until_marked tests
  budget=110 DSV3_TEST_SHARE=0.1
  if [ -n "$parts" ]; then budget=400 sanitizer_share=60 DSV3_TEST_SHARE=1; fi
  tools="memcheck racecheck initcheck synccheck"
  sanitizer_deadline=$(($(date +%s) + budget - sanitizer_share))
  # The longest first: steps of whole models, and what watches shared memory.
  for name in cuda.train_step $(names_of gpu | grep -vE '^cuda\.(train_step|far_rows)$'); do
    for tool in racecheck memcheck initcheck synccheck; do
      [ ! -x "$build/gpu/$name" ] || printf '%s %s\n' "$tool" "$build/gpu/$name"
    done
  done | xargs -P "$((cores < 16 ? 4 : cores))" -L 1 bash -c 'sanitize_one "$0" "$@"'
  until_marked programs
  sanitizer_deadline=$(($(date +%s) + 1))  # two steps of it have their share
  [ ! -x "$programs/bin/dsv3-train" ] || for tool in $tools; do
    say "$tool $programs/bin/dsv3-train --device cuda --preset tiny --batch 2 --seq 64 --steps 2 --eval-rows 1 --sample-bytes 0" \
      "--out $sanitizer_logs/$tool.run"
  done | xargs -P 4 -L 1 bash -c 'sanitize_one "$0" "$@"'
  for tool in $tools; do
    codes=$(cd "$sanitizer_logs" && grep -H . "$tool".*.code 2> /dev/null | sed 's/\.code:/ /')
    with() { printf '%s\n' "$codes" | grep -cE " $1\$"; }
    found=$(printf '%s\n' "$codes" | sed -n "s/^$tool\.\(.*\) 99\$/\1/p" | tr '\n' ' ')
    others=$(printf '%s\n' "$codes" | grep -vE ' (0|77|99|124|137|unstarted|unsupported)$|^$' | sed "s/^$tool\.//" | tr '\n' ' ')
    detail="$(with 0) clean, $(with 99) with findings, $(with '(124|137)') stopped after $sanitizer_share s without one"
    detail="$detail, $(with unstarted) not started, $(with 77) skipped themselves"
    detail="$detail; $(cat "$sanitizer_logs/$tool".*.log | awk '/^cases: /{ all += $2; cut += $5 } END { print cut + 0 " of " all + 0 }') cases cut short"
    if [ -n "$found$others" ]; then
      row "$tool" FAILED "$detail${found:+; findings: $found}${others:+; ended otherwise (name, code): $others}"
    elif [ "$(with '(0|124|137)')" -eq 0 ]; then
      row "$tool" "not run" "$detail, $(with unsupported) not supported here"
    else
      row "$tool" ok "$detail"
    fi
  done
  for log in "$sanitizer_logs"/*.log; do
    code=$(cat "${log%.log}.code" 2> /dev/null)
    case $code in 0 | 77) ;; *) printf '==== %s (%s)\n' "$(basename "$log" .log)" "$code"; head -n 60 "$log"; tail -n 12 "$log" ;; esac
  done > "$report/sanitize.log"
fi

# ---- benches ---------------------------------------------------------------------------------------------------------
# bench_table FILE...   Google Benchmark's JSON as lines: name, microseconds, rate, share of the limit
bench_table() {
  awk '
    function value(line) { sub(/^[^:]*: */, "", line); sub(/,$/, "", line); gsub(/^"|"$/, "", line); return line }
    function flush(  text) {
      if (name == "") return
      sub(/\/iterations:.*$/, "", name)
      if (error != "") text = error
      else {
        text = sprintf("%12.1f us", time)
        if (flops > 0) text = text sprintf("  %8.1f TFLOP/s  %5.1f %% of cuBLASLt in %s", flops / 1e12, 100 * peak, format)
        if (bytes > 0) text = text sprintf("  %8.1f GB/s  %5.1f %% of a copy", bytes / 1e9, 100 * copy)
      }
      printf "  %-78s %s\n", name, text
      name = ""
    }
    FNR == 1 { path = FILENAME; sub(/.*\//, "", path); sub(/\.json$/, "", path); print path }
    /^ *"name": / { flush(); name = value($0); time = flops = bytes = peak = copy = 0; error = "" }
    /^ *"real_time": / { time = value($0) }
    /^ *"error_message": / { error = value($0) }
    /^ *"FLOP\/s": / { flops = value($0) }
    /^ *"bytes\/s": / { bytes = value($0) }
    /^ *"of_copy": / { copy = value($0) }
    /^ *"of_(bf16|fp8)_peak": / { peak = value($0); format = /bf16/ ? "bf16" : "fp8" }
    /^  \]/ { flush() }' "$@"
}
if ! wanted bench; then
  row bench "not run" "not asked for"
elif [ -n "$missing_bench" ]; then
  row bench "not run" "$missing_bench was not found; --frameworks names a folder that has it"
else
  until_marked benches
  until_marked programs
  until_marked resumed
  mkdir -p "$report/bench"
  failed="" ran=0
  for name in $(names_of bench/gpu); do
    timeout 90 "$build/bench/gpu/$name" --benchmark_out="$report/bench/$name.json" --benchmark_out_format=json \
      > "$report/bench/$name.log" 2>&1
    code=$?
    case $code in 0) ran=$((ran + 1)) ;; 77) ;; *) failed="$failed $name ($code)" ;; esac
  done
  cat "$report"/bench/*.log > "$report/bench.log" 2> /dev/null
  expected=$(find bench -name '*_bench.cu' | wc -l)
  built=$(names_of bench/gpu | wc -l)
  [ "$built" -eq "$expected" ] || failed="$failed; $((expected - built)) of $expected do not compile"
  if [ "$ran" -gt 0 ]; then
    bench_table "$report"/bench/*.json > "$report/bench.txt"
    cat "$report/bench.txt"
  fi
  errors=$(cat "$report"/bench/*.json 2> /dev/null | grep '"error_message"' | grep -cv '"skipped: ')
  if [ -n "$failed" ] || [ "$errors" -gt 0 ]; then
    row bench FAILED "$ran of $expected ran, $errors lines with errors;$failed"
  elif [ "$ran" -eq 0 ]; then
    row bench "not run" "all $built say that there is no GPU"
  else
    row bench ok "$ran of $expected ran, $(grep -c '"real_time"' "$report"/bench/*.json | awk -F: '{ n += $NF } END { print n }') lines"
  fi
fi

# ---- training --------------------------------------------------------------------------------------------------------
# train_run NAME FLAGS...   a row: the loss of the first and the last step, and tokens per second at the end
train_run() {
  local name=$1 out=$report/train-$1 log=$report/train-$1.log
  shift
  timeout 120 "$programs/bin/dsv3-train" --device cuda --out "$out" "$@" > "$log" 2>&1
  local code=$?
  if [ $code -ne 0 ] || [ ! -s "$out/run.jsonl" ]; then
    row "train" FAILED "$name ends with $code: $(tail -n 1 "$log")"
    return
  fi
  row "train" ok "$name: $(awk '
    function value(key,  rest) { rest = $0; sub(".*\"" key "\":", "", rest); sub(/[,}].*/, "", rest); return rest }
    /"loss":/ { if (first == "") first = value("loss"); last = value("loss"); steps++; rate = value("tokens_per_second") }
    END { printf "loss %.3f, after %d steps %.3f; %.0f tokens/s", first, steps, last, rate }' "$out/run.jsonl")"
}
if ! wanted train; then
  row train "not run" "not asked for"
elif [ -n "$missing_train" ]; then
  row train "not run" "$missing_train was not found; --frameworks names a folder that has it"
else
  until_marked resumed
  if [ ! -x "$programs/bin/dsv3-train" ]; then
    row train FAILED "dsv3-train does not compile, see $report/programs.log"
  elif [ -z "$capability" ]; then
    row train "not run" "there is no GPU"
  else
    tiny=(--preset tiny --batch 8 --seq 128 --steps 100 --lr 4e-3 --lr-final 2e-4 --warmup 20 --init-std 0.02)
    train_run tiny-bf16 "${tiny[@]}" --precision bf16
    train_run tiny-fp8 "${tiny[@]}" --precision fp8
    case $(cat "$report/resume.code" 2> /dev/null) in
      0) row train ok "stopped and resumed: bitwise the same" ;;
      124) row train "not run" "stopped and resumed: not finished after 240 s, see $report/resume.log" ;;
      *) row train FAILED "stopped and resumed: see $report/resume.log" ;;
    esac
  fi
fi

# ---- the table -------------------------------------------------------------------------------------------------------
wait
uncompiled=$(sed -nE 's/^FAILED: (\[code=[0-9]+\] )?([^ ]+).*/\2/p; s/^make.*Error .*\[.*: ([^ ]+)\] Error.*/\1/p' "$report"/build.log "$report"/programs.log 2> /dev/null |
  sed -E 's,^CMakeFiles/,,; s,\.dir/.*,,' | sort -u | tr '\n' ' ')
if [ -n "$uncompiled" ]; then row build FAILED "does not compile: $uncompiled"; else row build ok "everything asked for"; fi
{
  say ""
  say "GPU: ${gpu:-none}; nvcc $version for sm_$architecture; $cores cores; $(elapsed) s; logs in $report"
  say "part       result   what"
  cat "$report/rows"
} | tee "$report/summary.txt"
exit $bad
