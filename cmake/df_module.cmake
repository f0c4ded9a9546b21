# df_module(NAME <name> SRCS <files...> [DEPS <modules...>] [CUDA_DEPS <modules...>]
#           [TEST_DEPS <modules...>] [LIBS <targets...>] [LOCAL_MEMORY <sources...>])
#
# Declares one folder of src/ as the static library df_<name>. DEPS are the other folders it may
# include (their df_module names), CUDA_DEPS more of them where DF_CUDA is on; TEST_DEPS those that only its tests and benches may, such as a
# concrete backend; LIBS are third-party targets; LOCAL_MEMORY the .cu
# files whose kernels may spill or use local memory. Beside the sources, found by name:
#   *_test.cpp   GoogleTest cases, gathered in one ctest called <name>
#   *_bench.cpp  Google Benchmark cases, gathered in the target <name>_bench (never a test)
#   *_gpu_test.cpp  cases that need a GPU; all folders' go into one program, gpu_test
#   *_gpu_bench.cpp the same for gpu_bench (cmake/df_cuda.cmake)
#   *_fuzz.cpp   fuzz targets: libFuzzer under DF_FUZZ, else a ctest that replays mutated seeds
# A folder with no source files of its own (headers only) passes no SRCS.
function(df_module)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS;CUDA_DEPS;TEST_DEPS;LIBS;LOCAL_MEMORY" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "df_module(${ARG_NAME}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  set(target df_${ARG_NAME})
  set(dep_targets ${ARG_DEPS})
  if(DF_CUDA)
    list(APPEND dep_targets ${ARG_CUDA_DEPS})
  endif()
  list(TRANSFORM dep_targets PREPEND df_)
  set(test_dep_targets ${ARG_TEST_DEPS})
  list(TRANSFORM test_dep_targets PREPEND df_)
  if(ARG_SRCS)
    add_library(${target} STATIC ${ARG_SRCS})
    set(scope PUBLIC)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${target} ${scope} ${dep_targets} ${ARG_LIBS})

  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cpp)
  list(FILTER tests EXCLUDE REGEX "_gpu_test\\.cpp$")
  if(tests AND NOT DF_FUZZ)
    add_executable(${ARG_NAME}_test ${tests})
    target_link_libraries(${ARG_NAME}_test ${target} ${test_dep_targets} GTest::gmock
                          GTest::gtest_main)
    set_target_properties(${ARG_NAME}_test PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME}_test WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  endif()

  file(GLOB benches CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_bench.cpp)
  list(FILTER benches EXCLUDE REGEX "_gpu_bench\\.cpp$")
  if(benches AND NOT DF_FUZZ)
    find_package(benchmark REQUIRED)
    add_executable(${ARG_NAME}_bench ${benches})
    target_link_libraries(${ARG_NAME}_bench ${target} ${test_dep_targets}
                          benchmark::benchmark_main)
  endif()

  file(GLOB fuzzers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_fuzz.cpp)
  foreach(source ${fuzzers})
    cmake_path(GET source STEM fuzzer)
    if(DF_FUZZ)
      add_executable(${fuzzer} ${source} ${CMAKE_SOURCE_DIR}/src/base/fuzz_corpus.cpp)
      target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
    else()
      add_executable(${fuzzer} ${source} ${CMAKE_SOURCE_DIR}/src/base/fuzz_replay.cpp)
      add_test(NAME ${fuzzer} COMMAND ${fuzzer} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    endif()
    set_target_properties(${fuzzer} PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${fuzzer} ${target})
  endforeach()

  if(DF_CUDA)
    set(kernels ${ARG_SRCS})
    list(FILTER kernels INCLUDE REGEX "\\.cu$")
    if(ARG_LOCAL_MEMORY)
      list(REMOVE_ITEM kernels ${ARG_LOCAL_MEMORY})
    endif()
    if(kernels)
      df_forbid_local_memory(${kernels})
    endif()
    df_gpu_sources(${ARG_NAME} "${test_dep_targets}")
  endif()
endfunction()

# df_test_limit(<seconds> <tests...>): how long they may take on an idle machine without sanitizers.
# The tests read DF_TIME_FACTOR from their environment for limits of their own.
function(df_test_limit seconds)
  math(EXPR limit "${seconds} * ${DF_TIME_FACTOR}")
  set_tests_properties(${ARGN} PROPERTIES TIMEOUT ${limit}
                       ENVIRONMENT DF_TIME_FACTOR=${DF_TIME_FACTOR})
endfunction()
