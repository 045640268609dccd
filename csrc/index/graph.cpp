#include "index/graph.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <queue>
#include <stdexcept>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::index {
namespace {

// Neighbours whose codes are fetched before they are needed.
constexpr int kAhead = 4;
// Nodes that are decided in float32 beyond those that are asked for: estimates change the order.
constexpr int64_t kDecided = 40;
// Rows that are compared one by one, always; and up to one in so many of all, since a walk has to
// come to as many more nodes as are not admitted.
constexpr int64_t kScanned = 4096;
constexpr int64_t kScannedShare = 10;
// A walk under a filter ends after this share of the admitted rows, and they are compared instead:
// where the filter and the query disagree (one language of another's question) it would come to
// most nodes. 100k x 384, 9 % in one language: 2,300 us walked, 170 us compared.
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

std::vector<Hit> Graph::search(const Table& table, const Query& query, int64_t k, int64_t ef,
                               const Subset* subset) const {
  const auto& hnsw = links_->hnsw;
  if (hnsw.cur_element_count == 0) return {};
  struct Near {
    float score;
    uint32_t node, row;
    bool operator<(const Near& other) const { return score < other.score; }
    bool operator>(const Near& other) const { return score > other.score; }
  };
  const auto returned = [&](int64_t row) {
    return table.alive(row) && (!subset || subset->has(row));
  };
  const auto admitted = [&](int64_t row) {
    for (; row >= 0; row = table.next(row))
      if (returned(row)) return true;
    return false;
  };
  const auto code_dot = similarity::active_kernel().code_dot;
  const uint32_t* rows = links_->rows.data();
  const auto near = [&](uint32_t node) {
    const uint32_t row = rows[node];
    const int32_t product = code_dot(query.codes.data(), table.code(row), table.depth());
    return Near{static_cast<float>(product) * query.scale * table.step(row), node, row};
  };
  const auto fetch = [&](uint32_t node) {
    const int8_t* code = table.code(rows[node]);
    for (int64_t at = 0; at < table.depth(); at += 64) __builtin_prefetch(code + at);
  };

  Near at = near(hnsw.enterpoint_node_);
  for (int layer = hnsw.maxlevel_; layer > 0; --layer) {
    for (bool better = true; better;) {
      better = false;
      size_t count;
      const auto* to = links_->neighbours(at.node, layer, &count);
      for (size_t i = 0; i < count; ++i) fetch(to[i]);
      for (size_t i = 0; i < count; ++i) {
        const Near other = near(to[i]);
        if (other > at) at = other, better = true;
      }
    }
  }

  ef = std::max(ef, k);
  std::priority_queue<Near> open;                                         // the best first
  std::priority_queue<Near, std::vector<Near>, std::greater<Near>> best;  // the worst first
  auto visited = take_visited();
  visited->begin(hnsw.max_elements_);
  visited->first_time(at.node);
  open.push(at);
  if (admitted(at.row)) best.push(at);
  std::vector<uint32_t> fresh;
  int64_t left = subset ? subset->count / kWalkedShare : rows_;
  while (!open.empty() && left > 0) {
    const Near from = open.top();
    if (static_cast<int64_t>(best.size()) >= ef && from.score < best.top().score) break;
    open.pop();
    size_t count;
    const auto* to = links_->neighbours(from.node, 0, &count);
    fresh.clear();
    for (size_t i = 0; i < count; ++i)
      if (visited->first_time(to[i])) fresh.push_back(to[i]);
    left -= static_cast<int64_t>(fresh.size());
    for (size_t i = 0; i < fresh.size() && i < kAhead; ++i) fetch(fresh[i]);
    for (size_t i = 0; i < fresh.size(); ++i) {
      if (i + kAhead < fresh.size()) fetch(fresh[i + kAhead]);
      const Near other = near(fresh[i]);
      if (static_cast<int64_t>(best.size()) >= ef && !(other > best.top())) continue;
      open.push(other);
      if (!admitted(other.row)) continue;
      best.push(other);
      if (static_cast<int64_t>(best.size()) > ef) best.pop();
    }
    if (!open.empty()) {
      const char* links = reinterpret_cast<const char*>(hnsw.get_linklist0(open.top().node));
      for (int line = 0; line < 3; ++line) __builtin_prefetch(links + 64 * line);
    }
  }
  give_visited(std::move(visited));
  if (subset && left <= 0) return {};

  while (static_cast<int64_t>(best.size()) > std::max(k, kDecided)) best.pop();
  std::vector<uint32_t> decided;
  for (; !best.empty(); best.pop()) decided.push_back(best.top().row);
  std::vector<Hit> hits;
  for (size_t i = 0; i < decided.size(); ++i) {
    if (i + 2 < decided.size())
      for (int64_t at = 0; at < table.depth(); at += 16)
        __builtin_prefetch(table.vector(decided[i + 2]) + at);
    const float score = table.score(query, decided[i]);
    for (int64_t row = decided[i]; row >= 0; row = table.next(row))
      if (row < rows_ && returned(row)) hits.push_back({row, score});
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
  auto& h = links->hnsw;
  if (nodes > 0)  // the first addition would use an empty graph's entry point and levels
    h.loadIndex(path, &links->space, static_cast<size_t>(std::max<int64_t>(nodes, 1024)));
  else
    links = empty(1024);
  const auto damaged = [&](bool condition) {
    if (condition) throw std::runtime_error(path + " is damaged: a link or row is out of range");
  };
  damaged(nodes > 0 && h.enterpoint_node_ >= static_cast<size_t>(nodes));
  damaged(nodes > 0 && h.element_levels_[h.enterpoint_node_] != h.maxlevel_);
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
