// What the ISAs with AVX-512 have in common: 32 registers of 16 floats. Part of the kernel source,
// see kernel_source.h.
#pragma once

#include <immintrin.h>

#define HYBRIDRET_LANES 16
#define HYBRIDRET_TILE_ROWS 14
#include "similarity/vector_source.h"

namespace hybridret::similarity {
namespace {

inline uint32_t sign_bits(IntVector mask) {
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
}

#if defined(__AVX512BF16__)
inline HalfVector to_bfloat16(Vector v) {
  return reinterpret_cast<HalfVector>(_mm512_cvtneps_pbh(v));
}
#endif

}  // namespace
}  // namespace hybridret::similarity
