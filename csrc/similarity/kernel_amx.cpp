// AVX-512 with AMX: registers of 16 x 64 bytes, one instruction multiplies 16 x 32 by 32 x 16
// bfloat16 into 16 x 16 float32.
#include <immintrin.h>

#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

constexpr int kBfloat16Rows = 32, kBfloat16Columns = 32;

// Register budget: 2 x 2 accumulators, two of a, two of b: four products for four loads.
void bfloat16_tile(int64_t depth, const Bfloat16* a, int64_t a_row, int64_t a_block,
                   const Bfloat16* b, float* c, int64_t c_row, bool accumulate) {
  const int64_t c_bytes = c_row * 4, a_bytes = a_row * 2;
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
  for (int64_t k = 0; k < depth; k += kBfloat16Columns) {
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 32, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * a_row, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    a += a_block;
    b += kBfloat16Columns * kBfloat16Columns;
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

#define HYBRIDRET_LANES 16
#define HYBRIDRET_ROWS 14
#define HYBRIDRET_KERNEL kAmxKernel
#define HYBRIDRET_ISA_NAME "amx"
#define HYBRIDRET_BFLOAT16_TILE {kBfloat16Rows, kBfloat16Columns, bfloat16_tile}
#define HYBRIDRET_SCOPE set_up_tiles, release_tiles
#include "similarity/kernel_source.h"
