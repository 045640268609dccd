// Everything that is done by row: lengths, sums of exponentials, the last step of the gradients. A
// warp has a row and each of its threads eight elements at a time; sums are in a fixed order.
#pragma once

#include "epilogues.h"

namespace hybridret::cuda {

constexpr int kRowThreads = 256, kRowsPerBlock = kRowThreads / 32;
constexpr float kLeastLength = 1e-12f;  // as torch.nn.functional.normalize
// Logits up to this far below the bound on them keep their digits: e^-87 is the smallest float.
constexpr float kHeadroom = 40;
// Beneath this, what has been flushed to zero (at most M e^-87) might matter.
constexpr double kWeakSum = 1e-20;

enum Format : int { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

// Vectors as the caller has them.
struct Vectors {
  const void* data;
  int64_t stride;  // elements
  int rows, depth, format;

  __device__ float element(int64_t at) const {
    if (format == kFloat32) return static_cast<const float*>(data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(data)[at];
    return format == kBfloat16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                               : float16_value(bits);
  }

  __device__ uint16_t bits(int64_t at) const { return static_cast<const uint16_t*>(data)[at]; }

  // Elements k ... k + 7 of a row, zeros past its end.
  __device__ void load(float (&values)[8], int row, int k) const {
    const int64_t at = row * stride + k;
    const bool whole =
        k + 8 <= depth && ((reinterpret_cast<uintptr_t>(data) | stride * 2) & 15) == 0;
    if (whole && format != kFloat32) {
      const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + at);
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[2 * i] = format == kBfloat16 ? __uint_as_float(pairs[i] << 16)
                                            : float16_value(static_cast<uint16_t>(pairs[i]));
        values[2 * i + 1] = format == kBfloat16
                                ? __uint_as_float(pairs[i] & 0xffff0000u)
                                : float16_value(static_cast<uint16_t>(pairs[i] >> 16));
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = k + i < depth ? element(at + i) : 0.0f;
  }
};

// Where a row goes as bfloat16: planes whose sum it is, rounded to the last one.
struct Planes {
  uint16_t* data;  // or null
  int64_t stride, plane;
  int count;
  bool half;  // one plane of the float16 that are given, as they are

  __device__ void put(float (&values)[8], int row, int k) const {
    for (int p = 0; p < count; ++p) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = pack_bfloat16(values[2 * i], values[2 * i + 1]);
        values[2 * i] -= __uint_as_float(words[i] << 16);
        values[2 * i + 1] -= __uint_as_float(words[i] & 0xffff0000u);
      }
      *reinterpret_cast<uint4*>(data + p * plane + row * stride + k) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
};

__device__ __forceinline__ int row_of_warp() {
  return blockIdx.x * kRowsPerBlock + threadIdx.x / 32;
}
__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % 32; }

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

__device__ __forceinline__ double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

__device__ __forceinline__ double softplus(double x) {
  return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

// What both sides are measured by.
struct Measures {
  float longest_query, longest_document, largest_bias;
  int broken;  // a promise of unit length
};

// Nothing is measured, no tile is chosen.
__global__ void start(Measures* measures, bool biased, int* chosen, int row_tiles,
                      int* chosen_columns, int column_tiles) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) *measures = {0.0f, 0.0f, biased ? -kInfinity : 0.0f, 0};
  if (i < row_tiles) chosen[i] = 0;
  if (i < column_tiles) chosen_columns[i] = 0;
}

// One side, to be measured; and copied as bfloat16 planes where its rows cannot be read in place.
struct Side {
  Vectors vectors;
  Planes planes, rounded;  // rounded: float16 as bfloat16
  float *factor, *length;
};

__global__ void __launch_bounds__(kRowThreads)
    measure(const __grid_constant__ Side queries, const __grid_constant__ Side documents,
            int padded_depth, Measures* measures, bool normalize, float tolerance) {
  const int lane = lane_of_warp();
  const bool of_queries = row_of_warp() < queries.vectors.rows;
  const Side& side = of_queries ? queries : documents;
  const int row = row_of_warp() - (of_queries ? 0 : queries.vectors.rows);
  if (row >= side.vectors.rows) return;
  float square = 0;
  for (int k = lane * 8; k < padded_depth; k += 256) {
    float values[8];
    side.vectors.load(values, row, k);
#pragma unroll
    for (int i = 0; i < 8; ++i) square += values[i] * values[i];
    if (side.rounded.data) {
      float copy[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) copy[i] = values[i];
      side.rounded.put(copy, row, k);
    }
    if (side.planes.data && side.planes.half) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        side.planes.data[row * side.planes.stride + k + i] =
            k + i < side.vectors.depth ? side.vectors.bits(row * side.vectors.stride + k + i)
                                       : uint16_t{0};
    } else if (side.planes.data) {
      side.planes.put(values, row, k);
    }
  }
  square = warp_sum(square);
  double exact = square;
  if (isinf(square)) {
    exact = 0;
    for (int k = lane; k < side.vectors.depth; k += 32) {
      const double value = side.vectors.element(row * side.vectors.stride + k);
      exact += value * value;
    }
    exact = warp_sum(exact);
  }
  if (lane != 0) return;
  const float found = static_cast<float>(sqrt(exact));
  if (tolerance > 0 && !(fabsf(found - 1) <= tolerance)) measures->broken = 1;
  const float length = normalize ? 1.0f : found;
  side.factor[row] = normalize ? 1 / fmaxf(found, kLeastLength) : 1.0f;
  side.length[row] = length;
  if (!isnan(length))
    atomic_maximum(of_queries ? &measures->longest_query : &measures->longest_document, length);
}

