// Number formats of the matrices, and their conversion.
#pragma once

#include <cstdint>

namespace hybridret::similarity {

enum class Format { kFloat32, kBfloat16, kFloat16 };

// The bits of a bfloat16; arithmetic on it goes through float or through a kernel.
struct Bfloat16 {
  uint16_t bits;
};

inline int64_t bytes_of(Format format) { return format == Format::kFloat32 ? 4 : 2; }

// to[i] = value of element i of `from`.
void widen(Format format, const void* from, int64_t count, float* to);

// Rounds to nearest, ties to even; what is too large for float16 becomes infinite, as in torch.
void narrow(Format format, const float* from, int64_t count, void* to);

}  // namespace hybridret::similarity
