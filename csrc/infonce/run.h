// One batch on its way through the engine: the vectors, the panels of queries and their tiles. What
// is done with the tiles is in statistics.cpp and gradients.cpp; see infonce.h for the maths.
//
//   tile    tile_documents_ x tile_queries_ logits, documents down and queries across
//   block   tile_queries_ queries, packed side by side
//   strip   tile_documents_ documents; sums over documents are kept by strip, so that they do not
//           depend on the threads
//   panel   the queries whose weights are held at once, a run of blocks
//   chunk   the documents whose weights are made, and multiplied while they are in the caches
//   piece   what one thread does at a time
//
// Everywhere i is a query of the batch, j a document, k a component of the vectors; `block` is the
// block's first query, counted from the panel's first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "infonce/epilogue.h"
#include "infonce/infonce.h"
#include "infonce/numerics.h"
#include "similarity/kernel.h"
#include "similarity/memory.h"
#include "similarity/operands.h"
#include "similarity/threads.h"

namespace hybridret::infonce {

using similarity::Bfloat16;
using similarity::Buffer;
using similarity::Format;
using similarity::Kernel;
using similarity::Matrix;
using similarity::parallel_for;
using similarity::prefetch;
using similarity::round_up;
using similarity::Split;
using similarity::TileScope;

constexpr int64_t kPieceDocuments = 112;  // about: so many stay in the second-level cache
// Whole tiles in every instruction set, and whole steps of the queries' product.
constexpr int64_t kChunk = 672, kStep = 224;
// Documents left free between the weights of two blocks, which would otherwise share the same few
// sets of the caches.
constexpr int64_t kSkew = 14;

// Group ids as 32-bit numbers of the documents' groups; a query whose group no document has, and
// everything that is -1, matches nothing.
struct Groups {
  Groups(const Problem& p, int64_t queries, int64_t documents);
  std::vector<int32_t> query, document;
};

// Queries whose label is document j, ascending: queries[begin[j]] ... queries[begin[j + 1] - 1].
struct QueriesByLabel {
  explicit QueriesByLabel(const Problem& p);
  std::vector<int64_t> begin, queries;
};

template <class Element>
class Run {
 public:
  Run(const Problem& problem, const Statistics& statistics, int threads);
  void statistics();
  void statistics_and_gradients(const float* query_weights, const Gradients& gradients);
  void gradients(const Upstream& upstream, const Gradients& gradients);

 private:
  // ---- run.cpp: what a run knows of its vectors ------------------------------------------------

  int64_t largest_panel() const;

  // Lengths of the vectors; NaN where unit_norm says 1 and it is not.
  void measure(const Matrix& matrix, float* lengths) const;
  void measure_vectors();

  // ---- panels and their tiles ------------------------------------------------------------------

  template <class Work>
  void for_panels(const Work& work) {
    for (begin_ = 0; begin_ < n_; begin_ += panel_queries_) {
      count_ = std::min(panel_queries_, n_ - begin_);
      blocks_ = (count_ + tile_queries_ - 1) / tile_queries_;
      parallel_for(blocks_, threads_, [&](int64_t item) {
        const int64_t block = item * tile_queries_;
        pack_block(kernel_, p_.queries, begin_ + block, std::min(tile_queries_, count_ - block),
                   documents_.depth(), &packed_queries_[block * documents_.depth()]);
      });
      panel_labels_.clear();
      for (int64_t i = begin_; i < begin_ + count_; ++i) panel_labels_.push_back({p_.labels[i], i});
      for (int64_t block = 0; block < count_; block += tile_queries_)
        std::sort(panel_labels_.begin() + block,
                  panel_labels_.begin() + std::min(block + tile_queries_, count_));
      work();
    }
  }

  void choose_all() { std::fill(chosen_.begin(), chosen_.end(), true); }

  // work(begin, end) for pieces of about `size` of the `count`, as many for each thread.
  template <class Work>
  void for_pieces(int64_t count, int64_t size, const Work& work) const {
    if (count == 0) return;
    const int64_t rounds = (count + threads_ * size - 1) / (threads_ * size);
    const int64_t pieces = std::min(count, rounds * threads_);
    parallel_for(pieces, threads_, [&](int64_t piece) {
      work(count * piece / pieces, count * (piece + 1) / pieces);
    });
  }

  // work(logits, strip, block, first document) for every tile of the chosen blocks. Positives, and
  // queries past the panel's end, are -inf by then.
  template <class Work>
  void for_tiles(const Work& work) {
    for_tiles(0, strips_, false, work);
  }
  template <class Work>
  void for_tiles(int64_t begin_strip, int64_t end_strip, bool stored, const Work& work) {
    const int64_t strips = end_strip - begin_strip;
    for_pieces(strips, kPieceDocuments / tile_documents_, [&](int64_t from, int64_t to) {
      const TileScope scope(kernel_);
      alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
      const int64_t first = (begin_strip + from) * tile_documents_;
      const int64_t end = (begin_strip + to) * tile_documents_;
      const Buffer<Element> packed((end - first) * documents_.stride());
      const Element* a = documents_.rows(first, end - first, packed.get());
      const int64_t tile_bytes =
          tile_documents_ * tile_queries_ * static_cast<int64_t>(sizeof(Element));
      for (int64_t block = 0; block < count_; block += tile_queries_) {
        if (!chosen_[block / tile_queries_]) continue;
        const Element* b = &packed_queries_[block * documents_.depth()];
        for (int64_t j = first; j < end; j += tile_documents_) {
          if (stored) prefetch(stored_a(block, j), tile_bytes);
          if (stored && kSeparateB) prefetch(stored_b(block, j), tile_bytes);
          tiles_.tile(documents_.depth(), a + (j - first) * documents_.stride(),
                      documents_.stride(), tile_queries_, b, tile, tile_queries_, false);
          const Logits logits = logits_of(tile, block, j);
          take_positives(logits, tile, block, j);
          work(logits, j / tile_documents_, block, j);
        }
      }
    });
  }

