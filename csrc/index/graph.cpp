#include "index/graph.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::index {
namespace {

// Nodes whose links are fetched before they are needed.
constexpr size_t kAhead = 4;
// Estimates change the order: nodes are decided in float32 up to the first one whose estimate is
// further below that of the k-th best than so many standard deviations of an estimate's error.
constexpr float kDeviations = 6;
// Rows that are compared one by one, always; and up to one in so many of all, of which a walk would
// have to look for nodes that are admitted.
constexpr int64_t kScanned = 4096;
constexpr int64_t kScannedShare = 10;
// Under a filter a walk compares admitted nodes alone (as in ACORN, arXiv 2403.04871). Where fewer
// of a node's neighbours are admitted than this, the neighbours of the others are looked at, too.
constexpr size_t kFound = 32;
// It begins at so many nodes that are nearest to the query whatever is admitted. 100k x 384, ef 64,
// three languages of eleven: recall .991, from one node .976.
constexpr size_t kStarts = 24;
// It ends after this share of the admitted rows, and they are compared instead.
constexpr int64_t kWalkedShare = 4;

// hnswlib's elements are numbers of rows; the distance looks their vectors up.
class RowSpace : public hnswlib::SpaceInterface<float> {
 public:
  size_t get_data_size() override { return sizeof(uint32_t); }
  hnswlib::DISTFUNC<float> get_dist_func() override { return distance; }
  void* get_dist_func_param() override { return &table; }
  const Table* table = nullptr;

 private:
  static float distance(const void* a, const void* b, const void* parameter) {
    const Table& table = **static_cast<const Table* const*>(parameter);
    uint32_t rows[2];
    std::memcpy(rows, a, sizeof(uint32_t));
    std::memcpy(rows + 1, b, sizeof(uint32_t));
    return -similarity::active_kernel().dot(table.vector(rows[0]), table.vector(rows[1]),
                                            table.depth());
  }
};

}  // namespace

struct Graph::Links {
  Links(int64_t capacity, int64_t M, int64_t ef_construction, int64_t seed)
      : hnsw(&space, static_cast<size_t>(capacity), static_cast<size_t>(M),
             static_cast<size_t>(ef_construction), static_cast<size_t>(seed)) {}

  // Reads the nodes' rows from hnswlib's elements, which are far apart.
  void gather_rows() {
    rows.resize(hnsw.cur_element_count);
    for (size_t node = 0; node < rows.size(); ++node)
      std::memcpy(&rows[node], hnsw.getDataByInternalId(static_cast<hnswlib::tableint>(node)),
                  sizeof(uint32_t));
  }
  // Links of a node in a layer: how many, and which.
  const hnswlib::tableint* neighbours(hnswlib::tableint node, int layer, size_t* count) const {
    auto* list = hnsw.get_linklist_at_level(node, layer);
    *count = hnsw.getListCount(list);
    return reinterpret_cast<const hnswlib::tableint*>(list + 1);
  }

  RowSpace space;
  hnswlib::HierarchicalNSW<float> hnsw;
  std::vector<uint32_t> rows;  // by node
};

// Which nodes a walk has come to: those whose mark is that of the walk.
struct Graph::Visited {
  std::vector<uint16_t> marks;
  uint16_t walk = 0;

  void begin(size_t nodes) {
    if (marks.size() < nodes) marks.resize(nodes, 0);
    if (++walk == 0) {
      std::fill(marks.begin(), marks.end(), uint16_t{0});
      walk = 1;
    }
  }
  HYBRIDRET_INLINE void fetch(size_t node) const { __builtin_prefetch(&marks[node]); }
  bool first_time(size_t node) {
    if (marks[node] == walk) return false;
    marks[node] = walk;
    return true;
  }
};

Graph::Graph(int64_t M, int64_t ef_construction, int64_t seed)
    : M_(M), ef_construction_(ef_construction), seed_(seed) {
  if (M < 2 || ef_construction < 1)
    throw std::invalid_argument("a graph needs M >= 2 and ef_construction >= 1");
  links_ = empty(1024);
}

Graph::~Graph() = default;

std::unique_ptr<Graph::Links> Graph::empty(int64_t capacity) const {
  return std::make_unique<Links>(capacity, M_, ef_construction_, seed_);
}

