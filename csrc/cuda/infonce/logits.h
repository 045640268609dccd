// Logits, made of a tile of inner products while it is in registers: the part that all epilogues of
// the loss have in common. begin() is called before a tile's product, by the threads that will hold
// it, mask() and for_logits() after it.
//
// Rows and columns are those of the product: queries and documents, or documents and queries where
// the problem is swapped. Logits are in powers of two: x = log2(e) s. A logit that is no negative
// of its row becomes -inf.
#pragma once

#include "cuda/product.h"
#include "infonce/numerics.h"

namespace hybridret::cuda::infonce {

using hybridret::infonce::kInfinity;

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// x_ij = row_scale_i column_scale_j <a_i, b_j> + row_bias_i + column_bias_j, and which of them are
// negatives: not the positive, nor anything of the same group.
struct Terms {
  int rows, columns;
  int first_row;                // what column_target counts from
  const float* row_scale;       // [rows]
  const float* column_scale;    // [columns] or null
  const float* row_bias;        // [rows] or null
  const float* column_bias;     // [columns] or null
  const float* positive_bias;   // [columns] or null: column_bias as a positive has it
  const int64_t* row_group;     // [rows] or null
  const int64_t* column_group;  // [columns] or null
  const int* row_target;        // [rows] or null: the column that is the row's positive
  const int* column_target;     // [columns] or null: the row that is the column's positive
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
  int target[kColumns];

  __device__ static ColumnTerms& of(char* shared) {
    return *reinterpret_cast<ColumnTerms*>(shared);
  }
};

// Terms of a thread's rows, in registers.
template <int kRows>
struct RowTerms {
  float scale[kRows][2], bias[kRows][2];
  int64_t group[kRows][2];
  int target[kRows][2];
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
          own.target[c] =
              there && terms.column_target ? terms.column_target[j] - terms.first_row : -1;
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
        rows.target[r][half] = there && terms.row_target ? terms.row_target[row] : -1;
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
        const int row = sums.row + r * 16 + half * 8, target = rows.target[r][half];
        const int in_tile = target - sums.first_column;
        // Rare, and the same for a row's threads: this tile has the row's positive.
        if (in_tile >= 0 && in_tile < Tile::kColumns) {
          float found = -kInfinity;
          bool mine = false;
#pragma unroll
          for (int f = 0; f < Sums::kColumns; ++f)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& value = sums.value[r][f][2 * half + e];
              const bool is = sums.column + f * 8 + e == target;
              found = is ? value : found;
              value = is ? -kInfinity : value;
              mine |= is;
            }
          if (mine && terms.positive) {
            const float scale = rows.scale[r][half];
            terms.positive[row] =
                found * (terms.column_scale ? scale * terms.column_scale[target] : scale) +
                (terms.positive_bias ? terms.positive_bias[target] : 0.0f);
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
        int target = -1;
        if constexpr (kLevel != kPlain) scale = own.scale[c], bias = own.bias[c];
        if constexpr (kLevel == kMasked) group = own.group[c], target = own.target[c];
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
                  (group == row_group && group != -1) || target == sums.row + r * 16 + half * 8;
              logit = masked ? -kInfinity : logit;
            }
            each(r, half, f, e, logit, scale, value);
          }
      }
  }
};

}  // namespace hybridret::cuda::infonce
