// The kernel source, compiled once per ISA by kernel_<isa>.cpp, which defines
//   HYBRIDRET_LANES    floats in a vector register
//   HYBRIDRET_ROWS     rows of the float32 register tile
//   HYBRIDRET_KERNEL   name of the table to define
//   HYBRIDRET_ISA_NAME its name as users write it
// and, where the ISA multiplies bfloat16, HYBRIDRET_BFLOAT16_TILE and HYBRIDRET_SPLIT_TILE, the
// first members of their TileKernel.
//
// Register budget: ROWS x 2 accumulators, 2 vectors of b, one broadcast of a:
//   baseline (16 x 128 bit)  6 x 2 + 2 + 1 = 15
//   AVX2     (16 x 256 bit)  6 x 2 + 2 + 1 = 15
//   AVX-512  (32 x 512 bit) 14 x 2 + 2 + 1 = 31
//
// Everything here has internal linkage and nothing of the standard library or of our own inline
// functions is used: a linker may merge two copies of an inline function, and the copy it keeps may
// hold instructions that the machine does not have.

#include <cstddef>
#include <utility>
#if defined(HYBRIDRET_X86)
#include <immintrin.h>
#endif

#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

constexpr int kLanes = HYBRIDRET_LANES;
constexpr int kRows = HYBRIDRET_ROWS;
constexpr int kVectors = 2;
constexpr int kColumns = kLanes * kVectors;
static_assert(kRows <= kMaximumTileRows && kColumns <= kMaximumColumns);

typedef float Vector __attribute__((vector_size(4 * HYBRIDRET_LANES)));
typedef float UnalignedVector
    __attribute__((vector_size(4 * HYBRIDRET_LANES), aligned(4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(4 * HYBRIDRET_LANES)));
typedef int32_t UnalignedIntVector
    __attribute__((vector_size(4 * HYBRIDRET_LANES), aligned(4), may_alias));
inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline IntVector load(const int32_t* p) { return *reinterpret_cast<const UnalignedIntVector*>(p); }
inline void store(int32_t* p, IntVector v) { *reinterpret_cast<UnalignedIntVector*>(p) = v; }
inline Vector broadcast(float x) { return x - Vector{}; }
inline Vector keep(Vector v, IntVector mask) {
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & mask);
}

// ---- tiles --------------------------------------------------------------------------------------

void float_tile(int64_t depth, const float* a, int64_t a_row, int64_t a_block, const float* b,
                float* c, int64_t c_row, bool accumulate) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    if (accumulate)
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(c + i * c_row + v * kLanes, 1);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector{};
  }
  for (int64_t begin = 0; begin < depth; begin += kColumns) {
    // Three bases and four multiples of the stride address 14 rows within the general registers.
    const float *first = a, *fifth = a + 5 * a_row, *tenth = a + 10 * a_row;
    const int64_t count = depth - begin < kColumns ? depth - begin : kColumns;
    // Callers walk down the rows: the next tile's are fetched meanwhile.
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const float* base = i < 5 ? first : i < 10 ? fifth : tenth;
      const float* next = base + (i % 5) * a_row + kRows * a_row;
      __builtin_prefetch(next);
      if constexpr (kColumns > 16) __builtin_prefetch(next + 16);
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; ++k) {
      Vector columns[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const float* base = i < 5 ? first : i < 10 ? fifth : tenth;
        const Vector row = broadcast(base[(i % 5) * a_row]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[i][v] += row * columns[v];
      }
      ++first, ++fifth, ++tenth;
      b += kColumns;
    }
    a += a_block;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * c_row + v * kLanes;
      store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]);
    }
}

// ---- stores -------------------------------------------------------------------------------------

// Stores the rows of one tile, first to last.
template <class Element>
class Writer;

template <>
class Writer<float> {
 public:
  Writer(float* rows, float*) : rows_(rows) {}
  void operator()(int64_t j, const Vector (&values)[kVectors]) {
    if (!rows_) return;
    for (int v = 0; v < kVectors; ++v) store(rows_ + j * kColumns + v * kLanes, values[v]);
  }

 private:
  float* rows_;
};

#ifdef HYBRIDRET_BFLOAT16_TILE
typedef uint16_t HalfVector __attribute__((vector_size(2 * HYBRIDRET_LANES)));
typedef uint16_t UnalignedHalfVector
    __attribute__((vector_size(2 * HYBRIDRET_LANES), aligned(2), may_alias));