void Graph::build(const Table& table, int64_t count, int threads) {
  auto& hnsw = links_->hnsw;
  links_->space.table = &table;
  count = std::min(count, table.size());
  std::vector<uint32_t> nodes;
  for (int64_t row = rows_; row < count; ++row)
    if (table.first(row) == row) nodes.push_back(static_cast<uint32_t>(row));
  const size_t before = hnsw.cur_element_count, after = before + nodes.size();
  if (after > hnsw.max_elements_) hnsw.resizeIndex(std::max(after, 2 * before));
  const auto add = [&](size_t i) { hnsw.addPoint(&nodes[i], nodes[i]); };
  // The first node of a graph has to be in before others are linked to it.
  const size_t alone = before == 0 && !nodes.empty() ? 1 : 0;
  if (alone) add(0);
  similarity::parallel_for(static_cast<int64_t>(nodes.size() - alone), threads,
                           [&](int64_t i) { add(static_cast<size_t>(i) + alone); });
  links_->gather_rows();
  rows_ = std::max(rows_, count);
}

std::unique_ptr<Graph::Visited> Graph::take_visited() const {
  std::lock_guard<std::mutex> guard(pool_lock_);
  if (pool_.empty()) return std::make_unique<Visited>();
  auto visited = std::move(pool_.back());
  pool_.pop_back();
  return visited;
}

void Graph::give_visited(std::unique_ptr<Visited> visited) const {
  std::lock_guard<std::mutex> guard(pool_lock_);
  pool_.push_back(std::move(visited));
}

namespace {

// A node and about what its vector's inner product with the query is.
struct Near {
  float score;
  uint32_t node;
};

// The best nodes that a walk has come to, in order, the best first. Few enough that moving them up
// is faster than a heap.
class Best {
 public:
  explicit Best(size_t most) : most_(most), scores_(most + 1), nodes_(most + 1) {}

  size_t size() const { return size_; }
  float score(size_t i) const { return scores_[i]; }
  uint32_t node(size_t i) const { return nodes_[i] & ~kLeft; }
  bool full() const { return size_ == most_; }
  bool takes(float score) const { return !full() || score > scores_[size_ - 1]; }
  // left: the walk has gone on from it, or is not to.
  void add(const Near& near, bool left = false) {
    if (!takes(near.score)) return;
    size_ -= full();
    const size_t at = not_less(near.score);
    std::memmove(&scores_[at + 1], &scores_[at], (size_ - at) * sizeof(float));
    std::memmove(&nodes_[at + 1], &nodes_[at], (size_ - at) * sizeof(uint32_t));
    scores_[at] = near.score;
    nodes_[at] = near.node | (left ? kLeft : 0);
    ++size_;
    if (at <= next_) next_ = left ? next_ + 1 : at;
  }
  // Whether there is one to go on from, and the best of them.
  bool has_next() const { return next_ < size_; }
  uint32_t next() const { return nodes_[next_]; }
  uint32_t leave() {
    const uint32_t node = next();
    nodes_[next_] |= kLeft;
    while (next_ < size_ && (nodes_[next_] & kLeft)) ++next_;
    return node;
  }

 private:
  static constexpr uint32_t kLeft = uint32_t{1} << 31;  // there are fewer nodes than that

  // How many scores are not less: by halves, without a branch that cannot be foreseen.
  size_t not_less(float score) const {
    const float* begin = scores_.data();
    for (size_t count = size_; count > 0;) {
      const size_t half = (count + 1) / 2;
      begin += begin[half - 1] >= score ? half : 0;
      count -= half;
    }
    return static_cast<size_t>(begin - scores_.data());
  }

  const size_t most_;
  std::vector<float> scores_;
  std::vector<uint32_t> nodes_;
  size_t size_ = 0, next_ = 0;  // all before next_ are left; it may be beyond size_
};

}  // namespace

// One search's way through the graph.
class Graph::Walk {
 public:
  Walk(const Graph& graph, const Table& table, const Query& query, const Subset* subset,
       Visited& visited)
      : links_(*graph.links_),
        table_(table),
        query_(query),
        subset_(subset),
        visited_(visited),
        code_dot_(similarity::active_kernel().code_dot),
        rows_(links_.rows.data()) {}

  bool returned(int64_t row) const { return table_.alive(row) && (!subset_ || subset_->has(row)); }

  // A node near the query, by the upper layers.
  Near entry() {
    const auto& hnsw = links_.hnsw;
    Near at = near(hnsw.enterpoint_node_);
    for (int layer = hnsw.maxlevel_; layer > 0; --layer) {
      for (bool closer = true; closer;) {
        closer = false;
        size_t count;
        const auto* to = links_.neighbours(at.node, layer, &count);
        for (size_t i = 0; i < count; ++i) fetch(to[i]);
        for (size_t i = 0; i < count; ++i) {
          const Near other = near(to[i]);
          if (other.score > at.score) at = other, closer = true;
        }
      }
    }
    return at;
  }

