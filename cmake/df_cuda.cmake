# CUDA for sm_90a alone, and the two programs that gather what needs a GPU: gpu_test (GoogleTest) and
# gpu_bench. Both are carried to a GPU machine; neither is a ctest.
set(CMAKE_CUDA_ARCHITECTURES 90a-real)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
foreach(toolkit /usr/local/cuda ${CMAKE_SOURCE_DIR}/.cuda/nvidia/cu13)  # the second: script/bootstrap
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS ${toolkit}/bin/nvcc)
    set(CMAKE_CUDA_COMPILER ${toolkit}/bin/nvcc)
  endif()
endforeach()
# The libraries of script/gpu-bundle lie beside the programs.
set(CMAKE_BUILD_RPATH "\$ORIGIN/lib")
enable_language(CUDA)
# CMake 3.25 does not know the flag of CUDA's C++20 dialect.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
if(CCACHE_PROGRAM AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
list(PREPEND CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_SOURCE_DIR}/cmake/nvcc_checked)
find_package(CUDAToolkit 13 REQUIRED)
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall;\
--expt-relaxed-constexpr;-lineinfo>")
# Registers that spill, and arrays that land in local memory, are errors; called by df_module for
# all kernels that do not declare them.
function(df_forbid_local_memory)
  set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS
               -Xptxas=--warn-on-spills,--warn-on-local-memory-usage,-Werror)
endfunction()

# Tests that compile kernels find the compiler's library where the toolkit lies.
function(df_test_with_nvrtc test)
  set_tests_properties(${test} PROPERTIES ENVIRONMENT_MODIFICATION
                       LD_LIBRARY_PATH=path_list_append:${CUDAToolkit_LIBRARY_DIR})
endfunction()

# NOTE: a .cu file holds kernels and their launch, and may not include base/check.h or anything else
# that brings in fmt 9, which nvcc's host pass rejects as C++20. Checks belong in launch.cpp.

# Gathers a folder's *_gpu_test and *_gpu_bench sources; called by df_module.
function(df_gpu_sources name test_deps)
  foreach(kind test bench)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_gpu_${kind}.cpp)
    if(sources)
      add_library(${name}_gpu_${kind} OBJECT ${sources})
      target_link_libraries(${name}_gpu_${kind} PUBLIC df_${name} ${test_deps} GTest::gtest)
      set_property(GLOBAL APPEND PROPERTY DF_GPU_${kind} ${name}_gpu_${kind})
    endif()
  endforeach()
endfunction()

function(df_gpu_programs)
  foreach(kind test bench)
    get_property(parts GLOBAL PROPERTY DF_GPU_${kind})
    if(parts)
      set(program gpu_${kind})
      set(main ${CMAKE_SOURCE_DIR}/src/compute/cuda/runtime/gpu_${kind}_main.cpp)
      add_executable(${program} ${main})
      target_link_libraries(${program} PRIVATE ${parts} df_cuda_runtime GTest::gtest)
    endif()
  endforeach()
endfunction()
