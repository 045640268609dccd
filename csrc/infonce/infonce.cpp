#include "infonce/infonce.h"

#include <numeric>
#include <vector>

#include "infonce/run.h"

namespace hybridret::infonce {
namespace {

template <class Work>
void run(const Problem& problem, const Statistics& statistics, int threads, const Work& work) {
  const similarity::Kernel& kernel = similarity::active_kernel();
  if (problem.queries.format == Format::kBfloat16 && kernel.bfloat16_tile.rows > 0)
    work(Run<Bfloat16>(problem, statistics, threads));
  else if (kernel.split3_tile.rows > 0)
    work(Run<Split<3>>(problem, statistics, threads));
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
