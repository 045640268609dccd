#include "ranking/ranking.h"

#include <algorithm>
#include <vector>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::ranking {
namespace {

using similarity::Buffer;
using similarity::Kernel;
using similarity::Matrix;
using similarity::pack_columns;
using similarity::parallel_for;
using similarity::round_up;
using similarity::RowOperand;
using similarity::TileScope;

constexpr int64_t kDocumentBlock = 512;  // packed at once and shared by all threads
constexpr int64_t kBlocksPerItem = 4;    // row blocks that share one pass over the packed documents

class Run {
 public:
  Run(const Problem& problem, int64_t* above, int threads)
      : p_(problem),
        above_(above),
        threads_(threads),
        kernel_(similarity::active_kernel()),
        rows_(kernel_.float_tile.rows),
        columns_(kernel_.columns),
        depth_(p_.queries.depth),
        item_rows_(kBlocksPerItem * rows_),
        items_((p_.queries.rows + item_rows_ - 1) / item_rows_),
        thresholds_(static_cast<size_t>(p_.target_begin[p_.queries.rows])),
        lowest_(static_cast<size_t>(p_.queries.rows)),
        queries_(kernel_, p_.queries),
        packed_documents_(kDocumentBlock * depth_) {}

  void operator()() {
    std::fill_n(above_, thresholds_.size() * p_.languages, int64_t{0});
    parallel_for(p_.queries.rows, threads_, [&](int64_t i) { threshold(i); });
    for (int64_t language = 0; language < p_.languages; ++language) {
      const int64_t end = p_.language_begin[language + 1];
      for (int64_t first = p_.language_begin[language]; first < end; first += kDocumentBlock) {
        const int64_t count = std::min(kDocumentBlock, end - first);
        parallel_for((count + columns_ - 1) / columns_, threads_, [&](int64_t block) {
          const int64_t j = block * columns_;
          pack_columns(kernel_, p_.documents, first + j, std::min(columns_, count - j), depth_,
                       &packed_documents_[j * depth_]);
        });
        parallel_for(items_, threads_, [&](int64_t item) { score(item, first, count, language); });
      }
    }
  }

 private:
  // Scores of the targets of one query, by the tile kernel itself.
  void threshold(int64_t i) {
    const TileScope scope(kernel_);
    alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    const Buffer<float> buffer(rows_ * queries_.stride()), gathered(columns_ * depth_);
    const Buffer<float> packed(columns_ * depth_);
    const float* query = queries_.rows(i, rows_, buffer.get());
    float lowest = 0;
    for (int64_t t = p_.target_begin[i]; t < p_.target_begin[i + 1]; t += columns_) {
      const int64_t count = std::min(columns_, p_.target_begin[i + 1] - t);
      for (int64_t j = 0; j < count; ++j)
        copy_row(kernel_, p_.documents, p_.targets[t + j], depth_, &gathered[j * depth_]);
      const Matrix targets{gathered.get(), similarity::Format::kFloat32, count, depth_, depth_};
      pack_columns(kernel_, targets, 0, count, depth_, packed.get());
      kernel_.float_tile.tile(depth_, query, queries_.stride(), columns_, packed.get(), tile,
                              columns_, false);
      std::copy_n(tile, count, &thresholds_[t]);
      const float smallest = *std::min_element(tile, tile + count);
      lowest = t == p_.target_begin[i] ? smallest : std::min(lowest, smallest);
    }
    lowest_[i] = lowest;
  }

  void score(int64_t item, int64_t first, int64_t count, int64_t language) {
    const TileScope scope(kernel_);
    alignas(64) float tile[similarity::kMaximumTileRows * similarity::kMaximumColumns];
    const int64_t begin = item * item_rows_;
    const int64_t rows = std::min(item_rows_, p_.queries.rows - begin);
    const Buffer<float> buffer(rows_ * queries_.stride());
    for (int64_t j = 0; j < count; j += columns_) {
      const int64_t valid_columns = std::min(columns_, count - j);
      for (int64_t i = 0; i < rows; i += rows_) {
        kernel_.float_tile.tile(depth_, queries_.rows(begin + i, rows_, buffer.get()),
                                queries_.stride(), columns_, &packed_documents_[j * depth_], tile,
                                columns_, false);
        for (int64_t r = 0; r < std::min(rows_, rows - i); ++r)
          count_row(begin + i + r, first + j, &tile[r * columns_], valid_columns, language);
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
  const int64_t rows_, columns_, depth_, item_rows_, items_;
  std::vector<float> thresholds_, lowest_;
  const RowOperand<float> queries_;
  const Buffer<float> packed_documents_;
};

}  // namespace

void count_above(const Problem& problem, int64_t* above, int threads) {
  Run(problem, above, threads)();
}

}  // namespace hybridret::ranking
