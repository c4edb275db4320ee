#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every kernel that training and generating start is compiled, for compute capability 9.0a on backend::hopper and for 8.0
# on backend::cuda, and judged by the compiler's own report: nothing is spilled, hot kernels keep nothing in local memory,
# and the kernels that are written for matrix units use them.
source "$(dirname "$0")/../support/script.sh"
[ -n "$NVCC" ] || skip "no nvcc found"

# Names of kernels, as extended regular expressions over the assembler's names; each must be met. Others may have a frame of 32 bytes: that is where
# the report of a misuse keeps its numbers, in a function that they call and do not inline.
hot=(sm90_forward_kernel sm90_backward_kernel mma_forward_kernel mma_keys_kernel mma_queries_kernel
  attend_pages_kernel grouped_wgmma_kernel scaled_hopper_kernel grouped_rows_mma_kernel grouped_weights_mma_kernel scaled_product_kernel
  exact_product_kernel 'rms_norm_(forward|backward|quantizer)_kernel' 'swiglu_(forward|backward)_kernel' adamw_kernel
  adamw_tiles_kernel stored_swiglu_kernel
  'cross_entropy_(forward|backward)_kernel' 'narrow_(rows|blocks)_kernel' dispatch_rows_kernel combine_rows_kernelILi
  convert_rows_kernel choose_experts_kernel choose_held_experts_kernel split_product_kernel split_wgmma_kernel
  fill_constant_kernel square_sums_kernel)
warpgroup=('sm90_(forward|backward)_kernel' attend_pages_kernel grouped_wgmma_kernel split_wgmma_kernel)
eight_bits=(scaled_hopper_kernel)
warp=('mma_(forward|keys|queries)_kernel' 'grouped_(rows|weights)_mma_kernel' split_product_kernel)

compile() {
  local backend=$1 architecture=$2 folder=$scratch/$1
  mkdir "$folder"
  "$NVCC" $DSV3_FLAGS -DDSV3_WING="$backend" -gencode="arch=compute_$architecture,code=sm_$architecture" -Werror all-warnings \
    -cubin -Xptxas -v --keep --keep-dir "$folder" -o "$folder/wing.cubin" "$DSV3_SOURCE/tests/structure/cuda_wing/wing.cu" \
    > "$folder/log" 2>&1 || touch "$folder/failed"
}
compile hopper 90a &
compile cuda 80
wait

# kernels FOLDER   each kernel's frame and spilled bytes, and its name
kernels() {
  awk '
    /Compiling entry function/ { match($0, /\047[^\047]*\047/); name = substr($0, RSTART + 1, RLENGTH - 2) }
    /bytes stack frame/ { frame = $1; spilled = $5 + $9 }
    /Used [0-9]+ registers/ && name != "" { print frame, spilled, name; name = "" }' "$1/log"
}

# instructions FOLDER   the names of kernels, once for each instruction of a matrix unit, and that: from the machine code
# where there is a disassembler, from PTX otherwise
instructions() {
  if command -v cuobjdump > /dev/null; then
    cuobjdump -sass "$1/wing.cubin" | awk '
      /Function : / { name = $3 }
      match($0, /[HQI]?G?MMA\.[0-9A-Za-z.]*/) { print name, substr($0, RSTART, RLENGTH) }'
  else
    awk '
      match($0, /\.entry [^(]*/) { name = substr($0, RSTART + 7, RLENGTH - 7) }
      match($0, /(wgmma\.mma_async|mma\.sync)[^ ]*/) { print name, substr($0, RSTART, RLENGTH) }' "$1"/wing*.ptx
  fi
}

# complain FOLDER KERNEL WHAT   with the kernel's name as it is written, where there is a tool for that
complain() {
  local name=$2
  command -v c++filt > /dev/null && name=$(c++filt "$2")
  fail "on $(basename "$1"), $name $3"
}

# uses FOLDER INSTRUCTION NAME...   every kernel of these names has such an instruction
uses() {
  local folder=$1 instruction=$2 name kernel
  shift 2
  for name in "$@"; do
    grep -qE "$name" "$folder/kernels" || fail "no kernel is named $name on $(basename "$folder")"
    for kernel in $(cut -d' ' -f3 "$folder/kernels" | grep -E "$name"); do
      grep -qE "^$kernel .*($instruction)" "$folder/instructions" || complain "$folder" "$kernel" "has no $instruction"
    done
  done
}

for backend in hopper cuda; do
  folder=$scratch/$backend
  [ ! -e "$folder/failed" ] || { fail "the wing does not compile for $backend: $(grep -v '^ptxas info' "$folder/log" | head -n 20)"; continue; }
  kernels "$folder" > "$folder/kernels"
  instructions "$folder" > "$folder/instructions"
  [ "$(wc -l < "$folder/kernels")" -gt 100 ] || fail "only $(wc -l < "$folder/kernels") kernels on $backend"
  echo "$(wc -l < "$folder/kernels") kernels on $backend, $(cut -d' ' -f1 "$folder/instructions" | sort -u | wc -l) of them on matrix units"
  while read -r frame spilled kernel; do
    [ "$spilled" -eq 0 ] || complain "$folder" "$kernel" "spills $spilled bytes"
    [ "$frame" -le 32 ] || complain "$folder" "$kernel" "keeps $frame bytes in local memory"
  done < "$folder/kernels"
done
[ "$failures" -eq 0 ] || finish

for name in "${hot[@]}"; do
  cat "$scratch"/*/kernels | grep -qE "$name" || fail "no kernel is named $name"
  for folder in "$scratch"/hopper "$scratch"/cuda; do
    while read -r frame spilled kernel; do
      [ "$frame" -eq 0 ] || complain "$folder" "$kernel" "is hot and keeps $frame bytes in local memory"
    done < <(grep -E "$name" "$folder/kernels")
  done
done
uses "$scratch/hopper" 'wgmma|[HQ]GMMA' "${warpgroup[@]}"
uses "$scratch/hopper" 'wgmma[^ ]*e[45]m[23]|QGMMA' "${eight_bits[@]}"
uses "$scratch/cuda" 'mma\.sync|HMMA' "${warp[@]}"
finish
