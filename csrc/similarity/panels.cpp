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
constexpr Format kFormat = std::is_same_v<Element, float> ? Format::kFloat32 : Format::kBfloat16;

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
RowOperand<Element>::RowOperand(const Matrix& matrix, const TileKernel<Element>& tiles)
    : matrix_(matrix),
      depth_(round_up(matrix.depth, tiles.depth_block)),
      in_place_(matrix.format == kFormat<Element> && matrix.depth == depth_ &&
                matrix.stride >= depth_) {}

template <class Element>
const Element* RowOperand<Element>::rows(int64_t begin, int64_t rows, Element* buffer) const {
  if (in_place_ && begin + rows <= matrix_.rows)
    return static_cast<const Element*>(matrix_.row(begin));
  const int64_t to_row = stride();
  for (int64_t i = 0; i < rows; ++i) {
    if (begin + i < matrix_.rows)
      copy_row(matrix_, begin + i, depth_, buffer + i * to_row);
    else
      std::memset(static_cast<void*>(buffer + i * to_row), 0, sizeof(Element) * depth_);
  }
  return buffer;
}

template <class Element>
void copy_row(const Matrix& matrix, int64_t i, int64_t depth, Element* to) {
  if constexpr (std::is_same_v<Element, float>)
    widen(matrix.format, matrix.row(i), matrix.depth, to);
  else
    std::memcpy(static_cast<void*>(to), matrix.row(i), sizeof(Element) * matrix.depth);
  std::memset(static_cast<void*>(to + matrix.depth), 0, sizeof(Element) * (depth - matrix.depth));
}

template <class Element>
void pack_columns(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                  int64_t depth, Element* to) {
  // A pair of bfloat16 moves as one 32-bit element.
  constexpr int64_t kPerWord = sizeof(float) / sizeof(Element);
  const int64_t columns = kernel.columns, words = depth / kPerWord;
  const bool in_place =
      matrix.format == kFormat<Element> && matrix.depth == depth && matrix.stride % kPerWord == 0;
  if (count < columns) std::memset(static_cast<void*>(to), 0, sizeof(Element) * depth * columns);
  if (in_place) {
    kernel.transpose(static_cast<const float*>(matrix.row(begin)), matrix.stride / kPerWord, count,
                     words, reinterpret_cast<float*>(to), columns);
    return;
  }
  const Buffer<Element> rows(count * depth);
  for (int64_t i = 0; i < count; ++i) copy_row(matrix, begin + i, depth, &rows[i * depth]);
  kernel.transpose(reinterpret_cast<const float*>(rows.get()), words, count, words,
                   reinterpret_cast<float*>(to), columns);
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
        widen(matrix.format, matrix.row(begin + i + r), depth, &widened[r * depth]);
      from = widened.get();
      from_row = depth;
    }
    if constexpr (std::is_same_v<Element, float>) {
      kernel.transpose(from, from_row, rows, depth, to + i, to_row);
    } else {
      kernel.transpose(from, from_row, rows, depth, turned.get(), step);
      for (int64_t k = 0; k < depth; ++k)  // they were bfloat16 before: nothing is rounded
        narrow(kFormat<Element>, &turned[k * step], rows, to + k * to_row + i);
    }
  }
  if (count < to_row)
    for (int64_t k = 0; k < depth; ++k)
      std::memset(static_cast<void*>(to + k * to_row + count), 0,
                  sizeof(Element) * (to_row - count));
  std::memset(static_cast<void*>(to + depth * to_row), 0,
              sizeof(Element) * (depth_rows - depth) * to_row);
}

template <class Element>
void pack_scaled(const Kernel& kernel, const Matrix& matrix, int64_t begin, int64_t count,
                 const float* factor, int64_t first, int64_t panel_depth, Element* to) {
  const int64_t columns = kernel.columns, depth = round_up(matrix.depth, columns);
  constexpr int64_t kRows = sizeof(float) / sizeof(Element);  // that stand side by side
  const Buffer<float> rows(kRows * depth);
  const Buffer<Element> narrowed(kRows * depth);
  std::fill_n(rows.get(), kRows * depth, 0.0f);
  for (int64_t i = 0; i < columns; i += kRows) {
    for (int64_t r = 0; r < kRows; ++r) {
      float* row = &rows[r * depth];
      if (i + r < count) {
        widen(matrix.format, matrix.row(begin + i + r), matrix.depth, row);
        for (int64_t k = 0; k < matrix.depth; ++k) row[k] *= factor[i + r];
      } else {
        std::fill_n(row, depth, 0.0f);
      }
    }
    if constexpr (kRows == 2) narrow(kFormat<Element>, rows.get(), 2 * depth, narrowed.get());
    for (int64_t n = 0; n < depth; n += columns) {
      Element* target = to + n * panel_depth + (first + i) * columns;
      if constexpr (kRows == 1) {
        std::memcpy(target, &rows[n], sizeof(float) * columns);
      } else {
        const Element *even = &narrowed[n], *odd = &narrowed[depth + n];
        for (int64_t k = 0; k < columns; ++k) {
          target[2 * k] = even[k];
          target[2 * k + 1] = odd[k];
        }
      }
    }
  }
}

#define HYBRIDRET_INSTANTIATE(Element)                                                             \
  template class RowOperand<Element>;                                                              \
  template void copy_row(const Matrix&, int64_t, int64_t, Element*);                               \
  template void pack_columns(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*);   \
  template void pack_transposed(const Kernel&, const Matrix&, int64_t, int64_t, int64_t, Element*, \
                                int64_t);                                                          \
  template void pack_scaled(const Kernel&, const Matrix&, int64_t, int64_t, const float*, int64_t, \
                            int64_t, Element*);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)

}  // namespace hybridret::similarity