inline void store(uint16_t* p, HalfVector v) { *reinterpret_cast<UnalignedHalfVector*>(p) = v; }

// The bits of v as bfloat16, in 32-bit lanes; v becomes what is left.
inline IntVector take_part(Vector& v, HalfVector& half) {
  half = reinterpret_cast<HalfVector>(_mm512_cvtneps_pbh(v));
  const IntVector wide = __builtin_convertvector(half, IntVector);
  v -= reinterpret_cast<Vector>(wide << 16);
  return wide;
}

// Bfloat16 and Split: documents 2j and 2j + 1 stand side by side in pairs, part by part.
template <class Element>
class Writer {
 public:
  Writer(Element* rows, Element* pairs)
      : rows_(reinterpret_cast<uint16_t*>(rows)), pairs_(reinterpret_cast<uint16_t*>(pairs)) {}
  void operator()(int64_t j, const Vector (&values)[kVectors]) {
    if (!rows_) return;
    uint16_t* const row = rows_ + j * kParts * kColumns;
    uint16_t* const pair = pairs_ + j / 2 * 2 * kColumns;
    for (int v = 0; v < kVectors; ++v) {
      Vector rest = values[v];
      for (int part = 0; part < kParts; ++part) {
        HalfVector half;
        const IntVector wide = take_part(rest, half);
        store(row + part * kColumns + v * kLanes, half);
        if (j % 2 == 0)
          even_[v][part] = wide;
        else
          store(reinterpret_cast<int32_t*>(pair + part * kSplitBlock * kColumns + 2 * v * kLanes),
                even_[v][part] | wide << 16);
      }
    }
  }

 private:
  static constexpr int kParts = sizeof(Element) / sizeof(Bfloat16);
  static_assert(kParts == 1 || kMaximumTileRows == kSplitBlock);
  uint16_t *rows_, *pairs_;
  IntVector even_[kVectors][kParts] = {};
};
#endif

// ---- epilogues ----------------------------------------------------------------------------------

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

inline float lane_sum(Vector v) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

inline float lane_maximum(Vector v) {
  float largest = v[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = v[lane] > largest ? v[lane] : largest;
  return largest;
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

void maxima(const Logits& l, float* row_maximum, float* column_maximum) {
  const Queries queries(l);
  const Vector none = broadcast(-__builtin_inff());
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector largest = none;
    for (int v = 0; v < kVectors; ++v) {
      const Vector s = queries.logit(j, v);
      const Vector x = queries.counts(j, v) ? s : none;
      const Vector before = load(row_maximum + v * kLanes);
      store(row_maximum + v * kLanes, x > before ? x : before);
      largest = x > largest ? x : largest;
    }
    if (!column_maximum) continue;
    const float x = lane_maximum(largest);
    if (x > column_maximum[j]) column_maximum[j] = x;
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
void exponentials(const Logits& l, const float* shift, float* row_sums, double* column_sums,
                  Element* rows, Element* pairs) {
  const Queries queries(l);
  Writer<Element> write(rows, pairs);
  Vector sums[kVectors] = {}, shifts[kVectors];
  for (int v = 0; v < kVectors; ++v) shifts[v] = load(shift + v * kLanes);
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector e[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      e[v] = keep(exponential(queries.logit(j, v) - shifts[v]), queries.counts(j, v));
      sums[v] += e[v];
    }
    if (column_sums) column_sums[j] += static_cast<double>(lane_sum(e[0] + e[1]));
    for (int v = 0; v < kVectors; ++v) e[v] *= l.document_scale[j];
    write(j, e);
  }
  for (int v = 0; v < kVectors; ++v)
    store(row_sums + v * kLanes, load(row_sums + v * kLanes) + sums[v]);
}

template <class Element>
void weights(const Logits& l, const float* row_lse, const float* row_weight,
             const float* column_lse, const float* column_weight, Element* rows, Element* pairs) {
  const Queries queries(l);
  Writer<Element> write(rows, pairs);
  Vector lse[kVectors], weight[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    lse[v] = load(row_lse + v * kLanes);
    weight[v] = load(row_weight + v * kLanes);
  }
  for (int64_t j = 0; j < l.documents; ++j) {
    Vector g[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Vector s = queries.logit(j, v);
      const Vector sum =
          exponential(s - lse[v]) * weight[v] + exponential(s - column_lse[j]) * column_weight[j];
      g[v] = keep(sum, queries.counts(j, v)) * l.document_scale[j];
    }
    write(j, g);
  }
}

// The signs of the lanes.
inline uint32_t bits(IntVector mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
  uint32_t all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all |= static_cast<uint32_t>(mask[lane] & 1) << lane;
  return all;
#endif
}

uint32_t rows_reaching(const float* tile, int64_t rows, const float* lowest, const float* along,
                       const float* across, float length, float residual) {
  uint32_t reaching = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const Vector bound = broadcast(lowest[i] - (along[i] * length + across[i] * residual));
    const Vector left = load(tile + i * kColumns), right = load(tile + i * kColumns + kLanes);
    reaching |= static_cast<uint32_t>(bits((left >= bound) | (right >= bound)) != 0) << i;
  }
  return reaching;
}

uint32_t screen(const float* row, uint32_t valid, int64_t thresholds, const float* threshold,
                float bound, int32_t* above) {
  const Vector left = load(row), right = load(row + kLanes);
  uint32_t unsure = 0;
  for (int64_t t = 0; t < thresholds; ++t) {
    const Vector low = broadcast(threshold[t] - bound), high = broadcast(threshold[t] + bound);
    const uint32_t reaching = (bits(left >= low) | bits(right >= low) << kLanes) & valid;
    if (reaching == 0) break;
    const uint32_t over = (bits(left > high) | bits(right > high) << kLanes) & valid;
    above[t] += __builtin_popcount(over);
    unsure |= reaching & ~over;
  }
  return unsure;
}

// ---- the rest -----------------------------------------------------------------------------------

// One stage of a butterfly: lanes with bit S clear of a stay, those of b move S up; and the
// reverse.
template <int S, std::size_t... I>
inline void exchange(Vector& a, Vector& b, std::index_sequence<I...>) {
  const Vector low = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I - S : I)...);
  b = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I : I + S)...);
  a = low;
}

