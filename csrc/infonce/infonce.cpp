#include "infonce/infonce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::infonce {
namespace {

using similarity::Kernel;
using similarity::Matrix;
using similarity::pack;
using similarity::packed_buffer;
using similarity::parallel_for;
using similarity::round_up;

constexpr int64_t kPanelRows = 256;    // logits held at once: kPanelRows x M
constexpr int64_t kBlocksPerItem = 4;  // row blocks that share one pass over the documents
constexpr int64_t kDepthBlock =
    512;  // rows of an operand that stay in L2 during a gradient product
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float sigmoid(float x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

// A matrix whose rows the kernel may read `columns` floats past the last whole tile.
class PaddedRows {
 public:
  PaddedRows(const Matrix& matrix, int64_t columns) : view_(matrix) {
    if (matrix.depth % columns == 0) return;
    const int64_t stride = round_up(matrix.depth, columns);
    copy_.resize(static_cast<size_t>(matrix.rows * stride));
    for (int64_t i = 0; i < matrix.rows; ++i)
      std::memcpy(&copy_[i * stride], matrix.row(i), sizeof(float) * matrix.depth);
    view_ = {copy_.data(), matrix.rows, matrix.depth, stride};
  }
  const Matrix& view() const { return view_; }

 private:
  std::vector<float> copy_;
  Matrix view_;
};

class Run {
 public:
  Run(const Problem& problem, const Statistics& statistics, const Gradients* gradients,
      bool statistics_given, int threads)
      : p_(problem),
        statistics_(statistics),
        gradients_(gradients),
        statistics_given_(statistics_given),
        threads_(threads),
        kernel_(similarity::active_kernel()),
        item_rows_(kBlocksPerItem * kernel_.rows),
        panel_rows_(round_up(std::min(kPanelRows, p_.queries.rows), item_rows_)),
        panel_stride_(round_up(p_.documents.rows, kernel_.columns) + kernel_.rows),
        packed_documents_(packed_buffer(p_.documents.rows, kernel_.columns, p_.documents.depth)),
        packed_queries_(packed_buffer(panel_rows_, kernel_.rows, p_.queries.depth)),
        panel_(static_cast<size_t>(panel_rows_ * panel_stride_)),
        query_rows_(p_.queries, gradients ? kernel_.columns : 1),
        document_rows_(p_.documents, gradients ? kernel_.columns : 1) {}

  void operator()() {
    pack_documents();
    if (gradients_)
      std::fill_n(gradients_->documents, p_.documents.rows * p_.documents.depth, 0.0f);
    for (int64_t begin = 0; begin < p_.queries.rows; begin += panel_rows_) {
      const int64_t rows = std::min(panel_rows_, p_.queries.rows - begin);
      const int64_t items = (rows + item_rows_ - 1) / item_rows_;
      parallel_for(items, threads_, [&](int64_t item) {
        const int64_t first = item * item_rows_;
        const int64_t count = std::min(item_rows_, rows - first);
        logits(begin, first, count);
        for (int64_t i = first; i < first + count; ++i) epilogue(begin + i, panel_row(i));
        if (gradients_) query_gradient(begin, first, count);
      });
      if (gradients_) document_gradient(begin, rows);
    }
  }

 private:
  float* panel_row(int64_t i) { return &panel_[i * panel_stride_]; }

  void pack_documents() {
    const int64_t width = kernel_.columns, count = p_.documents.rows;
    parallel_for((count + width - 1) / width, threads_, [&](int64_t block) {
      const int64_t first = block * width;
      pack(p_.documents, first, std::min(width, count - first), width,
           &packed_documents_[first * p_.documents.depth]);
    });
  }

  // Rows [first, first + count) of the panel that starts at query `begin`.
  void logits(int64_t begin, int64_t first, int64_t count) {
    const int64_t depth = p_.queries.depth, columns = p_.documents.rows;
    float* a = &packed_queries_[first * depth];
    pack(p_.queries, begin + first, count, kernel_.rows, a);
    for (int64_t j = 0; j < columns; j += kernel_.columns) {
      const int64_t valid_columns = std::min(kernel_.columns, columns - j);
      for (int64_t i = 0; i < count; i += kernel_.rows) {
        kernel_.tile(depth, a + i * depth, kernel_.rows, &packed_documents_[j * depth],
                     kernel_.columns, panel_row(first + i) + j, panel_stride_,
                     std::min(kernel_.rows, count - i), valid_columns, false);
      }
    }
  }

  // Logits of one row -> statistics and, with gradients, d(total)/d(inner product) in place.
  void epilogue(int64_t i, float* row) {
    const int64_t columns = p_.documents.rows, label = p_.labels[i];
    const float positive = row[label] * p_.scale;
    row[label] = -kInfinity;
    if (p_.query_groups && p_.query_groups[i] != -1) {
      for (int64_t j = 0; j < columns; ++j)
        if (p_.document_groups[j] == p_.query_groups[i]) row[j] = -kInfinity;
    }
    float shift = kernel_.scale_and_max(row, columns, p_.scale);
    float lse = statistics_.negatives_lse[i];
    float gap;      // lse - positive
    double factor;  // e^(shift - lse)
    if (statistics_given_) {
      // Exponentials relative to the given lse; the row's own maximum plays no part.
      shift = lse;
      factor = shift == -kInfinity ? 0.0 : 1.0;
      kernel_.exponentials(row, columns, shift == -kInfinity ? 0.0f : shift);
      gap = lse - statistics_.positive[i];
    } else {
      const bool none = shift == -kInfinity;
      const double sum = kernel_.exponentials(row, columns, none ? 0.0f : shift);
      // sum is NaN, not 0, where the row holds a NaN.
      lse = sum == 0 ? -kInfinity : static_cast<float>((none ? 0.0f : shift) + std::log(sum));
      factor = sum == 0 ? 0.0 : 1 / sum;
      statistics_.negatives_lse[i] = lse;
      statistics_.positive[i] = positive;
      gap = lse - positive;
    }
    if (!gradients_) return;
    const float weight = gradients_->row_weights[i] * sigmoid(gap) * p_.scale;
    kernel_.scale_and_max(row, columns, static_cast<float>(weight * factor));
    row[label] = -weight;
  }

  // dQ = P D for rows [first, first + count) of the panel.
  void query_gradient(int64_t begin, int64_t first, int64_t count) {
    const Matrix& documents = document_rows_.view();
    const int64_t depth = documents.depth, columns = documents.rows;
    std::vector<float> packed(static_cast<size_t>(round_up(count, kernel_.rows) * kDepthBlock));
    for (int64_t k = 0; k < columns; k += kDepthBlock) {
      const int64_t block = std::min(kDepthBlock, columns - k);
      pack({panel_row(0) + k, panel_rows_, block, panel_stride_}, first, count, kernel_.rows,
           packed.data());
      for (int64_t j = 0; j < depth; j += kernel_.columns) {
        for (int64_t i = 0; i < count; i += kernel_.rows) {
          kernel_.tile(block, &packed[i * block], kernel_.rows, documents.row(k) + j,
                       documents.stride, gradients_->queries + (begin + first + i) * depth + j,
                       depth, std::min(kernel_.rows, count - i),
                       std::min(kernel_.columns, depth - j), k > 0);
        }
      }
    }
  }

  // dD += P^T Q for all rows of the panel; the columns of P are the rows of the product.
  void document_gradient(int64_t begin, int64_t rows) {
    const Matrix& queries = query_rows_.view();
    const int64_t depth = queries.depth, columns = p_.documents.rows;
    const int64_t item = 8 * kernel_.rows;
    parallel_for((columns + item - 1) / item, threads_, [&](int64_t index) {
      const int64_t end = std::min(columns, (index + 1) * item);
      for (int64_t k = 0; k < depth; k += kernel_.columns) {
        for (int64_t j = index * item; j < end; j += kernel_.rows) {
          kernel_.tile(rows, panel_row(0) + j, panel_stride_, queries.row(begin) + k,
                       queries.stride, gradients_->documents + j * depth + k, depth,
                       std::min(kernel_.rows, end - j), std::min(kernel_.columns, depth - k), true);
        }
      }
    });
  }

  const Problem& p_;
  const Statistics& statistics_;
  const Gradients* gradients_;
  const bool statistics_given_;
  const int threads_;
  const Kernel& kernel_;
  const int64_t item_rows_, panel_rows_, panel_stride_;
  std::vector<float> packed_documents_, packed_queries_, panel_;
  const PaddedRows query_rows_, document_rows_;
};

}  // namespace

void forward(const Problem& problem, const Statistics& statistics, const Gradients* gradients,
             int threads) {
  Run(problem, statistics, gradients, false, threads)();
}

void backward(const Problem& problem, const Statistics& statistics, const Gradients& gradients,
              int threads) {
  Run(problem, statistics, &gradients, true, threads)();
}

}  // namespace hybridret::infonce
