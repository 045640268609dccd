// The inner product of a query in 16 bits and a vector in 8: part of the kernel source, see
// kernel_source.h.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hybridret::similarity {
namespace {

// Codes are widened to 16 bits, neighbouring products added to 32. Four sums, for one would wait
// for itself.
#if defined(__AVX2__)
inline int32_t total(__m256i sums) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(four) + _mm_extract_epi32(four, 1);
}
#endif

#if defined(__AVX512BW__)
constexpr int kCodes = 32;
using Sums = __m512i;
inline Sums add_products(Sums sums, const int16_t* a, const int8_t* b) {
  const __m512i left = _mm512_loadu_si512(a);
  const __m512i right =
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
#if defined(__AVX512VNNI__)
  return _mm512_dpwssd_epi32(sums, left, right);
#else
  return _mm512_add_epi32(sums, _mm512_madd_epi16(left, right));
#endif
}
inline Sums both(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
// By way of memory: GCC 12 warns of its own header's way.
inline int32_t total(Sums sums) {
  __m256i halves[2];
  _mm512_storeu_si512(halves, sums);
  return total(_mm256_add_epi32(halves[0], halves[1]));
}
#elif defined(__AVX2__)
constexpr int kCodes = 16;
using Sums = __m256i;
inline Sums add_products(Sums sums, const int16_t* a, const int8_t* b) {
  const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
  const __m256i right = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(left, right));
}
inline Sums both(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
#endif

int32_t code_dot(const int16_t* a, const int8_t* b, int64_t depth) {
  int32_t sum = 0;
  int64_t k = 0;
#if defined(__AVX2__)
  Sums sums[4] = {};
  for (; k + 4 * kCodes <= depth; k += 4 * kCodes)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s)
      sums[s] = add_products(sums[s], a + k + s * kCodes, b + k + s * kCodes);
  for (; k + kCodes <= depth; k += kCodes) sums[0] = add_products(sums[0], a + k, b + k);
  sum = total(both(both(sums[0], sums[1]), both(sums[2], sums[3])));
#endif
  for (; k < depth; ++k) sum += static_cast<int32_t>(a[k]) * static_cast<int16_t>(b[k]);
  return sum;
}

}  // namespace
}  // namespace hybridret::similarity
