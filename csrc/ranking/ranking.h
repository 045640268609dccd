// The evaluation scorer: exact ranks by counting inside the similarity tiles.
//
// For every query i and each of its target documents t (the relevant ones) it counts, per language,
// the documents that come before t in the total order (score descending, then tie order ascending).
// From these counts follow the rank of t in its own language's pool, in any other pool and in the
// pool of all, and from the ranks every metric. No score matrix, no sort, no limit on k; counts of
// shards of a pool add up.
//
// The score of a pair is <q, d>, or <q, d> / |d| for the cosine (|q| changes no rank), summed in
// double in one fixed order: the same bits on every instruction set, for any tiling, thread count,
// shard or order of the pool. Few pairs need it. The tiles compute y, close to score / |q|, in
// whatever arithmetic is fast, and with q^, d^ what they multiply (rounded; of length one for the
// cosine),
//
//   |y - score / |q||  <=  |q^ - q| |d| + |q^| |d^ - d| + g |q^| |d|,   g = products * 2^-24,
//
// by Cauchy and Schwarz, from the measured length and residual of each vector; g covers the sum's
// own roundings. Only scores within this bound of a threshold are computed again, in float32, and
// only those still within its bound in double. Screening with bfloat16 leaves 0.3 to 3 % of the
// pairs of a trained encoder undecided; where it leaves too many to be worth it, float32 takes over
// from there on. The ranks do not depend on it.
//
// Memory: a panel of queries in the tiles' format (at most kPanelBytes), a panel of documents, 20
// bytes a query, 24 a target and 8 more for each language of its counts, and 4 k + 64 candidates of
// 24 bytes for each query of a panel, for the best k.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "similarity/elements.h"

namespace hybridret::ranking {

enum class Screening { kAuto, kBfloat16, kFloat32 };

struct Problem {
  similarity::Matrix queries;        // [Q, depth]
  similarity::Matrix documents;      // [P, depth]
  bool cosine;                       // otherwise the inner product
  int64_t languages;                 // L
  const int32_t* document_language;  // [P], in [0, L)
  const int64_t* tie_order;          // [P], distinct; the smaller comes first among equal scores
  const int64_t* target_begin;       // [Q + 1]
  const double* target_scores;       // [T], as pair_scores computes them
  const int64_t* target_order;       // [T], tie order of the target, which need not be among the P
  Screening screening;
};

struct Result {
  int64_t* above;     // [T, L], documents of the language before the target
  int64_t* tied;      // [T, L, 2] or null: others of exactly its score, before it and after it
  int64_t k;          // how many of the best documents to keep
  int64_t* best;      // [Q, k], rows of documents, best first; -1 past the end
  double* scores;     // [Q, k]
  int64_t unsettled;  // out: pairs that screening left undecided
};

// A query or document that cannot be ranked.
struct BadRow : std::runtime_error {
  BadRow(bool is_query, int64_t which, const char* what)
      : std::runtime_error(what), query(is_query), row(which) {}
  bool query;  // otherwise a document
  int64_t row;
};

// Throws BadRow for a vector with a value that is not finite, for the cosine for a zero vector, and
// for one whose inner products might overflow.
void rank(const Problem& problem, Result& result, int threads);

// scores[t] of the query in row query_rows[t] and the document in row document_rows[t].
// Throws BadRow as rank does; a query is looked at only if its score is not finite.
void pair_scores(const similarity::Matrix& queries, const similarity::Matrix& documents,
                 bool cosine, int64_t count, const int64_t* query_rows,
                 const int64_t* document_rows, double* scores, int threads);

}  // namespace hybridret::ranking
