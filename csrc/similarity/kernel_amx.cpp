// AVX-512 with AMX: registers of 16 x 64 bytes, one instruction multiplies 16 x 32 by 32 x 16
// bfloat16 into 16 x 16 float32.
#include "similarity/avx512_source.h"
#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

constexpr int kRowsOfTile = 32, kDepths = 32;
static_assert(kDepths == kSplitSlice);

// c += a's part times b's part, over 32 depths. Register budget: 2 x 2 accumulators, two of a, two
// of b, which stay for the next step unless it needs another part.
template <int kPartOfA, int kPartOfB, bool kLoadB>
inline void step(const char* a, int64_t a_row, const char* b) {
  constexpr int kPart = kDepths * 32 * 2;  // bytes of one part of b
  a += kPartOfA * kDepths * 2;
  _tile_loadd(4, a, a_row);
  if constexpr (kLoadB) _tile_loadd(6, b + kPartOfB * kPart, 128);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kLoadB) _tile_loadd(7, b + kPartOfB * kPart + 64, 128);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, a + 16 * a_row, a_row);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

template <class Element>
void tile(int64_t depth, const Element* a_elements, int64_t a_row, int64_t a_slice,
          const Element* b_elements, float* c, int64_t c_row, bool accumulate) {
  const int64_t c_bytes = c_row * 4, a_bytes = a_row * sizeof(Element);
  const char *a = reinterpret_cast<const char*>(a_elements),
             *b = reinterpret_cast<const char*>(b_elements);
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    _tile_loadd(2, c + 16 * c_row, c_bytes);
    _tile_loadd(3, c + 16 * c_row + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kDepths) {
    if constexpr (sizeof(Element) == sizeof(Bfloat16)) {
      step<0, 0, true>(a, a_bytes, b);
    } else if constexpr (sizeof(Element) == sizeof(Split<2>)) {
      step<1, 0, true>(a, a_bytes, b);
      step<0, 0, false>(a, a_bytes, b);
      step<0, 1, true>(a, a_bytes, b);
    } else {
      step<2, 0, true>(a, a_bytes, b);
      step<1, 0, false>(a, a_bytes, b);
      step<0, 0, false>(a, a_bytes, b);
      step<1, 1, true>(a, a_bytes, b);
      step<0, 1, false>(a, a_bytes, b);
      step<0, 2, true>(a, a_bytes, b);
    }
    a += a_slice * static_cast<int64_t>(sizeof(Element));
    b += kDepths * 32 * static_cast<int64_t>(sizeof(Element));
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  _tile_stored(2, c + 16 * c_row, c_bytes);
  _tile_stored(3, c + 16 * c_row + 16, c_bytes);
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void set_up_tiles() {
  static const TileShapes shapes;
  _tile_loadconfig(&shapes);
}
void release_tiles() { _tile_release(); }

}  // namespace
}  // namespace hybridret::similarity

#define HYBRIDRET_KERNEL kAmxKernel
#define HYBRIDRET_ISA_NAME "amx"
#define HYBRIDRET_BFLOAT16_TILE kRowsOfTile, kDepths, tile<Bfloat16>
#define HYBRIDRET_SPLIT_TILE(Element) kRowsOfTile, kDepths, tile<Element>
#define HYBRIDRET_CACHE_BYTES 3 << 19  // three quarters of the two megabytes of every such core
#define HYBRIDRET_SCOPE set_up_tiles, release_tiles
#include "similarity/kernel_source.h"
