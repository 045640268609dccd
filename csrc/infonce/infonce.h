// In-batch InfoNCE: loss statistics and gradients without the N x M logits.
//
// Row i of N queries has its positive at column label_i of M documents. With logits
// s_ij = scale <q_i, d_j> + log_bias_j (of the normalised vectors, with `normalize`), negatives of
// row i the columns that are neither its label nor masked, and
// x_i = logsumexp_{negatives j} s_ij - s_i,label_i:
//
//   loss_i            = log(1 + e^x_i)                               (softplus: exact near zero)
//   d loss_i / d s_ij = sigmoid(x_i) e^(s_ij - lse_i)                for a negative j
//                     = -sigmoid(x_i)                                for the positive
//
// The positive never enters the sum of exponentials, so a loss of 1e-12 and its gradient keep their
// digits; p - 1 computed from a full softmax would have none.
//
// The engine computes tiles of S^T, documents down and queries across. One panel of R queries at a
// time, with P its R x M weights, three products on the tile kernel, 6 N M depth flops:
//
//   S^T  = D Q^T      A: documents as they lie, B: queries packed        -> P^T in the epilogue
//   dQ^T = D^T P^T    A: documents transposed, once; B: P^T as stored
//   dD  += P^T Q      A: P^T as stored; B: queries packed, times what normalises their row
//
// The first two take turns, a chunk of documents at a time, so that P^T is read out of the caches.
// P holds e^(s - shift_i) with a shift known beforehand, from the lengths of the vectors: the row
// sums are complete only when the panel is, and go into dQ afterwards and into Q beforehand. Where
// the bound was so loose that a row sum comes out too small to trust, the row's true maximum is
// found and the block computed again. The positive's share is added apart, in float32.
//
// Work is split over documents, over depths and over documents again; every element is summed in
// one fixed order, so the result is the same bits for any number of threads.
//
// Where bfloat16 is fast enough (AMX) a product of float32 is six of bfloat16, to the same digits:
// Split in similarity/elements.h. Two parts and three products would be faster still, but leave
// gradients of 4e-6 where torch's own are 1e-6 off.
//
// Symmetric: column j's negatives are the rows for which it is a negative. Its sums need all rows,
// so the logits are computed twice: 8 N M depth flops.
#pragma once

#include <cstdint>

#include "similarity/panels.h"

namespace hybridret::infonce {

struct Problem {
  similarity::Matrix queries;    // [N, depth]
  similarity::Matrix documents;  // [M, depth], of the same format
  const int64_t* labels;         // [N], column of the positive of each row; -1: it is elsewhere
  // Columns of the row's own group other than its label are no negatives; -1 matches nothing.
  const int64_t* query_groups;     // [N] or null
  const int64_t* document_groups;  // [M] or null
  const float* log_bias;           // [M] or null
  float scale;                     // 1 / temperature
  bool normalize;                  // divide every vector by its length, at least 1e-12
  bool unit_norm;                  // everything is NaN unless every vector has length 1
  bool hard_only;                  // a column that is a label is no negative of anybody
  // (rows, columns) of blocks along the diagonal, or null; nothing outside them is computed, and a
  // row's label lies in its block.
  const int64_t* segments;  // [segment_count, 2]
  int64_t segment_count;
};

struct Statistics {
  float* negatives_lse;         // [N], -inf for a row without negatives
  float* positive;              // [N], logit of the positive, -inf where it is elsewhere
  float* column_negatives_lse;  // [M] or null: the same for the columns
  int32_t* rank;                // [N] or null: 1 + negatives with a higher logit than the positive;
                                // 0 where the loss is NaN
};

// Derivatives of the total by the statistics.
struct Upstream {
  const float* negatives_lse;         // [N]
  const float* positive;              // [N]
  const float* column_negatives_lse;  // [M] or null
};

// Contiguous, in gradient_format.
struct Gradients {
  void* queries;    // [N, depth]
  void* documents;  // [M, depth]
  double* scale;    // adds the derivative of the total by the scale
};

// The inputs' own, but float32 for float16: a loss scaler multiplies them only afterwards, when
// what float16 cannot hold would be gone.
similarity::Format gradient_format(similarity::Format format);

void statistics(const Problem& problem, const Statistics& statistics, int threads);

// The statistics, and the gradients of sum_i row_weights[i] * loss_i, made on the way. With
// column_negatives_lse, loss_i is half the row's and half its label's column's; labels are
// distinct.
void statistics_and_gradients(const Problem& problem, const Statistics& statistics,
                              const float* row_weights, const Gradients& gradients, int threads);

// Gradients from derivatives by statistics that may have been completed elsewhere: negatives spread
// over devices, or a recomputation.
void gradients(const Problem& problem, const Statistics& statistics, const Upstream& upstream,
               const Gradients& gradients, int threads);

}  // namespace hybridret::infonce
