#include "ranking/ranking.h"

#include <algorithm>
#include <vector>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::ranking {
namespace {

using similarity::Kernel;
using similarity::Matrix;
using similarity::pack;
using similarity::packed_buffer;
using similarity::parallel_for;
using similarity::round_up;

constexpr int64_t kDocumentBlock = 512;  // packed at once and shared by all threads
constexpr int64_t kBlocksPerItem = 4;    // row blocks that share one pass over the packed documents

class Run {
 public:
  Run(const Problem& problem, int64_t* above, int threads)
      : p_(problem),
        above_(above),
        threads_(threads),
        kernel_(similarity::active_kernel()),
        item_rows_(kBlocksPerItem * kernel_.rows),
        items_((p_.queries.rows + item_rows_ - 1) / item_rows_),
        thresholds_(static_cast<size_t>(p_.target_begin[p_.queries.rows])),
        lowest_(static_cast<size_t>(p_.queries.rows)),
        packed_documents_(packed_buffer(kDocumentBlock, kernel_.columns, p_.documents.depth)) {}

  void operator()() {
    std::fill_n(above_, thresholds_.size() * p_.languages, int64_t{0});
    parallel_for(p_.queries.rows, threads_, [&](int64_t i) { threshold(i); });
    for (int64_t language = 0; language < p_.languages; ++language) {
      const int64_t end = p_.language_begin[language + 1];
      for (int64_t first = p_.language_begin[language]; first < end; first += kDocumentBlock) {
        const int64_t count = std::min(kDocumentBlock, end - first);
        pack(p_.documents, first, count, kernel_.columns, packed_documents_.data());
        parallel_for(items_, threads_, [&](int64_t item) { score(item, first, count, language); });
      }
    }
  }

 private:
  // Scores of the targets of one query, by the tile kernel itself.
  void threshold(int64_t i) {
    const int64_t depth = p_.queries.depth, columns = kernel_.columns;
    std::vector<float> row = packed_buffer(1, kernel_.rows, depth);
    pack(p_.queries, i, 1, kernel_.rows, row.data());
    std::vector<float> gathered(static_cast<size_t>(columns * depth));
    float lowest = 0;
    for (int64_t t = p_.target_begin[i]; t < p_.target_begin[i + 1]; t += columns) {
      const int64_t count = std::min(columns, p_.target_begin[i + 1] - t);
      for (int64_t j = 0; j < count; ++j) {
        const float* document = p_.documents.row(p_.targets[t + j]);
        for (int64_t k = 0; k < depth; ++k) gathered[k * columns + j] = document[k];
      }
      kernel_.tile(depth, row.data(), kernel_.rows, gathered.data(), columns, &thresholds_[t],
                   columns, 1, count, false);
      const float smallest = *std::min_element(&thresholds_[t], &thresholds_[t] + count);
      lowest = t == p_.target_begin[i] ? smallest : std::min(lowest, smallest);
    }
    lowest_[i] = lowest;
  }

  void score(int64_t item, int64_t first, int64_t count, int64_t language) {
    const int64_t depth = p_.queries.depth, columns = kernel_.columns;
    const int64_t begin = item * item_rows_;
    const int64_t rows = std::min(item_rows_, p_.queries.rows - begin);
    std::vector<float> packed_queries = packed_buffer(rows, kernel_.rows, depth);
    pack(p_.queries, begin, rows, kernel_.rows, packed_queries.data());
    std::vector<float> tile(static_cast<size_t>(kernel_.rows * columns));
    for (int64_t j = 0; j < count; j += columns) {
      const int64_t valid_columns = std::min(columns, count - j);
      for (int64_t i = 0; i < rows; i += kernel_.rows) {
        const int64_t valid_rows = std::min(kernel_.rows, rows - i);
        kernel_.tile(depth, &packed_queries[i * depth], kernel_.rows, &packed_documents_[j * depth],
                     columns, tile.data(), columns, valid_rows, valid_columns, false);
        for (int64_t r = 0; r < valid_rows; ++r)
          count_row(begin + i + r, first + j, &tile[r * columns], valid_columns, language);
      }
    }
  }

  // The epilogue: scores of one query against documents [first, first + count).
  void count_row(int64_t query, int64_t first, const float* scores, int64_t count,
                 int64_t language) {
    const int64_t begin = p_.target_begin[query], end = p_.target_begin[query + 1];
    if (begin == end || *std::max_element(scores, scores + count) < lowest_[query]) return;
    for (int64_t t = begin; t < end; ++t) {
      const float threshold = thresholds_[t];
      int64_t greater = 0, equal = 0;
      for (int64_t j = 0; j < count; ++j) {
        greater += scores[j] > threshold;
        equal += scores[j] == threshold;
      }
      if (equal > 0) {
        const int64_t own = p_.tie_order[p_.targets[t]];
        for (int64_t j = 0; j < count; ++j)
          greater += scores[j] == threshold && p_.tie_order[first + j] < own;
      }
      above_[t * p_.languages + language] += greater;
    }
  }

  const Problem& p_;
  int64_t* const above_;
  const int threads_;
  const Kernel& kernel_;
  const int64_t item_rows_, items_;
  std::vector<float> thresholds_, lowest_, packed_documents_;
};

}  // namespace

void count_above(const Problem& problem, int64_t* above, int threads) {
  Run(problem, above, threads)();
}

}  // namespace hybridret::ranking
