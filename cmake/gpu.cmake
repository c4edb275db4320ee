# SPDX-License-Identifier: MIT
# What runs on a GPU, with DSV3_CUDA=ON.
#
# The test of an operation is compiled once more for each backend that has a body under the mirrored path: the test
# op.norm.rms_norm is cuda.op.norm.rms_norm where dsv3/cuda/norm/rms_norm.cuh exists, and hopper.op.norm.rms_norm where
# rms_norm_sm90.cuh does and the build is for compute capability 9.0a. tests/<path>_test.cu is a test of the wing itself,
# bench/<path>_bench.cu the bench bench/gpu/<path with dots> of the build folder. CTest's label for all tests is gpu; the
# targets gpu.tests and gpu.benches build them.
# dsv3_gpu_test(name source main...): one executable and one CTest entry.
function(dsv3_gpu_test name source)
  add_executable(${name} ${source} ${ARGN})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/gpu)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo>)
  target_link_libraries(${name} PRIVATE dsv3_test_options dsv3::cuda dsv3::text)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES
    LABELS gpu TIMEOUT 300 SKIP_RETURN_CODE 77 ENVIRONMENT "${test_environment}")
  add_dependencies(gpu.tests ${name})
endfunction()

# dsv3_gpu_variant(name source backend suffix...): the test on that backend, with the GPU's bodies under the paths of the
# CPU's that it includes; those with one of the suffixes come where they exist. The source is C++ in one target and CUDA
# in another, so here a file of the build folder includes it.
function(dsv3_gpu_variant name source backend)
  set(unit ${PROJECT_BINARY_DIR}/gpu/${name}.cu)
  set(lines "#define DSV3_TEST_BACKEND ${backend}\n")
  file(STRINGS ${source} bodies REGEX "^#include <dsv3/cpu/.*\\.hpp>")
  foreach(body IN LISTS bodies)
    string(REGEX REPLACE "^#include <dsv3/cpu/(.*)\\.hpp>.*" "dsv3/cuda/\\1" body ${body})
    foreach(suffix IN LISTS ARGN)
      if(EXISTS ${PROJECT_SOURCE_DIR}/include/${body}${suffix})
        string(APPEND lines "#include <${body}${suffix}>\n")
      endif()
    endforeach()
  endforeach()
  file(CONFIGURE OUTPUT ${unit} CONTENT "${lines}#include \"${source}\"\n" @ONLY)
  dsv3_gpu_test(${name} ${unit} $<TARGET_OBJECTS:dsv3_gpu_test_main>)
endfunction()

if(DSV3_TESTS)
  add_custom_target(gpu.tests)
  add_library(dsv3_gpu_test_main OBJECT tests/support/cuda_main.cpp)
  target_link_libraries(dsv3_gpu_test_main PRIVATE dsv3_test_options dsv3::cuda)

  # First, as some of them take longest to compile.
  file(GLOB_RECURSE wing_tests CONFIGURE_DEPENDS tests/*_test.cu)
  foreach(source IN LISTS wing_tests)
    dsv3_dotted(name ${source} tests _test.cu)
    if(NOT name STREQUAL cuda.nccl)
      dsv3_gpu_test(${name} ${source} $<TARGET_OBJECTS:dsv3_gpu_test_main>)
    elseif(NCCL_FOUND)
      dsv3_gpu_test(${name} ${source})  # has a main of its own
      target_link_libraries(${name} PRIVATE dsv3::nccl)
    else()
      message(STATUS "no GPU test, as NCCL was not found: ${name}")
    endif()
  endforeach()

  # Every stop of the tour once more as CUDA: the source says nothing of the device.
  file(GLOB stops CONFIGURE_DEPENDS examples/[0-9][0-9]_*.cpp)
  foreach(source IN LISTS stops)
    cmake_path(GET source STEM stop)
    set(unit ${PROJECT_BINARY_DIR}/gpu/cuda.examples.${stop}.cu)
    file(CONFIGURE OUTPUT ${unit} CONTENT "#define DSV3_TOUR_ON_GPU\n#include \"${source}\"\n" @ONLY)
    dsv3_gpu_test(cuda.examples.${stop} ${unit})
    target_include_directories(cuda.examples.${stop} PRIVATE examples)
  endforeach()

  set(without_body "")
  foreach(source IN LISTS test_sources)
    dsv3_dotted(name ${source} tests _test.cpp)
    if(NOT name MATCHES "^op\\.")
      continue()
    endif()
    string(REGEX REPLACE "^op\\." "" path ${name})
    string(REPLACE "." "/" path ${path})
    set(body dsv3/cuda/${path})
    if(path STREQUAL attention/fp8_cache)  # a second test of these bodies
      set(body dsv3/cuda/attention/mla_decode)
    endif()
    if(NOT EXISTS ${PROJECT_SOURCE_DIR}/include/${body}.cuh)
      if(EXISTS ${PROJECT_SOURCE_DIR}/include/dsv3/cpu/${path}.hpp)
        list(APPEND without_body ${path})
      endif()
      continue()
    endif()
    dsv3_gpu_variant(cuda.${name} ${source} cuda .cuh)
    if(EXISTS ${PROJECT_SOURCE_DIR}/include/${body}_sm90.cuh AND CMAKE_CUDA_ARCHITECTURES MATCHES "90a")
      dsv3_gpu_variant(hopper.${name} ${source} hopper _sm90.cuh .cuh)
    endif()
  endforeach()
  if(without_body)
    list(JOIN without_body ", " without_body)
    message(STATUS "no GPU test, as there is no body: ${without_body}")
  endif()
endif()

if(DSV3_BENCH)
  add_custom_target(gpu.benches)
  file(GLOB_RECURSE gpu_benches CONFIGURE_DEPENDS bench/*_bench.cu)
  foreach(source IN LISTS gpu_benches)
    dsv3_dotted(name ${source} bench _bench.cu)
    add_executable(gpu.bench.${name} ${source})
    set_target_properties(gpu.bench.${name} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench/gpu OUTPUT_NAME ${name})
    target_include_directories(gpu.bench.${name} PRIVATE . bench tests)
    target_compile_options(gpu.bench.${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-O3>)
    target_link_libraries(gpu.bench.${name} PRIVATE dsv3_own dsv3::cpu dsv3::cuda dsv3::text benchmark::benchmark)
    add_dependencies(gpu.benches gpu.bench.${name})
  endforeach()
endif()
