// Sums of exponentials by row and by column, and ranks.

#include <cmath>

#include "infonce/run.h"

namespace hybridret::infonce {

template <class Element>
bool Run<Element>::choose_weak() {
  std::fill(chosen_.begin(), chosen_.end(), false);
  bool any = false;
  for (int64_t i = 0; i < count_; ++i) {
    if (!(sum_[begin_ + i] < kWeakSum)) continue;  // NaN is not weak
    chosen_[i / columns_] = any = true;
  }
  return any;
}

template <class Element>
void Run<Element>::exponential_sums(bool store, double* column_sums) {
  std::fill(partial_.begin(), partial_.end(), 0.0f);
  const auto add = [&](const Logits& l, int64_t part, int64_t block, int64_t j) {
    stores_.exponentials(l, &shift_[begin_ + block], &partial_[part * panel_rows_ + block],
                         column_sums ? column_sums + j : nullptr,
                         store ? stored_rows(block, j) : nullptr,
                         store ? stored_pairs(block, j) : nullptr);
  };
  if (store)
    make_weights(add);
  else
    for_tiles(add);
  parallel_for(blocks_, threads_, [&](int64_t block) {
    if (!chosen_[block]) return;
    double sums[similarity::kMaximumColumns] = {};
    for (int64_t part = 0; part < parts_; ++part)
      for (int64_t q = 0; q < columns_; ++q)
        sums[q] += static_cast<double>(partial_[part * panel_rows_ + block * columns_ + q]);
    std::copy_n(sums, columns_, &sum_[begin_ + block * columns_]);
  });
}

template <class Element>
void Run<Element>::true_maxima() {
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

template <class Element>
void Run<Element>::column_statistics(float shift) {
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

template <class Element>
void Run<Element>::ranks() {
  parallel_for(blocks_, threads_, [&](int64_t item) {
    const TileScope scope(kernel_);
    alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    const Buffer<Element> labelled(tiles_.rows * documents_.depth());
    const int64_t block = item * columns_, end = std::min(block + columns_, count_);
    for (int64_t first = block; first < end; first += tiles_.rows) {
      const int64_t last = std::min(first + tiles_.rows, end);
      for (int64_t i = first; i < first + tiles_.rows; ++i)
        copy_row(kernel_, p_.documents, p_.labels[begin_ + std::min(i, last - 1)],
                 documents_.depth(), &labelled[(i - first) * documents_.depth()]);
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

template <class Element>
void Run<Element>::statistics() {
  if (!out_.column_negatives_lse) {
    for_panels([&] { row_statistics(false); });
    return;
  }
  // One pass sums rows and columns: one shift serves both.
  const float shift = shift_for(common_bound_);
  std::fill(shift_.begin(), shift_.end(), shift);
  column_sums_.assign(static_cast<size_t>(padded_m_), 0.0);
  for_panels([&] { row_statistics(false); });
  column_statistics(shift);
}

template <class Element>
void Run<Element>::row_statistics(bool store) {
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
    if (out_.rank && std::isnan(gap_[i])) out_.rank[i] = 0;
  }
}

#define HYBRIDRET_INSTANTIATE(Element)      \
  template void Run<Element>::statistics(); \
  template void Run<Element>::row_statistics(bool);
HYBRIDRET_INSTANTIATE(float)
HYBRIDRET_INSTANTIATE(Bfloat16)
HYBRIDRET_INSTANTIATE(Split<3>)

}  // namespace hybridret::infonce
