// AVX2 with FMA: 16 registers of 8 floats.
#define HYBRIDRET_LANES 8
#define HYBRIDRET_TILE_ROWS 6
#include <immintrin.h>

#include "similarity/vector_source.h"

namespace hybridret::similarity {
namespace {

inline uint32_t sign_bits(IntVector mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
}

}  // namespace
}  // namespace hybridret::similarity

#define HYBRIDRET_KERNEL kAvx2Kernel
#define HYBRIDRET_ISA_NAME "avx2"
#include "similarity/kernel_source.h"
