// C = A B on the matrix units, C handed tile by tile to an epilogue while it is in registers.
//
// Operands are 16-bit; A is stored [rows, depth] or transposed [depth, rows], B [columns, depth] or
// [depth, columns]. A float32 matrix is the sum of three bfloat16 planes, exactly; a product of two
// such matrices is the sum of six products of planes, the small ones first.
//
// Two kernels for two generations. Both keep a ring of stages in shared memory, each a slab of 64
// of the depth, in boxes of 64 x 64 elements with the same swizzle, and leave the accumulators in
// the same layout, so that an epilogue is written once:
//
//   sm_90a  one thread keeps the ring full by bulk copies; two groups of four warps multiply 64
//           rows each out of shared memory (wgmma)
//   sm_80   eight warps copy (cp.async) and multiply 64 x 32 elements each from registers
//           (mma.sync)
//
// Tiles are dealt to a grid as large as the GPU in a fixed order; nothing depends on that order.
#pragma once

#include "cuda/hardware.h"

namespace hybridret::cuda {

constexpr int kBox = 64;               // elements of a side
constexpr int kBoxBytes = kBox * 128;  // of 16 bits
constexpr int kTileRows = 128;
constexpr int kMostPairs = 6;

// A matrix as it lies in memory; each row a multiple of 8 elements, aligned to 16 bytes.
struct Operand {
  const uint16_t* data;
  int rows, columns;      // as stored
  int64_t stride, plane;  // elements from row to row, from plane to plane
};

struct Shape {
  int rows, columns, depth;  // of C, and of one product of planes
  int pairs;
  signed char a_plane[kMostPairs], b_plane[kMostPairs];
  int row_tiles, column_tiles;
  // Tiles that are computed at about the same time: so many rows of them, and what columns go with
  // those. Their operands stay in the second-level cache.
  int together;

  __device__ void tile(int index, int& row, int& column) const {
    const int first = index / (together * column_tiles) * together;
    const int rows_here = row_tiles - first < together ? row_tiles - first : together;
    const int within = index - first * column_tiles;
    row = first + within % rows_here;
    column = within / rows_here;
  }
  __device__ int slabs() const { return (depth + kBox - 1) / kBox; }
};

// A thread's part of a tile: for i, f, e the element at row + 16 i + 8 (e / 2), column + 8 f + e
// % 2. Four neighbouring threads hold 8 columns of the same rows.
template <int kRowFragments, int kColumnFragments>
struct Accumulators {
  static constexpr int kRows = kRowFragments, kColumns = kColumnFragments;
  float value[kRowFragments][kColumnFragments][4];
  int row, column;              // of the first element, in C
  int first_row, first_column;  // of the tile
  int strip;                    // of the columns that this thread's warp has, counted over all of C
  int warp_rows;                // which of the tile's row blocks the warp has
};

// The sum over a row's four threads, for all of them.
__device__ __forceinline__ float quad_sum(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

// Four words of each of four threads, transposed: word w of thread t becomes word t of thread w.
__device__ __forceinline__ void quad_transpose(uint32_t (&words)[4], int lane) {
  const bool odd = lane & 1, high = lane & 2;
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const uint32_t taken = shuffle_xor(odd ? words[pair] : words[pair + 1], 1);
    (odd ? words[pair] : words[pair + 1]) = taken;
  }
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const uint32_t taken = shuffle_xor(high ? words[pair] : words[pair + 2], 2);
    (high ? words[pair] : words[pair + 2]) = taken;
  }
}

// ---- sm_90a -------------------------------------------------------------------------------------

template <int kTileColumns>
struct HopperTile {
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = 384, kWorkers = 256;
  static constexpr int kStages = kTileColumns == 256 ? 4 : 6;
  static constexpr int kSlabBytes = (kTileRows + kTileColumns) * 128;
  static constexpr int kStrip = kTileColumns;                   // columns of a warp
  static constexpr int kRowBlocks = 8;                          // warps above each other
  static constexpr int kScratch = kStages * kSlabBytes + 128;   // column terms
  static constexpr int kBlocks = kScratch + kTileColumns * 20;  // column sums
  static constexpr int kShared = kBlocks + kRowBlocks * kTileColumns * 4;
};

template <bool kTransposed, int kCount>
__device__ __forceinline__ void load_slab(char* shared, const TensorMap& map, uint64_t* barrier,
                                          int first, int depth, int plane) {
#pragma unroll
  for (int box = 0; box < kCount; ++box) {
    const int other = first + box * kBox;
    load_box(shared + box * kBoxBytes, map, barrier, kTransposed ? other : depth,
             kTransposed ? depth : other, plane);
  }
}

