# libhybridret_cuda: a C library with a static CUDA runtime, loaded on first use.
#
# HYBRIDRET_CUDA (-D or environment): auto builds it for the GPUs of this machine, if it has any, and
# nvcc; on builds it for all architectures and fails without nvcc; off builds nothing.
# HYBRIDRET_CUDA_ARCHITECTURES: what to build for instead, semicolons between, the first one as PTX too.
include("${CMAKE_CURRENT_LIST_DIR}/setting.cmake")
setting(HYBRIDRET_CUDA auto "Build the CUDA library: auto, on or off")
setting(HYBRIDRET_CUDA_ARCHITECTURES "" "Architectures of the CUDA library, such as 80;90a")
string(TOLOWER "${HYBRIDRET_CUDA}" HYBRIDRET_CUDA)
if(NOT HYBRIDRET_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "HYBRIDRET_CUDA is '${HYBRIDRET_CUDA}'; expected auto, on or off")
endif()
if(HYBRIDRET_CUDA STREQUAL "off")
  return()
endif()

set(architectures ${HYBRIDRET_CUDA_ARCHITECTURES})
if(HYBRIDRET_CUDA STREQUAL "auto" AND NOT architectures)
  execute_process(
    COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    set(found "")
  endif()
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${found}")
  list(REMOVE_DUPLICATES capabilities)
  list(SORT capabilities COMPARE NATURAL)
  foreach(capability IN LISTS capabilities)
    if(capability VERSION_LESS 8.0)
      message(STATUS "A GPU has compute capability ${capability}; the kernels need 8.0 or newer")
    elseif(capability VERSION_EQUAL 9.0)
      list(APPEND architectures 90a)  # with the instructions of Hopper alone
    else()
      string(REPLACE "." "" architecture "${capability}")
      list(APPEND architectures ${architecture})
    endif()
  endforeach()
  if(NOT architectures)
    message(STATUS "No GPU here: building without CUDA (HYBRIDRET_CUDA=on builds for all)")
    return()
  endif()
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
  message(STATUS "No nvcc for the GPU: building without CUDA (HYBRIDRET_CUDA=on fetches a compiler)")
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
if(NOT architectures)
  set(architectures 80 90a)
  if(version VERSION_GREATER_EQUAL 12.8)
    list(APPEND architectures 100 120)
  endif()
elseif(NOT HYBRIDRET_CUDA_ARCHITECTURES)
  # A GPU that this nvcc does not know yet compiles the PTX of sm_80 for itself.
  execute_process(COMMAND "${nvcc}" --list-gpu-code OUTPUT_VARIABLE known)
  foreach(architecture IN LISTS architectures)
    string(REPLACE a "" plain "${architecture}")
    if(NOT known MATCHES "sm_${plain}[^0-9]")
      list(REMOVE_ITEM architectures ${architecture})
      list(PREPEND architectures 80)
    endif()
  endforeach()
  list(REMOVE_DUPLICATES architectures)
endif()
message(STATUS "CUDA ${version} for ${architectures}: ${nvcc}")
set(HYBRIDRET_CUDA_VERSION "${version}")

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

# Not CMake's CUDA language: it does not find the libraries where the package index puts them.
get_filename_component(csrc "${CMAKE_CURRENT_LIST_DIR}/../csrc" ABSOLUTE)
file(GLOB_RECURSE sources CONFIGURE_DEPENDS RELATIVE "${csrc}/cuda" "${csrc}/cuda/*.cu")
set(objects)
foreach(source IN LISTS sources)
  set(object "${CMAKE_CURRENT_BINARY_DIR}/cuda/${source}.o")
  get_filename_component(folder "${object}" DIRECTORY)
  file(MAKE_DIRECTORY "${folder}")
  add_custom_command(OUTPUT "${object}"
    COMMAND "${nvcc}" -std=c++17 -O3 -c -ccbin "${CMAKE_CXX_COMPILER}" ${flags} --threads 0
      -DHYBRIDRET_HOPPER=${hopper} "-DHYBRIDRET_ARCHITECTURES=\"${listed}\"" "-I${csrc}"
      -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra -MD -MF "${object}.d" -o "${object}"
      "${csrc}/cuda/${source}"
    DEPENDS "${csrc}/cuda/${source}" DEPFILE "${object}.d"
    COMMENT "CUDA: ${source} for ${listed}" VERBATIM)
  list(APPEND objects "${object}")
endforeach()

get_filename_component(root "${nvcc}" DIRECTORY)
get_filename_component(root "${root}" DIRECTORY)
set(library "${CMAKE_CURRENT_BINARY_DIR}/libhybridret_cuda.so")
set(exports "${CMAKE_CURRENT_LIST_DIR}/cuda.map")
# Nothing of the static libraries is seen from outside, nor replaced by another copy in the process.
add_custom_command(OUTPUT "${library}"
  COMMAND "${nvcc}" -shared -cudart static --no-device-link -ccbin "${CMAKE_CXX_COMPILER}"
    -Xcompiler -static-libstdc++,-static-libgcc -Xlinker "--version-script=${exports}"
    "-L${root}/lib" "-L${root}/lib64" -o "${library}" ${objects}
  DEPENDS ${objects} "${exports}" COMMENT "CUDA: ${library}" VERBATIM)
add_custom_target(hybridret_cuda ALL DEPENDS "${library}")
install(FILES "${library}" DESTINATION hybridret
  PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
