#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The headers keep to their floors and to the form every header has; a planted tree of breaches shows that the reader
# of the rules sees each of them.
source "$(dirname "$0")/../support/script.sh"
rules=$DSV3_SOURCE/tests/structure/include_direction.awk

read_tree() { find "$1/include/dsv3" \( -name '*.hpp' -o -name '*.cuh' \) | sort | xargs awk -f "$rules"; }

read_tree "$DSV3_SOURCE" || fail "the headers break the rules above"

# plant PATH SENTENCE LINE...: a header with these lines must draw exactly this one complaint.
plant() {
  local path=$1 sentence=$2
  shift 2
  rm -rf "$scratch/include"
  mkdir -p "$(dirname "$scratch/include/dsv3/$path")"
  printf '%s\n' '// SPDX-License-Identifier: MIT' '#pragma once' "$@" 'namespace dsv3::inline DSV3_ABI {}' \
    > "$scratch/include/dsv3/$path"
  local answer
  if answer=$(read_tree "$scratch"); then
    fail "nothing was said of $path, expected: $sentence"
  elif [ "$(printf '%s\n' "$answer" | grep -c "^$path:")" != 1 ] || ! printf '%s\n' "$answer" | grep -qF "$sentence"; then
    fail "of $path was said: $answer; expected: $sentence"
  fi
}

plant base/a.hpp "tensor/ is not below base/" '#include <dsv3/tensor/view.hpp>'
plant number/a.hpp "tensor/ is not below number/" '#include <dsv3/tensor/view.hpp>'
plant op/a.hpp "includes the wing dsv3/cpu/norm/rms_norm.hpp; op/ knows no backend" '#include <dsv3/cpu/norm/rms_norm.hpp>'
plant layer/a.hpp "includes the wing dsv3/cuda/b.hpp; layer/ knows no backend" '#include <dsv3/cuda/b.hpp>'
plant cpu/a.hpp "cuda/ is not below cpu/" '#include <dsv3/cuda/host.hpp>'
plant model/a.hpp "train/ is not below model/" '#include <dsv3/train/step.hpp>'
plant train/a.hpp "infer/ is not below train/" '#include <dsv3/infer/cache.hpp>'
plant model/b.hpp "it is none of the headers that read files" '#include <dsv3/io/json.hpp>'
plant cpu.hpp "needs no files and includes dsv3/model/checkpoint.hpp" '#include <dsv3/model/checkpoint.hpp>'
plant layer/b.hpp "includes the umbrella dsv3/cpu.hpp" '#include <dsv3/cpu.hpp>'
plant cuda/a.hpp "is no .cuh and includes dsv3/cuda/b.cuh" '#include <dsv3/cuda/b.cuh>'
plant op/b.hpp "includes a CUDA header and is no .cuh" '#include <cuda_runtime.h>'
plant op/c.hpp "asks which compiler is at work" '#ifdef __CUDACC__' '#endif'
plant op/d.cuh "needs nvcc and does not lie in cuda/"
plant op/e.hpp "includes with quotes" '#include "view.hpp"'
plant op/g.hpp "has 803 lines" $(printf '//%.0s ' $(seq 800))
plant cuda/c.cuh "has 503 lines, at most 500 are allowed; make it a folder" $(printf '//%.0s ' $(seq 500))
plant cuda/d.cuh "has kernels after what follows it" '// ---- launch ----' '// ---- kernels ----'
plant cuda/e.cuh "has a ruled comment without words" '// ---- kernels' '// ------------------------'
plant cuda/f.cuh "has a kernel and no ruled comment" '__global__ void k();' 'struct implementation<>'
plant op/string_utils.hpp "has a name that says nothing"
plant attic/a.hpp "lies in a folder without a floor"
finish
