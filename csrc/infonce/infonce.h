// In-batch InfoNCE: loss statistics and gradients without the N x M logits.
//
// Row i of N queries has its positive at column label_i of M documents. With logits
// s_ij = scale <q_i, d_j> and x_i = logsumexp_{negatives j} s_ij - s_i,label_i:
//
//   loss_i            = log(1 + e^x_i)                               (softplus: exact near zero)
//   d loss_i / d s_ij = sigmoid(x_i) e^(s_ij - lse_i)                for a negative j
//                     = -sigmoid(x_i)                                for the positive
//
// The positive never enters the sum of exponentials, so a loss of 1e-12 and its gradient keep their
// digits; p - 1 computed from a full softmax would have none.
//
// Rows go through in panels; one panel holds kPanelRows x M logits. Three products per panel, all
// on the tile kernel: S = Q D^T, dQ = P D, dD += P^T Q (6 N M depth flops). dD is accumulated in
// the order of the panels by the one thread that owns the columns: the result is the same bits for
// any number of threads.
//
// Not handled here: anything but float32, a symmetric loss, per-column bias.
#pragma once

#include <cstdint>

#include "similarity/panels.h"

namespace hybridret::infonce {

struct Problem {
  similarity::Matrix queries;    // [N, depth]
  similarity::Matrix documents;  // [M, depth]
  const int64_t* labels;         // [N], column of the positive of each row, in [0, M)
  // Columns of the row's own group other than its label are no negatives; -1 matches nothing.
  const int64_t* query_groups;     // [N] or null
  const int64_t* document_groups;  // [M] or null
  float scale;                     // 1 / temperature
};

struct Statistics {
  float* negatives_lse;  // [N], -inf for a row without negatives
  float* positive;       // [N], logit of the positive
};

struct Gradients {
  const float* row_weights;  // [N], d(total)/d(loss_i)
  float* queries;            // [N, depth], contiguous
  float* documents;          // [M, depth], contiguous
};

// Forward pass: writes the statistics and, where `gradients` is given, both gradients.
void forward(const Problem& problem, const Statistics& statistics, const Gradients* gradients,
             int threads);

// Gradients from statistics made elsewhere: recomputation, or negatives spread over devices.
void backward(const Problem& problem, const Statistics& statistics, const Gradients& gradients,
              int threads);

}  // namespace hybridret::infonce
