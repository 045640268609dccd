# hnswlib publishes no wheels and needs no build: its source package holds the headers. pip downloads
# it from the index that the user has set up. HNSWLIB_INCLUDE_DIR (-D or environment) names a folder
# with hnswlib/hnswlib.h instead, for offline builds.
include("${CMAKE_CURRENT_LIST_DIR}/setting.cmake")
set(HNSWLIB_VERSION 0.8.0)
set(HNSWLIB_SHA256 cb6d037eedebb34a7134e7dc78966441dfd04c9cf5ee93911be911ced951c44c)

set(downloaded "${CMAKE_CURRENT_BINARY_DIR}/hnswlib-${HNSWLIB_VERSION}")
setting(HNSWLIB_INCLUDE_DIR "${downloaded}" "Folder that holds hnswlib/hnswlib.h; default: a download")
if(HNSWLIB_INCLUDE_DIR STREQUAL downloaded AND NOT EXISTS "${downloaded}/hnswlib/hnswlib.h")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/hnswlib.py"
      "${HNSWLIB_VERSION}" "${HNSWLIB_SHA256}" "${downloaded}"
    RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "hnswlib's headers are not there (see above)")
  endif()
endif()
if(NOT EXISTS "${HNSWLIB_INCLUDE_DIR}/hnswlib/hnswlib.h")
  message(FATAL_ERROR "HNSWLIB_INCLUDE_DIR is '${HNSWLIB_INCLUDE_DIR}', which holds no hnswlib/hnswlib.h")
endif()
