// What a run knows of its vectors before the first product: lengths, scales, shifts, and copies
// that products can read.

#include "cuda/infonce/run.h"

namespace hybridret::cuda::infonce {
namespace {

using hybridret::infonce::kLeastLength;

// Nothing is measured, no tile is weak.
__global__ void reset(Measures* measures, bool biased, int* weak_queries, int query_tiles,
                      int* weak_documents, int document_tiles) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) *measures = {0.0f, 0.0f, biased ? -kInfinity : 0.0f, 0};
  if (i < query_tiles) weak_queries[i] = 0;
  if (i < document_tiles) weak_documents[i] = 0;
}

// One side, to be measured; and copied as bfloat16 planes where its vectors cannot be read in
// place.
struct Side {
  Vectors vectors;
  Planes planes, rounded;  // rounded: float16 as bfloat16
  float *factor, *length;
};

__global__ void __launch_bounds__(kBlockThreads)
    measure(const __grid_constant__ Side queries, const __grid_constant__ Side documents,
            int padded_depth, Measures* measures, bool normalize, float tolerance) {
  const int lane = lane_index();
  const bool of_queries = warp_index() < queries.vectors.rows;
  const Side& side = of_queries ? queries : documents;
  const int row = warp_index() - (of_queries ? 0 : queries.vectors.rows);
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

// Biases in powers of two.
__global__ void measure_biases(const float* log_bias, int documents, float* bias,
                               float* positive_bias, Measures* measures) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= documents) return;
  const float given = log_bias ? log_bias[j] : 0.0f;
  bias[j] = positive_bias[j] = given * kLog2e;
  if (!isnan(given)) atomic_maximum(&measures->largest_bias, given);
}

// hard_only: a document that is a label is no negative of any query.
__global__ void mask_labels(const int64_t* labels, int queries, int64_t first_document,
                            int documents, float* bias) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= queries || !labels) {
    if (i < queries && i < documents) bias[i] = -kInfinity;
    return;
  }
  const int64_t label = labels[i] - first_document;
  if (label >= 0 && label < documents) bias[label] = -kInfinity;
}

// Scales, shifts and targets of the queries.
__global__ void start_queries(int queries, int documents, const float* scale,
                              const Measures* measures, const int64_t* labels,
                              int64_t first_document, bool labels_elsewhere, bool common_shift,
                              const float* factor, const float* length, float* query_scale,
                              float* shift, int* target, float* positive) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= queries) return;
  const bool good = !measures->broken && *scale > 0 && *scale <= 1e30f;
  query_scale[i] = good ? *scale * factor[i] * kLog2e : __uint_as_float(0x7fc00000u);
  // Cauchy and Schwarz.
  const float own = common_shift ? measures->longest_query : length[i];
  const double bound =
      static_cast<double>(*scale) * own * measures->longest_document + measures->largest_bias;
  shift[i] = hybridret::infonce::shift_for(bound) * kLog2e;
  const int64_t label = labels ? labels[i] - first_document : i;
  const bool elsewhere = labels_elsewhere && labels && labels[i] == -1;
  const bool there = label >= 0 && label < documents;
  target[i] = there ? static_cast<int>(label) : elsewhere ? kElsewhere : kNoSuchDocument;
  positive[i] = elsewhere ? -kInfinity : __uint_as_float(0x7fc00000u);
}

Vectors vectors(const Batch& b, const void* data, int64_t stride, int64_t first, int64_t count) {
  const int64_t bytes = similarity::bytes_of(format_of(b));
  return {static_cast<const char*>(data) + first * stride * bytes, stride, static_cast<int>(count),
          static_cast<int>(b.depth), format_of(b)};
}

}  // namespace

void Run::measure_vectors(bool common_shift) const {
  const bool half = format_of(b_) == Format::kFloat16, biased = b_.log_bias || b_.hard_only;
  const Planes none{nullptr, 0, 0, 0, false};
  const float tolerance =
      b_.unit_norm ? hybridret::infonce::unit_norm_tolerance(format_of(b_)) : 0.0f;
  const int depth = static_cast<int>(w_.depth);
  const int query_tiles = static_cast<int>(ceil_div(n_, kTileRows));
  const int document_tiles = static_cast<int>(ceil_div(m_, kTileRows));
  gpu_.each(std::max({query_tiles, document_tiles, 1}), reset, w_.measures, b_.log_bias && m_ > 0,
            w_.weak_queries, query_tiles, w_.weak_documents, document_tiles);
  gpu_.each_warp(int64_t{n_} + m_, measure,
                 Side{queries(0, n_), w_.queries_in_place ? none : planes(w_.queries, half), none,
                      w_.query_factor, w_.query_length},
                 Side{documents(), w_.documents_in_place ? none : planes(w_.documents, half),
                      w_.rounded.data != w_.documents.data ? planes(w_.rounded) : none,
                      w_.document_factor, w_.document_length},
                 depth, w_.measures, b_.normalize != 0, tolerance);
  if (biased)
    gpu_.each(m_, measure_biases, b_.log_bias, m_, w_.bias, w_.positive_bias, w_.measures);
  if (b_.hard_only) gpu_.each(n_, mask_labels, b_.labels, n_, b_.first_document, m_, w_.bias);
  gpu_.each(n_, start_queries, n_, m_, b_.scale, w_.measures, b_.labels, b_.first_document,
            b_.labels_elsewhere != 0, common_shift, w_.query_factor, w_.query_length,
            w_.query_scale, w_.shift, w_.target, w_.positive);
}

Vectors Run::queries(int64_t first, int64_t count) const {
  return vectors(b_, b_.queries, b_.query_stride, first, count);
}

Vectors Run::documents() const { return vectors(b_, b_.documents, b_.document_stride, 0, m_); }

Planes Run::planes(const Matrix& matrix, bool half) {
  return {matrix.data, matrix.stride, matrix.plane, matrix.planes, half};
}

Terms Run::terms(int first, int count, bool positives) const {
  const bool biased = b_.log_bias || b_.hard_only;
  Terms t{};
  t.rows = count;
  t.columns = m_;
  t.row_scale = w_.query_scale + first;
  t.column_scale = b_.normalize ? w_.document_factor : nullptr;
  t.column_bias = biased ? w_.bias : nullptr;
  t.positive_bias = biased ? w_.positive_bias : nullptr;
  t.row_group = b_.query_groups ? b_.query_groups + first : nullptr;
  t.column_group = b_.query_groups ? b_.document_groups : nullptr;
  t.row_target = w_.target + first;
  t.positive = positives ? w_.positive + first : nullptr;
  return t;
}

Terms Run::swapped_terms(int first, int count) const {
  const bool biased = b_.log_bias || b_.hard_only;
  Terms t{};
  t.rows = count;
  t.columns = n_;
  t.first_row = first;
  t.row_scale = w_.document_factor + first;
  t.column_scale = w_.query_scale;
  t.row_bias = biased ? w_.bias + first : nullptr;
  t.row_group = b_.query_groups ? b_.document_groups + first : nullptr;
  t.column_group = b_.query_groups;
  t.column_target = w_.target;
  return t;
}

QueryOutput Run::query_output(int first, int count, float weight, float* positive,
                              bool gradients) const {
  return {w_.positive + first,
          w_.target + first,
          b_.scale,
          weight,
          positive,
          w_.losses + first,
          gradients ? w_.factor + first : nullptr,
          w_.positive_factor + first,
          queries(first, count),
          planes(w_.scaled_queries),
          w_.query_factor + first,
          static_cast<int>(w_.depth)};
}

}  // namespace hybridret::cuda::infonce