// Biases in powers of two. hard_only: a document that is some row's label is no negative.
__global__ void measure_biases(const float* log_bias, int documents, float* bias,
                               float* positive_bias, Measures* measures) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= documents) return;
  const float given = log_bias ? log_bias[j] : 0.0f;
  bias[j] = positive_bias[j] = given * kLog2e;
  if (!isnan(given)) atomic_maximum(&measures->largest_bias, given);
}

__global__ void mask_labels(const int64_t* labels, int rows, int64_t offset, int documents,
                            float* bias) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows || !labels) {
    if (i < rows && i < documents) bias[i] = -kInfinity;
    return;
  }
  const int64_t label = labels[i] - offset;
  if (label >= 0 && label < documents) bias[label] = -kInfinity;
}

constexpr int kNoMate = -1, kBadMate = -2;

// Scales, shifts and positives' columns of the rows.
__global__ void start_rows(int rows, int documents, const float* scale, const Measures* measures,
                           const int64_t* labels, int64_t offset, bool labels_elsewhere,
                           bool common_shift, const float* factor, const float* length,
                           float* row_scale, float* shift, int* mate, float* positive) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const bool good = !measures->broken && *scale > 0 && *scale <= 1e30f;
  row_scale[i] = good ? *scale * factor[i] * kLog2e : __uint_as_float(0x7fc00000u);
  // Cauchy and Schwarz.
  const float own = common_shift ? measures->longest_query : length[i];
  const double bound =
      static_cast<double>(*scale) * own * measures->longest_document + measures->largest_bias;
  // Keeps e^(s - shift) within float32. Where the bound is not finite all is flushed to zero, and
  // the row computed again with its true maximum.
  float chosen = 0;
  if (!isfinite(bound))
    chosen = kInfinity;
  else if (bound > kHeadroom)
    chosen = static_cast<float>(bound) - kHeadroom;
  else if (bound < -kHeadroom)
    chosen = static_cast<float>(bound) + kHeadroom;
  shift[i] = chosen * kLog2e;
  const int64_t label = labels ? labels[i] - offset : i;
  const bool elsewhere = labels_elsewhere && labels && labels[i] == -1;
  const bool there = label >= 0 && label < documents;
  mate[i] = there ? static_cast<int>(label) : elsewhere ? kNoMate : kBadMate;
  positive[i] = elsewhere ? -kInfinity : __uint_as_float(0x7fc00000u);
}

template <class T>
__device__ __forceinline__ double sum_of_strips(const T* strips, int row, int count) {
  double sum = 0;
  for (int s = lane_of_warp(); s < count; s += 32)
    sum += strips[static_cast<int64_t>(row) * count + s];
  return warp_sum(sum);
}

// Chooses the row tiles that hold a row whose sum is weak.
__global__ void __launch_bounds__(kRowThreads)
    choose_weak(int rows, const float* sums, int strips, int* chosen, float* largest) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const double sum = sum_of_strips(sums, row, strips);
  if (lane_of_warp() != 0) return;
  largest[row] = -kInfinity;
  if (sum < kWeakSum) chosen[row / kTileRows] = 1;  // NaN is not weak
}

// A side of the loss, complete: by row, or by column of the swapped problem.
struct Finished {
  int rows;
  const float* sums;
  int strips;
  const int* chosen;             // by tile, with largest for shift
  const float *shift, *largest;  // in powers of two
  float* lse;                    // [rows]

