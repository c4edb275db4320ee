# SPDX-License-Identifier: MIT
# tests/<path>_test.cpp is one executable and one CTest entry, tests/<path>_test.sh one CTest entry; both are named by
# their path with dots, labelled by their first folder, and run in the repository's root. What exits 77 could not run
# here and is reported as skipped. The target tests.<first folder> builds the executables of that folder.
dsv3_need(doctest doctest::doctest doctest-dev doctest/doctest.h)
dsv3_need(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev nlohmann/json.hpp)
dsv3_need(PCRE2 PCRE2::8BIT libpcre2-dev pcre2.h pcre2-8)

# Short to compile, assertions alive; the numbers are the same as the programs' up to the order of sums.
add_library(dsv3_test_options INTERFACE)
target_compile_options(dsv3_test_options INTERFACE -O1 -UNDEBUG)
target_include_directories(dsv3_test_options INTERFACE tests .)
target_link_libraries(dsv3_test_options INTERFACE dsv3_own dsv3::cpu doctest::doctest)
add_library(dsv3_test_main OBJECT tests/support/main.cpp)
target_link_libraries(dsv3_test_main PRIVATE dsv3_test_options)

# Tests run beside each other on few cores: a thread that waits must not spin. Under the address sanitizer an allocation
# that cannot be met returns null, as it does without.
set(test_environment OMP_WAIT_POLICY=passive ASAN_OPTIONS=allocator_may_return_null=1
  DSV3_BIN=${PROJECT_BINARY_DIR}/bin)

file(GLOB_RECURSE test_sources CONFIGURE_DEPENDS tests/*_test.cpp)
foreach(source IN LISTS test_sources)
  dsv3_dotted(name ${source} tests _test.cpp)
  string(REGEX REPLACE "\\..*" "" folder ${name})
  add_executable(${name} ${source} $<TARGET_OBJECTS:dsv3_test_main>)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE dsv3_test_options)
  if(folder MATCHES "^(io|text|model|train|infer)$")
    target_link_libraries(${name} PRIVATE dsv3::text)
  endif()
  if(name MATCHES "cuda" AND cuda_headers)
    target_include_directories(${name} SYSTEM PRIVATE ${cuda_headers})
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES
    LABELS ${folder} TIMEOUT 900 SKIP_RETURN_CODE 77 ENVIRONMENT "${test_environment}")
  if(NOT TARGET tests.${folder})
    add_custom_target(tests.${folder})
  endif()
  add_dependencies(tests.${folder} ${name})
endforeach()

# tests/<path>/mpi_program.cpp is what the mpi_test.sh beside it starts several of.
if(MPI_CXX_FOUND)
  file(GLOB_RECURSE mpi_programs CONFIGURE_DEPENDS tests/*/mpi_program.cpp)
  foreach(source IN LISTS mpi_programs)
    dsv3_dotted(name ${source} tests .cpp)
    string(REGEX REPLACE "\\..*" "" folder ${name})
    add_executable(${name} ${source})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    target_link_libraries(${name} PRIVATE dsv3_test_options dsv3::mpi)
    add_dependencies(tests.${folder} ${name})
  endforeach()
  set(mpi_launcher ${MPIEXEC_EXECUTABLE})
endif()

# What the scripts need to compile our headers as the targets do.
set(script_flags -std=c++20 -I${PROJECT_SOURCE_DIR}/include)
foreach(part IN LISTS cpu_libraries)
  get_target_property(folders ${part} INTERFACE_INCLUDE_DIRECTORIES)
  if(folders)
    list(TRANSFORM folders PREPEND -I)
    list(APPEND script_flags ${folders})
  endif()
endforeach()
list(APPEND script_flags -D${cpu_definitions})
get_target_property(folders nlohmann_json::nlohmann_json INTERFACE_INCLUDE_DIRECTORIES)
list(FILTER folders EXCLUDE REGEX "^/usr/include$")  # naming it would put it before the compiler's own
list(TRANSFORM folders PREPEND -I)
list(APPEND script_flags ${folders})
foreach(folder IN LISTS MPI_CXX_INCLUDE_DIRS)
  list(APPEND script_flags -I${folder})
