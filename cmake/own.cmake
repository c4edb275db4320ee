# SPDX-License-Identifier: MIT
# What our own tests, examples and benches share: warnings, processor flags, folders, and how a missing package is named.

set(DSV3_FRAMEWORKS "" CACHE PATH "A folder of headers and libraries that our own programs prefer to the system's")

# dsv3_take(PACKAGE target header [library]): makes the target of include/<header> and lib/<library> of that folder, where
# they are. They come before the system's: its folder of headers stands there for all of them at once.
function(dsv3_take package target header)
  find_path(DSV3_${package}_HEADERS ${header} PATHS ${DSV3_FRAMEWORKS}/include NO_DEFAULT_PATH)
  mark_as_advanced(DSV3_${package}_HEADERS)
  if(NOT DSV3_${package}_HEADERS)
    return()
  endif()
  set(kind INTERFACE)
  if(ARGN)
    find_library(DSV3_${package}_LIBRARY ${ARGN} PATHS ${DSV3_FRAMEWORKS}/lib NO_DEFAULT_PATH)
    mark_as_advanced(DSV3_${package}_LIBRARY)
    if(NOT DSV3_${package}_LIBRARY)
      return()
    endif()
    set(kind UNKNOWN)
  endif()
  add_library(${target} ${kind} IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${DSV3_${package}_HEADERS})
  if(ARGN)
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${DSV3_${package}_LIBRARY})
  endif()
endfunction()

# dsv3_need(PACKAGE target debian-package header [library]): finds the package or stops with one sentence.
macro(dsv3_need package target debian header)
  if(DSV3_FRAMEWORKS AND NOT TARGET ${target})
    dsv3_take(${package} ${target} ${header} ${ARGN})
  endif()
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target})
    message(FATAL_ERROR "${package} was not found and our tests, examples and benches need it (Debian: ${debian}); "
      "the library itself does not: -DDSV3_TESTS=OFF -DDSV3_EXAMPLES=OFF -DDSV3_BENCH=OFF builds without them")
  endif()
endmacro()

add_library(dsv3_own INTERFACE)
target_compile_options(dsv3_own INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>")
if(TARGET OpenMP::OpenMP_CXX)  # which asks only g++ for threads
  target_compile_options(dsv3_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fopenmp>)
endif()
if(DSV3_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native DSV3_HAS_MARCH_NATIVE)
  if(DSV3_HAS_MARCH_NATIVE)
    target_compile_options(dsv3_own INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  endif()
endif()

# dsv3_dotted(out file folder suffix): tests/op/norm/rms_norm_test.cpp -> op.norm.rms_norm
function(dsv3_dotted out file folder suffix)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/${folder} ${file})
  string(REGEX REPLACE "${suffix}$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  set(${out} ${name} PARENT_SCOPE)
endfunction()
