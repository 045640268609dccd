// Number formats of the matrices, and their conversion.
#pragma once

#include <cstdint>

namespace hybridret::similarity {

enum class Format { kFloat32, kBfloat16, kFloat16 };

// The bits of a bfloat16; arithmetic on it goes through float or through a kernel.
struct Bfloat16 {
  uint16_t bits;
};

// A float32 as a sum of bfloat16, the largest first: three hold all its 24 bits, two leave at most
// 2^-16 of it. They stand in blocks of kSplitBlock: all the first parts, all the second, ...;
// whoever counts in whole blocks may treat a Split as an element like any other.
template <int kParts>
struct Split {
  uint16_t parts[kParts];
};
constexpr int64_t kSplitBlock = 32;

inline int64_t bytes_of(Format format) { return format == Format::kFloat32 ? 4 : 2; }

// to[i] = value of element i of `from`.
void widen(Format format, const void* from, int64_t count, float* to);

// Rounds to nearest, ties to even; what is too large for float16 becomes infinite, as in torch.
void narrow(Format format, const float* from, int64_t count, void* to);

}  // namespace hybridret::similarity
