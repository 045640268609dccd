// The scorer's epilogue: part of the kernel source, see similarity/kernel_source.h.
#pragma once

#include "ranking/epilogue.h"
#include "similarity/vector_source.h"

namespace hybridret::ranking {
namespace {

using similarity::broadcast;
using similarity::kColumns;
using similarity::kLanes;
using similarity::load;
using similarity::sign_bits;
using similarity::Vector;

uint32_t queries_reaching(const float* tile, int64_t queries, const float* lowest,
                          const float* along, const float* across, float length, float residual) {
  uint32_t reaching = 0;
  for (int64_t i = 0; i < queries; ++i) {
    const Vector bound = broadcast(lowest[i] - (along[i] * length + across[i] * residual));
    const Vector left = load(tile + i * kColumns), right = load(tile + i * kColumns + kLanes);
    reaching |= static_cast<uint32_t>(sign_bits((left >= bound) | (right >= bound)) != 0) << i;
  }
  return reaching;
}

uint32_t screen(const float* scores, uint32_t valid, int64_t thresholds, const float* threshold,
                float bound, int32_t* above) {
  const Vector left = load(scores), right = load(scores + kLanes);
  uint32_t unsure = 0;
  for (int64_t t = 0; t < thresholds; ++t) {
    const Vector low = broadcast(threshold[t] - bound), high = broadcast(threshold[t] + bound);
    const uint32_t reaching = (sign_bits(left >= low) | sign_bits(right >= low) << kLanes) & valid;
    if (reaching == 0) break;
    const uint32_t over = (sign_bits(left > high) | sign_bits(right > high) << kLanes) & valid;
    above[t] += __builtin_popcount(over);
    unsure |= reaching & ~over;
  }
  return unsure;
}

constexpr Epilogue kEpilogue = {queries_reaching, screen};

}  // namespace
}  // namespace hybridret::ranking
