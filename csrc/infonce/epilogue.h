// What the loss does with a tile of inner products, documents down and queries across: one table of
// functions per instruction set, from infonce/epilogue_source.h.
#pragma once

#include <cstdint>

#include "similarity/elements.h"

namespace hybridret::infonce {

// A tile on its way to logits; `queries` is the number of columns of a tile.
//   logit_jq = tile[j * queries + q] * (query_scale[q] * document_scale[j]) + document_bias[j]
// A document is masked for the queries of its own group, and where its entry of the tile is -inf.
struct Logits {
  const float* tile;               // [documents, queries]
  int64_t documents;               // rows of a tile
  const float* query_scale;        // [queries]
  const int32_t* query_groups;     // [queries]
  const float* document_scale;     // [documents]
  const float* document_bias;      // [documents], -inf: no negative of any query
  const int32_t* document_groups;  // [documents], or null: nothing is masked
};

// Exponentials of a tile, and weights made of them, stored as the gradients' products read them
// (see kernel.h): in `a` [documents, queries] as operand a of depth queries, in `b` [documents,
// queries] as operand b of depth documents. Of float both layouts are the same and only `a` is
// written.
template <class Element>
struct Stores {
  // e = exp(logit - shift[q]), 0 where masked; adds to query_sums [queries] and, unless null,
  // document_sums [documents]; stores e * document_scale unless `a` is null.
  // Relative error of e below 3e-7.
  void (*exponentials)(const Logits&, const float* shift, float* query_sums, double* document_sums,
                       Element* a, Element* b);
  // Stores (exp(logit - query_lse[q]) * query_weight[q] + exp(logit - document_lse[j]) *
  // document_weight[j]) * document_scale[j], 0 where masked.
  void (*weights)(const Logits&, const float* query_lse, const float* query_weight,
                  const float* document_lse, const float* document_weight, Element* a, Element* b);
};

struct Epilogue {
  // The logit itself, in the same arithmetic as everywhere.
  float (*logit)(const Logits&, int64_t document, int64_t query);
  // Raises query_maximum [queries] and, unless null, document_maximum [documents].
  void (*maxima)(const Logits&, float* query_maximum, float* document_maximum);
  // counts [queries] += documents whose logit is above threshold [queries].
  void (*count_above)(const Logits&, const float* threshold, int32_t* counts);
  Stores<float> float_stores;
  Stores<similarity::Bfloat16> bfloat16_stores;  // null where the ISA has no arithmetic on it
  Stores<similarity::Split<3>> split3_stores;

  template <class Element>
  const Stores<Element>& stores() const;
};

template <>
inline const Stores<float>& Epilogue::stores() const {
  return float_stores;
}
template <>
inline const Stores<similarity::Bfloat16>& Epilogue::stores() const {
  return bfloat16_stores;
}
template <>
inline const Stores<similarity::Split<3>>& Epilogue::stores() const {
  return split3_stores;
}

}  // namespace hybridret::infonce
