// What becomes of a tile while it is in registers. begin() is called before a tile's product, by
// the threads that will hold it, and end() after it.
//
// Logits are in powers of two: x = log2(e) s. A logit that is no negative of its row becomes -inf.
#pragma once

#include "product.h"

namespace hybridret::cuda {

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// x_ij = row_scale_i column_scale_j <a_i, b_j> + column_bias_j, and which of them are negatives.
// The swapped problem, documents as rows, has the masks the other way round.
struct Terms {
  int rows, columns;
  const float* row_scale;       // [rows]
  const float* column_scale;    // [columns] or null
  const float* row_bias;        // [rows] or null
  const float* column_bias;     // [columns] or null
  const float* positive_bias;   // [columns] or null: column_bias without what masks it
  const int64_t* row_group;     // [rows] or null
  const int64_t* column_group;  // [columns] or null
  const int* row_mate;          // [rows] or null: the column that is the row's positive
  const int* column_mate;       // [columns] or null: the row whose positive is this column's
  float* positive;              // [rows] or null: its logit, written
};

// Terms of a tile's columns, in shared memory.
template <int kColumns>
struct ColumnTerms {
  int64_t group[kColumns];
  float scale[kColumns], bias[kColumns];
  int mate[kColumns];

  __device__ static ColumnTerms& of(char* shared) {
    return *reinterpret_cast<ColumnTerms*>(shared);
  }
};

template <bool kTerms>
struct Logits {
  Terms terms;
  const int* chosen;  // [row tiles] or null: tiles that are computed

  __device__ bool skips(int row_tile) const { return chosen && chosen[row_tile] == 0; }

  template <class Tile>
  __device__ void begin(char* shared, int worker, int first_column) const {
    if constexpr (kTerms) {
      auto& own = ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch);
      named_barrier(1, Tile::kWorkers);  // the last tile's are no longer read
      for (int c = worker; c < Tile::kColumns; c += Tile::kWorkers) {
        const int j = first_column + c;
        const bool there = j < terms.columns;
        own.scale[c] = there && terms.column_scale ? terms.column_scale[j] : 1.0f;
        own.bias[c] = !there ? -kInfinity : terms.column_bias ? terms.column_bias[j] : 0.0f;
        own.group[c] = there && terms.column_group ? terms.column_group[j] : -1;
        own.mate[c] = there && terms.column_mate ? terms.column_mate[j] : -1;
      }
    }
  }

  // From inner products to logits.
  template <class Tile, class Sums>
  __device__ void settle(char* shared, Sums& sums) const {
    if constexpr (kTerms) named_barrier(1, Tile::kWorkers);
    const auto& own = ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch);
    const int first = sums.column - sums.first_column;
    const bool ragged = !kTerms && sums.first_column + Tile::kColumns > terms.columns;
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const bool there = row < terms.rows;
        const float scale = there ? terms.row_scale[row] : 0.0f;
        const float bias = there && terms.row_bias ? terms.row_bias[row] : 0.0f;
        const int64_t group = there && terms.row_group ? terms.row_group[row] : -1;
        const int mate = there && terms.row_mate ? terms.row_mate[row] : -1;
        const int in_tile = mate - sums.first_column;
        // Rare, and the same for a row's threads: this tile has the row's positive.
        if (in_tile >= 0 && in_tile < Tile::kColumns) {
#pragma unroll
          for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& value = sums.value[r][f][2 * half + e];
              if (first + f * 8 + e != in_tile) continue;
              const float factor = terms.column_scale ? scale * terms.column_scale[mate] : scale;
              const float added = terms.positive_bias ? terms.positive_bias[mate] : 0.0f;
              if (terms.positive) terms.positive[row] = value * factor + added;
              value = -kInfinity;
            }
        }
        if (ragged || !there) {
#pragma unroll
          for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (!there || sums.column + f * 8 + e >= terms.columns)
                sums.value[r][f][2 * half + e] = -kInfinity;
        }
        if (!there) continue;
#pragma unroll
        for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& value = sums.value[r][f][2 * half + e];
            if constexpr (kTerms) {
              const int c = first + f * 8 + e;
              // What is -inf already stays so, whatever the scale.
              if (value != -kInfinity)
                value = value * (scale * own.scale[c]) + (own.bias[c] + bias);
              if ((group != -1 && own.group[c] == group) || own.mate[c] == row) value = -kInfinity;
            } else {
              value *= scale;
            }
          }
      }
  }

  template <class Tile>
  __device__ static float column_scale(char* shared, int column) {
    if constexpr (kTerms)
      return ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch).scale[column];
    else
      return 1.0f;
  }
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

