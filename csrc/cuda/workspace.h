// What lies between the kernels: matrices, the workspace they share, and how many rows a panel has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "infonce_cuda.h"
#include "rows.h"

namespace hybridret::cuda {

using Batch = hybridret_cuda_batch;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// A matrix of bfloat16 (or float16) planes in memory.
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

// Everything that is kept between kernels.
struct Workspace {
  Workspace(const Batch& b, bool columns, bool gradients, int64_t panel, void* base)
      : Workspace(b, columns, gradients, panel, Memory(base)) {}

  static bool in_place(const void* data, int64_t stride, const Batch& b) {
    return b.format != kFloat32 && b.depth > 0 && b.depth % 8 == 0 && stride % 8 == 0 &&
           stride >= b.depth && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  int64_t panel_rows, depth, strips;
  int planes;
  Measures* measures;
  Matrix queries, documents;  // as the first product reads them
  Matrix rounded;             // documents as bfloat16, for the second
  bool queries_in_place, documents_in_place;
  float *query_factor, *query_length, *row_scale, *shift, *positive, *largest, *losses;
  float *factor, *positive_factor, *scale_terms, *row_lse, *row_weight, *by_positive;
  float *document_factor, *document_length, *bias, *positive_bias;
  float *column_lse, *column_weight, *column_largest, *row_factor, *column_factor;
  int *mate, *chosen, *chosen_columns, *any;
  double* column_total;
  float *sums, *column_sums;      // of a panel
  Matrix weights, scaled;         // of a panel
  float *by_query, *by_document;  // of a panel; of all
  int64_t bytes;

 private:
  Workspace(const Batch& b, bool columns, bool gradients, int64_t panel, Memory memory)
      : panel_rows(panel),
        depth(round_up(std::max<int64_t>(b.depth, 1), 8)),
        strips(round_up(ceil_div(std::max(b.columns, columns ? b.rows : 0), 32), 8)),
        planes(b.format == kFloat32 ? 3 : 1) {
    const int64_t n = b.rows, m = b.columns;
    measures = memory.take<Measures>(1);
    queries_in_place = in_place(b.queries, b.query_stride, b);
    documents_in_place = in_place(b.documents, b.document_stride, b);
    const auto given = [&](const void* data, int64_t rows, int64_t stride) {
      auto* vectors = static_cast<uint16_t*>(const_cast<void*>(data));
      return Matrix{vectors, rows, depth, stride, rows * stride, 1};
    };
    queries =
        queries_in_place ? given(b.queries, n, b.query_stride) : memory.matrix(n, depth, planes);
    documents = documents_in_place ? given(b.documents, m, b.document_stride)
                                   : memory.matrix(m, depth, planes);
    rounded = documents;
    if (b.format == kFloat16 && gradients) rounded = memory.matrix(m, depth, 1);
    for (float** row :
         {&query_factor, &query_length, &row_scale, &shift, &positive, &largest, &losses, &factor,
          &positive_factor, &scale_terms, &row_lse, &row_weight, &by_positive})
      *row = memory.take<float>(n);
    for (float** column : {&document_factor, &document_length, &bias, &positive_bias, &column_lse,
                           &column_weight, &column_largest})
      *column = memory.take<float>(m);
    mate = memory.take<int>(n);
    chosen = memory.take<int>(ceil_div(n, kTileRows));
    chosen_columns = memory.take<int>(ceil_div(m, kTileRows));
    any = memory.take<int>(columns ? ceil_div(n, kTileRows) : 0);
    row_factor = memory.take<float>(columns ? n : 0);
    column_factor = memory.take<float>(columns ? m : 0);
    column_total = memory.take<double>(columns ? m : 0);
    sums = memory.take<float>(panel * strips);
    column_sums = memory.take<float>(columns ? ceil_div(panel, kTileRows) * m : 0);
    weights = memory.matrix(gradients ? panel : 0, m, planes);
    scaled = memory.matrix(gradients ? panel : 0, depth, planes);
    by_query = memory.take<float>(gradients ? panel * depth : 0);
    // float32 gradients are summed where they are to be.
    const bool own = gradients && (b.format == kBfloat16 || b.depth != depth);
    by_document = memory.take<float>(own ? m * depth : 0);
    if (!own) by_document = nullptr;
    bytes = memory.used();
  }
};

// The most rows of a panel that the limit allows.
inline int64_t largest_panel(const Batch& b, bool columns, bool gradients, int64_t limit) {
  const auto bytes = [&](int64_t panel) {
    return Workspace(b, columns, gradients, panel, nullptr).bytes;
  };
  const int64_t all = round_up(std::max<int64_t>(b.rows, 1), kTileRows);
  if (bytes(all) <= limit) {
    limit = bytes(all);
  } else if (bytes(kTileRows) > limit) {
    throw std::invalid_argument("a workspace of " + std::to_string(limit) +
                                " bytes is too small: at least " +
                                std::to_string(bytes(kTileRows)) + " are needed");
  }
  int64_t tiles = all / kTileRows;
  int64_t least = 1;
  while (least < tiles) {  // the most tiles that fit
    const int64_t middle = (least + tiles + 1) / 2;
    if (bytes(middle * kTileRows) <= limit)
      least = middle;
    else
      tiles = middle - 1;
  }
  return tiles * kTileRows;
}

// Not so many that a wave of tiles is left half full, or the last panel small.
inline int64_t choose_panel(const Batch& b, bool columns, bool gradients, int64_t limit,
                            int multiprocessors) {
  const int64_t all = round_up(std::max<int64_t>(b.rows, 1), kTileRows);
  const int64_t most = largest_panel(b, columns, gradients, limit);
  if (most >= all) return all;
  const int64_t per_row = ceil_div(round_up(b.depth, 8), 256);
  const int64_t waves = most / kTileRows * per_row / multiprocessors;
  const int64_t whole = waves * multiprocessors / per_row;
  if (whole > 0) return whole * kTileRows;
  return round_up(ceil_div(all, ceil_div(all, most)), kTileRows);
}

}  // namespace hybridret::cuda
