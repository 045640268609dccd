// Number formats of the matrices, and their conversion.
#pragma once

#include <cstdint>
#include <cstring>

namespace hybridret::similarity {

enum class Format { kFloat32, kBfloat16, kFloat16 };

// The bits of a bfloat16; arithmetic on it goes through float or through a kernel.
struct Bfloat16 {
  uint16_t bits;
};

inline int64_t bytes_of(Format format) { return format == Format::kFloat32 ? 4 : 2; }

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float widen(Bfloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline Bfloat16 narrow(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded)};
}

// to[i] = value of element i of `from`.
void widen(Format format, const void* from, int64_t count, float* to);

// Rounds to nearest, ties to even; what is too large for float16 becomes infinite, as in torch.
void narrow(Format format, const float* from, int64_t count, void* to);

}  // namespace hybridret::similarity
