// The loss's epilogue: part of the kernel source, see similarity/kernel_source.h.
#pragma once

#include "infonce/epilogue.h"
#include "similarity/conversion_source.h"
#include "similarity/kernel.h"
#include "similarity/vector_source.h"

namespace hybridret::infonce {
namespace {

using similarity::Bfloat16;
using similarity::broadcast;
using similarity::IntVector;
using similarity::kColumns;
using similarity::keep;
using similarity::kLanes;
using similarity::kVectors;
using similarity::lane_maximum;
using similarity::lane_sum;
using similarity::load;
using similarity::Split;
using similarity::store;
using similarity::Vector;

// Stores the documents of one tile, first to last.
template <class Element>
class Writer;

template <>
class Writer<float> {
 public:
  Writer(float* a, float*) : a_(a) {}
  void operator()(int64_t j, const Vector (&values)[kVectors]) {
    if (!a_) return;
    for (int v = 0; v < kVectors; ++v) store(a_ + j * kColumns + v * kLanes, values[v]);
  }

 private:
  float* a_;
};

#ifdef HYBRIDRET_BFLOAT16_TILE
using similarity::HalfVector;
using similarity::kMaximumTileRows;
using similarity::kSplitSlice;
using similarity::take_part;

// Bfloat16 and Split, part by part. In b the documents 2j and 2j + 1 are side by side, a pair of
// depths.
template <class Element>
class Writer {
 public:
  Writer(Element* a, Element* b)
      : a_(reinterpret_cast<uint16_t*>(a)), b_(reinterpret_cast<uint16_t*>(b)) {}
  void operator()(int64_t j, const Vector (&values)[kVectors]) {
    if (!a_) return;
    uint16_t* const row = a_ + j * kParts * kColumns;
    uint16_t* const pair = b_ + j / 2 * 2 * kColumns;
    for (int v = 0; v < kVectors; ++v) {
      Vector rest = values[v];
      for (int part = 0; part < kParts; ++part) {
        HalfVector half;
        const IntVector wide = take_part(rest, half);
        store(row + part * kColumns + v * kLanes, half);
        if (j % 2 == 0)
          even_[v][part] = wide;
        else
          store(reinterpret_cast<int32_t*>(pair + part * kSplitSlice * kColumns + 2 * v * kLanes),
                even_[v][part] | wide << 16);
      }
    }
  }