template <int kTileColumns, bool kHalf, bool kTransposedA, bool kTransposedB, class Epilogue>
__global__ void __launch_bounds__(384, 1)
    multiply_hopper(const __grid_constant__ TensorMap a_map,
                    const __grid_constant__ TensorMap b_map, const __grid_constant__ Shape shape,
                    const __grid_constant__ Epilogue epilogue) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(HYBRIDRET_EMULATED)
  using Tile = HopperTile<kTileColumns>;
  char* shared = shared_memory();
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + Tile::kStages * Tile::kSlabBytes);
  uint64_t* empty = full + Tile::kStages;
  const int group = threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], Tile::kWorkers / 32);  // each warp has read its part
    }
    barriers_visible();
  }
  __syncthreads();
  const int tiles = shape.row_tiles * shape.column_tiles, slabs = shape.slabs();
  int stage = 0;
  uint32_t phase = 0;
  const auto advance = [&] {
    if (++stage == Tile::kStages) stage = 0, phase ^= 1;
  };
  if (group == 0) {
    give_registers<40>();
    if (threadIdx.x == 0) {
      prefetch_map(a_map);
      prefetch_map(b_map);
      for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        int row, column;
        shape.tile(index, row, column);
        if (epilogue.skips(row)) continue;
        for (int pair = 0; pair < shape.pairs; ++pair)
          for (int slab = 0; slab < slabs; ++slab, advance()) {
            barrier_wait(&empty[stage], phase ^ 1);
            barrier_expect(&full[stage], Tile::kSlabBytes);
            char* a = shared + stage * Tile::kSlabBytes;
            load_slab<kTransposedA, kTileRows / kBox>(a, a_map, &full[stage], row * kTileRows,
                                                      slab * kBox, shape.a_plane[pair]);
            load_slab<kTransposedB, kTileColumns / kBox>(a + kTileRows * 128, b_map, &full[stage],
                                                         column * kTileColumns, slab * kBox,
                                                         shape.b_plane[pair]);
          }
      }
    }
  } else {
    take_registers<232>();
    const int worker = threadIdx.x - 128, lane = worker % 32;
    Accumulators<1, kTileColumns / 8> sums;
    sums.warp_rows = worker / 32;
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      int row, column;
      shape.tile(index, row, column);
      if (epilogue.skips(row)) continue;
      sums.first_row = row * kTileRows;
      sums.first_column = column * kTileColumns;
      sums.row = sums.first_row + sums.warp_rows * 16 + lane / 4;
      sums.column = sums.first_column + lane % 4 * 2;
      sums.strip = column;
      const auto rows = epilogue.template begin<Tile>(shared, worker, sums);
      const int steps = shape.pairs * slabs;
      int before = stage;
      for (int step = 0; step < steps; ++step, advance()) {
        barrier_wait(&full[stage], phase);
        const uint64_t a =
            describe<kTransposedA>(shared + stage * Tile::kSlabBytes + (group - 1) * kBoxBytes);
        const uint64_t b =
            describe<kTransposedB>(shared + stage * Tile::kSlabBytes + kTileRows * 128);
        group_begin();
#pragma unroll
        for (int k = 0; k < kBox / 16; ++k)  // 16 of the depth further on, in units of 16 bytes
          group_multiply<kHalf, kTransposedA, kTransposedB>(
              sums.value[0], a + k * (kTransposedA ? 128 : 2), b + k * (kTransposedB ? 128 : 2),
              step == 0 && k == 0);
        group_commit();
        group_wait<1>();  // the slab before this one has been read
        if (step > 0 && lane == 0) barrier_arrive(&empty[before]);
        before = stage;
      }
      group_wait<0>();
      pin(sums.value[0]);
      if (lane == 0) barrier_arrive(&empty[before]);
      epilogue.template end<Tile>(shared, worker, sums, rows);
    }
  }
#else
  __trap();
#endif
}

// ---- sm_80 --------------------------------------------------------------------------------------

struct AmpereTile {
  static constexpr int kColumns = 128;
  static constexpr int kThreads = 256, kWorkers = 256;
  static constexpr int kStages = 3;
  static constexpr int kSlabBytes = (kTileRows + kColumns) * 128;
  static constexpr int kStrip = 32;
  static constexpr int kRowBlocks = 2;
  static constexpr int kScratch = kStages * kSlabBytes;
  static constexpr int kBlocks = 0;  // in the slabs, once they have been multiplied
  static constexpr int kShared = kScratch + kColumns * 20;
};

