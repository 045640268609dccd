// dQ and dD from the weights of a panel.

#include <cmath>

#include "infonce/run.h"

namespace hybridret::infonce {

template <class Element>
void Run<Element>::start(const Gradients& gradients) {
  gradients_ = gradients;
  const int64_t depth = p_.documents.depth;
  depth_rows_ = round_up(depth, tiles_.rows);
  depth_columns_ = round_up(depth, columns_);
  const int64_t chunks = (padded_m_ + kChunk - 1) / kChunk;
  transposed_ = Buffer<Element>(chunks * depth_rows_ * kChunk);
  parallel_for(chunks, threads_, [&](int64_t chunk) {
    const int64_t first = chunk * kChunk;
    pack_transposed(kernel_, p_.documents, first,
                    std::min(kChunk, std::max<int64_t>(m_ - first, 0)), depth_rows_,
                    &transposed_[first * depth_rows_], kChunk);
  });
  rows_ = Buffer<Element>(panel_rows_ * block_rows_);
  if constexpr (kPairs) pairs_ = Buffer<Element>(panel_rows_ * (kChunk + kSkew));
  query_sums_ = Buffer<float>(panel_rows_ * depth_rows_);
  scaled_queries_ = Buffer<Element>(panel_rows_ * depth_columns_);
  in_place_ = gradient_format(p_.documents.format) == Format::kFloat32 && depth == depth_columns_;
  if (!in_place_) document_sums_ = Buffer<float>(round_up(m_, tiles_.rows) * depth_columns_);
  factor_.assign(query_factor_.size(), 0.0f);
  positive_factor_.assign(query_factor_.size(), 0.0f);
  scale_terms_.assign(query_factor_.size(), 0.0);
}

template <class Element>
void Run<Element>::query_product(int64_t end) {
  // Tiles do not write the documents past the last part, but this product reads them.
  const int64_t written = parts_ * tiles_.rows;
  for (int64_t block = 0; written < end && block < count_; block += columns_) {
    Element* weights = kPairs ? stored_pairs(block, written) : stored_rows(block, written);
    std::fill(weights, weights + (end - written) * columns_, Element{});
  }
  const int64_t tiles = depth_rows_ / tiles_.rows;
  for_pieces(tiles, tiles, [&](int64_t first, int64_t last) {
    const TileScope scope(kernel_);
    for (int64_t j = chunk_; j < end; j += kStep) {
      const Element* a = &transposed_[chunk_ * depth_rows_ + j - chunk_];
      for (int64_t block = 0; block < count_; block += columns_) {
        if (!chosen_[block / columns_]) continue;
        const Element* b = kPairs ? stored_pairs(block, j) : stored_rows(block, j);
        // What the next block will read.
        const bool last_block = block + columns_ >= count_;
        const Element* next = last_block ? b
                              : kPairs   ? stored_pairs(block + columns_, j)
                                         : stored_rows(block + columns_, j);
        const int64_t part = kStep * columns_ / (last - first) + 1;
        for (int64_t tile = first; tile < last; ++tile) {
          const int64_t k = tile * tiles_.rows;
          prefetch(next + (tile - first) * part, part * sizeof(Element));
          tiles_.tile(std::min(kStep, end - j), a + k * kChunk, kChunk, columns_, b,
                      &query_sums_[block * depth_rows_ + k * columns_], columns_, j > 0);
        }
      }
    }
  });
}

template <class Element>
void Run<Element>::finish() {
  if (padded_m_ == 0) std::fill_n(query_sums_.get(), panel_rows_ * depth_rows_, 0.0f);
  parallel_for(blocks_, threads_, [&](int64_t block) { finish_queries(block * columns_); });
  document_product();
}

template <class Element>
void Run<Element>::finish_queries(int64_t block) {
  const int64_t depth = p_.queries.depth, count = std::min(columns_, count_ - block);
  const Buffer<float> turned(columns_ * depth), buffer(depth);
  kernel_.transpose(&query_sums_[block * depth_rows_], columns_, depth, columns_, turned.get(),
                    depth);
  std::vector<float> factor(static_cast<size_t>(columns_));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t i = begin_ + block + r, label = p_.labels[i];
    factor[r] = factor_[i] * query_factor_[i];
    float* gradient = &turned[r * depth];
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
  pack_scaled(kernel_, p_.queries, begin_ + block, count, factor.data(), block, blocks_ * columns_,
              scaled_queries_.get());
}

template <class Element>
void Run<Element>::project(float* gradient, const float* vector, float along, float factor,
                           int64_t depth) {
  if (factor >= 1 / kLeastLength) factor = 0;
  for (int64_t k = 0; k < depth; ++k) gradient[k] = (gradient[k] - vector[k] * along) * factor;
}

template <class Element>
void Run<Element>::document_product() {
  const int64_t stride = in_place_ ? p_.documents.depth : depth_columns_;
  float* sums = in_place_ ? static_cast<float*>(gradients_.documents) : document_sums_.get();
  const int64_t panel_depth = blocks_ * columns_;
  for_pieces(parts_, kPieceRows / tiles_.rows, [&](int64_t first, int64_t end) {
    const TileScope scope(kernel_);
    alignas(64) float last[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    for (int64_t k = 0; k < depth_columns_; k += columns_) {
      const Element* b = &scaled_queries_[k * panel_depth];
      for (int64_t j = first * tiles_.rows; j < end * tiles_.rows; j += tiles_.rows) {
        const Element* a = stored_rows(0, j);
        float* c = sums + j * stride + k;
        if (!in_place_ || j + tiles_.rows <= m_) {
          if (begin_ > 0)  // what the next tile adds to
            for (int64_t r = 0; r < tiles_.rows; ++r)
              prefetch(c + (tiles_.rows + r) * stride, columns_ * sizeof(float));
          tiles_.tile(panel_depth, a, columns_, block_rows_ * columns_, b, c, stride, begin_ > 0);
          continue;
        }
        for (int64_t r = 0; begin_ > 0 && r < m_ - j; ++r)
          std::copy_n(c + r * stride, columns_, last + r * columns_);
        tiles_.tile(panel_depth, a, columns_, block_rows_ * columns_, b, last, columns_,
                    begin_ > 0);
        for (int64_t r = 0; r < m_ - j; ++r)
          std::copy_n(last + r * columns_, columns_, c + r * stride);
      }
    }
  });
}

template <class Element>
void Run<Element>::finish_documents() {
  const Format format = gradient_format(p_.documents.format);
  const int64_t depth = p_.documents.depth, bytes = similarity::bytes_of(format);
  constexpr int64_t kRows = 64;
  parallel_for((m_ + kRows - 1) / kRows, threads_, [&](int64_t item) {
    const Buffer<float> buffer(depth);
    for (int64_t j = item * kRows; j < std::min(m_, (item + 1) * kRows); ++j) {
      void* out = static_cast<char*>(gradients_.documents) + j * depth * bytes;
      float* gradient = in_place_ ? static_cast<float*>(out) : &document_sums_[j * depth_columns_];
      if (n_ == 0) std::fill_n(gradient, depth, 0.0f);
      for (int64_t r = labels_.begin[j]; r < labels_.begin[j + 1]; ++r) {
        const int64_t i = labels_.rows[r];
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
void Run<Element>::statistics_and_gradients(const float* row_weights, const Gradients& gradients) {
  start(gradients);
  for_panels([&] {
    row_statistics(true);
    for (int64_t i = begin_; i < begin_ + count_; ++i) {
      const double share = sum_[i] == 0 ? 0 : row_weights[i] * sigmoid(gap_[i]);
      factor_[i] = sum_[i] == 0 ? 0 : static_cast<float>(share * p_.scale / sum_[i]);
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
  std::vector<float> column_lse, column_weight;
  if (upstream.column_negatives_lse) {
    column_lse.assign(static_cast<size_t>(padded_m_), 0.0f);
    column_weight = column_lse;
    for (int64_t j = 0; j < m_; ++j) {
      if (out_.column_negatives_lse[j] == -kInfinity) continue;  // no negatives, no weights
      column_lse[j] = out_.column_negatives_lse[j];
      column_weight[j] = upstream.column_negatives_lse[j];
    }
  }
  for_panels([&] {
    for (int64_t i = begin_; i < begin_ + count_; ++i) {
      const bool none = out_.negatives_lse[i] == -kInfinity;
      shift_[i] = none ? 0 : out_.negatives_lse[i];
      weight_[i] = none ? 0 : upstream.negatives_lse[i];
      factor_[i] = p_.scale * (column_lse.empty() ? weight_[i] : 1);
    }
    choose_all();
    if (column_lse.empty()) {
      make_weights([&](const Logits& l, int64_t, int64_t block, int64_t j) {
        float sums[similarity::kMaximumColumns] = {};
        stores_.exponentials(l, &shift_[begin_ + block], sums, nullptr, stored_rows(block, j),
                             stored_pairs(block, j));
      });
    } else {
      make_weights([&](const Logits& l, int64_t, int64_t block, int64_t j) {
        stores_.weights(l, &shift_[begin_ + block], &weight_[begin_ + block], &column_lse[j],
                        &column_weight[j], stored_rows(block, j), stored_pairs(block, j));
      });
    }
    finish();
  });
  finish_documents();
}

#define HYBRIDRET_INSTANTIATE(Element)                                                  \
  template void Run<Element>::statistics_and_gradients(const float*, const Gradients&); \
  template void Run<Element>::gradients(const Upstream&, const Gradients&);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::infonce
