// dQ and dD from the weights of a panel.

#include <cmath>

#include "infonce/run.h"

namespace hybridret::infonce {

template <class Element>
void Run<Element>::start(const Gradients& gradients) {
  gradients_ = gradients;
  const int64_t depth = p_.documents.depth;
  depth_rows_ = round_up(depth, tiles_.rows);
  depth_columns_ = round_up(depth, kernel_.columns);
  const int64_t chunks = (padded_m_ + kChunk - 1) / kChunk;
  transposed_documents_ = Buffer<Element>(chunks * depth_rows_ * kChunk);
  parallel_for(chunks, threads_, [&](int64_t chunk) {
    const int64_t first = chunk * kChunk;
    pack_transposed(kernel_, p_.documents, first,
                    std::min(kChunk, std::max<int64_t>(m_ - first, 0)), depth_rows_,
                    &transposed_documents_[first * depth_rows_], kChunk);
  });
  weights_a_ = Buffer<Element>(panel_queries_ * block_documents_);
  if constexpr (kSeparateB) weights_b_ = Buffer<Element>(panel_queries_ * (kChunk + kSkew));
  query_gradients_ = Buffer<float>(panel_queries_ * depth_rows_);
  scaled_queries_ = Buffer<Element>(panel_queries_ * depth_columns_);
  in_place_ = gradient_format(p_.documents.format) == Format::kFloat32 && depth == depth_columns_;
  if (!in_place_)
    document_gradients_ = Buffer<float>(round_up(m_, tile_documents_) * depth_columns_);
  factor_.assign(query_factor_.size(), 0.0f);
  positive_factor_.assign(query_factor_.size(), 0.0f);
  scale_terms_.assign(query_factor_.size(), 0.0);
}

template <class Element>
void Run<Element>::query_product(int64_t end) {
  // Tiles do not write the documents past the last strip, but this product reads them.
  const int64_t written = strips_ * tile_documents_;
  for (int64_t block = 0; written < end && block < count_; block += tile_queries_) {
    Element* weights = kSeparateB ? stored_b(block, written) : stored_a(block, written);
    std::fill(weights, weights + (end - written) * tile_queries_, Element{});
  }
  // Components of the vectors down, queries across.
  const int64_t tiles = depth_rows_ / tiles_.rows;
  for_pieces(tiles, tiles, [&](int64_t first, int64_t last) {
    const TileScope scope(kernel_);
    for (int64_t j = chunk_; j < end; j += kStep) {
      const Element* a = &transposed_documents_[chunk_ * depth_rows_ + j - chunk_];
      for (int64_t block = 0; block < count_; block += tile_queries_) {
        if (!chosen_[block / tile_queries_]) continue;
        const Element* b = kSeparateB ? stored_b(block, j) : stored_a(block, j);
        // What the next block will read.
        const bool last_block = block + tile_queries_ >= count_;
        const Element* next = last_block   ? b
                              : kSeparateB ? stored_b(block + tile_queries_, j)
                                           : stored_a(block + tile_queries_, j);
        const int64_t share = kStep * tile_queries_ / (last - first) + 1;
        for (int64_t tile = first; tile < last; ++tile) {
          const int64_t k = tile * tiles_.rows;
          prefetch(next + (tile - first) * share, share * sizeof(Element));
          tiles_.tile(std::min(kStep, end - j), a + k * kChunk, kChunk, tile_queries_, b,
                      &query_gradients_[block * depth_rows_ + k * tile_queries_], tile_queries_,
                      j > 0);
        }
      }
    }
  });
}

template <class Element>
void Run<Element>::finish() {
  if (padded_m_ == 0) std::fill_n(query_gradients_.get(), panel_queries_ * depth_rows_, 0.0f);
  parallel_for(blocks_, threads_, [&](int64_t item) { finish_queries(item * tile_queries_); });
  document_product();
}

template <class Element>
void Run<Element>::finish_queries(int64_t block) {
  const int64_t depth = p_.queries.depth, count = std::min(tile_queries_, count_ - block);
  const Buffer<float> turned(tile_queries_ * depth), buffer(depth);
  kernel_.transpose(&query_gradients_[block * depth_rows_], tile_queries_, depth, tile_queries_,
                    turned.get(), depth);
  std::vector<float> factor(static_cast<size_t>(tile_queries_));
  for (int64_t q = 0; q < count; ++q) {
    const int64_t i = begin_ + block + q, label = p_.labels[i];
    factor[q] = factor_[i] * query_factor_[i];
    float* gradient = &turned[q * depth];
    for (int64_t k = 0; k < depth; ++k) gradient[k] *= factor_[i];
    if (label >= 0) {
      const float* document = float_row(p_.documents, label, buffer.get());
      const float positive = positive_factor_[i] * document_factor_[label];
      for (int64_t k = 0; k < depth; ++k) gradient[k] += document[k] * positive;
    }
    const float* query = float_row(p_.queries, i, buffer.get());
    const float along = kernel_.dot(gradient, query, depth) * query_factor_[i];
    scale_terms_[i] = along;
    if (p_.normalize) project(gradient, query, along * query_factor_[i], query_factor_[i], depth);
    const Format format = gradient_format(p_.queries.format);
    similarity::narrow(
        format, gradient, depth,
        static_cast<char*>(gradients_.queries) + i * depth * similarity::bytes_of(format));
  }
  pack_scaled(kernel_, p_.queries, begin_ + block, count, factor.data(), block,
              blocks_ * tile_queries_, scaled_queries_.get());
}

template <class Element>
void Run<Element>::project(float* gradient, const float* vector, float along, float factor,
                           int64_t depth) {
  if (factor >= 1 / kLeastLength) factor = 0;
  for (int64_t k = 0; k < depth; ++k) gradient[k] = (gradient[k] - vector[k] * along) * factor;
}

template <class Element>
void Run<Element>::document_product() {
  // Documents down, components of the vectors across.
  const int64_t columns = kernel_.columns;
  const int64_t stride = in_place_ ? p_.documents.depth : depth_columns_;
  float* sums = in_place_ ? static_cast<float*>(gradients_.documents) : document_gradients_.get();
  const int64_t panel_depth = blocks_ * tile_queries_;
  for_pieces(strips_, kPieceDocuments / tile_documents_, [&](int64_t first, int64_t end) {
    const TileScope scope(kernel_);
    alignas(64) float last[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    for (int64_t k = 0; k < depth_columns_; k += columns) {
      const Element* b = &scaled_queries_[k * panel_depth];
      for (int64_t j = first * tile_documents_; j < end * tile_documents_; j += tile_documents_) {
        const Element* a = stored_a(0, j);
        float* c = sums + j * stride + k;
        if (!in_place_ || j + tile_documents_ <= m_) {
          if (begin_ > 0)  // what the next tile adds to
            for (int64_t r = 0; r < tile_documents_; ++r)
              prefetch(c + (tile_documents_ + r) * stride, columns * sizeof(float));
          tiles_.tile(panel_depth, a, tile_queries_, block_documents_ * tile_queries_, b, c, stride,
                      begin_ > 0);
          continue;
        }
        for (int64_t r = 0; begin_ > 0 && r < m_ - j; ++r)
          std::copy_n(c + r * stride, columns, last + r * columns);
        tiles_.tile(panel_depth, a, tile_queries_, block_documents_ * tile_queries_, b, last,
                    columns, begin_ > 0);
        for (int64_t r = 0; r < m_ - j; ++r)
          std::copy_n(last + r * columns, columns, c + r * stride);
      }
    }
  });
}

template <class Element>
void Run<Element>::finish_documents() {
  const Format format = gradient_format(p_.documents.format);
  const int64_t depth = p_.documents.depth, bytes = similarity::bytes_of(format);
  constexpr int64_t kPiece = 64;
  parallel_for((m_ + kPiece - 1) / kPiece, threads_, [&](int64_t item) {
    const Buffer<float> buffer(depth);
    for (int64_t j = item * kPiece; j < std::min(m_, (item + 1) * kPiece); ++j) {
      void* out = static_cast<char*>(gradients_.documents) + j * depth * bytes;
      float* gradient =
          in_place_ ? static_cast<float*>(out) : &document_gradients_[j * depth_columns_];
      if (n_ == 0) std::fill_n(gradient, depth, 0.0f);
      for (int64_t n = labels_.begin[j]; n < labels_.begin[j + 1]; ++n) {
        const int64_t i = labels_.queries[n];
        const float* query = float_row(p_.queries, i, buffer.get());
        const float factor = positive_factor_[i] * query_factor_[i] * document_factor_[j];
        for (int64_t k = 0; k < depth; ++k) gradient[k] += query[k] * factor;
      }
      if (p_.normalize) {
        const float* document = float_row(p_.documents, j, buffer.get());
        const float factor = document_factor_[j];
        const float along = kernel_.dot(gradient, document, depth) * factor * factor;
        project(gradient, document, along, factor >= 1 / kLeastLength ? factor : 1, depth);
      }
      if (!in_place_) similarity::narrow(format, gradient, depth, out);
    }
  });
  for (const double term : scale_terms_) *gradients_.scale += term / p_.scale;
}

template <class Element>
void Run<Element>::statistics_and_gradients(const float* query_weights,
                                            const Gradients& gradients) {
  start(gradients);
  for_panels([&] {
    query_statistics(true);
    for (int64_t i = begin_; i < begin_ + count_; ++i) {
      const double share = query_sums_[i] == 0 ? 0 : query_weights[i] * sigmoid(gap_[i]);
      factor_[i] = query_sums_[i] == 0 ? 0 : static_cast<float>(share * p_.scale / query_sums_[i]);
      positive_factor_[i] = static_cast<float>(-share * p_.scale);
    }
    finish();
  });
  finish_documents();
}

template <class Element>
void Run<Element>::gradients(const Upstream& upstream, const Gradients& gradients) {
  start(gradients);
  for (int64_t i = 0; i < n_; ++i) positive_factor_[i] = upstream.positive[i] * p_.scale;
  std::vector<float> document_lse, document_weight;
  if (upstream.document_negatives_lse) {
    document_lse.assign(static_cast<size_t>(padded_m_), 0.0f);
    document_weight = document_lse;
    for (int64_t j = 0; j < m_; ++j) {
      if (out_.document_negatives_lse[j] == -kInfinity) continue;  // no negatives, no weights
      document_lse[j] = out_.document_negatives_lse[j];
      document_weight[j] = upstream.document_negatives_lse[j];
    }
  }
  for_panels([&] {
    for (int64_t i = begin_; i < begin_ + count_; ++i) {
      const bool none = out_.negatives_lse[i] == -kInfinity;
      shift_[i] = none ? 0 : out_.negatives_lse[i];
      weight_[i] = none ? 0 : upstream.negatives_lse[i];
      factor_[i] = p_.scale * (document_lse.empty() ? weight_[i] : 1);
    }
    choose_all();
    if (document_lse.empty()) {
      make_weights([&](const Logits& l, int64_t, int64_t block, int64_t j) {
        float sums[similarity::kMaximumColumns] = {};
        stores_.exponentials(l, &shift_[begin_ + block], sums, nullptr, stored_a(block, j),
                             stored_b(block, j));
      });
    } else {
      make_weights([&](const Logits& l, int64_t, int64_t block, int64_t j) {
        stores_.weights(l, &shift_[begin_ + block], &weight_[begin_ + block], &document_lse[j],
                        &document_weight[j], stored_a(block, j), stored_b(block, j));
      });
    }
    finish();
  });
  finish_documents();
}

#define HYBRIDRET_INSTANTIATE(Element)                                                  \
  template void Run<Element>::statistics_and_gradients(const float*, const Gradients&); \
  template void Run<Element>::gradients(const Upstream&, const Gradients&);             \
  template void Run<Element>::query_product(int64_t);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::infonce
