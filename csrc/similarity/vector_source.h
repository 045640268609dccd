// Vectors of HYBRIDRET_LANES floats, by the compiler's vector extensions: part of the kernel
// source, see kernel_source.h.
#pragma once

#include <cstdint>

namespace hybridret::similarity {
namespace {

constexpr int kLanes = HYBRIDRET_LANES;
constexpr int kVectors = 2;  // side by side in a row of a tile
constexpr int kColumns = kLanes * kVectors;

typedef float Vector __attribute__((vector_size(4 * HYBRIDRET_LANES)));
typedef float UnalignedVector
    __attribute__((vector_size(4 * HYBRIDRET_LANES), aligned(4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(4 * HYBRIDRET_LANES)));
typedef int32_t UnalignedIntVector
    __attribute__((vector_size(4 * HYBRIDRET_LANES), aligned(4), may_alias));
typedef uint16_t HalfVector __attribute__((vector_size(2 * HYBRIDRET_LANES)));
typedef uint16_t UnalignedHalfVector
    __attribute__((vector_size(2 * HYBRIDRET_LANES), aligned(2), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline IntVector load(const int32_t* p) { return *reinterpret_cast<const UnalignedIntVector*>(p); }
inline void store(int32_t* p, IntVector v) { *reinterpret_cast<UnalignedIntVector*>(p) = v; }
inline void store(uint16_t* p, HalfVector v) { *reinterpret_cast<UnalignedHalfVector*>(p) = v; }

inline Vector broadcast(float x) { return x - Vector{}; }
inline Vector keep(Vector v, IntVector mask) {
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & mask);
}

inline float lane_sum(Vector v) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

inline float lane_maximum(Vector v) {
  float largest = v[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = v[lane] > largest ? v[lane] : largest;
  return largest;
}

}  // namespace
}  // namespace hybridret::similarity