// Where 8 elements of a slab stand: those of stored row `row` from stored column 8 `chunk` on.
template <bool kTransposed>
__device__ __forceinline__ int slab_offset(int row, int chunk) {
  const int box = kTransposed ? chunk / 8 : row / kBox;
  const int in_row = kTransposed ? chunk % 8 : chunk, in_box = kTransposed ? row : row % kBox;
  return box * kBoxBytes + in_box * 128 + ((in_row ^ (in_box & 7)) << 4);
}

template <bool kTransposed>
__device__ __forceinline__ void copy_slab(char* shared, const Operand& operand, int first,
                                          int depth, int plane) {
  constexpr int kChunksPerRow = kTransposed ? kTileRows / 8 : kBox / 8;
  constexpr int kChunks = kTileRows * kBox / 8;
#pragma unroll
  for (int item = 0; item < kChunks / AmpereTile::kThreads; ++item) {
    const int n = item * AmpereTile::kThreads + threadIdx.x;
    const int row = n / kChunksPerRow, chunk = n % kChunksPerRow;
    const int from_row = (kTransposed ? depth : first) + row;
    const int from_column = (kTransposed ? first : depth) + 8 * chunk;
    const bool there = from_row < operand.rows && from_column < operand.columns;
    const int64_t at = plane * operand.plane + from_row * operand.stride + from_column;
    copy16(shared + slab_offset<kTransposed>(row, chunk), operand.data + (there ? at : 0), there);
  }
}

template <bool kHalf, bool kTransposedA, bool kTransposedB, class Epilogue>
__global__ void __launch_bounds__(256, 1)
    multiply_ampere(const __grid_constant__ Operand a_operand,
                    const __grid_constant__ Operand b_operand, const __grid_constant__ Shape shape,
                    const __grid_constant__ Epilogue epilogue) {
  using Tile = AmpereTile;
  char* shared = shared_memory();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  const int tiles = shape.row_tiles * shape.column_tiles, slabs = shape.slabs();
  const int steps = shape.pairs * slabs;
  Accumulators<4, 4> sums;
  sums.warp_rows = warp / 4;
  for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
    int row, column;
    shape.tile(index, row, column);
    if (epilogue.skips(row)) continue;
    sums.first_row = row * kTileRows;
    sums.first_column = column * Tile::kColumns;
    sums.row = sums.first_row + warp_row + lane / 4;
    sums.column = sums.first_column + warp_column + lane % 4 * 2;
    sums.strip = column * 4 + warp % 4;
    const auto rows = epilogue.template begin<Tile>(shared, threadIdx.x, sums);
    for (auto& fragments : sums.value)
      for (auto& fragment : fragments)
        for (float& value : fragment) value = 0;
    const auto fetch = [&](int step) {
      if (step < steps) {
        char* a = shared + step % Tile::kStages * Tile::kSlabBytes;
        const int pair = step / slabs, depth = step % slabs * kBox;
        copy_slab<kTransposedA>(a, a_operand, sums.first_row, depth, shape.a_plane[pair]);
        copy_slab<kTransposedB>(a + kTileRows * 128, b_operand, sums.first_column, depth,
                                shape.b_plane[pair]);
      }
      commit_copies();
    };
    __syncthreads();  // the last tile's slabs have been read
    for (int step = 0; step < Tile::kStages - 1; ++step) fetch(step);
    for (int step = 0; step < steps; ++step) {
      wait_copies<Tile::kStages - 2>();
      __syncthreads();
      fetch(step + Tile::kStages - 1);
      const char* a = shared + step % Tile::kStages * Tile::kSlabBytes;
      const char* b = a + kTileRows * 128;
#pragma unroll
      for (int k = 0; k < kBox; k += 16) {
        uint32_t a_words[4][4], b_words[2][4];
        const int low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16 * 8;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int first = warp_row + i * 16;
          load_matrices<kTransposedA>(
              a_words[i],
              a + (kTransposedA ? slab_offset<true>(k + high + low, (first + middle) / 8)
                                : slab_offset<false>(first + middle + low, (k + high) / 8)));
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int first = warp_column + i * 16;
          load_matrices<kTransposedB>(
              b_words[i],
              b + (kTransposedB ? slab_offset<true>(k + middle + low, (first + high) / 8)
                                : slab_offset<false>(first + high + low, (k + middle) / 8)));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int f = 0; f < 4; ++f)
            multiply_add<kHalf>(sums.value[i][f], a_words[i], &b_words[f / 2][f % 2 * 2]);
      }
    }
    wait_copies<0>();
    epilogue.template end<Tile>(shared, threadIdx.x, sums, rows);
  }
}

}  // namespace hybridret::cuda
