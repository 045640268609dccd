// What the scorer does with a tile of scores, queries down and documents across: one table of
// functions per instruction set, from ranking/epilogue_source.h.
//
// The scores are known to be within a bound of exact ones. Both functions say what that decides;
// bit j of a mask of documents is column j of the tile.
#pragma once

#include <cstdint>

namespace hybridret::ranking {

struct Epilogue {
  // Bit i: whether some score of query i, a row of the tile [queries, columns], reaches
  // lowest[i] - (along[i] * length + across[i] * residual).
  uint32_t (*queries_reaching)(const float* tile, int64_t queries, const float* lowest,
                               const float* along, const float* across, float length,
                               float residual);
  // Of one query's scores [columns], those of the `valid` documents: for each threshold t,
  // ascending, adds to above[t] how many are over threshold[t] + bound. Returns the documents that
  // are within the bound of any threshold. Ends at the first threshold that no score reaches.
  uint32_t (*screen)(const float* scores, uint32_t valid, int64_t thresholds,
                     const float* threshold, float bound, int32_t* above);
};

}  // namespace hybridret::ranking
