#include "infonce/infonce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::infonce {
namespace {

using similarity::Bfloat16;
using similarity::Buffer;
using similarity::Format;
using similarity::Kernel;
using similarity::Logits;
using similarity::Matrix;
using similarity::parallel_for;
using similarity::prefetch;
using similarity::round_up;
using similarity::TileScope;

constexpr int64_t kPanelBytes = int64_t{8} << 20;    // of weights held at once
constexpr int64_t kQueryBytes = int64_t{768} << 10;  // of packed queries: they stay in L2
constexpr int64_t kLeastPanelRows = 64, kMostPanelRows = 1024;
// Between the blocks of a panel: their rows would share the same few sets of the caches.
constexpr int64_t kSkew = 14;
constexpr int64_t kPieceRows = 112;  // documents of one piece of work, about: they stay in L2
constexpr int64_t kChunk = 192;  // documents of one step of the queries' gradient: P^T stays in L1
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Logits up to this far below the bound on them keep their digits: e^-87 is the smallest float.
constexpr float kHeadroom = 40;
// Beneath this, what has been flushed to zero (at most M e^-87) might matter.
constexpr double kWeakSum = 1e-20;
constexpr float kLeastLength = 1e-12f;  // as torch.nn.functional.normalize

double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// A shift that keeps e^(s - shift) within float32 for every s <= bound.
float shift_for(double bound) {
  if (bound > kHeadroom) return static_cast<float>(bound) - kHeadroom;
  if (bound < -kHeadroom) return static_cast<float>(bound) + kHeadroom;
  return 0;
}

// Group ids as 32-bit numbers of the documents' groups; a query whose group no document has, and
// everything that is -1, matches nothing.
struct Groups {
  Groups(const Problem& p, int64_t queries, int64_t documents)
      : query(queries, -1), document(documents, -2) {
    if (!p.query_groups) return;
    const std::vector<int64_t> ids = [&] {
      std::vector<int64_t> sorted(p.document_groups, p.document_groups + p.documents.rows);
      std::sort(sorted.begin(), sorted.end());
      sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
      return sorted;
    }();
    const auto number = [&](int64_t id, int32_t none) {
      const auto found = std::lower_bound(ids.begin(), ids.end(), id);
      if (id == -1 || found == ids.end() || *found != id) return none;
      return static_cast<int32_t>(found - ids.begin());
    };
    for (int64_t i = 0; i < p.queries.rows; ++i) query[i] = number(p.query_groups[i], -1);
    for (int64_t j = 0; j < p.documents.rows; ++j) document[j] = number(p.document_groups[j], -2);
  }
  std::vector<int32_t> query, document;
};

// Rows of each label, ascending: rows[begin[j]] ... rows[begin[j + 1] - 1].
struct RowsOfLabels {
  explicit RowsOfLabels(const Problem& p)
      : begin(static_cast<size_t>(p.documents.rows + 1)),
        rows(static_cast<size_t>(p.queries.rows)) {
    for (int64_t i = 0; i < p.queries.rows; ++i)
      if (p.labels[i] >= 0) ++begin[p.labels[i] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < p.queries.rows; ++i)
      if (p.labels[i] >= 0) rows[next[p.labels[i]]++] = i;
  }
  std::vector<int64_t> begin, rows;
};

template <class Element>
class Run {
 public:
  Run(const Problem& problem, const Statistics& statistics, int threads)
      : p_(problem),
        out_(statistics),
        threads_(threads),
        kernel_(similarity::active_kernel()),
        tiles_(kernel_.tiles<Element>()),
        stores_(kernel_.stores<Element>()),
        columns_(kernel_.columns),
        n_(p_.queries.rows),
        m_(p_.documents.rows),
        padded_m_(round_up(round_up(m_, tiles_.rows), columns_)),
        block_rows_(padded_m_ + kSkew),
        parts_((m_ + tiles_.rows - 1) / tiles_.rows),
        panel_rows_(std::min(round_up(std::max<int64_t>(n_, 1), columns_), panel_rows())),
        documents_(p_.documents, tiles_),
        groups_(p_, round_up(n_, panel_rows_), padded_m_),
        labels_(p_),
        query_factor_(static_cast<size_t>(round_up(n_, panel_rows_)), 1.0f),
        query_scale_(query_factor_.size()),
        shift_(query_factor_.size()),
        weight_(query_factor_.size()),
        document_factor_(static_cast<size_t>(padded_m_), 1.0f),
        document_bias_(static_cast<size_t>(padded_m_), -kInfinity),
        positive_bias_(static_cast<size_t>(padded_m_), 0.0f),
        packed_queries_(panel_rows_ * documents_.depth()),
        partial_(static_cast<size_t>(parts_ * panel_rows_)),
        chosen_(static_cast<size_t>(panel_rows_ / columns_)),
        positive_(query_factor_.size(), -kInfinity),
        sum_(query_factor_.size()),
        gap_(query_factor_.size()) {
    measure_vectors();
  }