// A matrix of weights in bfloat16: one plane, or three whose sum is the float32 weight.
struct Stored {
  uint16_t* data;
  int64_t stride, plane;  // stride a multiple of 8
  int planes;

  template <class Sums>
  __device__ void put(Sums& sums, int rows) const {
    const int lane = threadIdx.x % 32, quad = lane % 4;
    for (int p = 0; p < planes; ++p)
#pragma unroll
      for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int f = 0; f < Sums::kColumns; f += 4) {
            uint32_t words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w) {
              float& first = sums.value[r][f + w][2 * half];
              float& second = sums.value[r][f + w][2 * half + 1];
              words[w] = pack_bfloat16(first, second);
              if (planes > 1) {  // what is left for the next plane
                first -= __uint_as_float(words[w] << 16);
                second -= __uint_as_float(words[w] & 0xffff0000u);
              }
            }
            quad_transpose(words, lane);
            const int row = sums.row + r * 16 + half * 8;
            const int column = sums.column - 2 * quad + (f + quad) * 8;
            if (row < rows && column < stride)
              *reinterpret_cast<uint4*>(data + p * plane + row * stride + column) =
                  make_uint4(words[0], words[1], words[2], words[3]);
          }
  }
};

// 2^(x - shift): row sums, column sums where asked for, and the values themselves.
template <bool kTerms, bool kStore, bool kColumnSums>
struct Exponentials {
  Logits<kTerms> logits;
  const float* shift;  // [rows]; -inf counts as 0
  float* row_sums;     // [rows, strips]
  int strips;
  float* column_sums;  // [row tiles, columns]
  Stored stored;

  __device__ bool skips(int row_tile) const { return logits.skips(row_tile); }
  template <class Tile>
  __device__ void begin(char* shared, int worker, int first_column) const {
    logits.template begin<Tile>(shared, worker, first_column);
  }
  template <class Tile, class Sums>
  __device__ void end(char* shared, int worker, Sums& sums) const {
    logits.template settle<Tile>(shared, sums);
    const int first = sums.column - sums.first_column;
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const bool there = row < logits.terms.rows;
        const float given = there ? shift[row] : 0.0f, own = given == -kInfinity ? 0.0f : given;
        float sum = 0;
#pragma unroll
        for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& value = sums.value[r][f][2 * half + e];
            value = exponential2(value - own);
            sum += value;
            if (kStore && kTerms)
              value *= Logits<kTerms>::template column_scale<Tile>(shared, first + f * 8 + e);
          }
        sum = quad_sum(sum);
        if (there && threadIdx.x % 4 == 0)
          row_sums[static_cast<int64_t>(row) * strips + sums.strip] = sum;
      }
    if constexpr (kStore) stored.put(sums, logits.terms.rows);
    if constexpr (kColumnSums) add_columns<Tile>(shared, worker, sums);
  }

 private:
  template <class Tile, class Sums>
  __device__ void add_columns(char* shared, int worker, const Sums& sums) const {
    float* blocks = reinterpret_cast<float*>(shared + Tile::kBlocks);
#pragma unroll
    for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float sum = 0;
#pragma unroll
        for (int r = 0; r < Sums::kRows; ++r) sum += sums.value[r][f][e] + sums.value[r][f][e + 2];
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
        if (threadIdx.x % 32 < 4)
          blocks[sums.warp_rows * Tile::kColumns + sums.column - sums.first_column + f * 8 + e] =
              sum;
      }
    named_barrier(1, Tile::kWorkers);
    for (int c = worker; c < Tile::kColumns; c += Tile::kWorkers) {
      const int j = sums.first_column + c;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < Tile::kRowBlocks; ++block)
        sum += blocks[block * Tile::kColumns + c];
      if (j < logits.terms.columns)
        column_sums[static_cast<int64_t>(sums.first_row / kTileRows) * logits.terms.columns + j] =
            sum;
    }
    // The next tile's begin() waits before these are written again.
  }
};

// Each row's largest logit.
struct Maxima {
  Logits<true> logits;
  float* largest;  // [rows], -inf before

