#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Hugging Face's tokenizers encodes random texts as we do, and with the files that we write. PYTHON names an
# interpreter that has the package.
source "$(dirname "$0")/../support/script.sh"
python=${PYTHON:-python3}
"$python" -c 'import tokenizers' > /dev/null 2>&1 || skip "$python has not the package tokenizers"
printf '#include <pcre2.h>\n' | $CXX -DPCRE2_CODE_UNIT_WIDTH=8 -E -x c++ - > /dev/null 2>&1 ||
  skip "pcre2.h is not installed (Debian: libpcre2-dev)"
$CXX $DSV3_FLAGS -O1 "$DSV3_SOURCE/tests/golden/encode_lines.cpp" -lpcre2-8 -o "$scratch/encode_lines" ||
  fail "encode_lines.cpp does not compile"
"$python" "$DSV3_SOURCE/tests/golden/tokenizers_agree.py" "$scratch/encode_lines" 1000 \
  "$DSV3_SOURCE"/tests/data/tokenizers/*/tokenizer.json > "$scratch/log" 2>&1 || fail "$(tail -n 5 "$scratch/log")"
cat "$scratch/log"
finish
