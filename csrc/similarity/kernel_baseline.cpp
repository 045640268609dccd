// What every processor of its architecture has: SSE2 on x86-64, NEON on arm64.
#define HYBRIDRET_LANES 4
#define HYBRIDRET_TILE_ROWS 6
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "similarity/vector_source.h"

namespace hybridret::similarity {
namespace {

inline uint32_t sign_bits(IntVector mask) {
#if defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
  uint32_t all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all |= static_cast<uint32_t>(mask[lane] & 1) << lane;
  return all;
#endif
}

}  // namespace
}  // namespace hybridret::similarity

#define HYBRIDRET_KERNEL kBaselineKernel
#define HYBRIDRET_ISA_NAME "baseline"
#include "similarity/kernel_source.h"
