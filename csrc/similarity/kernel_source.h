// The kernel source, compiled once per ISA by kernel_<isa>.cpp, which defines
//   HYBRIDRET_LANES    floats in a vector register
//   HYBRIDRET_ROWS     rows of the register tile
//   HYBRIDRET_VECTORS  vectors across the register tile
//   HYBRIDRET_KERNEL   name of the table to define
//   HYBRIDRET_ISA_NAME its name as users write it
//
// Register budget: ROWS * VECTORS accumulators, VECTORS of b, one broadcast of a:
//   baseline (16 x 128 bit)  6 x 2 + 2 + 1 = 15
//   AVX2     (16 x 256 bit)  6 x 2 + 2 + 1 = 15
//   AVX-512  (32 x 512 bit) 14 x 2 + 2 + 1 = 31
//
// Everything here has internal linkage and nothing of the standard library is inlined: a linker may
// merge two copies of an inline function, and the copy it keeps may hold instructions that the
// machine does not have.

#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

constexpr int kLanes = HYBRIDRET_LANES;
constexpr int kRows = HYBRIDRET_ROWS;
constexpr int kVectors = HYBRIDRET_VECTORS;
constexpr int kColumns = kLanes * kVectors;

typedef float Vector __attribute__((vector_size(4 * HYBRIDRET_LANES)));
typedef float UnalignedVector
    __attribute__((vector_size(4 * HYBRIDRET_LANES), aligned(4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(4 * HYBRIDRET_LANES)));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline Vector broadcast(float x) { return x - Vector{}; }

void tile(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
          int64_t c_row, int64_t valid_rows, int64_t valid_columns, bool accumulate) {
  Vector sums[kRows][kVectors] = {};
  const bool whole = valid_rows == kRows && valid_columns == kColumns;
  if (accumulate) {
    for (int64_t i = 0; i < valid_rows; ++i) {
      float* row = reinterpret_cast<float*>(sums[i]);
      for (int64_t j = 0; j < valid_columns; ++j) row[j] = c[i * c_row + j];
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector row = broadcast(a[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] += row * columns[v];
    }
    a += a_step;
    b += b_step;
  }
  if (whole) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(c + i * c_row + v * kLanes, sums[i][v]);
    return;
  }
  for (int64_t i = 0; i < valid_rows; ++i) {
    const float* row = reinterpret_cast<const float*>(sums[i]);
    for (int64_t j = 0; j < valid_columns; ++j) c[i * c_row + j] = row[j];
  }
}

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
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(value) & ~(x < -87.3f));
}

inline float lane_sum(Vector v) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

double exponentials(float* values, int64_t count, float shift) {
  constexpr int64_t kBlock = 1024;  // float sums stay short, the blocks are added in double
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Vector sums = {};
    int64_t j = begin;
    for (; j + kLanes <= end; j += kLanes) {
      const Vector e = exponential(load(values + j) - shift);
      store(values + j, e);
      sums += e;
    }
    for (; j < end; ++j) {
      const float e = exponential(broadcast(values[j] - shift))[0];
      values[j] = e;
      sums[0] += e;
    }
    total += lane_sum(sums);
  }
  return total;
}

float scale_and_max(float* values, int64_t count, float factor) {
  float largest = -__builtin_inff();
  Vector largests = broadcast(0.0f) + largest;
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const Vector v = load(values + j) * factor;
    store(values + j, v);
    largests = v > largests ? v : largests;
  }
  for (int lane = 0; lane < kLanes; ++lane)
    if (largests[lane] > largest) largest = largests[lane];
  for (; j < count; ++j) {
    values[j] *= factor;
    if (values[j] > largest) largest = values[j];
  }
  return largest;
}

float dot(const float* a, const float* b, int64_t depth) {
  Vector even = {}, odd = {};
  int64_t k = 0;
  for (; k + 2 * kLanes <= depth; k += 2 * kLanes) {
    even += load(a + k) * load(b + k);
    odd += load(a + k + kLanes) * load(b + k + kLanes);
  }
  float sum = lane_sum(even + odd);
  for (; k < depth; ++k) sum += a[k] * b[k];
  return sum;
}

}  // namespace

const Kernel HYBRIDRET_KERNEL = {HYBRIDRET_ISA_NAME, kRows,         kColumns, tile,
                                 exponentials,       scale_and_max, dot};

}  // namespace hybridret::similarity
