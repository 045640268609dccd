// An HNSW graph (Malkov and Yashunin, arXiv 1603.09320) over the rows of a table: hnswlib builds
// it, a walk of our own searches it.
//
// A node is the first row of each distinct vector, and holds its number: vectors exist once, in the
// table. Equal vectors would link to nothing but each other; the other rows are found through the
// table's chains.
//
// A walk reads 8-bit codes, fetches the codes of neighbours ahead, and decides among the best in
// float32. Rows that are removed or not in the subset are gone through, not compared.
//
// Not handled here: hnswlib draws levels from one generator without a lock, so a graph built by
// several threads differs from run to run.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "index/table.h"

namespace hybridret::index {

class Graph {
 public:
  // `M`, as in hnswlib and the literature: the most links that a node has in each upper layer, and
  // half of the most in the lowest. Throws std::invalid_argument out of range.
  Graph(int64_t M, int64_t ef_construction, int64_t seed);
  ~Graph();

  // Links the rows that are not linked yet, up to `count`.
  void build(const Table& table, int64_t count, int threads);

  // The k best live rows among those that are linked; none if the subset would take too long, see
  // kWalkedShare. `ef`: nodes that are kept on the way.
  std::vector<Hit> search(const Table& table, const Query& query, int64_t k, int64_t ef,
                          const Subset* subset) const;

  // Writes the links to `path`; throws std::runtime_error.
  void save(const std::string& path) const;
  // Replaces the graph by a file's, of the first `count` rows of the table. Throws
  // std::runtime_error for a file that was not written by save() of such a graph.
  void load(const std::string& path, const Table& table, int64_t count);

  int64_t size() const { return rows_; }  // rows that are linked

 private:
  struct Links;
  struct Visited;
  class Walk;
  std::unique_ptr<Links> empty(int64_t capacity) const;
  std::unique_ptr<Visited> take_visited() const;
  void give_visited(std::unique_ptr<Visited> visited) const;

  const int64_t M_, ef_construction_, seed_;
  int64_t rows_ = 0;
  std::unique_ptr<Links> links_;
  mutable std::mutex pool_lock_;
  mutable std::vector<std::unique_ptr<Visited>> pool_;
};

// The k best live rows of a table, of a subset if there is one, by its graph, which may be null.
// Exact where few rows are to be compared, of which the graph would find no faster.
std::vector<Hit> search(const Table& table, const Graph* graph, const Query& query, int64_t k,
                        int64_t ef, const Subset* subset);

}  // namespace hybridret::index
