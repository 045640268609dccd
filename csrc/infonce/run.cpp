#include "infonce/run.h"

#include <cmath>
#include <numeric>

namespace hybridret::infonce {
namespace {

constexpr int64_t kPanelBytes = int64_t{8} << 20;       // of weights held at once
constexpr int64_t kLeastPanel = 64, kMostPanel = 1024;  // queries

}  // namespace

Groups::Groups(const Problem& p, int64_t queries, int64_t documents)
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

QueriesByLabel::QueriesByLabel(const Problem& p)
    : begin(static_cast<size_t>(p.documents.rows + 1)),
      queries(static_cast<size_t>(p.queries.rows)) {
  for (int64_t i = 0; i < p.queries.rows; ++i)
    if (p.labels[i] >= 0) ++begin[p.labels[i] + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (int64_t i = 0; i < p.queries.rows; ++i)
    if (p.labels[i] >= 0) queries[next[p.labels[i]]++] = i;
}

template <class Element>
Run<Element>::Run(const Problem& problem, const Statistics& statistics, int threads)
    : p_(problem),
      out_(statistics),
      threads_(threads),
      kernel_(similarity::active_kernel()),
      tiles_(kernel_.tiles<Element>()),
      stores_(kernel_.loss.stores<Element>()),
      tile_documents_(tiles_.rows),
      tile_queries_(kernel_.columns),
      n_(p_.queries.rows),
      m_(p_.documents.rows),
      padded_m_(round_up(round_up(m_, tile_documents_), tile_queries_)),
      block_documents_(padded_m_ + kSkew),
      strips_((m_ + tile_documents_ - 1) / tile_documents_),
      panel_queries_(std::min(round_up(std::max<int64_t>(n_, 1), tile_queries_), largest_panel())),
      documents_(kernel_, p_.documents),
      groups_(p_, round_up(n_, panel_queries_), padded_m_),
      labels_(p_),
      query_factor_(static_cast<size_t>(round_up(n_, panel_queries_)), 1.0f),
      query_scale_(query_factor_.size()),
      shift_(query_factor_.size()),
      weight_(query_factor_.size()),
      document_factor_(static_cast<size_t>(padded_m_), 1.0f),
      document_bias_(static_cast<size_t>(padded_m_), -kInfinity),
      positive_bias_(static_cast<size_t>(padded_m_), 0.0f),
      packed_queries_(panel_queries_ * documents_.depth()),
      partial_(static_cast<size_t>(strips_ * panel_queries_)),
      chosen_(static_cast<size_t>(panel_queries_ / tile_queries_)),
      positive_(query_factor_.size(), -kInfinity),
      query_sums_(query_factor_.size()),
      gap_(query_factor_.size()) {
  measure_vectors();
}

template <class Element>
int64_t Run<Element>::largest_panel() const {
  const int64_t by_weights =
      kPanelBytes / (int64_t{sizeof(Element)} * std::max<int64_t>(padded_m_, 1));
  const int64_t by_cache =
      kernel_.cache_bytes / (std::max<int64_t>(p_.queries.depth, 1) * int64_t{sizeof(Element)});
  const int64_t queries = std::min(by_weights, by_cache) / tile_queries_ * tile_queries_;
  return std::max(kLeastPanel, std::min(queries, kMostPanel));
}

template <class Element>
void Run<Element>::measure(const Matrix& matrix, float* lengths) const {
  constexpr int64_t kPiece = 256;
  const float tolerance = unit_norm_tolerance(matrix.format);
  parallel_for((matrix.rows + kPiece - 1) / kPiece, threads_, [&](int64_t item) {
    const Buffer<float> buffer(matrix.depth);
    for (int64_t i = item * kPiece; i < std::min(matrix.rows, (item + 1) * kPiece); ++i) {
      const float* vector = float_row(matrix, i, buffer.get());
      double square = kernel_.dot(vector, vector, matrix.depth);
      if (std::isinf(square)) {
        square = 0;
        for (int64_t k = 0; k < matrix.depth; ++k) square += double{vector[k]} * double{vector[k]};
      }
      lengths[i] = static_cast<float>(std::sqrt(square));
      if (p_.unit_norm && !(std::abs(lengths[i] - 1) <= tolerance))
        lengths[i] = std::numeric_limits<float>::quiet_NaN();
    }
  });
}

template <class Element>
void Run<Element>::measure_vectors() {
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
    // By Cauchy and Schwarz.
    const double bound = static_cast<double>(p_.scale) * query_length[i] * longest + largest_bias;
    shift_[i] = shift_for(bound);
    if (bound > common_bound_) common_bound_ = bound;  // a NaN concerns its own query only
  }
}

template <class Element>
Logits Run<Element>::logits_of(const float* tile, int64_t block, int64_t j) const {
  return {tile,
          tile_documents_,
          &query_scale_[begin_ + block],
          &groups_.query[begin_ + block],
          &document_factor_[j],
          &document_bias_[j],
          p_.query_groups ? &groups_.document[j] : nullptr};
}

template <class Element>
void Run<Element>::take_positives(Logits logits, float* tile, int64_t block, int64_t j) const {
  const int64_t end = std::min(block + tile_queries_, count_);
  const auto last = panel_labels_.begin() + end;
  auto label =
      std::lower_bound(panel_labels_.begin() + block, last, std::pair<int64_t, int64_t>{j, -1});
  logits.document_bias = &positive_bias_[j];
  for (; label != last && label->first < j + tile_documents_; ++label) {
    const int64_t document = label->first - j, query = label->second - begin_ - block;
    positive_[label->second] = kernel_.loss.logit(logits, document, query);
    tile[document * tile_queries_ + query] = -kInfinity;
  }
  for (int64_t query = end - block; query < tile_queries_; ++query)
    for (int64_t document = 0; document < tile_documents_; ++document)
      tile[document * tile_queries_ + query] = -kInfinity;
}

#define HYBRIDRET_INSTANTIATE(Element)                                           \
  template Run<Element>::Run(const Problem&, const Statistics&, int);            \
  template Logits Run<Element>::logits_of(const float*, int64_t, int64_t) const; \
  template void Run<Element>::take_positives(Logits, float*, int64_t, int64_t) const;
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::infonce
