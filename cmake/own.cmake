# SPDX-License-Identifier: MIT
# What our own tests, examples and benches share: warnings, processor flags, folders, and how a missing package is named.

# A package without its CMake files: the target is made of a header's folder and a library.
function(dsv3_take package target header)
  find_path(DSV3_${package}_HEADERS ${header} PATHS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES include NO_DEFAULT_PATH)
  mark_as_advanced(DSV3_${package}_HEADERS)
  if(NOT DSV3_${package}_HEADERS)
    return()
  endif()
  set(kind INTERFACE)
  if(ARGN)
    find_library(DSV3_${package}_LIBRARY ${ARGN} PATHS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES lib NO_DEFAULT_PATH)
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

# dsv3_need(PACKAGE target debian-package header [library]): finds the package, or the header and the library in the
# folders of CMAKE_PREFIX_PATH, or stops with one sentence.
macro(dsv3_need package target debian header)
  find_package(${package} QUIET)
  if(NOT TARGET ${target})
    dsv3_take(${package} ${target} ${header} ${ARGN})
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
