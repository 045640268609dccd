// Matrices in GPU memory, and the pieces of a workspace that somebody else allocated.
#pragma once

#include <cstdint>

#include "cuda/product.h"

namespace hybridret::cuda {

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// A matrix of 16-bit planes in memory.
struct Matrix {
  uint16_t* data;
  int64_t rows, columns, stride, plane;
  int planes;

  Operand operand() const {
    return {data, static_cast<int>(rows), static_cast<int>(columns), stride, plane};
  }
  Matrix row_range(int64_t first, int64_t count) const {
    return {data + first * stride, count, columns, stride, plane, planes};
  }
};

// Takes pieces of a workspace; of none, to learn how large it has to be.
class Memory {
 public:
  explicit Memory(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    char* at = base_ ? base_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
    return reinterpret_cast<T*>(at);
  }
  Matrix matrix(int64_t rows, int64_t columns, int planes) {
    const int64_t stride = round_up(columns, 8);
    return {take<uint16_t>(rows * stride * planes), rows, stride, stride, rows * stride, planes};
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace hybridret::cuda
