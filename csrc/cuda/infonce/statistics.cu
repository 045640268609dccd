// Sums of exponentials of queries and of documents, ranks, and losses. Sums are complete once those
// of all strips are; a weak one is made again, with its true maximum.

#include <type_traits>

#include "cuda/infonce/run.h"

namespace hybridret::cuda::infonce {
namespace {

using hybridret::infonce::kWeakSum;
using hybridret::infonce::sigmoid;

__device__ __forceinline__ double softplus(double x) {
  return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

template <class T>
__device__ __forceinline__ double sum_of_strips(const T* strips, int row, int count) {
  double sum = 0;
  for (int s = lane_index(); s < count; s += 32)
    sum += strips[static_cast<int64_t>(row) * count + s];
  return warp_sum(sum);
}

// Marks the tiles that hold a query whose sum is weak.
__global__ void __launch_bounds__(kBlockThreads)
    find_weak_queries(int queries, const float* sums, int strips, int* weak, float* largest) {
  const int query = warp_index();
  if (query >= queries) return;
  const double sum = sum_of_strips(sums, query, strips);
  if (lane_index() != 0) return;
  largest[query] = -kInfinity;
  if (sum < kWeakSum) weak[query / kTileRows] = 1;  // NaN is not weak
}

// A product's rows, whose sums are complete: queries, or documents of the swapped problem.
struct Finished {
  int rows;
  const float* sums;
  int strips;
  const int* weak;               // by tile, with `largest` in place of `shift`
  const float *shift, *largest;  // in powers of two
  float* lse;                    // [rows]

  __device__ double finish(int row, double& log_sum) const {
    const double sum = sum_of_strips(sums, row, strips);
    float own = weak[row / kTileRows] ? largest[row] : shift[row];
    if (own == -kInfinity) own = 0;
    log_sum = sum == 0 ? -HUGE_VAL : static_cast<double>(own) * 0.693147180559945309417 + log(sum);
    return sum;
  }
};

__global__ void __launch_bounds__(kBlockThreads) finish_queries(Finished own, QueryOutput out) {
  const int query = warp_index(), lane = lane_index();
  if (query >= own.rows) return;
  double lse;
  const double sum = own.finish(query, lse);
  const float positive = out.target[query] == kElsewhere ? -kInfinity : out.positive2[query] * kLn2;
  const double gap = lse - static_cast<double>(positive);
  const double share = sum == 0 ? 0 : out.weight * sigmoid(gap);
  const double factor = sum == 0 ? 0 : share * *out.scale / sum;
  if (lane == 0) {
    own.lse[query] = static_cast<float>(lse);
    out.positive[query] = positive;
    out.loss[query] = static_cast<float>(softplus(gap));
    if (out.factor) {
      out.factor[query] = static_cast<float>(factor);
      out.positive_factor[query] = static_cast<float>(-share * *out.scale);
    }
  }
  if (out.factor) out.scale_query(query, static_cast<float>(factor));
}

// Documents' sums over the tiles of a panel, added to those of the panels before; the last panel
// marks the tiles that hold a weak one.
__global__ void add_document_sums(const float* parts, int query_tiles, int documents, double* total,
                                  bool first, bool last, int* weak, float* largest) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= documents) return;
  double sum = first ? 0 : total[j];
  for (int tile = 0; tile < query_tiles; ++tile)
    sum += parts[static_cast<int64_t>(tile) * documents + j];
  total[j] = sum;
  if (!last) return;
  largest[j] = -kInfinity;
  if (sum < kWeakSum) weak[j / kTileRows] = 1;
}

// Log-sum-exps of the documents outside of weak tiles; the others come from the swapped problem.
__global__ void finish_strong_documents(const double* total, int documents, const float* shift,
                                        const int* weak, float* lse) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= documents || weak[j / kTileRows]) return;
  lse[j] = total[j] == 0 ? -kInfinity
                         : static_cast<float>(shift[0] * 0.693147180559945309417 + log(total[j]));
}

