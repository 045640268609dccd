// Number formats, their conversion, and matrices of vectors in them.
#pragma once

#include <cstdint>

namespace hybridret::similarity {

enum class Format { kFloat32, kBfloat16, kFloat16 };

// The bits of a bfloat16; arithmetic on it goes through float or through a kernel.
struct Bfloat16 {
  uint16_t bits;
};

// A float32 as a sum of bfloat16 parts, the largest first: three parts hold all its 24 bits, two
// leave at most 2^-16 of it. Memory holds them in slices of kSplitSlice numbers: the first parts of
// all of them, then the second, ...; code that counts in whole slices may treat a Split as an
// element like any other.
template <int kParts>
struct Split {
  uint16_t parts[kParts];
};
constexpr int64_t kSplitSlice = 32;

inline int64_t bytes_of(Format format) { return format == Format::kFloat32 ? 4 : 2; }

// to[i] = value of element i of `from`.
void widen(Format format, const void* from, int64_t count, float* to);

// Rounds to nearest, ties to even; what is too large for float16 becomes infinite, as in torch.
void narrow(Format format, const float* from, int64_t count, void* to);

// Vectors of `depth` elements, one a row, in memory that the caller owns. `stride` is in elements.
struct Matrix {
  const void* data;
  Format format;
  int64_t rows, depth, stride;
  const void* row(int64_t i) const {
    return static_cast<const char*>(data) + i * stride * bytes_of(format);
  }
};

// Row i as floats: in place, or widened into `buffer` [depth].
inline const float* float_row(const Matrix& matrix, int64_t i, float* buffer) {
  if (matrix.format == Format::kFloat32) return static_cast<const float*>(matrix.row(i));
  widen(matrix.format, matrix.row(i), matrix.depth, buffer);
  return buffer;
}

}  // namespace hybridret::similarity
