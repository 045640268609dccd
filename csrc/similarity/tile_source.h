// The float32 tile, the transposition and the inner products of two vectors: part of the kernel
// source, see kernel_source.h.
//
// Registers of the tile: TILE_ROWS x 2 accumulators, 2 vectors of b, one broadcast of a:
//   baseline (16 x 128 bit)  6 x 2 + 2 + 1 = 15
//   AVX2     (16 x 256 bit)  6 x 2 + 2 + 1 = 15
//   AVX-512  (32 x 512 bit) 14 x 2 + 2 + 1 = 31
#pragma once

#include <cstddef>
#include <utility>

#include "similarity/kernel.h"
#include "similarity/vector_source.h"

namespace hybridret::similarity {
namespace {

constexpr int kTileRows = HYBRIDRET_TILE_ROWS;
static_assert(kTileRows <= kMaximumTileRows && kColumns <= kMaximumColumns);

void float_tile(int64_t depth, const float* a, int64_t a_row, int64_t a_slice, const float* b,
                float* c, int64_t c_row, bool accumulate) {
  Vector sums[kTileRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
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
    for (int i = 0; i < kTileRows; ++i) {
      const float* base = i < 5 ? first : i < 10 ? fifth : tenth;
      const float* next = base + (i % 5) * a_row + kTileRows * a_row;
      __builtin_prefetch(next);
      if constexpr (kColumns > 16) __builtin_prefetch(next + 16);
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; ++k) {
      Vector columns[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) columns[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) {
        const float* base = i < 5 ? first : i < 10 ? fifth : tenth;
        const Vector row = broadcast(base[(i % 5) * a_row]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[i][v] += row * columns[v];
      }
      ++first, ++fifth, ++tenth;
      b += kColumns;
    }
    a += a_slice;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * c_row + v * kLanes;
      store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]);
    }
}

// One stage of a butterfly: lanes with bit S clear of a stay, those of b move S up; and the
// reverse.
template <int S, std::size_t... I>
inline void exchange(Vector& a, Vector& b, std::index_sequence<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  const Vector low = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I - S : I)...);
  b = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I : I + S)...);
#else
  const Vector low = __builtin_shuffle(a, b, IntVector{((I & S) ? kLanes + I - S : I)...});
  b = __builtin_shuffle(a, b, IntVector{((I & S) ? kLanes + I : I + S)...});
#endif
  a = low;
}

template <int S>
inline void exchange_all(Vector (&square)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & S)) exchange<S>(square[i], square[i + S], std::make_index_sequence<kLanes>());
}

void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to,
               int64_t to_row) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      if (r + kLanes <= rows && c + kLanes <= columns) {
        Vector square[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) square[i] = load(from + (r + i) * from_row + c);
        exchange_all<1>(square);
        exchange_all<2>(square);
        if constexpr (kLanes > 4) exchange_all<4>(square);
        if constexpr (kLanes > 8) exchange_all<8>(square);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (c + i) * to_row + r, square[i]);
      } else {
        for (int64_t i = r; i < rows && i < r + kLanes; ++i)
          for (int64_t k = c; k < columns && k < c + kLanes; ++k)
            to[k * to_row + i] = from[i * from_row + k];
      }
    }
  }
}

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

}  // namespace
}  // namespace hybridret::similarity
