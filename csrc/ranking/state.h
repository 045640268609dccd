// What a ranking knows whatever the arithmetic of its tiles: the documents in the order of their
// languages, the targets of every query by score, and the candidates for its best documents.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ranking/ranking.h"
#include "similarity/kernel.h"
#include "similarity/memory.h"
#include "similarity/operands.h"
#include "similarity/threads.h"

namespace hybridret::ranking {

using similarity::Buffer;
using similarity::Kernel;
using similarity::Matrix;

constexpr double kLongest = 1e18;  // its square is far from overflow in float32
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The engine's, on threads that do not take denormal numbers for zero, whatever the caller's thread
// does (torch.set_flush_denormal).
template <class Work>
void parallel_for(int64_t items, int threads, const Work& work) {
  similarity::parallel_for(items, threads, [&](int64_t item) {
    const similarity::ExactFloats exact;
    work(item);
  });
}

// Rounded up, with room for what float arithmetic makes of a bound, and for products so small that
// a tile may take them for zero.
inline float bound_of(double value) { return static_cast<float>(value * (1 + 1e-5)) + 1e-31f; }

// The length of query or document i. Throws BadRow, see ranking.h.
inline double checked_length(const Kernel& kernel, const float* vector, int64_t depth, bool query,
                             int64_t i, bool cosine) {
  const double square = kernel.exact_dot(vector, vector, depth);
  // A sum of squares of floats in double overflows for nothing finite.
  if (!std::isfinite(square)) throw BadRow(query, i, "has a value that is not finite");
  if (cosine && square == 0) throw BadRow(query, i, "is the zero vector, which has no cosine");
  const double length = std::sqrt(square);
  if (!cosine && length > kLongest)
    throw BadRow(query, i, "is longer than 1e18: inner products overflow");
  return length;
}

struct Candidate {
  float low, high;  // between which its score lies, in units of the query's length
  int64_t document;
  double weight;  // what its inner products are multiplied by
};

class State {
 public:
  State(const Problem& problem, Result& result, int threads)
      : p_(problem),
        out_(result),
        threads_(threads),
        kernel_(similarity::active_kernel()),
        depth_(p_.queries.depth),
        factor_(static_cast<size_t>(p_.queries.rows)),
        target_(static_cast<size_t>(p_.target_begin[p_.queries.rows])),
        threshold_(target_.size()),
        language_begin_(static_cast<size_t>(p_.languages + 1)),
        lowest_(factor_.size()) {
    sort_documents();
    sort_targets();
  }

  // Positions number the documents by language; where they are given in that order, position = row.
  int64_t document_at(int64_t position) const {
    return order_.empty() ? position : order_[static_cast<size_t>(position)];
  }

  const float* query_vector(int64_t i, float* buffer) const {
    return float_row(p_.queries, i, buffer);
  }

  const Problem& p_;
  Result& out_;
  const int threads_;
  const Kernel& kernel_;
  const int64_t depth_;
  std::vector<double> factor_;           // [Q], 1 / length, or 1
  std::vector<int64_t> target_;          // [T], those of a query by score, ascending
  std::vector<float> threshold_;         // [T], in that order, in units of the query's length
  std::vector<int64_t> language_begin_;  // [L + 1], positions
  std::vector<float> lowest_;  // [Q], the least score that matters, in units of the query's length
  std::atomic<int64_t> unsettled_{0};

  // A document that may be among a query's best k is kept until k others are sure to come before
  // it.
  void offer(int64_t query, const Candidate& candidate) {
    Best& best = best_[query];
    if (!(candidate.high >= best.floor)) return;
    best.kept.push_back(candidate);
    if (static_cast<int64_t>(best.kept.size()) < 4 * out_.k + kSpareCandidates) return;
    drop_beaten(best);
    // Too many within the bound of one another: their exact scores decide.
    if (static_cast<int64_t>(best.kept.size()) > 2 * out_.k + kSpareCandidates / 2)
      keep_exact_best(query, best);
    lowest_[query] = std::min(least_target(query), best.floor);
  }

  float best_floor(int64_t query) const { return best_[query].floor; }

  void start_best(int64_t begin, int64_t count) {
    if (out_.k == 0) return;
    best_.resize(factor_.size());
    std::fill_n(lowest_.begin() + begin, count, -kInfinity);
  }

  void finish_best(int64_t begin, int64_t count) {
    if (out_.k == 0) return;
    parallel_for(count, threads_, [&](int64_t item) { write_best(begin + item); });
  }

