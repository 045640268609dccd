#include "similarity/panels.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <type_traits>

namespace hybridret::similarity {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kLarge = kHugePage / 4;         // from here on blocks are kept
constexpr std::size_t kKept = std::size_t{64} << 20;  // at most so much of them
constexpr std::size_t kMostKeptBlocks = 32;

// Blocks that nobody uses now. Whoever finds the list in use does without it: so does the child of
// a fork that happened meanwhile.
class KeptBlocks {
 public:
  void* take(std::size_t bytes) noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock()) return nullptr;
    for (std::size_t i = 0; i < count_; ++i) {
      if (blocks_[i].bytes != bytes) continue;
      void* memory = blocks_[i].memory;
      blocks_[i] = blocks_[--count_];
      total_ -= bytes;
      return memory;
    }
    return nullptr;
  }
  bool keep(void* memory, std::size_t bytes) noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock() || bytes > kKept) return false;
    while (count_ == kMostKeptBlocks || total_ + bytes > kKept) {  // the oldest goes
      std::free(blocks_[0].memory);
      total_ -= blocks_[0].bytes;
      std::copy(blocks_ + 1, blocks_ + count_, blocks_);
      --count_;
    }
    blocks_[count_++] = {memory, bytes};
    total_ += bytes;
    return true;
  }

  void release() noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock()) return;
    while (count_ > 0) std::free(blocks_[--count_].memory);
    total_ = 0;
  }

 private:
  struct Block {
    void* memory;
    std::size_t bytes;
  };
  std::mutex lock_;
  Block blocks_[kMostKeptBlocks];
  std::size_t count_ = 0, total_ = 0;
};

KeptBlocks& kept_blocks() {
  static KeptBlocks& blocks = *new KeptBlocks;  // never destroyed: threads may outlive it
  return blocks;
}

std::size_t rounded(std::size_t bytes, std::size_t alignment) {
  return (bytes / alignment + 1) * alignment;
}

template <class Element>
bool holds(const Matrix& matrix) {
  if (std::is_same_v<Element, float>) return matrix.format == Format::kFloat32;
  return std::is_same_v<Element, Bfloat16> && matrix.format == Format::kBfloat16;
}

}  // namespace

void* allocate(std::size_t bytes) {
  const bool large = bytes >= kLarge;
  bytes = rounded(bytes, large ? kPage : kCacheLine);
  if (large)
    if (void* kept = kept_blocks().take(bytes)) return kept;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // advice: may be refused
#endif
  return memory;
}

void deallocate(void* memory, std::size_t bytes) noexcept {
  if (bytes < kLarge || !kept_blocks().keep(memory, rounded(bytes, kPage))) std::free(memory);
}

void release_kept() noexcept { kept_blocks().release(); }

template <class Element>
RowOperand<Element>::RowOperand(const Kernel& kernel, const Matrix& matrix)
    : kernel_(kernel),
      matrix_(matrix),
      depth_(round_up(matrix.depth, kernel.tiles<Element>().depth_block)),
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
void pack_rows(const Kernel& kernel, const Element* rows, int64_t row, int64_t count, int64_t depth,
               Element* to) {
  // What stands side by side in b, a pair of bfloat16, moves as one 32-bit element.
  const int64_t columns = kernel.columns, bytes = sizeof(Element), word = sizeof(float);
  if (count < columns) std::memset(static_cast<void*>(to), 0, bytes * depth * columns);
  kernel.transpose(reinterpret_cast<const float*>(rows), row * bytes / word, count,
                   depth * bytes / word, reinterpret_cast<float*>(to), columns);
}

template <class Element>
void pack_columns(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                  int64_t depth, Element* to) {
  const bool whole_words = matrix.stride * bytes_of(matrix.format) % 4 == 0;
  if (holds<Element>(matrix) && matrix.depth == depth && whole_words) {
    const auto* rows = static_cast<const Element*>(matrix.row(begin));
    pack_rows(kernel, rows, matrix.stride, count, depth, to);
    return;
  }
  const Buffer<Element> rows(count * depth);
  for (int64_t i = 0; i < count; ++i) copy_row(kernel, matrix, begin + i, depth, &rows[i * depth]);
  pack_rows(kernel, rows.get(), depth, count, depth, to);
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
                 const float* factor, int64_t first, int64_t panel_depth, Element* to) {
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
        std::copy_n(&rows[i * depth + n], columns, to + n * panel_depth + (first + i) * columns);
  } else {
    // Element by element of the vectors, as bfloat16 pairs of rows: words to transpose.
    const int64_t words = columns * sizeof(Element) / sizeof(float);
    const Buffer<float> turned(columns * columns);
    const Buffer<Element> converted(columns * columns);
    for (int64_t n = 0; n < depth; n += columns) {
      kernel.transpose(&rows[n], depth, columns, columns, turned.get(), columns);
      kernel.tiles<Element>().convert(turned.get(), columns * columns, converted.get());
      kernel.transpose(reinterpret_cast<const float*>(converted.get()), words, columns, words,
                       reinterpret_cast<float*>(to + n * panel_depth + first * columns), columns);
    }
  }
}

#define HYBRIDRET_INSTANTIATE(Element)                                                             \
  template class RowOperand<Element>;                                                              \
  template void copy_row(const Kernel&, const Matrix&, int64_t, int64_t, Element*);                \
  template void pack_columns(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*);   \
  template void pack_rows(const Kernel&, const Element*, int64_t, int64_t, int64_t, Element*);     \
  template void pack_transposed(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*, \
                                int64_t);                                                          \
  template void pack_scaled(const Kernel&, const Matrix&, int64_t, int64_t, const float*, int64_t, \
                            int64_t, Element*);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<2>)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::similarity
