// The evaluation scorer: exact ranks by counting inside the similarity tiles.
//
// For every query i and each of its target documents t (the relevant ones) it counts, per language,
// the documents that come before t in the total order (inner product descending, then tie order
// ascending). From these counts follow the rank of t in its own language's pool, in any other pool,
// and in the pool of all, and with the ranks every metric. No score matrix, no sort, no limit on k;
// counts of shards of a pool add up.
//
// The score of a target is computed by the same tile kernel as every other score, so a document
// never outranks itself and equal vectors tie exactly.
//
// Not handled here: anything but float32, non-finite values (callers reject them).
#pragma once

#include <cstdint>

#include "similarity/panels.h"

namespace hybridret::ranking {

struct Problem {
  similarity::Matrix queries;     // [Q, depth]
  similarity::Matrix documents;   // [P, depth], the documents of one language stand together
  int64_t languages;              // L
  const int64_t* language_begin;  // [L + 1], rows of each language
  const int64_t* tie_order;       // [P], distinct; the smaller comes first among equal scores
  const int64_t* target_begin;    // [Q + 1]
  const int64_t* targets;         // [T], rows of documents
};

// above[t * L + l] = number of documents of language l before target t.
void count_above(const Problem& problem, int64_t* above, int threads);

}  // namespace hybridret::ranking
