// Matrices and the packed forms that tiles read (see kernel.h for operands a and b).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "similarity/elements.h"
#include "similarity/kernel.h"

namespace hybridret::similarity {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A row-major matrix in memory that somebody else owns. `stride` is in elements.
struct Matrix {
  const void* data;
  Format format;
  int64_t rows, depth, stride;
  const void* row(int64_t i) const {
    return static_cast<const char*>(data) + i * stride * bytes_of(format);
  }
};

// Uninitialised memory at the start of a cache line. Large blocks are kept for the next call, up to
// a limit, and ask for huge pages: touching fresh memory 4 KiB at a time would cost as much as a
// tenth of a bfloat16 loss.
void* allocate(std::size_t bytes);
void deallocate(void* memory, std::size_t bytes) noexcept;
void release_kept() noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count)
      : memory_(static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T))),
                Deallocate{static_cast<std::size_t>(count) * sizeof(T)}) {}
  T* get() const { return memory_.get(); }
  T& operator[](int64_t i) const { return memory_.get()[i]; }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  struct Deallocate {
    std::size_t bytes = 0;
    void operator()(T* memory) const noexcept { deallocate(memory, bytes); }
  };
  std::unique_ptr<T, Deallocate> memory_;
};

// Asks for memory that will be read or written soon.
inline void prefetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
}

// The row as floats: in place, or widened into `buffer` [depth].
inline const float* float_row(const Matrix& matrix, int64_t i, float* buffer) {
  if (matrix.format == Format::kFloat32) return static_cast<const float*>(matrix.row(i));
  widen(matrix.format, matrix.row(i), matrix.depth, buffer);
  return buffer;
}

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

// Operand b whose columns are `count` <= kernel.columns rows of the matrix: [depth, columns].
template <class Element>
void pack_columns(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                  int64_t depth, Element* to);

// The same of `count` whole rows [count, depth] that are Elements already.
template <class Element>
void pack_rows(const Kernel& kernel, const Element* rows, int64_t row, int64_t count, int64_t depth,
               Element* to);

// Operand a that is the transposed matrix: to[k * to_row + i] = matrix[begin + i][k] for i <
// to_row and k < depth_rows; zero outside the matrix and for i >= count.
template <class Element>
void pack_transposed(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                     int64_t depth_rows, Element* to, int64_t to_row);

// Operand b that is `kernel.columns` rows of the matrix, row i times factor[i], as depths
// [first, first + columns) of panels of `panel_depth`: the panel of columns [n, n + columns) of the
// matrix starts at to + n * panel_depth. Zero past `count` rows and past the matrix's depth.
template <class Element>
void pack_scaled(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                 const float* factor, int64_t first, int64_t panel_depth, Element* to);

}  // namespace hybridret::similarity
