# SPDX-License-Identifier: MIT
# What our own tests, examples and benches share: warnings, processor flags, folders, and how a missing package is named.

# dsv3_need(PACKAGE target debian-package): finds the package or stops with one sentence.
macro(dsv3_need package target debian)
  find_package(${package} QUIET)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "${package} was not found and our tests, examples and benches need it (Debian: ${debian}); "
      "the library itself does not: -DDSV3_TESTS=OFF -DDSV3_EXAMPLES=OFF -DDSV3_BENCH=OFF builds without them")
  endif()
endmacro()

add_library(dsv3_own INTERFACE)
target_compile_options(dsv3_own INTERFACE -Wall -Wextra -Werror)
if(DSV3_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native DSV3_HAS_MARCH_NATIVE)
  if(DSV3_HAS_MARCH_NATIVE)
    target_compile_options(dsv3_own INTERFACE -march=native)
  endif()
endif()

# dsv3_dotted(out file folder suffix): tests/op/norm/rms_norm_test.cpp -> op.norm.rms_norm
function(dsv3_dotted out file folder suffix)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/${folder} ${file})
  string(REGEX REPLACE "${suffix}$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  set(${out} ${name} PARENT_SCOPE)
endfunction()