  __device__ double finish(int row, double& log_sum) const {
    const double sum = sum_of_strips(sums, row, strips);
    float own = chosen[row / kTileRows] ? largest[row] : shift[row];
    if (own == -kInfinity) own = 0;
    log_sum = sum == 0 ? -HUGE_VAL : static_cast<double>(own) * 0.693147180559945309417 + log(sum);
    return sum;
  }
};

struct RowOutput {
  const float* positive2;  // in powers of two
  const int* mate;
  const float* scale;
  float weight;
  float* positive;  // [rows]
  float* loss;      // [rows]
  // Gradients, or null: what the row's sums are multiplied by, and its positive.
  float *factor, *positive_factor;
  // Queries as the documents' product reads them.
  Vectors queries;
  Planes scaled;
  const float* query_factor;
  int padded_depth;

  // By a warp.
  __device__ void scale_query(int row, float factor) const {
    const float by = factor * query_factor[row];
    for (int k = lane_of_warp() * 8; k < padded_depth; k += 256) {
      float values[8];
      queries.load(values, row, k);
#pragma unroll
      for (float& value : values) value *= by;
      scaled.put(values, row, k);
    }
  }
};

__global__ void __launch_bounds__(kRowThreads) finish_rows(Finished own, RowOutput out) {
  const int row = row_of_warp(), lane = lane_of_warp();
  if (row >= own.rows) return;
  double lse;
  const double sum = own.finish(row, lse);
  const float positive = out.mate[row] == kNoMate ? -kInfinity : out.positive2[row] * kLn2;
  const double gap = lse - static_cast<double>(positive);
  const double share = sum == 0 ? 0 : out.weight * sigmoid(gap);
  const double factor = sum == 0 ? 0 : share * *out.scale / sum;
  if (lane == 0) {
    own.lse[row] = static_cast<float>(lse);
    out.positive[row] = positive;
    out.loss[row] = static_cast<float>(softplus(gap));
    if (out.factor) {
      out.factor[row] = static_cast<float>(factor);
      out.positive_factor[row] = static_cast<float>(-share * *out.scale);
    }
  }
  if (out.factor) out.scale_query(row, static_cast<float>(factor));
}

// Column sums of a panel's row tiles, added to those of the panels before; the last one chooses.
__global__ void add_column_sums(const float* parts, int row_tiles, int columns, double* total,
                                bool first, bool last, int* chosen, float* largest) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= columns) return;
  double sum = first ? 0 : total[j];
  for (int tile = 0; tile < row_tiles; ++tile)
    sum += parts[static_cast<int64_t>(tile) * columns + j];
  total[j] = sum;
  if (!last) return;
  largest[j] = -kInfinity;
  if (sum < kWeakSum) chosen[j / kTileRows] = 1;
}

// Log-sum-exp of the columns that were strong; the weak ones come from the swapped problem.
__global__ void finish_strong_columns(const double* total, int columns, const float* shift,
                                      const int* chosen, float* lse) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= columns || chosen[j / kTileRows]) return;
  lse[j] = total[j] == 0 ? -kInfinity
                         : static_cast<float>(shift[0] * 0.693147180559945309417 + log(total[j]));
}

// Of the weak tiles' columns, from the sums of the swapped problem.
__global__ void __launch_bounds__(kRowThreads) finish_weak_columns(Finished own) {
  const int row = row_of_warp();
  if (row >= own.rows || !own.chosen[row / kTileRows]) return;
  double lse;
  own.finish(row, lse);
  if (lane_of_warp() == 0) own.lse[row] = static_cast<float>(lse);
}

__global__ void __launch_bounds__(kRowThreads)
    finish_ranks(int rows, const int* counts, int strips, const float* lse, const float* positive,
                 int* rank) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const double above = sum_of_strips(counts, row, strips);
  if (lane_of_warp() == 0)
    rank[row] = isnan(lse[row] - positive[row]) ? 0 : 1 + static_cast<int>(above);
}

// The symmetric loss, and what its derivatives by the statistics are.
__global__ void symmetric_rows(int rows, const int* mate, const float* lse, const float* positive,
                               const float* column_lse, float weight, float* loss, float* by_lse,
                               float* by_positive, float* by_column) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const double at = positive[i], across = mate[i] >= 0 ? column_lse[mate[i]] : at;
  loss[i] = static_cast<float>((softplus(lse[i] - at) + softplus(across - at)) / 2);
  if (!by_lse) return;
  const double by_row = weight / 2 * sigmoid(lse[i] - at);
  const double by_other = weight / 2 * sigmoid(across - at);
  by_lse[i] = static_cast<float>(by_row);
  by_positive[i] = static_cast<float>(-by_row - by_other);
  if (mate[i] >= 0) by_column[mate[i]] = static_cast<float>(by_other);
}

