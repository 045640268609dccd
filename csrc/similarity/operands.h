// Matrices as the operands of a tile: see kernel.h for their layouts.
#pragma once

#include <cstdint>

#include "similarity/elements.h"
#include "similarity/kernel.h"

namespace hybridret::similarity {

// Operand a: rows of the matrix, in place where they can be. `depth` is the matrix's, rounded up.
template <class Element>
class RowOperand {
 public:
  RowOperand(const Kernel& kernel, const Matrix& matrix);
  // `rows` rows from `begin` on, zero past the end of the matrix; `buffer` holds rows * stride().
  const Element* rows(int64_t begin, int64_t rows, Element* buffer) const;
  int64_t stride() const { return in_place_ ? matrix_.stride : depth_; }
  int64_t depth() const { return depth_; }

 private:
  const Kernel& kernel_;
  const Matrix matrix_;
  const int64_t depth_;
  const bool in_place_;
};

// to[0, depth) = row i of the matrix, zero past its own depth.
template <class Element>
void copy_row(const Kernel& kernel, const Matrix& matrix, int64_t i, int64_t depth, Element* to);

// Operand b, a block: column c is row begin + c of the matrix, zero for c >= count.
template <class Element>
void pack_block(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                int64_t depth, Element* to);

// The same of `count` rows [count, depth], `stride` apart, that are Elements already.
template <class Element>
void pack_block(const Kernel& kernel, const Element* rows, int64_t stride, int64_t count,
                int64_t depth, Element* to);

// Operand a that is the transposed matrix: to[k * to_row + i] = matrix[begin + i][k] for i <
// to_row and k < depth_rows; zero outside the matrix and for i >= count.
template <class Element>
void pack_transposed(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                     int64_t depth_rows, Element* to, int64_t to_row);

// A share of operands b whose depths are the rows of the matrix, row i times factor[i]: depths
// [first, first + columns) of blocks of `block_depth`, from the rows [begin, begin + columns). The
// block of the matrix's components [n, n + columns) starts at to + n * block_depth. Zero past
// `count` rows and past the matrix's depth.
template <class Element>
void pack_scaled(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                 const float* factor, int64_t first, int64_t block_depth, Element* to);

}  // namespace hybridret::similarity
