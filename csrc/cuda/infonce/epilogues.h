// What becomes of a product's tiles in the loss, while they are in registers: sums and weights made
// of logits, and gradients.
#pragma once

#include "cuda/infonce/logits.h"

namespace hybridret::cuda::infonce {

// A matrix of weights in bfloat16: one plane, or three whose sum is the float32 weight.
struct StoredWeights {
  uint16_t* data;
  int64_t stride, plane;  // stride a multiple of 8
  int planes;

  template <class Sums>
  __device__ void put(Sums& sums, int rows) const {
    if (planes == 1) {
      put_plane<false>(sums, rows, 0);
      return;
    }
    for (int p = 0; p < planes; ++p) put_plane<true>(sums, rows, p);
  }

 private:
  // kLeaves: what is left of the values for the next plane takes their place.
  template <bool kLeaves, class Sums>
  __device__ void put_plane(Sums& sums, int rows, int p) const {
    const int lane = threadIdx.x % 32, quad = lane % 4;
    const int first_column = sums.column + 6 * quad;  // of this thread's eight
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const int left = row < rows ? static_cast<int>(stride) - first_column : 0;
        uint16_t* target = data + p * plane + row * stride + first_column;
#pragma unroll
        for (int f = 0; f < Sums::kColumns; f += 4) {
          uint32_t words[4];
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            float& first = sums.value[r][f + w][2 * half];
            float& second = sums.value[r][f + w][2 * half + 1];
            words[w] = pack_bfloat16(first, second);
            if constexpr (kLeaves) {
              first -= __uint_as_float(words[w] << 16);
              second -= __uint_as_float(words[w] & 0xffff0000u);
            }
          }
          quad_transpose(words, lane);
          if (f * 8 < left)
            *reinterpret_cast<uint4*>(target + f * 8) =
                make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
  }
};

// 2^(x - shift): row sums, column sums where asked for, and the values themselves.
template <Level kLevel, bool kStore, bool kColumnSums>
struct Exponentials : Logits<kLevel> {
  const float* shift;  // [rows]; -inf counts as 0
  float* row_sums;     // [rows, strips]
  int strips;
  float* column_sums;  // [row tiles, columns]
  StoredWeights stored;

  template <class Tile, class Sums>
  __device__ auto begin(char* shared, int worker, const Sums& sums) const {
    auto rows = Logits<kLevel>::template begin<Tile>(shared, worker, sums);
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const float own = row < this->terms.rows ? shift[row] : 0.0f;
        rows.bias[r][half] -= own == -kInfinity ? 0.0f : own;
      }
    return rows;
  }
  template <class Tile, class Sums, class Rows>
  __device__ void end(char* shared, int worker, Sums& sums, const Rows& rows) const {
    this->template mask<Tile>(shared, sums, rows);
    float totals[Sums::kRows][2] = {};
    this->template for_logits<Tile>(
        shared, sums, rows, [&](int r, int half, int, int, float logit, float scale, float& value) {
          const float exponential = exponential2(logit);
          totals[r][half] += exponential;
          value = kStore && kLevel != kPlain ? exponential * scale : exponential;
        });
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const float total = quad_sum(totals[r][half]);
        if (row < this->terms.rows && threadIdx.x % 4 == 0)
          row_sums[static_cast<int64_t>(row) * strips + sums.strip] = total;
      }
    // Before put(), which may take the values apart.
    if constexpr (kColumnSums) add_columns<Tile>(shared, worker, sums);
    if constexpr (kStore) stored.put(sums, this->terms.rows);
  }

 private:
  template <class Tile, class Sums>
  __device__ void add_columns(char* shared, int worker, const Sums& sums) const {
    float* blocks = reinterpret_cast<float*>(shared + Tile::kBlocks);
    const auto& own = ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch);
    const int first = sums.column - sums.first_column;
#pragma unroll
    for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float sum = 0;
#pragma unroll
        for (int r = 0; r < Sums::kRows; ++r) sum += sums.value[r][f][e] + sums.value[r][f][e + 2];
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
        if (threadIdx.x % 32 < 4)  // what is stored has the column's scale in it
          blocks[sums.warp_rows * Tile::kColumns + first + f * 8 + e] =
              kStore ? sum / own.scale[first + f * 8 + e] : sum;
      }
    named_barrier(1, Tile::kWorkers);
    for (int c = worker; c < Tile::kColumns; c += Tile::kWorkers) {
      const int j = sums.first_column + c;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < Tile::kRowBlocks; ++block)
        sum += blocks[block * Tile::kColumns + c];
      if (j < this->terms.columns)
        column_sums[static_cast<int64_t>(sums.first_row / kTileRows) * this->terms.columns + j] =
            sum;
    }
    // The next tile's begin() waits before these are written again.
  }
};

// Each row's largest logit.
struct Maxima : Logits<kMasked> {
  float* largest;  // [rows], -inf before