__global__ void __launch_bounds__(kBlockThreads) finish_weak_documents(Finished own) {
  const int document = warp_index();
  if (document >= own.rows || !own.weak[document / kTileRows]) return;
  double lse;
  own.finish(document, lse);
  if (lane_index() == 0) own.lse[document] = static_cast<float>(lse);
}

__global__ void __launch_bounds__(kBlockThreads)
    finish_ranks(int queries, const int* counts, int strips, const float* lse,
                 const float* positive, int* rank) {
  const int query = warp_index();
  if (query >= queries) return;
  const double above = sum_of_strips(counts, query, strips);
  if (lane_index() == 0)
    rank[query] = isnan(lse[query] - positive[query]) ? 0 : 1 + static_cast<int>(above);
}

// The symmetric loss, and its derivatives by the statistics.
__global__ void finish_symmetric(int queries, const int* target, const float* lse,
                                 const float* positive, const float* document_lse, float weight,
                                 float* loss, float* by_lse, float* by_positive,
                                 float* by_document_lse) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= queries) return;
  const double at = positive[i], across = target[i] >= 0 ? document_lse[target[i]] : at;
  loss[i] = static_cast<float>((softplus(lse[i] - at) + softplus(across - at)) / 2);
  if (!by_lse) return;
  const double by_query = weight / 2 * sigmoid(lse[i] - at);
  const double by_document = weight / 2 * sigmoid(across - at);
  by_lse[i] = static_cast<float>(by_query);
  by_positive[i] = static_cast<float>(-by_query - by_document);
  if (target[i] >= 0) by_document_lse[target[i]] = static_cast<float>(by_document);
}

}  // namespace

// Sums of exponentials of all tiles, or of the chosen ones with their true maxima.
template <bool kStore, bool kDocumentSums>
void Run::exponentials(const Matrix& a, const Matrix& b, const Terms& terms, const int* chosen,
                       const float* shift, int strips, bool is_narrow) const {
  const auto at = [&](auto level) {
    inner_products<kStore && !kDocumentSums>(
        a, b, is_narrow,
        Exponentials<level, kStore, kDocumentSums>{
            {terms, chosen}, shift, w_.sums, strips, w_.document_sums, stored_weights()});
  };
  if (kDocumentSums || terms.row_group || terms.column_target)
    at(std::integral_constant<Level, kMasked>());
  else if constexpr (!kDocumentSums) {
    if (terms.column_scale || terms.column_bias || terms.row_bias)
      at(std::integral_constant<Level, kScaled>());
    else
      at(std::integral_constant<Level, kPlain>());
  }
}

// The weak tiles again, with their rows' true maxima.
template <bool kStore>
void Run::strengthen(const Matrix& a, const Matrix& b, const Terms& terms, const int* weak,
                     float* largest, int strips, bool is_narrow) const {
  inner_products<false>(a, b, false, Maxima{{terms, weak}, largest});
  exponentials<kStore, false>(a, b, terms, weak, largest, strips, is_narrow);
}

// again(terms): the weak tiles'.
template <class Again>
void Run::finish_query_sums(int first, int count, int strips, const ForwardOutput& out,
                            bool gradients, const Again& again) const {
  int* weak = w_.weak_queries + first / kTileRows;
  if (may_be_weak()) {
    gpu_.each_warp(count, find_weak_queries, count, w_.sums, strips, weak, w_.largest + first);
    again(terms(first, count, false));
  }
  gpu_.each_warp(count, finish_queries,
                 Finished{count, w_.sums, strips, weak, w_.shift + first, w_.largest + first,
                          out.negatives_lse + first},
                 query_output(first, count, out.weight, out.positive + first, gradients));
}

