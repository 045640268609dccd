// Sums of exponentials by query and by document, and ranks.

#include <cmath>

#include "infonce/run.h"

namespace hybridret::infonce {

template <class Element>
bool Run<Element>::choose_weak() {
  std::fill(chosen_.begin(), chosen_.end(), false);
  bool any = false;
  for (int64_t i = 0; i < count_; ++i) {
    if (!(query_sums_[begin_ + i] < kWeakSum)) continue;  // NaN is not weak
    chosen_[i / tile_queries_] = any = true;
  }
  return any;
}

template <class Element>
void Run<Element>::exponential_sums(bool store, double* document_sums) {
  std::fill(partial_.begin(), partial_.end(), 0.0f);
  const auto add = [&](const Logits& l, int64_t strip, int64_t block, int64_t j) {
    stores_.exponentials(l, &shift_[begin_ + block], &partial_[strip * panel_queries_ + block],
                         document_sums ? document_sums + j : nullptr,
                         store ? stored_a(block, j) : nullptr,
                         store ? stored_b(block, j) : nullptr);
  };
  if (store)
    make_weights(add);
  else
    for_tiles(add);
  parallel_for(blocks_, threads_, [&](int64_t item) {
    if (!chosen_[item]) return;
    const int64_t block = item * tile_queries_;
    double sums[similarity::kMaximumColumns] = {};
    for (int64_t strip = 0; strip < strips_; ++strip)
      for (int64_t q = 0; q < tile_queries_; ++q)
        sums[q] += static_cast<double>(partial_[strip * panel_queries_ + block + q]);
    std::copy_n(sums, tile_queries_, &query_sums_[begin_ + block]);
  });
}

template <class Element>
void Run<Element>::true_maxima() {
  std::fill(partial_.begin(), partial_.end(), -kInfinity);
  for_tiles([&](const Logits& l, int64_t strip, int64_t block, int64_t) {
    kernel_.loss.maxima(l, &partial_[strip * panel_queries_ + block], nullptr);
  });
  for_chosen([&](int64_t i) {
    float largest = -kInfinity;
    for (int64_t strip = 0; strip < strips_; ++strip)
      largest = std::max(largest, partial_[strip * panel_queries_ + i]);
    shift_[begin_ + i] = largest == -kInfinity ? 0 : largest;
  });
}

template <class Element>
void Run<Element>::document_statistics(float shift) {
  std::vector<float> document_shift(static_cast<size_t>(m_), shift);
  if (std::any_of(document_sums_.begin(), document_sums_.begin() + m_,
                  [](double sum) { return sum < kWeakSum; })) {
    std::vector<float> largest(static_cast<size_t>(padded_m_), -kInfinity);
    for_panels([&] {
      choose_all();
      for_tiles([&](const Logits& l, int64_t, int64_t, int64_t j) {
        float query_maxima[similarity::kMaximumColumns] = {};  // of no interest here
        kernel_.loss.maxima(l, query_maxima, &largest[j]);
      });
    });
    for (int64_t j = 0; j < m_; ++j) {
      document_shift[j] = largest[j] == -kInfinity ? 0 : largest[j];
      document_bias_[j] -= document_shift[j];
    }
    std::fill(shift_.begin(), shift_.end(), 0.0f);
    std::fill(document_sums_.begin(), document_sums_.end(), 0.0);
    for_panels([&] {
      choose_all();
      exponential_sums(false, document_sums_.data());
    });
  }
  for (int64_t j = 0; j < m_; ++j)
    out_.document_negatives_lse[j] =
        document_sums_[j] == 0
            ? -kInfinity
            : static_cast<float>(document_shift[j] + std::log(document_sums_[j]));
}

template <class Element>
void Run<Element>::ranks() {
  parallel_for(blocks_, threads_, [&](int64_t item) {
    const TileScope scope(kernel_);
    alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    const Buffer<Element> labelled(tile_documents_ * documents_.depth());
    const int64_t block = item * tile_queries_, end = std::min(block + tile_queries_, count_);
    for (int64_t first = block; first < end; first += tile_documents_) {
      const int64_t last = std::min(first + tile_documents_, end);
      for (int64_t i = first; i < first + tile_documents_; ++i)
        copy_row(kernel_, p_.documents, p_.labels[begin_ + std::min(i, last - 1)],
                 documents_.depth(), &labelled[(i - first) * documents_.depth()]);
      tiles_.tile(documents_.depth(), labelled.get(), documents_.depth(), tile_queries_,
                  &packed_queries_[block * documents_.depth()], tile, tile_queries_, false);
      for (int64_t i = first; i < last; ++i) {
        Logits logits = logits_of(tile + (i - first) * tile_queries_, block, p_.labels[begin_ + i]);
        logits.document_bias = &positive_bias_[p_.labels[begin_ + i]];
        positive_[begin_ + i] = kernel_.loss.logit(logits, 0, i - block);
      }
    }
  });
  // A copy: the thread whose tile holds a positive writes it once more.
  const auto first = positive_.begin() + begin_;
  const std::vector<float> bound(first, first + blocks_ * tile_queries_);
  std::vector<int32_t> above(partial_.size());
  for_tiles([&](const Logits& l, int64_t strip, int64_t block, int64_t) {
    kernel_.loss.count_above(l, &bound[block], &above[strip * panel_queries_ + block]);
  });
  for (int64_t i = 0; i < count_; ++i) {
    out_.rank[begin_ + i] = 1;
    for (int64_t strip = 0; strip < strips_; ++strip)
      out_.rank[begin_ + i] += above[strip * panel_queries_ + i];
  }
}

template <class Element>
void Run<Element>::statistics() {
  if (!out_.document_negatives_lse) {
    for_panels([&] { query_statistics(false); });
    return;
  }
  // One pass sums over documents and over queries: one shift serves both.
  const float shift = shift_for(common_bound_);
  std::fill(shift_.begin(), shift_.end(), shift);
  document_sums_.assign(static_cast<size_t>(padded_m_), 0.0);
  for_panels([&] { query_statistics(false); });
  document_statistics(shift);
}

template <class Element>
void Run<Element>::query_statistics(bool store) {
  choose_all();
  if (out_.rank) ranks();
  exponential_sums(store, document_sums_.empty() ? nullptr : document_sums_.data());
  if (choose_weak()) {
    true_maxima();
    exponential_sums(store, nullptr);
  }
  for (int64_t i = begin_; i < begin_ + count_; ++i) {
    const double lse = query_sums_[i] == 0 ? -kInfinity : shift_[i] + std::log(query_sums_[i]);
    out_.negatives_lse[i] = static_cast<float>(lse);
    out_.positive[i] = positive_[i];
    gap_[i] = lse - static_cast<double>(positive_[i]);
    if (out_.rank && std::isnan(gap_[i])) out_.rank[i] = 0;
  }
}

#define HYBRIDRET_INSTANTIATE(Element)      \
  template void Run<Element>::statistics(); \
  template void Run<Element>::query_statistics(bool);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::infonce
