// Padded, packed operands for the tile kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "similarity/kernel.h"

namespace hybridret::similarity {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A row-major float32 matrix in memory that somebody else owns. `stride` is in elements.
struct Matrix {
  const float* data;
  int64_t rows, depth, stride;
  const float* row(int64_t i) const { return data + i * stride; }
};

// Packs rows [begin, begin + count) so that `width` of them stand side by side at every depth:
// packed[((i / width) * depth + k) * width + i % width] = matrix[begin + i][k]; missing rows are
// zero.
inline void pack(const Matrix& matrix, int64_t begin, int64_t count, int64_t width, float* packed) {
  for (int64_t block = 0; block < count; block += width) {
    float* to = packed + block * matrix.depth;
    for (int64_t i = 0; i < width; ++i) {
      if (block + i < count) {
        const float* from = matrix.row(begin + block + i);
        for (int64_t k = 0; k < matrix.depth; ++k) to[k * width + i] = from[k];
      } else {
        for (int64_t k = 0; k < matrix.depth; ++k) to[k * width + i] = 0.0f;
      }
    }
  }
}

inline std::vector<float> packed_buffer(int64_t count, int64_t width, int64_t depth) {
  return std::vector<float>(static_cast<std::size_t>(round_up(count, width) * depth));
}

}  // namespace hybridret::similarity
