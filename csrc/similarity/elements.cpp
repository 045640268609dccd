#include "similarity/elements.h"

namespace hybridret::similarity {
namespace {

float widen_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  // As float32 bits the exponent is 112 too low; the product also normalises denormal numbers.
  const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
  const bool special = magnitude >= 0x0f800000;  // infinite or NaN
  return float_of(sign | (special ? magnitude | 0x7f800000 : scaled));
}

uint16_t narrow_half(float value) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the multiples of 2^-24 in the low bits, rounded by the addition itself.
  const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
  uint32_t half = magnitude < 0x38800000 ? denormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | half);
}

}  // namespace

void widen(Format format, const void* from, int64_t count, float* to) {
  if (format == Format::kFloat32) {
    std::memcpy(to, from, sizeof(float) * count);
  } else if (format == Format::kBfloat16) {
    const auto* values = static_cast<const Bfloat16*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = widen(values[i]);
  } else {
    const auto* values = static_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = widen_half(values[i]);
  }
}

void narrow(Format format, const float* from, int64_t count, void* to) {
  if (format == Format::kFloat32) {
    std::memcpy(to, from, sizeof(float) * count);
  } else if (format == Format::kBfloat16) {
    auto* values = static_cast<Bfloat16*>(to);
    for (int64_t i = 0; i < count; ++i) values[i] = narrow(from[i]);
  } else {
    auto* values = static_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count; ++i) values[i] = narrow_half(from[i]);
  }
}

}  // namespace hybridret::similarity
