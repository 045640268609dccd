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

// One segment as a problem of its own.
struct Segment {
  Segment(const Problem& whole, int64_t first_query, int64_t first_document, int64_t queries,
          int64_t documents)
      : first_query(first_query),
        first_document(first_document),
        labels(whole.labels + first_query, whole.labels + first_query + queries) {
    for (int64_t& label : labels)
      if (label >= 0) label -= first_document;
    problem = whole;
    problem.queries = rows_of(whole.queries, first_query, queries);
    problem.documents = rows_of(whole.documents, first_document, documents);
    problem.labels = labels.data();
    problem.query_groups = offset(whole.query_groups, first_query);
    problem.document_groups = offset(whole.document_groups, first_document);
    problem.log_bias = offset(whole.log_bias, first_document);
    problem.segments = nullptr;
  }
  Statistics of(const Statistics& s) const {
    return {s.negatives_lse + first_query, s.positive + first_query,
            offset(s.document_negatives_lse, first_document), offset(s.rank, first_query)};
  }
  Upstream of(const Upstream& u) const {
    return {u.negatives_lse + first_query, u.positive + first_query,
            offset(u.document_negatives_lse, first_document)};
  }
  Gradients of(const Gradients& g) const {
    const int64_t bytes =
        problem.queries.depth * similarity::bytes_of(gradient_format(problem.queries.format));
    return {static_cast<char*>(g.queries) + first_query * bytes,
            static_cast<char*>(g.documents) + first_document * bytes, g.scale};
  }
  int64_t first_query, first_document;
  std::vector<int64_t> labels;
  Problem problem;
};

// work(segment, threads, where to add the derivative by the scale) for each segment.
template <class Work>
void for_segments(const Problem& problem, double* scale, int threads, const Work& work) {
  std::vector<Segment> segments;
  if (!problem.segments) {
    segments.emplace_back(problem, 0, 0, problem.queries.rows, problem.documents.rows);
  }
  int64_t query = 0, document = 0;
  for (int64_t s = 0; problem.segments && s < problem.segment_count; ++s) {
    const int64_t queries = problem.segments[2 * s], documents = problem.segments[2 * s + 1];
    segments.emplace_back(problem, query, document, queries, documents);
    query += queries, document += documents;
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

// Derivatives of the symmetric loss, half the queries' and half the documents', by the statistics.
struct SymmetricUpstream {
  SymmetricUpstream(const Problem& p, const Statistics& s, const float* query_weights)
      : query(static_cast<size_t>(p.queries.rows)),
        positive(query),
        document(static_cast<size_t>(p.documents.rows)) {
    for (int64_t i = 0; i < p.queries.rows; ++i) {
      const int64_t label = p.labels[i];
      const double weight = query_weights[i] / 2, logit = s.positive[i];
      const double by_query = weight * sigmoid(s.negatives_lse[i] - logit);
      const double by_document = weight * sigmoid(s.document_negatives_lse[label] - logit);
      query[i] = static_cast<float>(by_query);
      document[label] = static_cast<float>(by_document);
      positive[i] = static_cast<float>(-by_query - by_document);
    }
  }
  std::vector<float> query, positive, document;
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
                              const float* query_weights, const Gradients& gradients, int threads) {
  if (out.document_negatives_lse) {
    statistics(problem, out, threads);
    const SymmetricUpstream by(problem, out, query_weights);
    infonce::gradients(problem, out, {by.query.data(), by.positive.data(), by.document.data()},
                       gradients, threads);
    return;
  }
  for_segments(problem, gradients.scale, threads,
               [&](const Segment& segment, int own_threads, double* scale) {
                 Gradients own = segment.of(gradients);
                 own.scale = scale;
                 run(segment.problem, segment.of(out), own_threads, [&](auto&& r) {
                   r.statistics_and_gradients(query_weights + segment.first_query, own);
                 });
               });
}

}  // namespace hybridret::infonce