  template <class Tile, class Sums, class Rows>
  __device__ void end(char* shared, int, Sums& sums, const Rows& rows) const {
    mask<Tile>(shared, sums, rows);
    float most[Sums::kRows][2];
    for (auto& row : most) row[0] = row[1] = -kInfinity;
    for_logits<Tile>(shared, sums, rows,
                     [&](int r, int half, int, int, float logit, float, float&) {
                       // fmaxf passes NaN over
                       most[r][half] = fmaxf(most[r][half], logit);
                     });
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        float own = most[r][half];
        own = fmaxf(own, shuffle_xor(own, 1));
        own = fmaxf(own, shuffle_xor(own, 2));
        if (row < terms.rows && threadIdx.x % 4 == 0 && own > -kInfinity)
          atomic_maximum(&largest[row], own);
      }
  }
};

// How many of a row's logits are above its positive's.
struct CountAbove : Logits<kMasked> {
  const float* positive;  // [rows]
  int* count;             // [rows, strips]
  int strips;

  template <class Tile, class Sums, class Rows>
  __device__ void end(char* shared, int, Sums& sums, const Rows& rows) const {
    mask<Tile>(shared, sums, rows);
    float least[Sums::kRows][2];
    int above[Sums::kRows][2] = {};
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        least[r][half] = row < terms.rows ? positive[row] : 0.0f;
      }
    for_logits<Tile>(shared, sums, rows,
                     [&](int r, int half, int, int, float logit, float, float&) {
                       above[r][half] += logit > least[r][half];
                     });
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        int own = above[r][half];
        own += shuffle_xor(own, 1);
        own += shuffle_xor(own, 2);
        if (row < terms.rows && threadIdx.x % 4 == 0)
          count[static_cast<int64_t>(row) * strips + sums.strip] = own;
      }
  }
};

// The weights of finished sums: row_weight_i 2^(x - row_lse_i) + column_weight_j 2^(x -
// column_lse_j).
struct Weights : Logits<kMasked> {
  const float *row_lse, *row_weight;        // [rows]
  const float *column_lse, *column_weight;  // [columns] or null
  StoredWeights stored;

  template <class Tile, class Sums, class Rows>
  __device__ void end(char* shared, int worker, Sums& sums, const Rows& rows) const {
    mask<Tile>(shared, sums, rows);
    float* lses = reinterpret_cast<float*>(shared + Tile::kBlocks);
    float* weights = lses + Tile::kColumns;
    for (int c = worker; c < Tile::kColumns; c += Tile::kWorkers) {
      const int j = sums.first_column + c;
      const bool there = column_lse && j < terms.columns;
      lses[c] = there ? column_lse[j] : 0.0f;
      weights[c] = there ? column_weight[j] : 0.0f;
    }
    named_barrier(1, Tile::kWorkers);
    float lse[Sums::kRows][2], weight[Sums::kRows][2];
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        lse[r][half] = row < terms.rows ? row_lse[row] : 0.0f;
        weight[r][half] = row < terms.rows ? row_weight[row] : 0.0f;
      }
    const bool columns = column_lse;
    const int first = sums.column - sums.first_column;
    for_logits<Tile>(shared, sums, rows,
                     [&](int r, int half, int f, int e, float logit, float scale, float& value) {
                       float total = weight[r][half] * exponential2(logit - lse[r][half]);
                       if (columns) {
                         const int c = first + f * 8 + e;
                         total += weights[c] * exponential2(logit - lses[c]);
                       }
                       value = total * scale;
                     });
    stored.put(sums, terms.rows);
  }
};

// The product itself, in float32, added to what is there.
struct Product {
  float* data;
  int rows, columns;
  int64_t stride;
  bool add;

  struct None {};
  __device__ bool skips(int) const { return false; }
  template <class Tile, class Part>
  __device__ None begin(char*, int, const Part&) const {
    return {};
  }
  template <class Tile, class Part>
  __device__ void end(char*, int, Part& part, None) const {
    if (add)
      put<true>(part);
    else
      put<false>(part);
  }

 private:
  template <bool kAdd, class Part>
  __device__ void put(const Part& part) const {
#pragma unroll
    for (int r = 0; r < Part::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = part.row + r * 16 + half * 8;
        if (row >= rows) continue;
        float* target = data + row * stride + part.column;
        const int left = columns - part.column;
#pragma unroll
        for (int f = 0; f < Part::kColumns; ++f) {
          if (f * 8 >= left) continue;  // pairs, of a multiple of 8
          const float2 value =
              make_float2(part.value[r][f][2 * half], part.value[r][f][2 * half + 1]);
          if constexpr (kAdd)
            add_pair(target + f * 8, value);
          else
            *reinterpret_cast<float2*>(target + f * 8) = value;
        }
      }
  }
};

}  // namespace hybridret::cuda::infonce