void Run::query_statistics(int first, int count, const ForwardOutput& out, bool store) const {
  const Matrix rows = w_.queries.row_range(first, count);
  const bool is_narrow = store && gpu_.narrow(count, m_);
  const int strips = gpu_.strips(m_, is_narrow);
  int* weak = w_.weak_queries + first / kTileRows;
  float* largest = w_.largest + first;
  if (store)
    exponentials<true, false>(rows, w_.documents, terms(first, count, true), nullptr,
                              w_.shift + first, strips, is_narrow);
  else
    exponentials<false, false>(rows, w_.documents, terms(first, count, true), nullptr,
                               w_.shift + first, strips, is_narrow);
  finish_query_sums(first, count, strips, out, store, [&](const Terms& t) {
    if (store)
      strengthen<true>(rows, w_.documents, t, weak, largest, strips, is_narrow);
    else
      strengthen<false>(rows, w_.documents, t, weak, largest, strips, is_narrow);
  });
}

template <bool kStore>
void Run::query_and_document_sums(const ForwardOutput& out) const {
  const int strips = gpu_.strips(m_, false);
  for_panels([&](int first, int count) {
    const Matrix rows = w_.queries.row_range(first, count);
    exponentials<kStore, true>(rows, w_.documents, terms(first, count, true), nullptr,
                               w_.shift + first, strips, false);
    gpu_.each(m_, add_document_sums, w_.document_sums, static_cast<int>(ceil_div(count, kTileRows)),
              m_, w_.document_total, first == 0, may_be_weak() && first + w_.panel_queries >= n_,
              w_.weak_documents, w_.document_largest);
    finish_query_sums(first, count, strips, out, false, [&](const Terms& t) {
      strengthen<false>(rows, w_.documents, t, w_.weak_queries + first / kTileRows,
                        w_.largest + first, strips, false);
    });
  });
}

void Run::query_and_document_statistics(const ForwardOutput& out, bool store) const {
  if (store)
    query_and_document_sums<true>(out);
  else
    query_and_document_sums<false>(out);
  if (n_ == 0)
    gpu_.each(m_, add_document_sums, w_.document_sums, 0, m_, w_.document_total, true, false,
              w_.weak_documents, w_.document_largest);
  gpu_.each(m_, finish_strong_documents, w_.document_total, m_, w_.shift, w_.weak_documents,
            out.document_negatives_lse);
  if (!may_be_weak()) return;
  const int strips = gpu_.strips(n_, false);
  for (int64_t first = 0; first < m_; first += w_.panel_queries) {
    const int count = static_cast<int>(std::min<int64_t>(w_.panel_queries, m_ - first));
    const Matrix rows = w_.documents.row_range(first, count);
    int* weak = w_.weak_documents + first / kTileRows;
    float* largest = w_.document_largest + first;
    strengthen<false>(rows, w_.queries, swapped_terms(static_cast<int>(first), count), weak,
                      largest, strips, false);
    gpu_.each_warp(count, finish_weak_documents,
                   Finished{count, w_.sums, strips, weak, largest, largest,
                            out.document_negatives_lse + first});
  }
}

void Run::ranks(const ForwardOutput& out) const {
  if (!out.rank) return;
  const int strips = gpu_.strips(m_, false);
  for_panels([&](int first, int count) {
    int* counts = reinterpret_cast<int*>(w_.sums);
    inner_products<false>(
        w_.queries.row_range(first, count), w_.documents, false,
        CountAbove{{terms(first, count, false), nullptr}, w_.positive + first, counts, strips});
    gpu_.each_warp(count, finish_ranks, count, counts, strips, out.negatives_lse + first,
                   out.positive + first, out.rank + first);
  });
}

void Run::symmetric_losses(const ForwardOutput& out, float* by_lse, float* by_positive,
                           float* by_document_lse) const {
  gpu_.zero(by_document_lse, int64_t{m_} * 4);  // of documents that are nobody's label
  gpu_.each(n_, finish_symmetric, n_, w_.target, out.negatives_lse, out.positive,
            out.document_negatives_lse, out.weight, w_.losses, by_lse, by_positive,
            by_document_lse);
}

}  // namespace hybridret::cuda::infonce
