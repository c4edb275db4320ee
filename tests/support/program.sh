# SPDX-License-Identifier: MIT
# Sourced by the scripts that run programs: what a refusal looks like, and safetensors files made by hand.
source "$(dirname "${BASH_SOURCE[0]}")/script.sh"
export OMP_WAIT_POLICY=passive

needs() {
  local name
  for name in "$@"; do [ -x "$DSV3_BIN/$name" ] || skip "$DSV3_BIN/$name is not built"; done
}

# refuses CODE SENTENCE PROGRAM ARGUMENTS...   ends with CODE, and says "PROGRAM: SENTENCE" and nothing else
# on standard error. A * in the sentence stands for any text.
refuses() {
  local code=$1 sentence=$2 program=$3 found said pattern
  shift 3
  said=$(timeout 120 "$DSV3_BIN/$program" "$@" 2>&1 > "$scratch/output")
  found=$?
  [ "$found" -eq "$code" ] || fail "$program $* exits with $found, expected $code"
  pattern="$program: $sentence"
  pattern=${pattern//\[/\\[}
  pattern=${pattern//\?/\\?}
  # shellcheck disable=SC2053
  [[ $said == $pattern && $said != *$'\n'* ]] || fail "$program $* says: $said
  expected: $program: $sentence"
}

# safetensors FILE HEADER DATA_BYTES   the header as it is given, and zeros for data
safetensors() {
  local length=${#2} bytes="" i
  for ((i = 0; i < 8; ++i)); do
    bytes+=$(printf '\\x%02x' $((length & 255)))
    length=$((length >> 8))
  done
  { printf "$bytes" && printf '%s' "$2" && head -c "$3" /dev/zero; } > "$1"
}

# overwrite FILE OFFSET BYTES   the bytes as printf writes them
overwrite() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# Starts the script again where it may mount file systems of its own, if the machine allows that.
may_mount() {
  [ -n "${DSV3_MAY_MOUNT:-}" ] && return
  rm -r "$scratch"
  DSV3_MAY_MOUNT=no
  unshare -rm true 2> /dev/null && exec unshare -rm env DSV3_MAY_MOUNT=yes bash "$0"
  mkdir "$scratch"
}
