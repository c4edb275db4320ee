#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The script that sees to packages: content with what is there, installing where it may, exact where it may not.
source "$(dirname "$0")/../support/script.sh"

# need CODE OUTPUT PATH ARGUMENT...: need_packages in a shell of its own.
need() {
  local code=$1 output=$2 path=$3 found
  shift 3
  found=$(PATH=$path CXX=$(command -v "$CXX") bash -c 'source "$0"; need_packages "$@"; echo goes on' \
    "$DSV3_SOURCE/cmake/install_packages.sh" "$@" 2>&1)
  [ $? -eq "$code" ] || fail "need_packages $* ended with another code than $code"
  [ "$found" = "$output" ] || fail "need_packages $* printed '$found', expected '$output'"
}

list="These packages are missing and could not be installed from here: liba-dev b
On Debian or Ubuntu: sudo apt-get install liba-dev b"

mkdir "$scratch/bare" "$scratch/refusing" "$scratch/willing"
for tool in bash id env; do ln -s "$(command -v $tool)" "$scratch/bare/"; done
printf '#!/bin/sh\nexit 100\n' > "$scratch/refusing/apt-get"
cat > "$scratch/willing/apt-get" <<END
#!/bin/sh
[ "\$1" = install ] && printf '#!/bin/sh\n' > $scratch/willing/tool-b && chmod +x $scratch/willing/tool-b
exit 0
END
chmod +x "$scratch"/*/apt-get

need 0 "goes on" "$PATH" bash:bash stdio.h:libc6-dev
need 2 "$list" "$scratch/bare" bash:bash no/such/a.h:liba-dev tool-b:b
if [ "$(id -u)" -eq 0 ]; then
  need 2 "installing liba-dev b
apt-get did not succeed
$list" "$scratch/refusing:$PATH" no/such/a.h:liba-dev tool-b:b
  need 0 "installing b
goes on" "$scratch/willing:$PATH" tool-b:b
fi
finish
