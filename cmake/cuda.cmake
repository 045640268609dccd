# libhybridret_cuda: a C library with a static CUDA runtime, loaded on first use.
#
# HYBRIDRET_CUDA (cache or environment): auto builds it where nvcc is found, on fails without, off
# does not look. HYBRIDRET_CUDA_ARCHITECTURES: semicolons between, the first one as PTX too.
set(HYBRIDRET_CUDA "$ENV{HYBRIDRET_CUDA}" CACHE STRING "Build the CUDA library: auto, on or off")
set(HYBRIDRET_CUDA_ARCHITECTURES "$ENV{HYBRIDRET_CUDA_ARCHITECTURES}" CACHE STRING
  "Architectures, such as 80;90a")
if(NOT HYBRIDRET_CUDA)
  set(HYBRIDRET_CUDA auto)
endif()
if(NOT HYBRIDRET_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "HYBRIDRET_CUDA is '${HYBRIDRET_CUDA}'; expected auto, on or off")
endif()
if(HYBRIDRET_CUDA STREQUAL "off")
  return()
endif()

# The package index's compiler, which an isolated build brings along, goes before the system's.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import nvidia, pathlib; print(next(str(f) for p in nvidia.__path__ for f in pathlib.Path(p).glob('cu*/bin/nvcc')))"
  OUTPUT_VARIABLE packaged OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE missing)
if(missing)
  unset(packaged)
endif()
get_filename_component(beside "$ENV{CUDACXX}" DIRECTORY)
find_program(HYBRIDRET_NVCC nvcc
  HINTS "${beside}" "$ENV{CUDA_PATH}/bin" "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin)
if(packaged)
  set(nvcc "${packaged}")
elseif(HYBRIDRET_NVCC)
  set(nvcc "${HYBRIDRET_NVCC}")
elseif(HYBRIDRET_CUDA STREQUAL "on")
  message(FATAL_ERROR
    "HYBRIDRET_CUDA is on, but no nvcc was found: put it on PATH, set CUDA_PATH, or build isolated")
else()
  message(STATUS "No nvcc: building without CUDA")
  return()
endif()

execute_process(COMMAND "${nvcc}" --version OUTPUT_VARIABLE version)
string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" version "${version}")
set(version "${CMAKE_MATCH_1}")
if(version VERSION_LESS 12.5)
  if(HYBRIDRET_CUDA STREQUAL "on")
    message(FATAL_ERROR "${nvcc} is CUDA ${version}; 12.5 or newer is needed")
  endif()
  message(STATUS "${nvcc} is CUDA ${version}, older than 12.5: building without CUDA")
  return()
endif()
set(architectures ${HYBRIDRET_CUDA_ARCHITECTURES})
if(NOT architectures)
  set(architectures 80 90a)
  if(version VERSION_GREATER_EQUAL 12.8)
    list(APPEND architectures 100 120)
  endif()
endif()
message(STATUS "CUDA ${version} for ${architectures}: ${nvcc}")

get_filename_component(root "${nvcc}" DIRECTORY)
get_filename_component(root "${root}" DIRECTORY)
list(GET architectures 0 first)
set(flags -gencode "arch=compute_${first},code=compute_${first}")
foreach(architecture IN LISTS architectures)
  list(APPEND flags -gencode "arch=compute_${architecture},code=sm_${architecture}")
endforeach()
if(version VERSION_GREATER_EQUAL 12.8)
  list(APPEND flags --compress-mode=size)
endif()
list(JOIN architectures " " listed)
set(hopper 0)
if("90a" IN_LIST architectures)
  set(hopper 1)
endif()
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.h"
  "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.cu")
set(library "${CMAKE_CURRENT_BINARY_DIR}/libhybridret_cuda.so")
# Not CMake's CUDA language: it does not find the libraries where the package index puts them.
add_custom_command(OUTPUT "${library}"
  COMMAND "${nvcc}" -std=c++17 -O3 -shared -cudart static -ccbin "${CMAKE_CXX_COMPILER}" ${flags}
    -DHYBRIDRET_HOPPER=${hopper} "-DHYBRIDRET_ARCHITECTURES=\"${listed}\"" --threads 0 -Xcompiler -fPIC,-fvisibility=hidden,-static-libstdc++,-static-libgcc
    "-L${root}/lib" "-L${root}/lib64" -o "${library}"
    "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/infonce.cu"
  DEPENDS ${sources} COMMENT "CUDA kernels for ${architectures}" VERBATIM)
add_custom_target(hybridret_cuda ALL DEPENDS "${library}")
install(FILES "${library}" DESTINATION hybridret
  PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
