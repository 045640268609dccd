// In-batch InfoNCE: loss statistics and gradients without the N x M logits.
//
// The positive of query i of N is document label_i of M. With logits
// s_ij = scale <q_i, d_j> + log_bias_j (of the normalised vectors, with `normalize`), negatives of
// query i the documents that are neither its label nor masked, and
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
//   S^T  = D Q^T      a: documents in place, b: queries packed              -> P^T in the epilogue
//   dQ^T = D^T P^T    a: documents transposed, once; b: P^T as stored
//   dD  += P^T Q      a: P^T as stored; b: queries packed, each times the factor of its weights
//
// The first two take turns, a chunk of documents at a time, so that P^T is read out of the caches.
// P holds e^(s - shift_i) with a shift known beforehand, from the lengths of the vectors: a query's
// sum is complete only when the panel is, and goes into dQ afterwards and into Q beforehand. Where
// the bound was so loose that a query's sum comes out too small to trust, the query's true maximum
// is found and its block computed again. The positive's share is added apart, in float32.
//
// Work is split over documents, over depths and over documents again; every element is summed in
// one fixed order, so the result is the same bits for any number of threads.
//
// Where bfloat16 is fast enough (AMX) a product of float32 is six of bfloat16, to the same digits:
// Split in similarity/elements.h. Two parts and three products would be faster still, but leave
// gradients of 4e-6 where torch's own are 1e-6 off.
//
// Symmetric: the negatives of document j are the queries for which it is a negative. Its sum needs
// all queries, so the logits are computed twice: 8 N M depth flops.
#pragma once

#include <cstdint>

#include "similarity/elements.h"

namespace hybridret::infonce {

struct Problem {
  similarity::Matrix queries;    // [N, depth]
  similarity::Matrix documents;  // [M, depth], of the same format
  const int64_t* labels;         // [N], document that is the query's positive; -1: none of these
  // Documents of the query's own group other than its label are no negatives; -1 matches nothing.
  const int64_t* query_groups;     // [N] or null
  const int64_t* document_groups;  // [M] or null
  const float* log_bias;           // [M] or null
  float scale;                     // 1 / temperature
  bool normalize;                  // divide every vector by its length, at least 1e-12
  bool unit_norm;                  // everything is NaN unless every vector has length 1
  bool hard_only;                  // a document that is a label is no negative of any query
  // How many (queries, documents) each segment has, one after the other, or null: all are one.
  // Segments share no negatives: a query's label is in its own, and no other pairs are computed.
  const int64_t* segments;  // [segment_count, 2]
  int64_t segment_count;
};

struct Statistics {
  float* negatives_lse;           // [N], of each query over documents; -inf without negatives
  float* positive;                // [N], logit of the positive, -inf for label -1
  float* document_negatives_lse;  // [M] or null, of each document over queries
  int32_t* rank;  // [N] or null: 1 + negatives with a higher logit than the positive; 0 where the
                  // loss is NaN
};

// Derivatives of the total by the statistics.
struct Upstream {
  const float* negatives_lse;           // [N]
  const float* positive;                // [N]
  const float* document_negatives_lse;  // [M] or null
};

// Contiguous, in gradient_format.
struct Gradients {
  void* queries;    // [N, depth]
  void* documents;  // [M, depth]
  double* scale;    // the derivative of the total by the scale is added to it
};

// The inputs' own, but float32 for float16: a loss scaler multiplies gradients only afterwards,
// when what is too small for float16 would be lost.
similarity::Format gradient_format(similarity::Format format);

void statistics(const Problem& problem, const Statistics& statistics, int threads);

// The statistics, and the gradients of sum_i query_weights[i] * loss_i, made on the way. With
// document_negatives_lse, loss_i is half the query's loss and half its label's; labels are
// distinct.
void statistics_and_gradients(const Problem& problem, const Statistics& statistics,
                              const float* query_weights, const Gradients& gradients, int threads);

// Gradients from derivatives by statistics that may have been completed elsewhere: negatives spread
// over devices, or a recomputation.
void gradients(const Problem& problem, const Statistics& statistics, const Upstream& upstream,
               const Gradients& gradients, int threads);

}  // namespace hybridret::infonce