endforeach()
list(JOIN script_flags " " script_flags)
set(openmp_flag "")
if(TARGET OpenMP::OpenMP_CXX)
  set(openmp_flag -fopenmp)
endif()
set(cuda_architecture 90a)
if(CMAKE_CUDA_ARCHITECTURES)
  set(cuda_architecture ${CMAKE_CUDA_ARCHITECTURES})
endif()
set(script_environment ${test_environment} DSV3_SOURCE=${PROJECT_SOURCE_DIR} DSV3_BUILD=${PROJECT_BINARY_DIR}
  CMAKE=${CMAKE_COMMAND} CXX=${CMAKE_CXX_COMPILER} NVCC=${nvcc} MPIEXEC=${mpi_launcher} DSV3_CUDA_ARCHITECTURE=${cuda_architecture}
  "DSV3_FLAGS=${script_flags}" DSV3_OPENMP_FLAG=${openmp_flag})

file(GLOB_RECURSE test_scripts CONFIGURE_DEPENDS tests/*_test.sh)
foreach(script IN LISTS test_scripts)
  dsv3_dotted(name ${script} tests _test.sh)
  string(REGEX REPLACE "\\..*" "" folder ${name})
  if(NOT TARGET tests.${folder})
    add_custom_target(tests.${folder})
  endif()
  set(labels ${folder})
  if(name MATCHES "nvcc|cuda_wing")
    list(APPEND labels nvcc)
  endif()
  add_test(NAME ${name} COMMAND bash ${script} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES
    LABELS "${labels}" TIMEOUT 1200 SKIP_RETURN_CODE 77 ENVIRONMENT "${script_environment}")
  if(name MATCHES "budget")  # they read the clock
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  elseif(name MATCHES "mpi")  # processes that wait do so by asking again
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)
  elseif(name MATCHES "headers|cuda_wing")  # they use all cores themselves
    set_tests_properties(${name} PROPERTIES PROCESSORS 2 COST 1000)
  endif()
endforeach()

# The scripts under tests/programs drive the programs.
if(TARGET tests.programs AND DSV3_EXAMPLES)
  foreach(program train forward plan plot schedule tokenize generate convert)
    add_dependencies(tests.programs dsv3-${program})
  endforeach()
endif()

# ---- fuzzing: a bounded run of each target from its corpus; needs clang ------------------------------------------------
find_program(DSV3_CLANG clang++)
file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/*_fuzz.cpp)
foreach(source IN LISTS fuzz_sources)
  dsv3_dotted(name ${source} tests _fuzz.cpp)  # fuzz.safetensors
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "_fuzz$" "" stem ${stem})
  if(DSV3_CLANG)
    set(binary ${PROJECT_BINARY_DIR}/fuzz/${stem})
    separate_arguments(clang_flags UNIX_COMMAND "${script_flags}")
    add_custom_command(OUTPUT ${binary}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/fuzz/found/${stem}
      COMMAND ${DSV3_CLANG} ${clang_flags} -I${PROJECT_SOURCE_DIR}/tests -O1 -g
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
        -MD -MF ${binary}.d -MT ${binary} ${source} ${PCRE2_LIBRARY} -o ${binary}
      DEPENDS ${source} DEPFILE ${binary}.d VERBATIM)
    add_custom_target(${name} ALL DEPENDS ${binary})
    set(corpus ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${stem})
    if(NOT EXISTS ${corpus})
      set(corpus "")
    endif()
    add_test(NAME ${name} COMMAND ${binary} -seed=1 -max_total_time=20 -timeout=10 -rss_limit_mb=2048
      -artifact_prefix=${PROJECT_BINARY_DIR}/fuzz/${stem}- ${PROJECT_BINARY_DIR}/fuzz/found/${stem} ${corpus})
  else()
    add_test(NAME ${name} COMMAND sh -c "echo 'no clang++ found (Debian: clang)'; exit 77")
  endif()
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120 SKIP_RETURN_CODE 77)
endforeach()

# ---- the cuda preset compiles every header with nvcc ---------------------------------------------------------------------
if(nvcc)
  add_custom_target(nvcc.headers USES_TERMINAL VERBATIM
    COMMAND ${CMAKE_COMMAND} -E env ${script_environment}
      bash ${PROJECT_SOURCE_DIR}/tests/structure/nvcc_headers_test.sh)
endif()