  __device__ bool skips(int row_tile) const { return logits.skips(row_tile); }
  template <class Tile>
  __device__ void begin(char* shared, int worker, int first_column) const {
    logits.template begin<Tile>(shared, worker, first_column);
  }
  template <class Tile, class Sums>
  __device__ void end(char* shared, int, Sums& sums) const {
    logits.template settle<Tile>(shared, sums);
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        float most = -kInfinity;  // fmaxf passes NaN over
#pragma unroll
        for (int f = 0; f < Sums::kColumns; ++f)
          most = fmaxf(most, fmaxf(sums.value[r][f][2 * half], sums.value[r][f][2 * half + 1]));
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        if (row < logits.terms.rows && threadIdx.x % 4 == 0 && most > -kInfinity)
          atomic_maximum(&largest[row], most);
      }
  }
};

// How many of a row's logits are above its positive's.
struct Above {
  Logits<true> logits;
  const float* positive;  // [rows]
  int* count;             // [rows, strips]
  int strips;

  __device__ bool skips(int row_tile) const { return logits.skips(row_tile); }
  template <class Tile>
  __device__ void begin(char* shared, int worker, int first_column) const {
    logits.template begin<Tile>(shared, worker, first_column);
  }
  template <class Tile, class Sums>
  __device__ void end(char* shared, int, Sums& sums) const {
    logits.template settle<Tile>(shared, sums);
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const float least = row < logits.terms.rows ? positive[row] : 0.0f;
        int above = 0;
#pragma unroll
        for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
          for (int e = 0; e < 2; ++e) above += sums.value[r][f][2 * half + e] > least;
        above += shuffle_xor(above, 1);
        above += shuffle_xor(above, 2);
        if (row < logits.terms.rows && threadIdx.x % 4 == 0)
          count[static_cast<int64_t>(row) * strips + sums.strip] = above;
      }
  }
};

// The weights of finished sums: row_weight_i 2^(x - row_lse_i) + column_weight_j 2^(x -
// column_lse_j).
struct Weights {
  Logits<true> logits;
  const float *row_lse, *row_weight;        // [rows]
  const float *column_lse, *column_weight;  // [columns] or null
  Stored stored;

  __device__ bool skips(int row_tile) const { return logits.skips(row_tile); }
  template <class Tile>
  __device__ void begin(char* shared, int worker, int first_column) const {
    logits.template begin<Tile>(shared, worker, first_column);
  }
  template <class Tile, class Sums>
  __device__ void end(char* shared, int, Sums& sums) const {
    logits.template settle<Tile>(shared, sums);
    const int first = sums.column - sums.first_column;
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const bool there = row < logits.terms.rows;
        const float lse = there ? row_lse[row] : 0.0f, weight = there ? row_weight[row] : 0.0f;
#pragma unroll
        for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& value = sums.value[r][f][2 * half + e];
            const int j = sums.column + f * 8 + e;
            float total = weight * exponential2(value - lse);
            if (column_lse && j < logits.terms.columns)
              total += column_weight[j] * exponential2(value - column_lse[j]);
            value = total * Logits<true>::template column_scale<Tile>(shared, first + f * 8 + e);
          }
      }
    stored.put(sums, logits.terms.rows);
  }
};

// The product itself, in float32, added to what is there.
struct Sums {
  float* data;
  int rows, columns;
  int64_t stride;
  bool add;

  __device__ bool skips(int) const { return false; }
  template <class Tile>
  __device__ void begin(char*, int, int) const {}
  template <class Tile, class Part>
  __device__ void end(char*, int, Part& part) const {
#pragma unroll
    for (int r = 0; r < Part::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = part.row + r * 16 + half * 8;
        if (row >= rows) continue;
#pragma unroll
        for (int f = 0; f < Part::kColumns; ++f) {
          const int column = part.column + f * 8;
          if (column >= columns) continue;  // pairs, of a multiple of 8
          auto* target = reinterpret_cast<float2*>(data + row * stride + column);
          float2 value = make_float2(part.value[r][f][2 * half], part.value[r][f][2 * half + 1]);
          if (add) {
            const float2 before = *target;
            value.x += before.x;
            value.y += before.y;
          }
          *target = value;
        }
      }
  }
};

}  // namespace hybridret::cuda
