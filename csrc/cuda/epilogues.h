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
  int first_row;                // what column_mate counts from
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

// Which terms there are: a scale by row alone; scales and biases; masks between rows and columns
// too.
enum Level { kPlain, kScaled, kMasked };

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

// Terms of a thread's rows, in registers.
template <int kRows>
struct RowTerms {
  float scale[kRows][2], bias[kRows][2];
  int64_t group[kRows][2];
  int mate[kRows][2];
};

// What every epilogue on logits begins with.
template <Level kLevel>
struct Logits {
  Terms terms;
  const int* chosen;  // [row tiles] or null: tiles that are computed

  __device__ bool skips(int row_tile) const { return chosen && chosen[row_tile] == 0; }

  // The terms of the columns go to shared memory, those of the rows stay with their threads.
  template <class Tile, class Sums>
  __device__ RowTerms<Sums::kRows> begin([[maybe_unused]] char* shared, [[maybe_unused]] int worker,
                                         const Sums& sums) const {
    if constexpr (kLevel != kPlain) {
      auto& own = ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch);
      named_barrier(1, Tile::kWorkers);  // the last tile's are no longer read
      for (int c = worker; c < Tile::kColumns; c += Tile::kWorkers) {
        const int j = sums.first_column + c;
        const bool there = j < terms.columns;
        own.scale[c] = there && terms.column_scale ? terms.column_scale[j] : 1.0f;
        own.bias[c] = !there ? -kInfinity : terms.column_bias ? terms.column_bias[j] : 0.0f;
        if constexpr (kLevel == kMasked) {
          own.group[c] = there && terms.column_group ? terms.column_group[j] : -1;
          own.mate[c] = there && terms.column_mate ? terms.column_mate[j] - terms.first_row : -1;
        }
      }
    }
    RowTerms<Sums::kRows> rows;
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8;
        const bool there = row < terms.rows;
        rows.scale[r][half] = there ? terms.row_scale[row] : 1.0f;  // above zero, see mask()
        rows.bias[r][half] = there && terms.row_bias ? terms.row_bias[row] : 0.0f;
        rows.group[r][half] = there && terms.row_group ? terms.row_group[row] : -1;
        rows.mate[r][half] = there && terms.row_mate ? terms.row_mate[row] : -1;
      }
    return rows;
  }

  // Takes the positives out of the inner products, and what lies outside of the matrix: -inf stays
  // -inf under any scale above zero.
  template <class Tile, class Sums>
  __device__ void mask([[maybe_unused]] char* shared, Sums& sums,
                       const RowTerms<Sums::kRows>& rows) const {
    if constexpr (kLevel != kPlain) named_barrier(1, Tile::kWorkers);
    const bool ragged = sums.first_column + Tile::kColumns > terms.columns;
#pragma unroll
    for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = sums.row + r * 16 + half * 8, mate = rows.mate[r][half];
        const int in_tile = mate - sums.first_column;
        // Rare, and the same for a row's threads: this tile has the row's positive.
        if (in_tile >= 0 && in_tile < Tile::kColumns) {
          float found = -kInfinity;
          bool mine = false;
#pragma unroll
          for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& value = sums.value[r][f][2 * half + e];
              const bool is = sums.column + f * 8 + e == mate;
              found = is ? value : found;
              value = is ? -kInfinity : value;
              mine |= is;
            }
          if (mine && terms.positive) {
            const float scale = rows.scale[r][half];
            terms.positive[row] =
                found * (terms.column_scale ? scale * terms.column_scale[mate] : scale) +
                (terms.positive_bias ? terms.positive_bias[mate] : 0.0f);
          }
        }
        if (ragged || row >= terms.rows) {
#pragma unroll
          for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (row >= terms.rows || sums.column + f * 8 + e >= terms.columns)
                sums.value[r][f][2 * half + e] = -kInfinity;
        }
      }
  }

  // each(r, half, logit, column's scale, inner product) for all of a thread's elements; the inner
  // product may be written.
  template <class Tile, class Sums, class Each>
  __device__ void for_logits([[maybe_unused]] char* shared, Sums& sums,
                             const RowTerms<Sums::kRows>& rows, const Each& each) const {
    [[maybe_unused]] const auto& own = ColumnTerms<Tile::kColumns>::of(shared + Tile::kScratch);
    const int first = sums.column - sums.first_column;
#pragma unroll
    for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        [[maybe_unused]] const int c = first + f * 8 + e;
        float scale = 1, bias = 0;
        int64_t group = -1;
        int mate = -1;
        if constexpr (kLevel != kPlain) scale = own.scale[c], bias = own.bias[c];
        if constexpr (kLevel == kMasked) group = own.group[c], mate = own.mate[c];
#pragma unroll
        for (int r = 0; r < Sums::kRows; ++r)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& value = sums.value[r][f][2 * half + e];
            float logit;
            if constexpr (kLevel == kPlain)
              logit = value * rows.scale[r][half] + rows.bias[r][half];
            else
              logit = value * (rows.scale[r][half] * scale) + (bias + rows.bias[r][half]);
            if constexpr (kLevel == kMasked) {
              const int64_t row_group = rows.group[r][half];
              const bool masked =
                  (group == row_group && group != -1) || mate == sums.row + r * 16 + half * 8;
              logit = masked ? -kInfinity : logit;
            }
            each(r, half, f, e, logit, scale, value);
          }
      }
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
        const int room = row < rows ? static_cast<int>(stride) - first_column : 0;
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
          if (f * 8 < room)
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
  Stored stored;

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
struct Above : Logits<kMasked> {
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
  Stored stored;

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
struct Sums {
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
        const int room = columns - part.column;
#pragma unroll
        for (int f = 0; f < Part::kColumns; ++f) {
          if (f * 8 >= room) continue;  // pairs, of a multiple of 8
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

}  // namespace hybridret::cuda
