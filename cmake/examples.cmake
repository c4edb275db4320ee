# SPDX-License-Identifier: MIT
# examples/NN_name.cpp is a stop of the tour and a test; examples/<name>/*.cpp is the program dsv3-<name>.
dsv3_need(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev)
dsv3_need(CLI11 CLI11::CLI11 libcli11-dev)
dsv3_need(PCRE2 PCRE2::8BIT libpcre2-dev)

# Instantiations that several programs share are compiled once.
file(GLOB shared_sources CONFIGURE_DEPENDS examples/support/*.cpp)
set(shared_objects "")
if(shared_sources)
  add_library(dsv3-programs OBJECT ${shared_sources})
  target_include_directories(dsv3-programs PRIVATE examples)
  target_link_libraries(dsv3-programs PRIVATE dsv3_own dsv3::cpu dsv3::text)
  set(shared_objects $<TARGET_OBJECTS:dsv3-programs>)
endif()

file(GLOB tour CONFIGURE_DEPENDS examples/[0-9][0-9]_*.cpp)
foreach(source IN LISTS tour)
  cmake_path(GET source STEM name)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  target_link_libraries(${name} PRIVATE dsv3_own dsv3::cpu dsv3::text)
  if(DSV3_TESTS)
    add_test(NAME examples.${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(examples.${name} PROPERTIES LABELS examples TIMEOUT 600)
  endif()
endforeach()

file(GLOB program_sources CONFIGURE_DEPENDS examples/*/*.cpp)
list(FILTER program_sources EXCLUDE REGEX "/examples/(consumer|support)/")
# The trainers come before what is compiled for fewer seconds: they take longest, and of a function that two objects have
# the linker takes the first.
list(SORT program_sources ORDER DESCENDING)
foreach(source IN LISTS program_sources)
  cmake_path(GET source PARENT_PATH folder)
  cmake_path(GET folder FILENAME name)
  if(NOT TARGET dsv3-${name})
    add_executable(dsv3-${name} ${shared_objects})
    set_target_properties(dsv3-${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
    target_include_directories(dsv3-${name} PRIVATE examples)
    target_link_libraries(dsv3-${name} PRIVATE dsv3_own dsv3::cpu dsv3::text CLI11::CLI11)
  endif()
  target_sources(dsv3-${name} PRIVATE ${source})
  # Nobody waits for flags, files, watched steps and the reference precision, but everybody for the first build.
  if(source MATCHES "/examples/train/(flags|operand_watch|record|state_files)\\.cpp$" OR source MATCHES "_fp64\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O1>)
  endif()
endforeach()