  void statistics() {
    if (!out_.column_negatives_lse) {
      for_panels([&] { row_statistics(false); });
      return;
    }
    // One pass sums rows and columns: one shift serves both.
    const float shift = std::isfinite(common_bound_) ? shift_for(common_bound_) : 0;
    std::fill(shift_.begin(), shift_.end(), shift);
    column_sums_.assign(static_cast<size_t>(padded_m_), 0.0);
    for_panels([&] { row_statistics(false); });
    column_statistics(shift);
  }

  void statistics_and_gradients(const float* row_weights, const Gradients& gradients) {
    start(gradients);
    for_panels([&] {
      row_statistics(true);
      for (int64_t i = begin_; i < begin_ + count_; ++i) {
        const double share = sum_[i] == 0 ? 0 : row_weights[i] * sigmoid(gap_[i]);
        factor_[i] = sum_[i] == 0 ? 0 : static_cast<float>(share * p_.scale / sum_[i]);
        positive_factor_[i] = static_cast<float>(-share * p_.scale);
      }
      products();
    });
    finish_documents();
  }

  void gradients(const Upstream& upstream, const Gradients& gradients) {
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
        store_exponentials();
      } else {
        for_tiles([&](const Logits& l, int64_t, int64_t block, int64_t j) {
          stores_.weights(l, &shift_[begin_ + block], &weight_[begin_ + block], &column_lse[j],
                          &column_weight[j], stored_rows(block, j), stored_pairs(block, j));
        });
      }
      products();
    });
    finish_documents();
  }

 private:
  // ---- what a run knows of its vectors ----------------------------------------------------------

  int64_t panel_rows() const {
    // float32 weights, or bfloat16 ones stored twice: four bytes either way.
    const int64_t weights = kPanelBytes / (4 * std::max<int64_t>(padded_m_, 1));
    const int64_t queries =
        kQueryBytes / (std::max<int64_t>(p_.queries.depth, 1) * int64_t{sizeof(Element)});
    const int64_t rows = std::min(weights, queries) / columns_ * columns_;
    return std::max(kLeastPanelRows, std::min(rows, kMostPanelRows));
  }

  // Lengths of rows, or 1 / length where vectors are normalised, NaN where they break a promise.
  void measure(const Matrix& matrix, float* lengths) const {
    constexpr int64_t kRows = 256;
    const float tolerance = unit_norm_tolerance(matrix.format);
    parallel_for((matrix.rows + kRows - 1) / kRows, threads_, [&](int64_t item) {
      const Buffer<float> buffer(matrix.depth);
      for (int64_t i = item * kRows; i < std::min(matrix.rows, (item + 1) * kRows); ++i) {
        const float* row = float_row(matrix, i, buffer.get());
        lengths[i] = std::sqrt(kernel_.dot(row, row, matrix.depth));
        if (p_.unit_norm && !(std::abs(lengths[i] - 1) <= tolerance))
          lengths[i] = std::numeric_limits<float>::quiet_NaN();
      }
    });
  }

  void measure_vectors() {
    std::vector<float> query_length(static_cast<size_t>(n_)),
        document_length(static_cast<size_t>(m_));
    measure(p_.queries, query_length.data());
    measure(p_.documents, document_length.data());
    float largest_bias = 0;
    for (int64_t j = 0; j < m_; ++j) {
      const float bias = p_.log_bias ? p_.log_bias[j] : 0;
      document_bias_[j] = positive_bias_[j] = bias;
      largest_bias = j ? std::max(largest_bias, bias) : bias;
    }
    if (p_.hard_only)
      for (int64_t i = 0; i < n_; ++i)
        if (p_.labels[i] >= 0) document_bias_[p_.labels[i]] = -kInfinity;
    bool broken = false;
    float longest = 0;
    for (int64_t j = 0; j < m_; ++j) {
      if (p_.normalize) {
        document_factor_[j] = 1 / std::max(document_length[j], kLeastLength);
        document_length[j] = 1;
      }
      broken |= std::isnan(document_length[j]);
      longest = std::max(longest, document_length[j]);
    }
    for (int64_t i = 0; i < n_; ++i) broken |= std::isnan(query_length[i]);
    std::fill(query_scale_.begin(), query_scale_.end(), p_.scale);
    for (int64_t i = 0; i < n_; ++i) {
      if (p_.normalize) {
        query_factor_[i] = 1 / std::max(query_length[i], kLeastLength);
        query_length[i] = 1;
      }
      query_scale_[i] = p_.unit_norm && broken ? std::numeric_limits<float>::quiet_NaN()
                                               : p_.scale * query_factor_[i];
      // Cauchy and Schwarz; an infinite or unknown bound leaves the row to its true maximum.
      const double bound = static_cast<double>(p_.scale) * query_length[i] * longest + largest_bias;
      shift_[i] = std::isfinite(bound) ? shift_for(bound) : 0;
      common_bound_ = i ? std::max(common_bound_, bound) : bound;
    }
  }

  // ---- panels and their tiles
  // --------------------------------------------------------------------

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
    for_pieces(parts_, kPieceRows / tiles_.rows, [&](int64_t first_part, int64_t last_part) {
      const TileScope scope(kernel_);
      alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
      const int64_t first = first_part * tiles_.rows, end = last_part * tiles_.rows;
      const Buffer<Element> packed((end - first) * documents_.stride());
      const Element* a = documents_.rows(first, end - first, packed.get());
      const int64_t tile_bytes = tiles_.rows * columns_ * static_cast<int64_t>(sizeof(Element));
      for (int64_t block = 0; block < count_; block += columns_) {
        if (!chosen_[block / columns_]) continue;
        const Element* b = &packed_queries_[block * documents_.depth()];
        for (int64_t j = first; j < end; j += tiles_.rows) {
          if (rows_) prefetch(stored_rows(block, j), tile_bytes);
          if (pairs_) prefetch(stored_pairs(block, j), tile_bytes);
          tiles_.tile(documents_.depth(), a + (j - first) * documents_.stride(),
                      documents_.stride(), columns_, b, tile, columns_, false);
          const Logits logits = logits_of(tile, block, j);
          take_positives(logits, tile, block, j);
          epilogue(logits, j / tiles_.rows, block, j);
        }
      }
    });
  }

  Logits logits_of(const float* tile, int64_t block, int64_t j) const {
    return {tile,
            tiles_.rows,
            &query_scale_[begin_ + block],
            &groups_.query[begin_ + block],
            &document_factor_[j],
            &document_bias_[j],
            p_.query_groups ? &groups_.document[j] : nullptr};
  }

  void take_positives(Logits logits, float* tile, int64_t block, int64_t j) const {
    const int64_t end = std::min(block + columns_, count_);
    const auto last = panel_labels_.begin() + end;
    auto label =
        std::lower_bound(panel_labels_.begin() + block, last, std::pair<int64_t, int64_t>{j, -1});
    logits.document_bias = &positive_bias_[j];
    for (; label != last && label->first < j + tiles_.rows; ++label) {
      const int64_t row = label->first - j, query = label->second - begin_ - block;
      positive_[label->second] = kernel_.epilogues.logit(logits, row, query);
      tile[row * columns_ + query] = -kInfinity;
    }
    for (int64_t query = end - block; query < columns_; ++query)
      for (int64_t row = 0; row < tiles_.rows; ++row) tile[row * columns_ + query] = -kInfinity;
  }

  // ---- statistics
  // --------------------------------------------------------------------------------

  // Sums, log-sum-exp and positives of the panel's rows.
  void row_statistics(bool store) {
    choose_all();
    if (out_.rank) ranks();
    exponential_sums(store, column_sums_.empty() ? nullptr : column_sums_.data());
    if (choose_weak()) {
      true_maxima();
      exponential_sums(store, nullptr);
    }
    for (int64_t i = begin_; i < begin_ + count_; ++i) {
      const double lse = sum_[i] == 0 ? -kInfinity : shift_[i] + std::log(sum_[i]);
      out_.negatives_lse[i] = static_cast<float>(lse);
      out_.positive[i] = positive_[i];
      gap_[i] = lse - static_cast<double>(positive_[i]);
    }
  }

  // Chooses the blocks that hold a row whose sum is weak; whether there is one.
  bool choose_weak() {
    std::fill(chosen_.begin(), chosen_.end(), false);
    bool any = false;
    for (int64_t i = 0; i < count_; ++i) {
      if (!(sum_[begin_ + i] < kWeakSum)) continue;  // NaN is not weak
      chosen_[i / columns_] = any = true;
    }
    return any;
  }

  void exponential_sums(bool store, double* column_sums) {
    std::fill(partial_.begin(), partial_.end(), 0.0f);
    for_tiles([&](const Logits& l, int64_t part, int64_t block, int64_t j) {
      stores_.exponentials(l, &shift_[begin_ + block], &partial_[part * panel_rows_ + block],
                           column_sums ? column_sums + j : nullptr,
                           store ? stored_rows(block, j) : nullptr, stored_pairs(block, j));
    });
    parallel_for(blocks_, threads_, [&](int64_t block) {
      if (!chosen_[block]) return;
      double sums[similarity::kMaximumColumns] = {};
      for (int64_t part = 0; part < parts_; ++part)
        for (int64_t q = 0; q < columns_; ++q)
          sums[q] += static_cast<double>(partial_[part * panel_rows_ + block * columns_ + q]);
      std::copy_n(sums, columns_, &sum_[begin_ + block * columns_]);
    });
  }

  void store_exponentials() {  // shifts are the log-sum-exp: the sums are known
    for_tiles([&](const Logits& l, int64_t, int64_t block, int64_t j) {
      float sums[similarity::kMaximumColumns] = {};
      stores_.exponentials(l, &shift_[begin_ + block], sums, nullptr, stored_rows(block, j),
                           stored_pairs(block, j));
    });
  }

  // The chosen rows' largest logits become their shifts.
  void true_maxima() {
    std::fill(partial_.begin(), partial_.end(), -kInfinity);
    for_tiles([&](const Logits& l, int64_t part, int64_t block, int64_t) {
      kernel_.epilogues.maxima(l, &partial_[part * panel_rows_ + block], nullptr);
    });
    for_chosen([&](int64_t i) {
      float largest = -kInfinity;
      for (int64_t part = 0; part < parts_; ++part)
        largest = std::max(largest, partial_[part * panel_rows_ + i]);
      shift_[begin_ + i] = largest == -kInfinity ? 0 : largest;
    });
  }

  template <class Work>
  void for_chosen(const Work& work) {
    for (int64_t i = 0; i < count_; ++i)
      if (chosen_[i / columns_]) work(i);
  }

  // Log-sum-exp of the columns, from their sums; a weak one is summed again with its own maximum.
  void column_statistics(float shift) {
    std::vector<float> column_shift(static_cast<size_t>(m_), shift);
    if (std::any_of(column_sums_.begin(), column_sums_.begin() + m_,
                    [](double sum) { return sum < kWeakSum; })) {
      std::vector<float> largest(static_cast<size_t>(padded_m_), -kInfinity);
      for_panels([&] {
        choose_all();
        for_tiles([&](const Logits& l, int64_t, int64_t, int64_t j) {
          float rows[similarity::kMaximumColumns] = {};
          kernel_.epilogues.maxima(l, rows, &largest[j]);
        });
      });
      for (int64_t j = 0; j < m_; ++j) {
        column_shift[j] = largest[j] == -kInfinity ? 0 : largest[j];
        document_bias_[j] -= column_shift[j];
      }
      std::fill(shift_.begin(), shift_.end(), 0.0f);
      std::fill(column_sums_.begin(), column_sums_.end(), 0.0);
      for_panels([&] {
        choose_all();
        exponential_sums(false, column_sums_.data());
      });
    }
    for (int64_t j = 0; j < m_; ++j)
      out_.column_negatives_lse[j] =
          column_sums_[j] == 0 ? -kInfinity
                               : static_cast<float>(column_shift[j] + std::log(column_sums_[j]));
  }

  // Negatives above the positive, whose logit comes from the same tile arithmetic.
  void ranks() {
    parallel_for(blocks_, threads_, [&](int64_t item) {
      const TileScope scope(kernel_);
      alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
      const Buffer<Element> labelled(tiles_.rows * documents_.depth());
      const int64_t block = item * columns_, end = std::min(block + columns_, count_);
      for (int64_t first = block; first < end; first += tiles_.rows) {
        const int64_t last = std::min(first + tiles_.rows, end);
        for (int64_t i = first; i < first + tiles_.rows; ++i)
          copy_row(p_.documents, p_.labels[begin_ + std::min(i, last - 1)], documents_.depth(),
                   &labelled[(i - first) * documents_.depth()]);
        tiles_.tile(documents_.depth(), labelled.get(), documents_.depth(), columns_,
                    &packed_queries_[block * documents_.depth()], tile, columns_, false);
        for (int64_t i = first; i < last; ++i) {
          Logits logits = logits_of(tile + (i - first) * columns_, block, p_.labels[begin_ + i]);
          logits.document_bias = &positive_bias_[p_.labels[begin_ + i]];
          positive_[begin_ + i] = kernel_.epilogues.logit(logits, 0, i - block);
        }
      }
    });
    std::vector<int32_t> above(partial_.size());
    for_tiles([&](const Logits& l, int64_t part, int64_t block, int64_t) {
      kernel_.epilogues.count_above(l, &positive_[begin_ + block],
                                    &above[part * panel_rows_ + block]);
    });
    for (int64_t i = 0; i < count_; ++i) {
      out_.rank[begin_ + i] = 1;
      for (int64_t part = 0; part < parts_; ++part)
        out_.rank[begin_ + i] += above[part * panel_rows_ + i];
    }
  }

  // ---- products
  // ----------------------------------------------------------------------------------

  Element* stored_rows(int64_t block, int64_t j) const {
    return rows_.get() + block * block_rows_ + j * columns_;
  }
  Element* stored_pairs(int64_t block, int64_t j) const {
    return pairs_.get() + block * block_rows_ + j * columns_;
  }

  void start(const Gradients& gradients) {
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
    if constexpr (kPairs) pairs_ = Buffer<Element>(panel_rows_ * block_rows_);
    // Tiles never write the last rows, the products read them.
    const int64_t written = round_up(m_, tiles_.rows) * columns_;
    for (int64_t block = 0; block < panel_rows_; block += columns_) {
      Element* begin = &rows_[block * block_rows_];
      std::fill(begin + written, begin + padded_m_ * columns_, Element{});
      if constexpr (kPairs) {
        begin = &pairs_[block * block_rows_];
        std::fill(begin + written, begin + padded_m_ * columns_, Element{});
      }
    }
    query_sums_ = Buffer<float>(panel_rows_ * depth_rows_);
    scaled_queries_ = Buffer<Element>(panel_rows_ * depth_columns_);
    in_place_ = gradient_format(p_.documents.format) == Format::kFloat32 && depth == depth_columns_;
    if (!in_place_) document_sums_ = Buffer<float>(round_up(m_, tiles_.rows) * depth_columns_);
    factor_.assign(query_factor_.size(), 0.0f);
    positive_factor_.assign(query_factor_.size(), 0.0f);
    scale_terms_.assign(query_factor_.size(), 0.0);
  }

  void products() {
    query_product();
    parallel_for(blocks_, threads_, [&](int64_t block) { finish_queries(block * columns_); });
    document_product();
  }

  // dQ^T = D^T P^T, pieces of the depth apart.
  void query_product() {
    const int64_t tiles = depth_rows_ / tiles_.rows;
    for_pieces(tiles, tiles, [&](int64_t first, int64_t last) {
      const TileScope scope(kernel_);
      for (int64_t j = 0; j < padded_m_; j += kChunk) {
        const Element* a = &transposed_[j * depth_rows_];
        for (int64_t block = 0; block < count_; block += columns_) {
          const Element* b = kPairs ? stored_pairs(block, j) : stored_rows(block, j);
          // What the next block will read.
          const bool last_block = block + columns_ >= count_;
          const Element* next = last_block ? b : b + columns_ * block_rows_;
          const int64_t part = kChunk * columns_ / (last - first) + 1;
          for (int64_t tile = first; tile < last; ++tile) {
            const int64_t k = tile * tiles_.rows;
            prefetch(next + (tile - first) * part, part * sizeof(Element));
            tiles_.tile(std::min(kChunk, padded_m_ - j), a + k * kChunk, kChunk, columns_, b,
                        &query_sums_[block * depth_rows_ + k * columns_], columns_, j > 0);
          }
        }
      }
    });
  }

  // Rows of dQ from their sums; and the queries as the documents' product reads them.
  void finish_queries(int64_t block) {
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
    pack_scaled(kernel_, p_.queries, begin_ + block, count, factor.data(), block,
                blocks_ * columns_, scaled_queries_.get());
  }

  // gradient = (gradient - vector * along) * factor; 0 for a vector without direction.
  static void project(float* gradient, const float* vector, float along, float factor,
                      int64_t depth) {
    if (factor >= 1 / kLeastLength) factor = 0;
    for (int64_t k = 0; k < depth; ++k) gradient[k] = (gradient[k] - vector[k] * along) * factor;
  }

  // dD (+)= P^T Q, pieces of the documents apart.
  void document_product() {
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

  void finish_documents() {
    const Format format = gradient_format(p_.documents.format);
    const int64_t depth = p_.documents.depth, bytes = similarity::bytes_of(format);
    constexpr int64_t kRows = 64;
    parallel_for((m_ + kRows - 1) / kRows, threads_, [&](int64_t item) {
      const Buffer<float> buffer(depth);
      for (int64_t j = item * kRows; j < std::min(m_, (item + 1) * kRows); ++j) {
        void* out = static_cast<char*>(gradients_.documents) + j * depth * bytes;
        float* gradient =
            in_place_ ? static_cast<float*>(out) : &document_sums_[j * depth_columns_];
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

  static constexpr bool kPairs = sizeof(Element) == 2;

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
  double common_bound_ = 0;

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
  int64_t depth_rows_ = 0, depth_columns_ = 0;
  bool in_place_ = false;  // dD is summed in the caller's array
  Buffer<Element> transposed_, rows_, pairs_, scaled_queries_;
  Buffer<float> query_sums_, document_sums_;
  std::vector<float> factor_, positive_factor_;  // by query: of its sums, of its positive
  std::vector<double> scale_terms_;
};

template <class Work>
void run(const Problem& problem, const Statistics& statistics, int threads, const Work& work) {
  const bool bfloat16 = problem.queries.format == Format::kBfloat16 &&
                        similarity::active_kernel().tiles<Bfloat16>().rows > 0;
  if (bfloat16)
    work(Run<Bfloat16>(problem, statistics, threads));
  else
    work(Run<float>(problem, statistics, threads));
}

template <class T>
T* offset(T* array, int64_t count) {
  return array ? array + count : nullptr;
}

Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count) {
  return {matrix.row(begin), matrix.format, count, matrix.depth, matrix.stride};
}

// One block of the diagonal as a problem of its own.
struct Segment {
  Segment(const Problem& whole, int64_t row, int64_t column, int64_t rows, int64_t columns)
      : first_row(row),
        first_column(column),
        labels(whole.labels + row, whole.labels + row + rows) {
    for (int64_t& label : labels)
      if (label >= 0) label -= column;
    problem = whole;
    problem.queries = rows_of(whole.queries, row, rows);
    problem.documents = rows_of(whole.documents, column, columns);
    problem.labels = labels.data();
    problem.query_groups = offset(whole.query_groups, row);
    problem.document_groups = offset(whole.document_groups, column);
    problem.log_bias = offset(whole.log_bias, column);
    problem.segments = nullptr;
  }
  Statistics of(const Statistics& s) const {
    return {s.negatives_lse + first_row, s.positive + first_row,
            offset(s.column_negatives_lse, first_column), offset(s.rank, first_row)};
  }
  Upstream of(const Upstream& u) const {
    return {u.negatives_lse + first_row, u.positive + first_row,
            offset(u.column_negatives_lse, first_column)};
  }
  Gradients of(const Gradients& g) const {
    const int64_t bytes =
        problem.queries.depth * similarity::bytes_of(gradient_format(problem.queries.format));
    return {static_cast<char*>(g.queries) + first_row * bytes,
            static_cast<char*>(g.documents) + first_column * bytes, g.scale};
  }
  int64_t first_row, first_column;
  std::vector<int64_t> labels;
  Problem problem;
};

// work(segment, threads, where to add the derivative by the scale); all is one segment by default.
template <class Work>
void for_segments(const Problem& problem, double* scale, int threads, const Work& work) {
  std::vector<Segment> segments;
  if (!problem.segments) {
    segments.emplace_back(problem, 0, 0, problem.queries.rows, problem.documents.rows);
  }
  for (int64_t s = 0, row = 0, column = 0; problem.segments && s < problem.segment_count; ++s) {
    const int64_t rows = problem.segments[2 * s], columns = problem.segments[2 * s + 1];
    segments.emplace_back(problem, row, column, rows, columns);
    row += rows, column += columns;
  }
  const similarity::ParallelScope scope(threads);
  const int64_t count = static_cast<int64_t>(segments.size());
  std::vector<double> by_scale(segments.size());
  const bool one_each = count >= 2 * threads;  // many small ones: a thread for each
  parallel_for(one_each ? count : 1, threads, [&](int64_t item) {
    for (int64_t s = item; s < (one_each ? item + 1 : count); ++s)
      work(segments[s], one_each ? 1 : threads, &by_scale[s]);
  });
  if (scale) *scale = std::accumulate(by_scale.begin(), by_scale.end(), 0.0);
}

// The loss of the rows, and half of it the columns', as derivatives by the statistics.
struct SymmetricUpstream {
  SymmetricUpstream(const Problem& p, const Statistics& s, const float* row_weights)
      : row(static_cast<size_t>(p.queries.rows)),
        positive(row),
        column(static_cast<size_t>(p.documents.rows)) {
    for (int64_t i = 0; i < p.queries.rows; ++i) {
      const int64_t label = p.labels[i];
      const double weight = row_weights[i] / 2, logit = s.positive[i];
      const double by_row = weight * sigmoid(s.negatives_lse[i] - logit);
      const double by_column = weight * sigmoid(s.column_negatives_lse[label] - logit);
      row[i] = static_cast<float>(by_row);
      column[label] = static_cast<float>(by_column);
      positive[i] = static_cast<float>(-by_row - by_column);
    }
  }
  std::vector<float> row, positive, column;
};

}  // namespace

Format gradient_format(Format format) {
  return format == Format::kBfloat16 ? Format::kBfloat16 : Format::kFloat32;
}

float unit_norm_tolerance(Format format) { return format == Format::kFloat32 ? 1e-3f : 1e-2f; }

void statistics(const Problem& problem, const Statistics& out, int threads) {
  for_segments(problem, nullptr, threads, [&](const Segment& segment, int own_threads, double*) {
    run(segment.problem, segment.of(out), own_threads, [](auto&& r) { r.statistics(); });
  });
}

void gradients(const Problem& problem, const Statistics& statistics, const Upstream& upstream,
               const Gradients& out, int threads) {
  for_segments(problem, out.scale, threads,
               [&](const Segment& segment, int own_threads, double* scale) {
                 Gradients gradients = segment.of(out);
                 gradients.scale = scale;
                 run(segment.problem, segment.of(statistics), own_threads,
                     [&](auto&& r) { r.gradients(segment.of(upstream), gradients); });
               });
}

void statistics_and_gradients(const Problem& problem, const Statistics& out,
                              const float* row_weights, const Gradients& gradients, int threads) {
  if (out.column_negatives_lse) {
    statistics(problem, out, threads);
    const SymmetricUpstream by(problem, out, row_weights);
    infonce::gradients(problem, out, {by.row.data(), by.positive.data(), by.column.data()},
                       gradients, threads);
    return;
  }
  for_segments(problem, gradients.scale, threads,
               [&](const Segment& segment, int own_threads, double* scale) {
                 Gradients own = segment.of(gradients);
                 own.scale = scale;
                 run(segment.problem, segment.of(out), own_threads, [&](auto&& r) {
                   r.statistics_and_gradients(row_weights + segment.first_row, own);
                 });
               });
}

}  // namespace hybridret::infonce
