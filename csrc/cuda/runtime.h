// The host's side of the GPU: launches, tensor maps, what the device is.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/product.h"

#ifndef HYBRIDRET_EMULATED

namespace hybridret::cuda {

using Stream = cudaStream_t;

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Device {
  int multiprocessors;
  bool hopper;  // and the kernels for it were built
};

inline Device current_device() {
  int device = 0, major = 0, count = 0;
  const cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("no usable GPU or driver: ") + cudaGetErrorString(status));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device");
  if (major < 8)
    throw std::runtime_error("the GPU has compute capability " + std::to_string(major) +
                             ".x; 8.0 or newer is needed");
  return {count, major == 9 && HYBRIDRET_HOPPER};
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, int shared, Stream stream,
            const Arguments&... arguments) {
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "shared memory");
  kernel<<<blocks, threads, shared, stream>>>(arguments...);
  check(cudaGetLastError(), "launch");
}

inline void zero(void* target, int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(target, 0, bytes, stream), "memset");
}

// Boxes of 64 x 64 elements with the 128-byte swizzle; what lies outside reads as zero.
inline TensorMap make_tensor_map(const Operand& operand, int planes) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess)
      throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  TensorMap map;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(operand.columns),
                               static_cast<cuuint64_t>(operand.rows),
                               static_cast<cuuint64_t>(planes)};
  const cuuint64_t row = operand.stride * 2;
  const cuuint64_t strides[2] = {row, planes > 1 ? operand.plane * 2 : row * operand.rows};
  const cuuint32_t box[3] = {kBox, kBox, 1}, steps[3] = {1, 1, 1};
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, const_cast<uint16_t*>(operand.data), sizes,
             strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error("cuTensorMapEncodeTiled failed with " + std::to_string(status) +
                             " for a matrix of " + std::to_string(operand.rows) + " x " +
                             std::to_string(operand.columns));
  return map;
}

}  // namespace hybridret::cuda
#endif