  Logits logits_of(const float* tile, int64_t block, int64_t j) const;
  void take_positives(Logits logits, float* tile, int64_t block, int64_t j) const;

  // ---- statistics.cpp ---------------------------------------------------------------------------

  // Sums, log-sum-exp and positives of the panel's queries.
  void query_statistics(bool store);

  // Chooses the blocks with a query whose sum is too small to trust; whether there is one.
  bool choose_weak();
  void exponential_sums(bool store, double* document_sums);

  // The largest logits of the chosen blocks' queries become their shifts.
  void true_maxima();

  template <class Work>
  void for_chosen(const Work& work) {
    for (int64_t i = 0; i < count_; ++i)
      if (chosen_[i / tile_queries_]) work(i);
  }

  // Log-sum-exp of the documents, from their sums; if one is too small to trust, all are summed
  // again with their own maxima.
  void document_statistics(float shift);

  // Negatives above the positive, whose logit comes from the same tile arithmetic.
  void ranks();

  // ---- gradients.cpp ----------------------------------------------------------------------------

  Element* stored_a(int64_t block, int64_t j) const {
    return weights_a_.get() + block * block_documents_ + j * tile_queries_;
  }

  Element* stored_b(int64_t block, int64_t j) const {
    return weights_b_.get() + block * (kChunk + kSkew) + (j - chunk_) * tile_queries_;
  }

  void start(const Gradients& gradients);

  // Chunk by chunk: store(...) as for_tiles' work, then the queries' product.
  template <class Store>
  void make_weights(const Store& store) {
    for (chunk_ = 0; chunk_ < padded_m_; chunk_ += kChunk) {
      const int64_t end = chunk_ + kChunk;
      for_tiles(chunk_ / tile_documents_, std::min(end / tile_documents_, strips_), true, store);
      query_product(std::min(end, padded_m_));
    }
  }

  // dQ^T (+)= D^T P^T over the chunk's documents, which end at `end`; in pieces of the depth.
  void query_product(int64_t end);
  void finish();

  // dQ of a block from its sums; and the block's queries as the documents' product reads them.
  void finish_queries(int64_t block);

  // gradient = (gradient - vector * along) * factor; 0 for a vector too short to have a direction.
  static void project(float* gradient, const float* vector, float along, float factor,
                      int64_t depth);

  // dD (+)= P^T Q, in pieces of the documents.
  void document_product();
  void finish_documents();

  static constexpr bool kSeparateB = !std::is_same_v<Element, float>;

  const Problem& p_;
  const Statistics& out_;
  const int threads_;
  const Kernel& kernel_;
  const similarity::TileKernel<Element>& tiles_;
  const Stores<Element>& stores_;
  const int64_t tile_documents_, tile_queries_;
  const int64_t n_, m_;            // queries and documents of the batch
  const int64_t padded_m_;         // in whole strips and whole slices of operand a
  const int64_t block_documents_;  // for which a block has weights: padded_m_ and the skew
  const int64_t strips_;
  const int64_t panel_queries_;  // of every panel but the last
  const similarity::RowOperand<Element> documents_;
  const Groups groups_;
  const QueriesByLabel labels_;
  // By query: 1 / length or 1; that times the scale; what its logits are shifted by; the upstream
  // derivative.
  std::vector<float> query_factor_, query_scale_, shift_, weight_;
  // By document: 1 / length or 1; what is added to its logits as a negative, and as a positive.
  std::vector<float> document_factor_, document_bias_, positive_bias_;
  double common_bound_ = -kInfinity;  // on the logits of all queries

  // The panel: its first query, its number of queries and of blocks, and what belongs to these.
  int64_t begin_ = 0, count_ = 0, blocks_ = 0;
  const Buffer<Element> packed_queries_;
  std::vector<std::pair<int64_t, int64_t>> panel_labels_;  // (label, query), sorted in each block
  std::vector<float> partial_;                             // [strips, panel's queries]
  std::vector<char> chosen_;                               // blocks that for_tiles visits

  mutable std::vector<float> positive_;   // by query: the logit of its positive
  std::vector<double> query_sums_, gap_;  // by query: of exponentials; lse - positive
  std::vector<double> document_sums_;     // by document: of exponentials

  // Gradients only.
  Gradients gradients_{};
  int64_t chunk_ = 0;                            // its first document
  int64_t depth_rows_ = 0, depth_columns_ = 0;   // the depth, in whole tiles down and across
  bool in_place_ = false;                        // dD is summed in the caller's array
  Buffer<Element> transposed_documents_;         // operand a of the queries' product
  Buffer<Element> weights_a_;                    // the panel's, operand a of the documents' product
  Buffer<Element> weights_b_;                    // the chunk's, operand b of the queries' product
  Buffer<Element> scaled_queries_;               // the panel's, operand b of the documents' product
  Buffer<float> query_gradients_;                // the panel's, transposed in each block
  Buffer<float> document_gradients_;             // unless in_place_
  std::vector<float> factor_, positive_factor_;  // by query: of its sums, of its positive
  std::vector<double> scale_terms_;
};

}  // namespace hybridret::infonce