 private:
  static constexpr int kParts = sizeof(Element) / sizeof(Bfloat16);
  static_assert(kParts == 1 || kMaximumTileRows == kSplitSlice);
  uint16_t *a_, *b_;
  IntVector even_[kVectors][kParts] = {};
};
#endif

// exp(x) = 2^n p(r), n = round(x / ln 2), r = x - n ln 2 in two parts (Cody and Waite);
// p is the Taylor polynomial of degree 7, whose remainder on |r| <= 0.3466 is 5e-9.
inline Vector exponential(Vector x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vector shifted = x * 1.44269504088896f + kRound;
  const Vector n = shifted - kRound;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = broadcast(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVector exponent = (reinterpret_cast<IntVector>(shifted) + (127 - 0x4B400000)) << 23;
  const Vector value = p * reinterpret_cast<Vector>(exponent);
  // Below -87.3 the result would be denormal; the select is false for NaN, which so stays NaN.
  return keep(value, ~(x < -87.3f));
}

// What the queries of a tile have in common for all its documents, in registers.
struct Queries {
  explicit Queries(const Logits& l) : logits(l) {
    for (int v = 0; v < kVectors; ++v) scale[v] = load(l.query_scale + v * kLanes);
    if (!l.document_groups) return;
    for (int v = 0; v < kVectors; ++v) group[v] = load(l.query_groups + v * kLanes);
  }
  Vector logit(int64_t j, int v) const {
    const Vector product = load(logits.tile + j * kColumns + v * kLanes);
    return product * (scale[v] * logits.document_scale[j]) + logits.document_bias[j];
  }
  // All bits set where the document counts.
  IntVector counts(int64_t j, int v) const {
    return logits.document_groups ? group[v] != logits.document_groups[j] : ~IntVector{};
  }

  const Logits& logits;
  Vector scale[kVectors];
  IntVector group[kVectors];
};

float logit(const Logits& l, int64_t j, int64_t q) {
  // One lane of a whole vector: a scalar expression might be compiled to other instructions.
  const int64_t lane = q % kLanes;
  return Queries(l).logit(j, static_cast<int>(q / kLanes))[lane];
}

void maxima(const Logits& l, float* query_maximum, float* document_maximum) {
  const Queries queries(l);
  const Vector none = broadcast(-__builtin_inff());
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector largest = none;
    for (int v = 0; v < kVectors; ++v) {
      const Vector s = queries.logit(j, v);
      const Vector x = queries.counts(j, v) ? s : none;
      const Vector before = load(query_maximum + v * kLanes);
      store(query_maximum + v * kLanes, x > before ? x : before);
      largest = x > largest ? x : largest;
    }
    if (!document_maximum) continue;
    const float x = lane_maximum(largest);
    if (x > document_maximum[j]) document_maximum[j] = x;
  }
}

void count_above(const Logits& l, const float* threshold, int32_t* counts) {
  const Queries queries(l);
  for (int v = 0; v < kVectors; ++v) {
    const Vector bound = load(threshold + v * kLanes);
    IntVector above = {};
    for (int64_t j = 0; j < l.documents; ++j)
      above -= (queries.logit(j, v) > bound) & queries.counts(j, v);
    store(counts + v * kLanes, load(counts + v * kLanes) + above);
  }
}

template <class Element>
void exponentials(const Logits& l, const float* shift, float* query_sums, double* document_sums,
                  Element* a, Element* b) {
  const Queries queries(l);
  Writer<Element> write(a, b);
  Vector sums[kVectors] = {}, shifts[kVectors];
  for (int v = 0; v < kVectors; ++v) shifts[v] = load(shift + v * kLanes);
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector e[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      e[v] = keep(exponential(queries.logit(j, v) - shifts[v]), queries.counts(j, v));
      sums[v] += e[v];
    }
    if (document_sums) document_sums[j] += static_cast<double>(lane_sum(e[0] + e[1]));
    for (int v = 0; v < kVectors; ++v) e[v] *= l.document_scale[j];
    write(j, e);
  }
  for (int v = 0; v < kVectors; ++v)
    store(query_sums + v * kLanes, load(query_sums + v * kLanes) + sums[v]);
}

template <class Element>
void weights(const Logits& l, const float* query_lse, const float* query_weight,
             const float* document_lse, const float* document_weight, Element* a, Element* b) {
  const Queries queries(l);
  Writer<Element> write(a, b);
  Vector lse[kVectors], weight[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    lse[v] = load(query_lse + v * kLanes);
    weight[v] = load(query_weight + v * kLanes);
  }
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector g[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Vector s = queries.logit(j, v);
      const Vector sum = exponential(s - lse[v]) * weight[v] +
                         exponential(s - document_lse[j]) * document_weight[j];
      g[v] = keep(sum, queries.counts(j, v)) * l.document_scale[j];
    }
    write(j, g);
  }
}

template <class Element>
constexpr Stores<Element> kStores = {exponentials<Element>, weights<Element>};

#ifdef HYBRIDRET_BFLOAT16_TILE
constexpr Stores<Bfloat16> kBfloat16Stores = kStores<Bfloat16>;
#else
constexpr Stores<Bfloat16> kBfloat16Stores = {};
#endif
#ifdef HYBRIDRET_SPLIT_TILE
constexpr Stores<Split<3>> kSplit3Stores = kStores<Split<3>>;
#else
constexpr Stores<Split<3>> kSplit3Stores = {};
#endif

constexpr Epilogue kEpilogue = {logit,          maxima,          count_above,
                                kStores<float>, kBfloat16Stores, kSplit3Stores};

}  // namespace
}  // namespace hybridret::infonce
