// One batch on its way through the engine: the vectors, the panels of queries and their tiles. What
// is done with the tiles stands in statistics.cpp and gradients.cpp; see infonce.h for the maths.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "infonce/infonce.h"
#include "infonce/numerics.h"
#include "similarity/kernel.h"
#include "similarity/panels.h"
#include "similarity/threads.h"

namespace hybridret::infonce {

using similarity::Bfloat16;
using similarity::Buffer;
using similarity::Format;
using similarity::Kernel;
using similarity::Logits;
using similarity::Matrix;
using similarity::parallel_for;
using similarity::prefetch;
using similarity::round_up;
using similarity::Split;
using similarity::TileScope;

constexpr int64_t kPieceRows = 112;  // documents of one piece of work, about: they stay in L2
// Documents whose weights are made and multiplied at a time: whole tiles in every instruction set,
// and whole steps of the queries' product.
constexpr int64_t kChunk = 672, kStep = 224;
// Between the blocks of a panel: their rows would share the same few sets of the caches.
constexpr int64_t kSkew = 14;

// Group ids as 32-bit numbers of the documents' groups; a query whose group no document has, and
// everything that is -1, matches nothing.
struct Groups {
  Groups(const Problem& p, int64_t queries, int64_t documents);
  std::vector<int32_t> query, document;
};

// Rows of each label, ascending: rows[begin[j]] ... rows[begin[j + 1] - 1].
struct RowsOfLabels {
  explicit RowsOfLabels(const Problem& p);
  std::vector<int64_t> begin, rows;
};

template <class Element>
class Run {
 public:
  Run(const Problem& problem, const Statistics& statistics, int threads);
  void statistics();
  void statistics_and_gradients(const float* row_weights, const Gradients& gradients);
  void gradients(const Upstream& upstream, const Gradients& gradients);

 private:
  // ---- run.cpp: what a run knows of its vectors ------------------------------------------------

  int64_t panel_rows() const;

  // Lengths of rows, or 1 / length where vectors are normalised, NaN where they break a promise.
  void measure(const Matrix& matrix, float* lengths) const;
  void measure_vectors();

  // ---- panels and their tiles ------------------------------------------------------------------

  template <class Work>
  void for_panels(const Work& work) {
    for (begin_ = 0; begin_ < n_; begin_ += panel_rows_) {
      count_ = std::min(panel_rows_, n_ - begin_);
      blocks_ = (count_ + columns_ - 1) / columns_;
      parallel_for(blocks_, threads_, [&](int64_t block) {
        const int64_t first = block * columns_;
        pack_columns(kernel_, p_.queries, begin_ + first, std::min(columns_, count_ - first),
                     documents_.depth(), &packed_queries_[first * documents_.depth()]);
      });
      panel_labels_.clear();
      for (int64_t i = begin_; i < begin_ + count_; ++i) panel_labels_.push_back({p_.labels[i], i});
      for (int64_t first = 0; first < count_; first += columns_)
        std::sort(panel_labels_.begin() + first,
                  panel_labels_.begin() + std::min(first + columns_, count_));
      work();
    }
  }

  void choose_all() { std::fill(chosen_.begin(), chosen_.end(), true); }

  // work(first, last) for pieces of about `size` of the `count`, as many for each thread.
  template <class Work>
  void for_pieces(int64_t count, int64_t size, const Work& work) const {
    if (count == 0) return;
    const int64_t rounds = (count + threads_ * size - 1) / (threads_ * size);
    const int64_t pieces = std::min(count, rounds * threads_);
    parallel_for(pieces, threads_, [&](int64_t piece) {
      work(count * piece / pieces, count * (piece + 1) / pieces);
    });
  }

  // epilogue(logits, part, first query of the block within the panel, first document) for every
  // tile of the chosen blocks. Positives, and queries past the end, are -inf by then. A part is a
  // row of tiles: sums over documents are kept by part, so that they do not depend on the threads.
  template <class Epilogue>
  void for_tiles(const Epilogue& epilogue) {
    for_tiles(0, parts_, false, epilogue);
  }
  template <class Epilogue>
  void for_tiles(int64_t begin_part, int64_t end_part, bool stored, const Epilogue& epilogue) {
    const int64_t parts = end_part - begin_part;
    for_pieces(parts, kPieceRows / tiles_.rows, [&](int64_t first_part, int64_t last_part) {
      const TileScope scope(kernel_);
      alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
      const int64_t first = (begin_part + first_part) * tiles_.rows;
      const int64_t end = (begin_part + last_part) * tiles_.rows;
      const Buffer<Element> packed((end - first) * documents_.stride());
      const Element* a = documents_.rows(first, end - first, packed.get());
      const int64_t tile_bytes = tiles_.rows * columns_ * static_cast<int64_t>(sizeof(Element));
      for (int64_t block = 0; block < count_; block += columns_) {
        if (!chosen_[block / columns_]) continue;
        const Element* b = &packed_queries_[block * documents_.depth()];
        for (int64_t j = first; j < end; j += tiles_.rows) {
          if (stored) prefetch(stored_rows(block, j), tile_bytes);
          if (stored && kPairs) prefetch(stored_pairs(block, j), tile_bytes);
          tiles_.tile(documents_.depth(), a + (j - first) * documents_.stride(),
                      documents_.stride(), columns_, b, tile, columns_, false);
          const Logits logits = logits_of(tile, block, j);
          take_positives(logits, tile, block, j);
          epilogue(logits, j / tiles_.rows, block, j);
        }
      }
    });
  }