  // From a node on, whatever is returned.
  void through_all(const Near& start, Best& best) {
    visited_.begin(links_.hnsw.max_elements_);
    visited_.first_time(start.node);
    best.add(start);
    while (best.has_next() || !fetched_.empty()) {
      if (best.has_next()) find_neighbours(leave(best));
      compare(best);
    }
  }

  // From some nodes on, comparing those alone that are returned; returns whether it was done before
  // `left` nodes were looked at.
  bool through_admitted(const Best& starts, int64_t left, Best& best) {
    visited_.begin(links_.hnsw.max_elements_);
    std::vector<uint32_t> seeds;  // best last
    for (size_t i = starts.size(); i-- > 0;) {
      const uint32_t node = starts.node(i);
      visited_.first_time(node);
      if (admitted(rows_[node])) best.add({starts.score(i), node}, true);
      seeds.push_back(node);
    }
    // Nodes to go on from where no admitted one is left.
    const auto worse = [](const Near& a, const Near& b) { return a.score < b.score; };
    std::vector<Near> bridges;
    for (; left > 0; left -= static_cast<int64_t>(fetched_.size())) {
      uint32_t from;
      if (!seeds.empty()) {
        from = seeds.back();
        seeds.pop_back();
      } else if (best.has_next()) {
        from = leave(best);
      } else if (!fetched_.empty()) {
        compare(best);
        continue;
      } else if (!best.full() && !bridges.empty()) {
        std::pop_heap(bridges.begin(), bridges.end(), worse);
        from = bridges.back().node;
        bridges.pop_back();
      } else {
        break;
      }
      left -= find_admitted(from);
      const bool lost = found_.empty() && !best.full();
      compare(best);
      if (!lost) continue;
      for (const uint32_t node : passed_) {
        bridges.push_back(near(node));
        std::push_heap(bridges.begin(), bridges.end(), worse);
      }
      left -= static_cast<int64_t>(passed_.size());
    }
    return left > 0;
  }

 private:
  bool admitted(int64_t row) const {
    while (!returned(row)) {
      if (!table_.chained(row)) return false;
      row = table_.next(row);
    }
    return true;
  }
  Near near(uint32_t node) const {
    const uint32_t row = rows_[node];
    const int32_t product = code_dot_(query_.codes.data(), table_.code(row), table_.depth());
    return {static_cast<float>(product) * query_.scale * table_.step(row), node};
  }
  HYBRIDRET_INLINE void fetch(uint32_t node) const { table_.fetch(rows_[node]); }
  HYBRIDRET_INLINE void fetch_links(uint32_t node) const {
    const char* links = reinterpret_cast<const char*>(links_.hnsw.get_linklist0(node));
    for (int line = 0; line < 3; ++line) __builtin_prefetch(links + 64 * line);
  }

  // Goes on from the best node; the links of the one after it are probably wanted next.
  uint32_t leave(Best& best) const {
    const uint32_t from = best.leave();
    if (best.has_next()) fetch_links(best.next());
    return from;
  }

  // Compares the nodes that were found a step before: their codes, and the links of the node that
  // is gone on from meanwhile, come from memory at the same time. Fetches those found now.
  void compare(Best& best) {
    for (const uint32_t node : fetched_) {
      const Near other = near(node);
      if (best.takes(other.score)) best.add(other);
    }
    fetched_.clear();
    fetched_.swap(found_);
    for (const uint32_t node : fetched_) fetch(node);
  }

  // Fills found_ by the neighbours of a node.
  void find_neighbours(uint32_t from) {
    size_t count;
    const auto* to = links_.neighbours(from, 0, &count);
    for (size_t i = 0; i < count; ++i) visited_.fetch(to[i]);
    for (size_t i = 0; i < count; ++i)
      if (visited_.first_time(to[i])) found_.push_back(to[i]);
  }