template <int S>
inline void exchange_all(Vector (&block)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & S)) exchange<S>(block[i], block[i + S], std::make_index_sequence<kLanes>());
}

void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to,
               int64_t to_row) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      if (r + kLanes <= rows && c + kLanes <= columns) {
        Vector block[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) block[i] = load(from + (r + i) * from_row + c);
        exchange_all<1>(block);
        exchange_all<2>(block);
        if constexpr (kLanes > 4) exchange_all<4>(block);
        if constexpr (kLanes > 8) exchange_all<8>(block);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (c + i) * to_row + r, block[i]);
      } else {
        for (int64_t i = r; i < rows && i < r + kLanes; ++i)
          for (int64_t k = c; k < columns && k < c + kLanes; ++k)
            to[k * to_row + i] = from[i * from_row + k];
      }
    }
  }
}

// Products of floats are exact in double, so a multiply-add rounds as a multiply and an add do, and
// the order of the sums is the same everywhere: lane l has every 32nd product from l on.
double exact_dot(const float* a, const float* b, int64_t depth) {
  constexpr int kSums = 32;
  double sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums <= depth; k += kSums)
    for (int l = 0; l < kSums; ++l)
      sums[l] += static_cast<double>(a[k + l]) * static_cast<double>(b[k + l]);
  for (int l = 0; k + l < depth; ++l)
    sums[l] += static_cast<double>(a[k + l]) * static_cast<double>(b[k + l]);
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}

// Number formats; the loops are plain so that the compiler makes vectors of them.
inline float number(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t word(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float widen_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  // As float32 bits the exponent is 112 too low; the product also normalises denormal numbers.
  const uint32_t scaled = word(number(magnitude) * 0x1p112f);
  const bool special = magnitude >= 0x0f800000;  // infinite or NaN
  return number(sign | (special ? magnitude | 0x7f800000 : scaled));
}

inline uint16_t narrow_half(float value) {
  const uint32_t bits = word(value), magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the multiples of 2^-24 in the low bits, rounded by the addition itself.
  const uint32_t denormal = word(number(magnitude) + 0.5f) - 0x3f000000;
  uint32_t half = magnitude < 0x38800000 ? denormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | half);
}

void widen_all(Format format, const void* from, int64_t count, float* to) {
  const auto* halves = static_cast<const uint16_t*>(from);
  if (format == Format::kFloat32)
    __builtin_memcpy(to, from, sizeof(float) * count);
  else if (format == Format::kBfloat16)
    for (int64_t i = 0; i < count; ++i) to[i] = number(static_cast<uint32_t>(halves[i]) << 16);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = widen_half(halves[i]);
}

