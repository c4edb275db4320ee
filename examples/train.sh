#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs what is missing where it may, builds the programs, learns a tokenizer of 512 tokens and trains `tiny` on this
# repository's own text, which ends with text that the model writes while its MTP module drafts: under six minutes on two
# cores. Where there is an NVIDIA GPU and its compiler, it is built for that and trains there, and says so. Further
# arguments go to dsv3-train and win over the ones here; dsv3-train --help names them.
#
#   examples/train.sh                          a new folder runs/tiny-<time>
#   examples/train.sh --steps 3000 --lr 1e-3   longer
#   examples/train.sh --bias-update 0          what happens to the experts without the bias
set -eu
cd "$(dirname "$0")/.."
source cmake/install_packages.sh
need_packages g++:g++ cmake:cmake make:make nlohmann/json.hpp:nlohmann-json3-dev pcre2.h:libpcre2-dev \
  CLI/CLI.hpp:libcli11-dev cblas.h:libopenblas-openmp-dev

# A folder of its own, so that tests and benches, and what they need, stay out of the way.
build=build/train cuda=()
nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc || true)
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d .) || capability=
if [ -n "$nvcc" ] && [ "${capability:-0}" -ge 80 ]; then
  echo "train.sh: a GPU of compute capability $capability and nvcc found, builds for it and trains on it"
  [ "$capability" != 90 ] || capability=90a
  build=build/train-gpu
  cuda=(-DDSV3_CUDA=ON "-DDSV3_NVCC=$nvcc" "-DCMAKE_CUDA_ARCHITECTURES=$capability")
fi
if [ -z "${CMAKE_GENERATOR:-}" ] && [ ! -e "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then
  export CMAKE_GENERATOR=Ninja
fi
mkdir -p build
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DDSV3_TESTS=OFF -DDSV3_BENCH=OFF ${cuda[@]+"${cuda[@]}"} \
  > "$build.log" 2>&1 ||
  { cat "$build.log" >&2; exit 1; }
cmake --build "$build" --target dsv3-train dsv3-tokenize -j "$(nproc)"

# A thread that waits spins before it sleeps; the default is milliseconds, in which a busy machine could do other work.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT-2000}"
out=(--out "runs/tiny-$(date +%Y%m%d-%H%M%S)")
tokenizer=(--tokenizer "$build/tokenizer.json")
for argument in "$@"; do
  case $argument in
    --out | --out=* | --dry-run | --help | -h) out=() ;;
    --tokenizer | --tokenizer=*) tokenizer=() ;;
  esac
done

# The text that dsv3-train takes where none is given.
text=()
for part in README.md include examples bench docs/* tests/*; do
  case $part in docs/figures | tests/data | tests/fuzz) ;; *) text+=("$part") ;; esac
done
[ ${#tokenizer[@]} -eq 0 ] ||
  "$build/bin/dsv3-tokenize" train --data "${text[@]}" --vocab 512 --to "$build/tokenizer.json"

exec "$build/bin/dsv3-train" --preset tiny --batch 8 --seq 128 --steps 600 --lr 4e-3 --lr-final 2e-4 --lr-hold 0.4 \
  --warmup 20 --init-std 0.02 --bias-update 0.01 --eval-every 150 --sample "/// The " ${out[@]+"${out[@]}"} \
  ${tokenizer[@]+"${tokenizer[@]}"} "$@"
