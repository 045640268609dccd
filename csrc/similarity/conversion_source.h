// Conversion of number formats: part of the kernel source, see kernel_source.h. Most loops are
// plain, so that the compiler makes vectors of them; the one that has to keep up with bfloat16
// tiles uses to_bfloat16, which the ISA's file brings.
#pragma once

#include "similarity/elements.h"
#include "similarity/vector_source.h"

namespace hybridret::similarity {
namespace {

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
// Rounds v to bfloat16, the next part of a Split: `half` gets the bits, v becomes what is left. The
// bits again in 32-bit lanes.
inline IntVector take_part(Vector& v, HalfVector& half) {
  half = to_bfloat16(v);
  const IntVector wide = __builtin_convertvector(half, IntVector);
  v -= reinterpret_cast<Vector>(wide << 16);
  return wide;
}

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
      store(parts + (i / kSplitSlice * kParts + part) * kSplitSlice + i % kSplitSlice, half);
    }
  }
}
#endif

}  // namespace
}  // namespace hybridret::similarity