 private:
  static constexpr int64_t kSpareCandidates = 64;
  struct Best {
    std::vector<Candidate> kept;
    float floor = -kInfinity;  // the k-th largest `low`, once there are k
  };
  struct Scored {
    double score;
    int64_t order, document;
    double weight;
    // First in the total order.
    bool operator<(const Scored& other) const {
      return score != other.score ? score > other.score : order < other.order;
    }
  };

  void drop_beaten(Best& best) const {
    const auto kth = best.kept.begin() + out_.k - 1;
    std::nth_element(best.kept.begin(), kth, best.kept.end(),
                     [](const Candidate& a, const Candidate& b) { return a.low > b.low; });
    best.floor = kth->low;
    best.kept.erase(std::remove_if(best.kept.begin(), best.kept.end(),
                                   [&](const Candidate& c) { return !(c.high >= best.floor); }),
                    best.kept.end());
  }

  void keep_exact_best(int64_t query, Best& best) const {
    std::vector<Scored> scored = exact(query, best.kept);
    std::partial_sort(scored.begin(), scored.begin() + out_.k, scored.end());
    best.kept.clear();
    for (int64_t n = 0; n < out_.k; ++n) {
      const auto near = static_cast<float>(scored[n].score * factor_[query]);
      const float slack = std::abs(near) * 0x1p-22f + 1e-31f;
      best.kept.push_back({near - slack, near + slack, scored[n].document, scored[n].weight});
    }
    best.floor = best.kept.back().low;
  }

  std::vector<Scored> exact(int64_t query, const std::vector<Candidate>& candidates) const {
    const Buffer<float> query_buffer(depth_), buffer(depth_);
    const float* q = query_vector(query, query_buffer.get());
    std::vector<Scored> scored;
    for (const Candidate& c : candidates) {
      const float* d = float_row(p_.documents, c.document, buffer.get());
      const double score = kernel_.exact_dot(q, d, depth_) * c.weight;
      scored.push_back({score, p_.tie_order[c.document], c.document, c.weight});
    }
    return scored;
  }

  float least_target(int64_t query) const {
    const int64_t begin = p_.target_begin[query];
    return begin == p_.target_begin[query + 1] ? kInfinity : threshold_[begin];
  }

  void write_best(int64_t query) {
    std::vector<Scored> scored = exact(query, best_[query].kept);
    best_[query] = {};
    const auto count = std::min<int64_t>(out_.k, static_cast<int64_t>(scored.size()));
    std::partial_sort(scored.begin(), scored.begin() + count, scored.end());
    for (int64_t n = 0; n < out_.k; ++n) {
      const bool there = n < count;
      out_.best[query * out_.k + n] = there ? scored[n].document : -1;
      out_.scores[query * out_.k + n] =
          there ? scored[n].score : -std::numeric_limits<double>::infinity();
    }
  }

  void sort_documents() {
    for (int64_t j = 0; j < p_.documents.rows; ++j) ++language_begin_[p_.document_language[j] + 1];
    std::partial_sum(language_begin_.begin(), language_begin_.end(), language_begin_.begin());
    if (std::is_sorted(p_.document_language, p_.document_language + p_.documents.rows)) return;
    order_.resize(static_cast<size_t>(p_.documents.rows));
    std::vector<int64_t> next(language_begin_.begin(), language_begin_.end() - 1);
    for (int64_t j = 0; j < p_.documents.rows; ++j) order_[next[p_.document_language[j]]++] = j;
  }

  void sort_targets() {
    std::iota(target_.begin(), target_.end(), 0);
    constexpr int64_t kPiece = 256;
    parallel_for((p_.queries.rows + kPiece - 1) / kPiece, threads_, [&](int64_t item) {
      const Buffer<float> buffer(depth_);
      for (int64_t i = item * kPiece; i < std::min(p_.queries.rows, (item + 1) * kPiece); ++i) {
        const double length =
            checked_length(kernel_, query_vector(i, buffer.get()), depth_, true, i, p_.cosine);
        factor_[i] = length == 0 ? 1 : 1 / length;
        const auto begin = target_.begin() + p_.target_begin[i];
        const auto end = target_.begin() + p_.target_begin[i + 1];
        std::sort(begin, end,
                  [&](int64_t a, int64_t b) { return p_.target_scores[a] < p_.target_scores[b]; });
        for (auto t = begin; t != end; ++t)
          threshold_[t - target_.begin()] = static_cast<float>(p_.target_scores[*t] * factor_[i]);
      }
    });
    for (int64_t i = 0; i < p_.queries.rows; ++i) lowest_[i] = least_target(i);
  }

  std::vector<int64_t> order_;
  std::vector<Best> best_;  // [Q]; emptied after each panel
};

}  // namespace hybridret::ranking
