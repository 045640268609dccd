// What lies between the kernels of the loss, and how many queries a panel has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/infonce/infonce_cuda.h"
#include "cuda/memory.h"
#include "cuda/vectors.h"

namespace hybridret::cuda::infonce {

using Batch = hybridret_cuda_infonce_batch;

inline Format format_of(const Batch& b) { return static_cast<Format>(b.format); }
static_assert(HYBRIDRET_FLOAT32 == static_cast<int>(Format::kFloat32));
static_assert(HYBRIDRET_BFLOAT16 == static_cast<int>(Format::kBfloat16));
static_assert(HYBRIDRET_FLOAT16 == static_cast<int>(Format::kFloat16));

// What the shifts are made of, of all vectors.
struct Measures {
  float longest_query, longest_document, largest_bias;
  int broken;  // some vector is not of the length that unit_norm promises
};

// In place of a query's target, the document that is its positive.
constexpr int kElsewhere = -1, kNoSuchDocument = -2;

struct Workspace {
  Workspace(const Batch& b, bool document_statistics, bool gradients, int64_t panel, void* base)
      : Workspace(b, document_statistics, gradients, panel, Memory(base)) {}

  // Whether products can read the vectors where the caller has them.
  static bool in_place(const void* data, int64_t stride, const Batch& b) {
    return format_of(b) != Format::kFloat32 && b.depth > 0 && b.depth % 8 == 0 && stride % 8 == 0 &&
           stride >= b.depth && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  int64_t panel_queries, depth, strips;
  int planes;
  Measures* measures;
  Matrix queries, documents;  // as the first product reads them
  Matrix rounded;             // documents as bfloat16, for the second
  bool queries_in_place, documents_in_place;
  // By query.
  float *query_factor, *query_length, *query_scale, *shift, *positive, *largest, *losses;
  float *factor, *positive_factor, *scale_terms, *query_lse, *query_weight, *by_positive;
  int* target;
  // By document.
  float *document_factor, *document_length, *bias, *positive_bias;
  float *document_lse, *document_weight, *document_largest;
  // By tile of queries or of documents: 1 where one of them has a weak sum.
  int *weak_queries, *weak_documents;
  // Of the symmetric loss: what kept exponentials are multiplied by; whether any tile has a weak
  // sum, for each tile of queries; sums of the documents.
  float *kept_query_factor, *kept_document_factor;
  int* any_weak;
  double* document_total;
  // Of a panel.
  float *sums, *document_sums;
  Matrix weights, scaled_queries;
  float* by_query;
  float* by_document;  // of all, or null: summed where the caller wants it
  int64_t bytes;

 private:
  Workspace(const Batch& b, bool document_statistics, bool gradients, int64_t panel, Memory memory)
      : panel_queries(panel),
        depth(round_up(std::max<int64_t>(b.depth, 1), 8)),
        strips(round_up(
            ceil_div(std::max(b.document_count, document_statistics ? b.query_count : 0), 32), 8)),
        planes(format_of(b) == Format::kFloat32 ? 3 : 1) {
    const int64_t n = b.query_count, m = b.document_count;
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
    if (format_of(b) == Format::kFloat16 && gradients) rounded = memory.matrix(m, depth, 1);
    for (float** by_query :
         {&query_factor, &query_length, &query_scale, &shift, &positive, &largest, &losses, &factor,
          &positive_factor, &scale_terms, &query_lse, &query_weight, &by_positive})
      *by_query = memory.take<float>(n);
    for (float** by_document : {&document_factor, &document_length, &bias, &positive_bias,
                                &document_lse, &document_weight, &document_largest})
      *by_document = memory.take<float>(m);
    target = memory.take<int>(n);
    weak_queries = memory.take<int>(ceil_div(n, kTileRows));
    weak_documents = memory.take<int>(ceil_div(m, kTileRows));
    any_weak = memory.take<int>(document_statistics ? ceil_div(n, kTileRows) : 0);
    kept_query_factor = memory.take<float>(document_statistics ? n : 0);
    kept_document_factor = memory.take<float>(document_statistics ? m : 0);
    document_total = memory.take<double>(document_statistics ? m : 0);
    sums = memory.take<float>(panel * strips);
    document_sums = memory.take<float>(document_statistics ? ceil_div(panel, kTileRows) * m : 0);
    weights = memory.matrix(gradients ? panel : 0, m, planes);
    scaled_queries = memory.matrix(gradients ? panel : 0, depth, planes);
    by_query = memory.take<float>(gradients ? panel * depth : 0);
    // float32 gradients are summed where they are to be.
    const bool own = gradients && (format_of(b) == Format::kBfloat16 || b.depth != depth);
    by_document = memory.take<float>(own ? m * depth : 0);
    if (!own) by_document = nullptr;
    bytes = memory.used();
  }
};

// The most queries of a panel that the limit allows.
inline int64_t largest_panel(const Batch& b, bool document_statistics, bool gradients,
                             int64_t limit) {
  const auto bytes = [&](int64_t panel) {
    return Workspace(b, document_statistics, gradients, panel, nullptr).bytes;
  };
  const int64_t all = round_up(std::max<int64_t>(b.query_count, 1), kTileRows);
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
inline int64_t choose_panel(const Batch& b, bool document_statistics, bool gradients, int64_t limit,
                            int multiprocessors) {
  const int64_t all = round_up(std::max<int64_t>(b.query_count, 1), kTileRows);
  const int64_t most = largest_panel(b, document_statistics, gradients, limit);
  if (most >= all) return all;
  const int64_t tiles_across = ceil_div(round_up(b.depth, 8), 256);
  const int64_t waves = most / kTileRows * tiles_across / multiprocessors;
  const int64_t whole = waves * multiprocessors / tiles_across;
  if (whole > 0) return whole * kTileRows;
  return round_up(ceil_div(all, ceil_div(all, most)), kTileRows);
}

}  // namespace hybridret::cuda::infonce
