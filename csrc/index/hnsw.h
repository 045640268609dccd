// An HNSW graph over inner products, on hnswlib's headers, with languages and safe files.
//
// What hnswlib 0.8 leaves to its callers and is done here: one NaN ruins the recall of the whole
// graph (rejected); a failed save is silent (the file's size is checked); a file of another shape,
// or with links out of range, is loaded all the same (checked before it is used); a filter that
// few documents pass costs a walk over the whole graph and may find fewer than k (exact scan
// instead); the distance kernels need -march flags (ours are chosen at run time).
//
// Not handled here: hnswlib draws levels from one generator without a lock, so a graph built by
// several threads differs from run to run; and many equal vectors link mostly to each other, which
// costs recall (100 copies of each of 50 vectors: the best document is found for 66 % of queries).
#pragma once

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace hybridret::index {

struct Labelled {
  int64_t label;
  float score;  // inner product
};

class HnswIndex {
 public:
  // `M`, as in hnswlib and the literature: the most links that a document has in each
  // upper layer, and half of the most in the lowest. Throws std::invalid_argument out of range.
  HnswIndex(int64_t depth, int64_t M, int64_t ef_construction, int64_t ef_search, int64_t seed);
  ~HnswIndex();

  // Appends vectors [count, depth]; vector i gets label size() + i and language languages[i] >= 0.
  // Throws std::invalid_argument when a value is not finite; then nothing is added.
  void add(const float* vectors, const int32_t* languages, int64_t count, int threads);

  // The k best live documents, best first; ties by label. `allowed[l]` admits language l; null
  // admits all. Exact where the admitted documents are few, see kExactScan in hnsw.cpp.
  std::vector<Labelled> search(const float* query, int64_t k,
                               const std::vector<bool>* allowed) const;

  // As search, over every admitted document, without the graph.
  std::vector<Labelled> search_exact(const float* query, int64_t k,
                                     const std::vector<bool>* allowed) const;

  void remove(int64_t label);

  // Writes the graph to `path` and checks the size of the file; throws std::runtime_error.
  void save(const std::string& path) const;

  // Replaces the content by the file's; languages[label] as they were added. Throws
  // std::runtime_error for a file that was not written by save() of an index of this shape.
  void load(const std::string& path, const int32_t* languages, int64_t count);

  std::vector<int64_t> removed() const;  // labels removed, ascending
  int64_t size() const;                  // labels assigned, removed ones included
  int64_t live() const;                  // documents that a search can return
  int64_t depth() const { return depth_; }

 private:
  struct Graph;
  void check_layout(const std::string& path, int64_t count) const;
  int64_t live_in(const std::vector<bool>* allowed) const;
  std::vector<Labelled> scan(const float* query, int64_t k, const std::vector<bool>* allowed) const;

  const int64_t depth_, M_, ef_construction_, ef_search_, seed_;
  std::unique_ptr<Graph> graph_;
  std::vector<int32_t> languages_;                 // by label
  std::vector<std::vector<int64_t>> by_language_;  // labels of each language, removed ones included
  std::vector<int64_t> live_by_language_;
  mutable std::shared_mutex lock_;  // searches share it; add, remove and load own it
};

}  // namespace hybridret::index
