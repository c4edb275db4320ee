# SPDX-License-Identifier: MIT
# Sourced by tests/run.sh and examples/train.sh: sees to the packages a command needs.
#
#   need_packages g++:g++ cmake:cmake doctest/doctest.h:doctest-dev ...
#
# Each argument is a command or a header, a colon, and the Debian package that brings it. What is missing is installed
# where that is possible without asking (apt-get, as root or with a sudo that wants no password). Otherwise the exact
# package list is printed and the shell ends with exit code 2.

# A header counts as present when the compiler finds it; pcre2.h wants to be told how wide a character is.
package_part_present() {
  case $1 in
    *.h | *.hpp) printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\n' "$1" | ${CXX:-g++} -std=c++20 -E -x c++ - > /dev/null 2>&1 ;;
    *) command -v "$1" > /dev/null 2>&1 ;;
  esac
}

need_packages() {
  local pair as_root
  local -a missing=() remaining=()
  for pair in "$@"; do
    package_part_present "${pair%%:*}" || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  as_root=
  if [ "$(id -u)" -ne 0 ]; then as_root="sudo -n"; fi
  if command -v apt-get > /dev/null 2>&1 && { [ -z "$as_root" ] || $as_root true > /dev/null 2>&1; }; then
    echo "installing ${missing[*]}"
    { $as_root apt-get update -qq &&
      $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
      > /dev/null || echo "apt-get did not succeed" >&2
    # A header can be missing only because the compiler was.
    for pair in "$@"; do
      package_part_present "${pair%%:*}" || remaining+=("${pair##*:}")
    done
    [ ${#remaining[@]} -gt 0 ] || return 0
    missing=("${remaining[@]}")
  fi
  {
    echo "These packages are missing and could not be installed from here: ${missing[*]}"
    echo "On Debian or Ubuntu: sudo apt-get install ${missing[*]}"
  } >&2
  exit 2
}