  Logits logits_of(const float* tile, int64_t block, int64_t j) const;
  void take_positives(Logits logits, float* tile, int64_t block, int64_t j) const;

  // ---- statistics.cpp ---------------------------------------------------------------------------

  // Sums, log-sum-exp and positives of the panel's rows.
  void row_statistics(bool store);

  // Chooses the blocks that hold a row whose sum is weak; whether there is one.
  bool choose_weak();
  void exponential_sums(bool store, double* column_sums);

  // The chosen rows' largest logits become their shifts.
  void true_maxima();

  template <class Work>
  void for_chosen(const Work& work) {
    for (int64_t i = 0; i < count_; ++i)
      if (chosen_[i / columns_]) work(i);
  }

  // Log-sum-exp of the columns, from their sums; a weak one is summed again with its own maximum.
  void column_statistics(float shift);

  // Negatives above the positive, whose logit comes from the same tile arithmetic.
  void ranks();

  // ---- gradients.cpp ----------------------------------------------------------------------------

  Element* stored_rows(int64_t block, int64_t j) const {
    return rows_.get() + block * block_rows_ + j * columns_;
  }

  Element* stored_pairs(int64_t block, int64_t j) const {
    return pairs_.get() + block * (kChunk + kSkew) + (j - chunk_) * columns_;
  }

  void start(const Gradients& gradients);

  // store, an epilogue, for the tiles of the chosen blocks, a chunk of documents at a time: what it
  // has stored is still in the caches when the queries' product reads it.
  template <class Store>
  void make_weights(const Store& store) {
    for (chunk_ = 0; chunk_ < padded_m_; chunk_ += kChunk) {
      const int64_t end = chunk_ + kChunk;
      for_tiles(chunk_ / tiles_.rows, std::min(end / tiles_.rows, parts_), true, store);
      query_product(std::min(end, padded_m_));
    }
  }

  // dQ^T (+)= D^T P^T over the documents from the chunk's first on; pieces of the depth apart.
  void query_product(int64_t end);
  void finish();

  // Rows of dQ from their sums; and the queries as the documents' product reads them.
  void finish_queries(int64_t block);

  // gradient = (gradient - vector * along) * factor; 0 for a vector without direction.
  static void project(float* gradient, const float* vector, float along, float factor,
                      int64_t depth);

  // dD (+)= P^T Q, pieces of the documents apart.
  void document_product();
  void finish_documents();

  static constexpr bool kPairs = !std::is_same_v<Element, float>;

  const Problem& p_;
  const Statistics& out_;
  const int threads_;
  const Kernel& kernel_;
  const similarity::TileKernel<Element>& tiles_;
  const similarity::Stores<Element>& stores_;
  const int64_t columns_, n_, m_, padded_m_, block_rows_, parts_, panel_rows_;
  const similarity::RowOperand<Element> documents_;
  const Groups groups_;
  const RowsOfLabels labels_;
  // By query: 1 / length or 1; that times the scale; what the exponentials are shifted by.
  std::vector<float> query_factor_, query_scale_, shift_, weight_;
  std::vector<float> document_factor_, document_bias_, positive_bias_;
  double common_bound_ = -kInfinity;  // on the logits of all rows

  // The panel: its first query, its number of queries and of blocks, and what belongs to them.
  int64_t begin_ = 0, count_ = 0, blocks_ = 0;
  const Buffer<Element> packed_queries_;
  std::vector<std::pair<int64_t, int64_t>> panel_labels_;  // (label, query), sorted in each block
  std::vector<float> partial_;                             // [parts, panel rows]
  std::vector<char> chosen_;                               // blocks that for_tiles visits
  mutable std::vector<float> positive_;
  std::vector<double> sum_, gap_, column_sums_;

  // Gradients only.
  Gradients gradients_{};
  int64_t chunk_ = 0;  // its first document
  int64_t depth_rows_ = 0, depth_columns_ = 0;
  bool in_place_ = false;  // dD is summed in the caller's array
  Buffer<Element> transposed_, rows_, pairs_, scaled_queries_;
  Buffer<float> query_sums_, document_sums_;
  std::vector<float> factor_, positive_factor_;  // by query: of its sums, of its positive
  std::vector<double> scale_terms_;
};

}  // namespace hybridret::infonce