void narrow_all(Format format, const float* from, int64_t count, void* to) {
  auto* halves = static_cast<uint16_t*>(to);
  if (format == Format::kFloat32) {
    __builtin_memcpy(to, from, sizeof(float) * count);
  } else if (format == Format::kBfloat16) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = word(from[i]), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      const bool nan = (bits & 0x7fffffff) > 0x7f800000;
      halves[i] = static_cast<uint16_t>(nan ? 0x7fc0 : rounded);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) halves[i] = narrow_half(from[i]);
  }
}

template <class Element>
void convert(const float* from, int64_t count, Element* to);

template <>
void convert(const float* from, int64_t count, float* to) {
  __builtin_memcpy(to, from, sizeof(float) * count);
}

#ifdef HYBRIDRET_BFLOAT16_TILE
template <>
void convert(const float* from, int64_t count, Bfloat16* to) {
  narrow_all(Format::kBfloat16, from, count, to);
}
#endif

#ifdef HYBRIDRET_SPLIT_TILE
template <int kParts>
void split(const float* from, int64_t count, Split<kParts>* to) {
  auto* parts = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < count; i += kLanes) {
    Vector rest = load(from + i);
    for (int part = 0; part < kParts; ++part) {
      HalfVector half;
      take_part(rest, half);
      store(parts + (i / kSplitBlock * kParts + part) * kSplitBlock + i % kSplitBlock, half);
    }
  }
}
#endif

float dot(const float* a, const float* b, int64_t depth) {
  constexpr int kSums = 4;
  Vector sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums * kLanes <= depth; k += kSums * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < kSums; ++v) sums[v] += load(a + k + v * kLanes) * load(b + k + v * kLanes);
  for (; k + kLanes <= depth; k += kLanes) sums[0] += load(a + k) * load(b + k);
  float lanes[kLanes];
  store(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  float sum = lanes[0];
  for (; k < depth; ++k) sum += a[k] * b[k];
  return sum;
}

#ifdef HYBRIDRET_BFLOAT16_TILE
constexpr TileKernel<Bfloat16> kBfloat16Tile = {HYBRIDRET_BFLOAT16_TILE, convert<Bfloat16>};
constexpr Stores<Bfloat16> kBfloat16Stores = {exponentials<Bfloat16>, weights<Bfloat16>};
#else
constexpr TileKernel<Bfloat16> kBfloat16Tile = {};
constexpr Stores<Bfloat16> kBfloat16Stores = {};
#endif
#ifdef HYBRIDRET_SPLIT_TILE
constexpr TileKernel<Split<3>> kSplit3Tile = {HYBRIDRET_SPLIT_TILE(Split<3>), split<3>};
constexpr TileKernel<Split<2>> kSplit2Tile = {HYBRIDRET_SPLIT_TILE(Split<2>), split<2>};
constexpr Stores<Split<3>> kSplit3Stores = {exponentials<Split<3>>, weights<Split<3>>};
#else
constexpr TileKernel<Split<3>> kSplit3Tile = {};
constexpr TileKernel<Split<2>> kSplit2Tile = {};
constexpr Stores<Split<3>> kSplit3Stores = {};
#endif
#ifndef HYBRIDRET_CACHE_BYTES
#define HYBRIDRET_CACHE_BYTES 3 << 18  // three quarters of the megabyte of Zen 4 and 5
#endif
#ifndef HYBRIDRET_SCOPE
#define HYBRIDRET_SCOPE nullptr, nullptr
#endif

}  // namespace

const Kernel HYBRIDRET_KERNEL = {HYBRIDRET_ISA_NAME,
                                 kColumns,
                                 HYBRIDRET_CACHE_BYTES,
                                 {kRows, 1, float_tile, convert<float>},
                                 kBfloat16Tile,
                                 kSplit3Tile,
                                 kSplit2Tile,
                                 {logit, maxima, count_above},
                                 {rows_reaching, screen},
                                 {exponentials<float>, weights<float>},
                                 kBfloat16Stores,
                                 kSplit3Stores,
                                 transpose,
                                 dot,
                                 exact_dot,
                                 widen_all,
                                 narrow_all,
                                 HYBRIDRET_SCOPE};

}  // namespace hybridret::similarity
