// Weights from complete sums, the two products of the gradients, and what each vector's gradient is
// made of beside its sum: the positives' share, the normalisation.

#include "cuda/infonce/run.h"

namespace hybridret::cuda::infonce {
namespace {

using hybridret::infonce::kLeastLength;

// ---- weights ------------------------------------------------------------------------------------

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

// Whether any tile was weak, for each tile of queries.
__global__ void find_any_weak(const int* weak_queries, int query_tiles, const int* weak_documents,
                              int document_tiles, int* any) {
  int found = 0;
  for (int i = threadIdx.x; i < query_tiles; i += blockDim.x) found |= weak_queries[i];
  for (int i = threadIdx.x; i < document_tiles; i += blockDim.x) found |= weak_documents[i];
  found = warp_sum(found);
  for (int i = threadIdx.x; i < query_tiles; i += blockDim.x) any[i] = found;
}

constexpr int kQueriesPerWarp = 4;

// Exponentials become weights, in place: times (query's factor + document's factor).
__global__ void __launch_bounds__(kBlockThreads)
    weigh(StoredWeights stored, int queries, int documents, const float* by_query,
          const float* by_document, const int* not_if) {
  const int first = warp_index() * kQueriesPerWarp;
  if (first >= queries || *not_if) return;
  float own[kQueriesPerWarp];
#pragma unroll
  for (int r = 0; r < kQueriesPerWarp; ++r) own[r] = by_query[min(first + r, queries - 1)];
  for (int k = lane_index() * 8; k < stored.stride; k += 256) {
    float across[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) across[i] = k + i < documents ? by_document[k + i] : 0.0f;
#pragma unroll
    for (int r = 0; r < kQueriesPerWarp; ++r) {
      if (first + r >= queries) continue;
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

// Factors of the queries where the weights are complete, and the queries as the product reads them.
__global__ void __launch_bounds__(kBlockThreads)
    start_query_gradients(int queries, const float* by_positive, QueryOutput out) {
  const int query = warp_index(), lane = lane_index();
  if (query >= queries) return;
  if (lane == 0) {
    out.factor[query] = *out.scale;
    out.positive_factor[query] = by_positive[query] * *out.scale;
  }
  out.scale_query(query, *out.scale);
}

// ---- gradients ----------------------------------------------------------------------------------

// Eight elements of a gradient as it leaves, or the `count` that there are: bfloat16 for bfloat16,
// float32 otherwise.
__device__ __forceinline__ void put_gradient(void* target, Format format, int64_t at, int count,
                                             const float (&values)[8]) {
  if (format == Format::kBfloat16) {
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
  const float* sums;  // [queries, padded depth]
  int padded_depth;
  const float *factor, *positive_factor, *query_factor, *document_factor;
  const int* target;
  bool normalize;
  void* gradient;      // [queries, depth]
  float* scale_terms;  // [queries]

  __device__ void values(float (&g)[8], float (&q)[8], int query, int k) const {
    const int label = target[query];
    queries.load(q, query, k);
    float d[8] = {};
    if (label >= 0) documents.load(d, label, k);
    const float positive = label >= 0 ? positive_factor[query] * document_factor[label] : 0.0f;
    const float by = factor[query];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      g[i] = sums[static_cast<int64_t>(query) * padded_depth + k + i] * by + d[i] * positive;
  }
};

__global__ void __launch_bounds__(kBlockThreads) finish_query_gradients(QueryGradients own) {
  const int query = warp_index(), lane = lane_index();
  if (query >= own.queries.rows) return;
  float g[8], q[8], along = 0;
  for (int k = lane * 8; k < own.padded_depth; k += 256) {
    own.values(g, q, query, k);
#pragma unroll
    for (int i = 0; i < 8; ++i) along += g[i] * q[i];
  }
  const float factor = own.query_factor[query];
  along = warp_sum(along) * factor;
  if (lane == 0) own.scale_terms[query] = along;
  const float kept = factor >= 1 / kLeastLength ? 0.0f : factor;
  for (int k = lane * 8; k < own.queries.depth; k += 256) {
    own.values(g, q, query, k);
    if (own.normalize) {
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] = (g[i] - q[i] * along * factor) * kept;
    }
    put_gradient(own.gradient, own.queries.format,
                 static_cast<int64_t>(query) * own.queries.depth + k, min(8, own.queries.depth - k),
                 g);
  }
}

struct DocumentGradients {
  Vectors queries, documents;
  const float* sums;  // [documents, padded depth]; may be where the gradient goes
  int padded_depth;
  const float *positive_factor, *query_factor, *document_factor;
  // Queries of each label: order[begin[j]] ... order[begin[j + 1] - 1], less first_query; without
  // them query j.
  const int64_t *order, *begin;
  int64_t first_query;
  bool normalize;
  void* gradient;  // [documents, depth]

  __device__ void values(float (&g)[8], int j, int k) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      g[i] = queries.rows > 0 ? sums[static_cast<int64_t>(j) * padded_depth + k + i] : 0.0f;
    const int64_t first = begin ? begin[j] : j;
    const int64_t end = begin ? begin[j + 1] : j < queries.rows ? j + 1 : j;
    for (int64_t r = first; r < end; ++r) {
      const int64_t at = order ? order[r] - first_query : r;
      if (at < 0 || at >= queries.rows) continue;  // a label of another segment: its loss is NaN
      const int query = static_cast<int>(at);
      const float by = positive_factor[query] * query_factor[query] * document_factor[j];
      float q[8];
      queries.load(q, query, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] += q[i] * by;
    }
  }
};

__global__ void __launch_bounds__(kBlockThreads) finish_document_gradients(DocumentGradients own) {
  const int document = warp_index(), lane = lane_index();
  if (document >= own.documents.rows) return;
  const float factor = own.document_factor[document];
  float g[8], d[8], along = 0;
  if (own.normalize) {
    for (int k = lane * 8; k < own.padded_depth; k += 256) {
      own.values(g, document, k);
      own.documents.load(d, document, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) along += g[i] * d[i];
    }
    along = warp_sum(along) * factor * factor;
  }
  const float kept = factor >= 1 / kLeastLength ? 0.0f : 1.0f;
  for (int k = lane * 8; k < own.documents.depth; k += 256) {
    own.values(g, document, k);
    if (own.normalize) {
      own.documents.load(d, document, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) g[i] = (g[i] - d[i] * along) * kept;
    }
    put_gradient(own.gradient, own.documents.format,
                 static_cast<int64_t>(document) * own.documents.depth + k,
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
__global__ void __launch_bounds__(kBlockThreads)
    add_up(const __grid_constant__ Total first, const __grid_constant__ Total second, bool add) {
  const Total& own = blockIdx.x == 0 ? first : second;
  double sum = 0;
  for (int i = threadIdx.x; i < own.count; i += kBlockThreads) sum += own.values[i];
  sum = warp_sum(sum);
  double* sums = reinterpret_cast<double*>(shared_memory());
  if (lane_index() == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int w = 0; w < kBlockWarps; ++w) sum += sums[w];
  *own.target = (add ? *own.target : 0) + own.factor * sum / (own.divisor ? *own.divisor : 1.0f);
}

}  // namespace

// ---- the host's side ----------------------------------------------------------------------------

void Run::products(int first, int count, void* by_query, void* by_document) const {
  const int64_t depth = w_.depth;
  Matrix weights = w_.weights, scaled = w_.scaled_queries;
  weights.rows = scaled.rows = count;
  if (m_ == 0) gpu_.zero(w_.by_query, count * depth * 4);
  gpu_.multiply<false, false, true, true>(
      weights, w_.rounded, count, depth, m_, 1, gpu_.narrow(count, depth),
      Product{w_.by_query, count, static_cast<int>(depth), depth, false});
  const int64_t bytes = format_of(b_) == Format::kBfloat16 ? 2 : 4;
  gpu_.each_warp(
      count, finish_query_gradients,
      QueryGradients{queries(first, count), documents(), w_.by_query, static_cast<int>(depth),
                     w_.factor + first, w_.positive_factor + first, w_.query_factor + first,
                     w_.document_factor, w_.target + first, b_.normalize != 0,
                     static_cast<char*>(by_query) + first * b_.depth * bytes,
                     w_.scale_terms + first});
  gpu_.multiply<false, true, true, true>(
      weights, scaled, m_, depth, count, 1, gpu_.narrow(m_, depth),
      Product{document_gradient_sums(by_document), m_, static_cast<int>(depth), depth, first > 0});
}

void Run::weighted_gradients(const BackwardArguments& given, bool kept) const {
  const bool of_documents = given.by_document_negatives_lse;
  gpu_.each(n_, start_weights, n_, given.negatives_lse, given.by_negatives_lse, w_.query_lse,
            w_.query_weight);
  if (of_documents)
    gpu_.each(m_, start_weights, m_, given.document_negatives_lse, given.by_document_negatives_lse,
              w_.document_lse, w_.document_weight);
  if (kept) weigh_kept();
  for_panels([&](int first, int count) {
    if (!kept || may_be_weak())
      inner_products<false>(w_.queries.row_range(first, count), w_.documents, false,
                            Weights{{terms(first, count, false), kept ? w_.any_weak : nullptr},
                                    w_.query_lse + first,
                                    w_.query_weight + first,
                                    of_documents ? w_.document_lse : nullptr,
                                    w_.document_weight,
                                    stored_weights()});
    gpu_.each_warp(count, start_query_gradients, count, given.by_positive + first,
                   query_output(first, count, 0, nullptr, true));
    products(first, count, given.by_query, given.by_document);
  });
  finish_documents(given.by_document);
}

// The exponentials of the only panel become weights, unless some tile was weak.
void Run::weigh_kept() const {
  gpu_.blocks(1, 32, 0, find_any_weak, w_.weak_queries, static_cast<int>(ceil_div(n_, kTileRows)),
              w_.weak_documents, static_cast<int>(ceil_div(m_, kTileRows)), w_.any_weak);
  gpu_.each(n_, start_factors, n_, w_.query_lse, w_.query_weight, w_.shift, w_.kept_query_factor);
  gpu_.each(m_, start_factors, m_, w_.document_lse, w_.document_weight, w_.shift,
            w_.kept_document_factor);
  gpu_.each_warp(ceil_div(n_, kQueriesPerWarp), weigh, stored_weights(), n_, m_,
                 w_.kept_query_factor, w_.kept_document_factor, w_.any_weak);
}

void Run::finish_documents(void* by_document) const {
  gpu_.each_warp(m_, finish_document_gradients,
                 DocumentGradients{queries(0, n_), documents(), document_gradient_sums(by_document),
                                   static_cast<int>(w_.depth), w_.positive_factor, w_.query_factor,
                                   w_.document_factor, b_.label_order, b_.label_begin,
                                   b_.first_query, b_.normalize != 0, by_document});
}

void Run::totals(double* loss, double weight, double* by_scale) const {
  const Total of_loss{w_.losses, n_, weight, nullptr, loss};
  const Total of_scale{w_.scale_terms, n_, 1, b_.scale, by_scale};
  gpu_.blocks(loss && by_scale ? 2 : 1, kBlockThreads, 2048, add_up, loss ? of_loss : of_scale,
              of_scale, b_.first_segment == 0);
}

}  // namespace hybridret::cuda::infonce