// Log-sum-exps in powers of two and their weights; one of nothing has no weight.
__global__ void start_weights(int count, const float* lse, const float* by, float* lse2,
                              float* weight) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const bool none = lse[i] == -kInfinity;
  lse2[i] = none ? 0.0f : lse[i] * kLog2e;
  weight[i] = none ? 0.0f : by[i];
}

// What e^(x - shift) is multiplied by to be weight e^(x - lse), one shift for all.
__global__ void start_factors(int count, const float* lse2, const float* weight, const float* shift,
                              float* factor) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) factor[i] = weight[i] * exponential2(shift[0] - lse2[i]);
}

// Whether a row or a column of any tile was computed again, for each row tile.
__global__ void any_chosen(const int* chosen, int row_tiles, const int* chosen_columns,
                           int column_tiles, int* any) {
  int found = 0;
  for (int i = threadIdx.x; i < row_tiles; i += blockDim.x) found |= chosen[i];
  for (int i = threadIdx.x; i < column_tiles; i += blockDim.x) found |= chosen_columns[i];
  found = warp_sum(found);
  for (int i = threadIdx.x; i < row_tiles; i += blockDim.x) any[i] = found;
}

constexpr int kRowsPerWarp = 4;

// Exponentials become weights, in place: times (row factor + column factor).
__global__ void __launch_bounds__(kRowThreads)
    weigh(Stored stored, int rows, int columns, const float* by_row, const float* by_column,
          const int* not_if) {
  const int first = row_of_warp() * kRowsPerWarp;
  if (first >= rows || *not_if) return;
  float own[kRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) own[r] = by_row[min(first + r, rows - 1)];
  for (int k = lane_of_warp() * 8; k < stored.stride; k += 256) {
    float across[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) across[i] = k + i < columns ? by_column[k + i] : 0.0f;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      if (first + r >= rows) continue;
      float values[8] = {};
      uint16_t* at = stored.data + (first + r) * stored.stride + k;
      for (int p = stored.planes - 1; p >= 0; --p) {
        const uint4 words = *reinterpret_cast<const uint4*>(at + p * stored.plane);
        const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[2 * i] += __uint_as_float(pairs[i] << 16);
          values[2 * i + 1] += __uint_as_float(pairs[i] & 0xffff0000u);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] *= own[r] + across[i];
      Planes{stored.data, stored.stride, stored.plane, stored.planes, false}.put(values, first + r,
                                                                                 k);
    }
  }
}

// Factors of the rows where the weights are complete, and the queries as the product reads them.
__global__ void __launch_bounds__(kRowThreads)
    start_gradient_rows(int rows, const float* by_positive, RowOutput out) {
  const int row = row_of_warp(), lane = lane_of_warp();
  if (row >= rows) return;
  if (lane == 0) {
    out.factor[row] = *out.scale;
    out.positive_factor[row] = by_positive[row] * *out.scale;
  }
  out.scale_query(row, *out.scale);
}

// Eight elements of a gradient as it leaves, or the `count` that there are: bfloat16 for bfloat16,
// float32 otherwise.
__device__ __forceinline__ void put_gradient(void* target, int format, int64_t at, int count,
                                             const float (&values)[8]) {
  if (format == kBfloat16) {
    uint16_t* to = static_cast<uint16_t*>(target) + at;
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = pack_bfloat16(values[2 * i], values[2 * i + 1]);
    if (count >= 8 && (reinterpret_cast<uintptr_t>(to) & 15) == 0) {
      *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) to[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
    return;
  }
  float* to = static_cast<float*>(target) + at;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) to[i] = values[i];
}

struct QueryGradients {
  Vectors queries, documents;
  const float* sums;  // [rows, padded depth]
  int padded_depth;
  const float *factor, *positive_factor, *query_factor, *document_factor;
  const int* mate;
  bool normalize;
  void* gradient;      // [rows, depth]
  float* scale_terms;  // [rows]

