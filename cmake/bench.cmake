# SPDX-License-Identifier: MIT
# bench/<path>_bench.cpp is the executable bench/<path with dots> of the build folder, and the target bench.<that>.
dsv3_need(benchmark benchmark::benchmark libbenchmark-dev benchmark/benchmark.h benchmark)
dsv3_need(PCRE2 PCRE2::8BIT libpcre2-dev pcre2.h pcre2-8)
file(GLOB_RECURSE bench_sources CONFIGURE_DEPENDS bench/*_bench.cpp)
foreach(source IN LISTS bench_sources)
  dsv3_dotted(name ${source} bench _bench.cpp)
  add_executable(bench.${name} ${source})
  set_target_properties(bench.${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench OUTPUT_NAME ${name})
  # Case lists are data beside the tests.
  target_include_directories(bench.${name} PRIVATE . bench tests)
  target_link_libraries(bench.${name} PRIVATE dsv3_own dsv3::cpu dsv3::text benchmark::benchmark)
endforeach()