  // Fills found_ by the admitted neighbours of a node, and passed_ by the others. If there are few,
  // by admitted neighbours of those, too; returns how many were gone through.
  int64_t find_admitted(uint32_t from) {
    size_t count, admitted_ones = 0;  // also those that were come to before
    const auto* to = links_.neighbours(from, 0, &count);
    passed_.clear();
    for (size_t i = 0; i < count; ++i) {
      if (admitted(rows_[to[i]])) {
        ++admitted_ones;
        if (visited_.first_time(to[i])) found_.push_back(to[i]);
      } else if (visited_.first_time(to[i])) {
        passed_.push_back(to[i]);
      }
    }
    if (admitted_ones < kFound)
      for (size_t i = 0; i < passed_.size() && i < kAhead; ++i) fetch_links(passed_[i]);
    size_t i = 0;
    for (; i < passed_.size() && admitted_ones < kFound; ++i) {
      if (i + kAhead < passed_.size()) fetch_links(passed_[i + kAhead]);
      const auto* beyond = links_.neighbours(passed_[i], 0, &count);
      for (size_t n = 0; n < count; ++n) {
        if (!admitted(rows_[beyond[n]])) continue;
        ++admitted_ones;
        if (visited_.first_time(beyond[n])) found_.push_back(beyond[n]);
      }
    }
    return static_cast<int64_t>(i);
  }

  const Links& links_;
  const Table& table_;
  const Query& query_;
  const Subset* subset_;
  Visited& visited_;
  int32_t (*const code_dot_)(const int16_t*, const int8_t*, int64_t);
  const uint32_t* rows_;
  std::vector<uint32_t> found_, fetched_, passed_;
};

std::vector<Hit> Graph::search(const Table& table, const Query& query, int64_t k, int64_t ef,
                               const Subset* subset) const {
  if (links_->hnsw.cur_element_count == 0) return {};
  auto visited = take_visited();
  Walk walk(*this, table, query, subset, *visited);
  Best best(std::min(static_cast<size_t>(std::max(ef, k)), links_->rows.size()));
  bool complete = true;
  if (!subset && table.live() == table.size()) {
    walk.through_all(walk.entry(), best);
  } else {
    Best starts(subset ? kStarts : 1);
    walk.through_all(walk.entry(), starts);
    const int64_t left = subset ? subset->count / kWalkedShare : rows_;
    complete = walk.through_admitted(starts, left, best) && (!subset || best.full());
  }
  give_visited(std::move(visited));
  if (!complete) return {};

  std::vector<Hit> hits;
  float deviation = 0;  // the largest: of a longer vector it is larger
  for (size_t i = 0; i < best.size(); ++i)
    deviation = std::max(deviation, table.deviation(query, links_->rows[best.node(i)]));
  float kth = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < best.size(); ++i) {
    if (best.score(i) + kDeviations * deviation < kth) break;
    const uint32_t first = links_->rows[best.node(i)];
    if (i + 2 < best.size())
      for (int64_t value = 0; value < table.depth(); value += 16)
        __builtin_prefetch(table.vector(links_->rows[best.node(i + 2)]) + value);
    const float score = table.score(query, first);
    for (int64_t row = first; row >= 0; row = table.next(row))
      if (row < rows_ && walk.returned(row)) hits.push_back({row, score});
    if (kth < best.score(i) && static_cast<int64_t>(hits.size()) >= k) kth = best.score(i);
  }
  const auto last = hits.begin() + std::min<int64_t>(k, static_cast<int64_t>(hits.size()));
  std::partial_sort(hits.begin(), last, hits.end(), better);
  hits.erase(last, hits.end());
  return hits;
}

std::vector<Hit> search(const Table& table, const Graph* graph, const Query& query, int64_t k,
                        int64_t ef, const Subset* subset) {
  const int64_t rows = subset ? subset->count : table.live();
  const int64_t linked = graph ? graph->size() : 0;
  if (linked == 0 || rows <= kScanned || rows * kScannedShare <= linked)
    return table.scan(query, k, subset, 0);
  std::vector<Hit> hits = graph->search(table, query, k, ef, subset);
  if (hits.empty()) return table.scan(query, k, subset, 0);
  const std::vector<Hit> later = table.scan(query, k, subset, linked);
  hits.insert(hits.end(), later.begin(), later.end());
  if (static_cast<int64_t>(hits.size()) < std::min(k, rows)) return table.scan(query, k, subset, 0);
  const auto last = hits.begin() + std::min<int64_t>(k, static_cast<int64_t>(hits.size()));
  std::partial_sort(hits.begin(), last, hits.end(), better);
  hits.erase(last, hits.end());
  return hits;
}

void Graph::save(const std::string& path) const {
  links_->hnsw.saveIndex(path);  // reports nothing: a full disk shows in the size alone
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto expected = static_cast<std::streamoff>(links_->hnsw.indexFileSize());
  if (!file || file.tellg() != expected)
    throw std::runtime_error("could not write the graph to " + path + ": " +
                             std::to_string(file ? static_cast<long long>(file.tellg()) : 0LL) +
                             " of " + std::to_string(static_cast<long long>(expected)) +
                             " bytes were written");
}