  __device__ void values(float (&g)[8], float (&q)[8], int row, int k) const {
    const int label = mate[row];
    queries.load(q, row, k);
    float d[8] = {};
    if (label >= 0) documents.load(d, label, k);
    const float positive = label >= 0 ? positive_factor[row] * document_factor[label] : 0.0f;
    const float by = factor[row];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      g[i] = sums[static_cast<int64_t>(row) * padded_depth + k + i] * by + d[i] * positive;
  }
};

__global__ void __launch_bounds__(kRowThreads) finish_queries(QueryGradients own) {
  const int row = row_of_warp(), lane = lane_of_warp();
  if (row >= own.queries.rows) return;
  float g[8], q[8], along = 0;
  for (int k = lane * 8; k < own.padded_depth; k += 256) {
    own.values(g, q, row, k);
#pragma unroll
    for (int i = 0; i < 8; ++i) along += g[i] * q[i];
  }
  const float factor = own.query_factor[row];
  along = warp_sum(along) * factor;
  if (lane == 0) own.scale_terms[row] = along;
  const float kept = factor >= 1 / kLeastLength ? 0.0f : factor;
  for (int k = lane * 8; k < own.queries.depth; k += 256) {
    own.values(g, q, row, k);
    if (own.normalize) {
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] = (g[i] - q[i] * along * factor) * kept;
    }
    put_gradient(own.gradient, own.queries.format,
                 static_cast<int64_t>(row) * own.queries.depth + k, min(8, own.queries.depth - k),
                 g);
  }
}

struct DocumentGradients {
  Vectors queries, documents;
  const float* sums;  // [documents, padded depth]; may be where the gradient goes
  int padded_depth;
  const float *positive_factor, *query_factor, *document_factor;
  // Rows of each label: order[begin[j]] ... order[begin[j + 1] - 1], less row_offset; without them
  // row j.
  const int64_t *order, *begin;
  int64_t row_offset;
  bool normalize;
  void* gradient;  // [documents, depth]

  __device__ void values(float (&g)[8], int j, int k) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      g[i] = queries.rows > 0 ? sums[static_cast<int64_t>(j) * padded_depth + k + i] : 0.0f;
    const int64_t first = begin ? begin[j] : j;
    const int64_t end = begin ? begin[j + 1] : j < queries.rows ? j + 1 : j;
    for (int64_t r = first; r < end; ++r) {
      const int64_t at = order ? order[r] - row_offset : r;
      if (at < 0 || at >= queries.rows) continue;  // a label of another segment: its loss is NaN
      const int row = static_cast<int>(at);
      const float by = positive_factor[row] * query_factor[row] * document_factor[j];
      float q[8];
      queries.load(q, row, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] += q[i] * by;
    }
  }
};

__global__ void __launch_bounds__(kRowThreads) finish_documents(DocumentGradients own) {
  const int row = row_of_warp(), lane = lane_of_warp();
  if (row >= own.documents.rows) return;
  const float factor = own.document_factor[row];
  float g[8], d[8], along = 0;
  if (own.normalize) {
    for (int k = lane * 8; k < own.padded_depth; k += 256) {
      own.values(g, row, k);
      own.documents.load(d, row, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) along += g[i] * d[i];
    }
    along = warp_sum(along) * factor * factor;
  }
  const float kept = factor >= 1 / kLeastLength ? 0.0f : 1.0f;
  for (int k = lane * 8; k < own.documents.depth; k += 256) {
    own.values(g, row, k);
    if (own.normalize) {
      own.documents.load(d, row, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] = (g[i] - d[i] * along) * kept;
    }
    put_gradient(own.gradient, own.documents.format,
                 static_cast<int64_t>(row) * own.documents.depth + k,
                 min(8, own.documents.depth - k), g);
  }
}

// target (+)= factor sum(values) / *divisor, in a fixed order.
struct Total {
  const float* values;
  int count;
  double factor;
  const float* divisor;  // or null
  double* target;
};

// By one block each.
__global__ void __launch_bounds__(kRowThreads)
    add_up(const __grid_constant__ Total first, const __grid_constant__ Total second, bool add) {
  const Total& own = blockIdx.x == 0 ? first : second;
  double sum = 0;
  for (int i = threadIdx.x; i < own.count; i += kRowThreads) sum += own.values[i];
  sum = warp_sum(sum);
  double* sums = reinterpret_cast<double*>(shared_memory());
  if (lane_of_warp() == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int w = 0; w < kRowsPerBlock; ++w) sum += sums[w];
  *own.target = (add ? *own.target : 0) + own.factor * sum / (own.divisor ? *own.divisor : 1.0f);
}

}  // namespace hybridret::cuda
