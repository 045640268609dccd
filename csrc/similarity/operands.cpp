#include "similarity/operands.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "similarity/memory.h"

namespace hybridret::similarity {
namespace {

template <class Element>
bool holds(const Matrix& matrix) {
  if (std::is_same_v<Element, float>) return matrix.format == Format::kFloat32;
  return std::is_same_v<Element, Bfloat16> && matrix.format == Format::kBfloat16;
}

}  // namespace

template <class Element>
RowOperand<Element>::RowOperand(const Kernel& kernel, const Matrix& matrix)
    : kernel_(kernel),
      matrix_(matrix),
      depth_(round_up(matrix.depth, kernel.tiles<Element>().depth_multiple)),
      in_place_(holds<Element>(matrix) && matrix.depth == depth_ && matrix.stride >= depth_) {}

template <class Element>
const Element* RowOperand<Element>::rows(int64_t begin, int64_t rows, Element* buffer) const {
  if (in_place_ && begin + rows <= matrix_.rows)
    return static_cast<const Element*>(matrix_.row(begin));
  const int64_t to_row = stride();
  for (int64_t i = 0; i < rows; ++i) {
    if (begin + i < matrix_.rows)
      copy_row(kernel_, matrix_, begin + i, depth_, buffer + i * to_row);
    else
      std::memset(static_cast<void*>(buffer + i * to_row), 0, sizeof(Element) * depth_);
  }
  return buffer;
}

template <class Element>
void copy_row(const Kernel& kernel, const Matrix& matrix, int64_t i, int64_t depth, Element* to) {
  if (holds<Element>(matrix)) {
    std::memcpy(static_cast<void*>(to), matrix.row(i), sizeof(Element) * matrix.depth);
    std::memset(static_cast<void*>(to + matrix.depth), 0, sizeof(Element) * (depth - matrix.depth));
    return;
  }
  if (matrix.format == Format::kFloat32 && matrix.depth == depth) {
    kernel.tiles<Element>().convert(static_cast<const float*>(matrix.row(i)), depth, to);
    return;
  }
  const Buffer<float> widened(depth);
  kernel.widen(matrix.format, matrix.row(i), matrix.depth, widened.get());
  std::fill(&widened[matrix.depth], &widened[depth], 0.0f);
  kernel.tiles<Element>().convert(widened.get(), depth, to);
}

template <class Element>
void pack_block(const Kernel& kernel, const Element* rows, int64_t stride, int64_t count,
                int64_t depth, Element* to) {
  // Two bfloat16 of consecutive depths stay together in b: they move as one 32-bit element.
  const int64_t columns = kernel.columns, bytes = sizeof(Element), word = sizeof(float);
  if (count < columns) std::memset(static_cast<void*>(to), 0, bytes * depth * columns);
  kernel.transpose(reinterpret_cast<const float*>(rows), stride * bytes / word, count,
                   depth * bytes / word, reinterpret_cast<float*>(to), columns);
}

template <class Element>
void pack_block(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                int64_t depth, Element* to) {
  const bool whole_words = matrix.stride * bytes_of(matrix.format) % 4 == 0;
  if (holds<Element>(matrix) && matrix.depth == depth && whole_words) {
    const auto* rows = static_cast<const Element*>(matrix.row(begin));
    pack_block(kernel, rows, matrix.stride, count, depth, to);
    return;
  }
  const Buffer<Element> rows(count * depth);
  for (int64_t i = 0; i < count; ++i) copy_row(kernel, matrix, begin + i, depth, &rows[i * depth]);
  pack_block(kernel, rows.get(), depth, count, depth, to);
}

template <class Element>
void pack_transposed(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                     int64_t depth_rows, Element* to, int64_t to_row) {
  const int64_t depth = matrix.depth, step = kernel.columns;
  const Buffer<float> widened(step * depth), turned(step * depth);
  for (int64_t i = 0; i < count; i += step) {
    const int64_t rows = std::min(step, count - i);
    const float* from = static_cast<const float*>(matrix.row(begin + i));
    int64_t from_row = matrix.stride;
    if (matrix.format != Format::kFloat32) {
      for (int64_t r = 0; r < rows; ++r)
        kernel.widen(matrix.format, matrix.row(begin + i + r), depth, &widened[r * depth]);
      from = widened.get();
      from_row = depth;
    }
    if constexpr (std::is_same_v<Element, float>) {
      kernel.transpose(from, from_row, rows, depth, to + i, to_row);
    } else {
      if (rows < step) std::fill_n(turned.get(), step * depth, 0.0f);
      kernel.transpose(from, from_row, rows, depth, turned.get(), step);
      for (int64_t k = 0; k < depth; ++k)
        kernel.tiles<Element>().convert(&turned[k * step], step, to + k * to_row + i);
    }
  }
  const int64_t written = std::is_same_v<Element, float> ? count : round_up(count, step);
  if (written < to_row)
    for (int64_t k = 0; k < depth; ++k)
      std::memset(static_cast<void*>(to + k * to_row + written), 0,
                  sizeof(Element) * (to_row - written));
  std::memset(static_cast<void*>(to + depth * to_row), 0,
              sizeof(Element) * (depth_rows - depth) * to_row);
}

template <class Element>
void pack_scaled(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                 const float* factor, int64_t first, int64_t block_depth, Element* to) {
  const int64_t columns = kernel.columns, depth = round_up(matrix.depth, columns);
  const Buffer<float> rows(columns * depth);
  for (int64_t i = 0; i < columns; ++i) {
    float* row = &rows[i * depth];
    if (i < count) {
      kernel.widen(matrix.format, matrix.row(begin + i), matrix.depth, row);
      for (int64_t k = 0; k < matrix.depth; ++k) row[k] *= factor[i];
    }
    const int64_t filled = i < count ? matrix.depth : 0;
    std::fill(row + filled, row + depth, 0.0f);
  }
  if constexpr (std::is_same_v<Element, float>) {
    for (int64_t n = 0; n < depth; n += columns)
      for (int64_t i = 0; i < columns; ++i)
        std::copy_n(&rows[i * depth + n], columns, to + n * block_depth + (first + i) * columns);
  } else {
    // With the components down, a pair of rows in bfloat16 is a 32-bit word: it can be transposed.
    const int64_t words = columns * sizeof(Element) / sizeof(float);
    const Buffer<float> turned(columns * columns);
    const Buffer<Element> converted(columns * columns);
    for (int64_t n = 0; n < depth; n += columns) {
      kernel.transpose(&rows[n], depth, columns, columns, turned.get(), columns);
      kernel.tiles<Element>().convert(turned.get(), columns * columns, converted.get());
      kernel.transpose(reinterpret_cast<const float*>(converted.get()), words, columns, words,
                       reinterpret_cast<float*>(to + n * block_depth + first * columns), columns);
    }
  }
}

#define HYBRIDRET_INSTANTIATE(Element)                                                             \
  template class RowOperand<Element>;                                                              \
  template void copy_row(const Kernel&, const Matrix&, int64_t, int64_t, Element*);                \
  template void pack_block(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*);     \
  template void pack_block(const Kernel&, const Element*, int64_t, int64_t, int64_t, Element*);    \
  template void pack_transposed(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*, \
                                int64_t);                                                          \
  template void pack_scaled(const Kernel&, const Matrix&, int64_t, int64_t, const float*, int64_t, \
                            int64_t, Element*);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<2>)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::similarity