// Checks every size in the file before hnswlib reads it: hnswlib allocates and seeks by these
// sizes, and an exception half-way through its loading leaves it in a state in which its destructor
// crashes.
static void check_layout(const hnswlib::HierarchicalNSW<float>& h, const std::string& path,
                         int64_t nodes) {
  const auto foreign = [&](bool condition) {
    if (condition)
      throw std::runtime_error(path +
                               " is not the graph of this store: its layout does not match "
                               "M and the number of vectors");
  };
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot open " + path);
  const auto bytes = static_cast<std::streamoff>(file.tellg());
  file.seekg(0);
  size_t sizes[6] = {};  // offset of level 0, capacity, count, element size, label and data offsets
  file.read(reinterpret_cast<char*>(sizes), sizeof(sizes));
  foreign(!file || sizes[0] != h.offsetLevel0_ || sizes[2] != static_cast<size_t>(nodes) ||
          sizes[1] < sizes[2] || sizes[3] != h.size_data_per_element_ ||
          sizes[4] != h.label_offset_ || sizes[5] != h.offsetData_);
  const std::streamoff header = sizeof(sizes) + sizeof(h.maxlevel_) + sizeof(h.enterpoint_node_) +
                                4 * sizeof(size_t) + sizeof(h.mult_);
  size_t links[3] = {};  // maxM, maxM0, M
  file.seekg(sizeof(sizes) + sizeof(h.maxlevel_) + sizeof(h.enterpoint_node_));
  file.read(reinterpret_cast<char*>(links), sizeof(links));
  double multiplier = 0;
  size_t ef_construction = 0;
  file.read(reinterpret_cast<char*>(&multiplier), sizeof(multiplier));
  file.read(reinterpret_cast<char*>(&ef_construction), sizeof(ef_construction));
  foreign(!file || links[0] != h.maxM_ || links[1] != h.maxM0_ || links[2] != h.M_ ||
          multiplier != h.mult_ || ef_construction != h.ef_construction_);
  std::streamoff at = header + static_cast<std::streamoff>(sizes[2] * sizes[3]);
  for (int64_t i = 0; i < nodes; ++i) {
    unsigned int upper = 0;
    foreign(at + static_cast<std::streamoff>(sizeof(upper)) > bytes);
    file.seekg(at);
    file.read(reinterpret_cast<char*>(&upper), sizeof(upper));
    foreign(!file || upper % h.size_links_per_element_ != 0);
    at += static_cast<std::streamoff>(sizeof(upper)) + upper;
  }
  foreign(at != bytes);
}

void Graph::load(const std::string& path, const Table& table, int64_t count) {
  if (count > table.size()) throw std::runtime_error(path + " has more rows than the store");
  int64_t nodes = 0;
  for (int64_t row = 0; row < count; ++row) nodes += table.first(row) == row;
  auto links = empty(1);
  check_layout(links->hnsw, path, nodes);
  if (nodes == 0) {  // hnswlib's next addition would use an entry point and levels that it has not
    links_ = empty(1024);
    rows_ = count;
    return;
  }
  auto& h = links->hnsw;
  h.loadIndex(path, &links->space, static_cast<size_t>(std::max<int64_t>(nodes, 1024)));
  const auto damaged = [&](bool condition) {
    if (condition) throw std::runtime_error(path + " is damaged: a link or row is out of range");
  };
  damaged(h.enterpoint_node_ >= static_cast<size_t>(nodes));
  damaged(h.element_levels_[h.enterpoint_node_] != h.maxlevel_);
  damaged(h.label_lookup_.size() != static_cast<size_t>(nodes));
  std::vector<bool> seen(static_cast<size_t>(count));
  for (int64_t i = 0; i < nodes; ++i) {
    const auto node = static_cast<hnswlib::tableint>(i);
    uint32_t row;
    std::memcpy(&row, h.getDataByInternalId(node), sizeof(row));
    damaged(row >= static_cast<size_t>(count) || table.first(row) != row || seen[row] ||
            h.getExternalLabel(node) != row);
    seen[row] = true;
    for (int layer = 0; layer <= h.element_levels_[node]; ++layer) {
      size_t number;
      const auto* to = links->neighbours(node, layer, &number);
      damaged(number > (layer == 0 ? h.maxM0_ : h.maxM_));
      for (size_t n = 0; n < number; ++n)
        damaged(to[n] >= static_cast<size_t>(nodes) || h.element_levels_[to[n]] < layer);
    }
  }
  links->gather_rows();
  links_ = std::move(links);
  rows_ = count;
}

}  // namespace hybridret::index
