// One batch, or one segment, on its way through the GPU. What is done with the tiles is in
// statistics.cu and gradients.cu, each beside its kernels; infonce.cu has the order of it all.
//
//   tile    128 x 128 or 128 x 256 logits, queries down and documents across (see product.h)
//   strip   the documents of a tile that one warp has; sums over documents are kept by strip
//   panel   the queries whose weights are held at once
//
// Where sums over queries are needed for single documents the problem is swapped: documents down,
// queries across.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/infonce/epilogues.h"
#include "cuda/infonce/infonce_cuda.h"
#include "cuda/infonce/workspace.h"
#include "cuda/launcher.h"
#include "cuda/vectors.h"

namespace hybridret::cuda::infonce {

using ForwardOutput = hybridret_cuda_infonce_forward_output;
using BackwardArguments = hybridret_cuda_infonce_backward_arguments;

// What is made of a query's complete sum.
struct QueryOutput {
  const float* positive2;  // in powers of two
  const int* target;
  const float* scale;
  float weight;
  float* positive;
  float* loss;
  // Gradients, or null: what the query's sums are multiplied by, and its positive.
  float *factor, *positive_factor;
  // Queries as the documents' product reads them.
  Vectors queries;
  Planes scaled;
  const float* query_factor;
  int padded_depth;

  // By a warp.
  __device__ void scale_query(int query, float factor) const {
    const float by = factor * query_factor[query];
    for (int k = lane_index() * 8; k < padded_depth; k += 256) {
      float values[8];
      queries.load(values, query, k);
#pragma unroll
      for (float& value : values) value *= by;
      scaled.put(values, query, k);
    }
  }
};

class Run {
 public:
  Run(const Batch& batch, bool document_statistics, bool gradients, void* workspace, int64_t bytes,
      Stream stream)
      : b_(batch),
        gpu_(current_device(), stream),
        w_(batch, document_statistics, gradients,
           largest_panel(batch, document_statistics, gradients, bytes), workspace),
        n_(static_cast<int>(batch.query_count)),
        m_(static_cast<int>(batch.document_count)) {
    measure_vectors(document_statistics);
  }

  void forward(const ForwardOutput& out) const;
  void backward(const BackwardArguments& given) const;

 private:
  // work(first query, how many) for every panel.
  template <class Work>
  void for_panels(const Work& work) const {
    for (int64_t first = 0; first < n_; first += w_.panel_queries)
      work(static_cast<int>(first),
           static_cast<int>(std::min<int64_t>(w_.panel_queries, n_ - first)));
  }

  // Inner products of the rows of both, for an epilogue that makes logits of them.
  template <bool kNarrow, class Epilogue>
  void inner_products(const Matrix& a, const Matrix& b, bool is_narrow,
                      const Epilogue& epilogue) const {
    if (format_of(b_) == Format::kFloat16)
      gpu_.multiply<true, false, false, kNarrow>(a, b, a.rows, b.rows, w_.depth, 16, is_narrow,
                                                 epilogue);
    else
      gpu_.multiply<false, false, false, kNarrow>(a, b, a.rows, b.rows, w_.depth, 16, is_narrow,
                                                  epilogue);
  }

  // Whether an exponential may be so small that one alone does not reach kWeakSum.
  bool may_be_weak() const {
    return !(b_.logit_bound > 0 && b_.logit_bound <= hybridret::infonce::kHeadroom);
  }

  StoredWeights stored_weights() const {
    return {w_.weights.data, w_.weights.stride, w_.weights.plane, w_.weights.planes};
  }

  // ---- measure.cu: what a run knows of its vectors ----------------------------------------------

  // common_shift: one for all queries, so that sums over queries can be made, too.
  void measure_vectors(bool common_shift) const;

  Vectors queries(int64_t first, int64_t count) const;
  Vectors documents() const;
  static Planes planes(const Matrix& matrix, bool half = false);

  // Queries as rows, documents as columns; positives: their logits are written.
  Terms terms(int first, int count, bool positives) const;
  // Documents as rows, queries as columns.
  Terms swapped_terms(int first, int count) const;

  QueryOutput query_output(int first, int count, float weight, float* positive,
                           bool gradients) const;

  // ---- statistics.cu ----------------------------------------------------------------------------

  // Sums, log-sum-exps and positives of a panel's queries; store: the exponentials, too.
  void query_statistics(int first, int count, const ForwardOutput& out, bool store) const;

  // Of all queries and all documents; store: the exponentials, of the only panel.
  void query_and_document_statistics(const ForwardOutput& out, bool store) const;

  // Negatives above the positive.
  void ranks(const ForwardOutput& out) const;

  // The symmetric loss of each query; by_lse, by_positive and by_document_lse: its derivatives by
  // the statistics, unless null.
  void symmetric_losses(const ForwardOutput& out, float* by_lse, float* by_positive,
                        float* by_document_lse) const;

  template <bool kStore, bool kDocumentSums>
  void exponentials(const Matrix& a, const Matrix& b, const Terms& terms, const int* chosen,
                    const float* shift, int strips, bool is_narrow) const;
  template <bool kStore>
  void strengthen(const Matrix& a, const Matrix& b, const Terms& terms, const int* weak,
                  float* largest, int strips, bool is_narrow) const;
  template <class Again>
  void finish_query_sums(int first, int count, int strips, const ForwardOutput& out, bool gradients,
                         const Again& again) const;
  template <bool kStore>
  void query_and_document_sums(const ForwardOutput& out) const;

  // ---- gradients.cu -----------------------------------------------------------------------------

  // dQ and dD of a panel whose weights and scaled queries are there.
  void products(int first, int count, void* by_query, void* by_document) const;

  // Gradients from derivatives by the statistics. kept: the weights hold the exponentials of the
  // only panel.
  void weighted_gradients(const BackwardArguments& given, bool kept) const;
  void weigh_kept() const;

  float* document_gradient_sums(void* by_document) const {
    return w_.by_document ? w_.by_document : static_cast<float*>(by_document);
  }
  void finish_documents(void* by_document) const;

  // The loss, and the derivative by the scale; either may be null.
  void totals(double* loss, double weight, double* by_scale) const;

  const Batch& b_;
  const Launcher gpu_;
  const Workspace w_;
  const int n_, m_;  // queries and documents
};

}  // namespace hybridret::cuda::infonce
