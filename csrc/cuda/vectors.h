// Vectors as the caller has them and as products read them, a warp for each: every thread has eight
// elements at a time.
#pragma once

#include <cstdint>

#include "cuda/hardware.h"
#include "similarity/elements.h"

namespace hybridret::cuda {

using similarity::Format;

// ---- warps --------------------------------------------------------------------------------------

constexpr int kBlockThreads = 256, kBlockWarps = kBlockThreads / 32;

__device__ __forceinline__ int warp_index() { return blockIdx.x * kBlockWarps + threadIdx.x / 32; }
__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }

// The sum over a warp's threads, in a fixed order, for all of them.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// ---- vectors ------------------------------------------------------------------------------------

struct Vectors {
  const void* data;
  int64_t stride;  // elements
  int rows, depth;
  Format format;

  __device__ float element(int64_t at) const {
    if (format == Format::kFloat32) return static_cast<const float*>(data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(data)[at];
    return format == Format::kBfloat16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                       : float16_value(bits);
  }

  __device__ uint16_t bits(int64_t at) const { return static_cast<const uint16_t*>(data)[at]; }

  // Elements k ... k + 7 of a row, zeros past its end.
  __device__ void load(float (&values)[8], int row, int k) const {
    const int64_t at = row * stride + k;
    const bool whole =
        k + 8 <= depth && ((reinterpret_cast<uintptr_t>(data) | stride * 2) & 15) == 0;
    if (whole && format != Format::kFloat32) {
      const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + at);
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[2 * i] = format == Format::kBfloat16
                            ? __uint_as_float(pairs[i] << 16)
                            : float16_value(static_cast<uint16_t>(pairs[i]));
        values[2 * i + 1] = format == Format::kBfloat16
                                ? __uint_as_float(pairs[i] & 0xffff0000u)
                                : float16_value(static_cast<uint16_t>(pairs[i] >> 16));
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = k + i < depth ? element(at + i) : 0.0f;
  }
};

// Where a row goes as bfloat16: planes whose sum it is, rounded to the last one.
struct Planes {
  uint16_t* data;  // or null
  int64_t stride, plane;
  int count;
  bool half;  // one plane of the float16 that are given, as they are

  __device__ void put(float (&values)[8], int row, int k) const {
    for (int p = 0; p < count; ++p) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = pack_bfloat16(values[2 * i], values[2 * i + 1]);
        values[2 * i] -= __uint_as_float(words[i] << 16);
        values[2 * i + 1] -= __uint_as_float(words[i] & 0xffff0000u);
      }
      *reinterpret_cast<uint4*>(data + p * plane + row * stride + k) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
};

}  // namespace hybridret::cuda
