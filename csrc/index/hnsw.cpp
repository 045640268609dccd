#include "index/hnsw.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <mutex>
#include <stdexcept>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::index {
namespace {

// Up to this many admitted documents, or one in so many of all, an exact scan is faster than a
// filtered walk of the graph, and exact (measured: 100k x 384, crossover near a tenth).
constexpr int64_t kExactScan = 2048;
constexpr int64_t kExactShare = 10;

class InnerProduct : public hnswlib::SpaceInterface<float> {
 public:
  explicit InnerProduct(int64_t depth) : depth_(depth) {}
  size_t get_data_size() override { return static_cast<size_t>(depth_) * sizeof(float); }
  hnswlib::DISTFUNC<float> get_dist_func() override { return distance; }
  void* get_dist_func_param() override { return &depth_; }

 private:
  static float distance(const void* a, const void* b, const void* depth) {
    return -similarity::active_kernel().dot(static_cast<const float*>(a),
                                            static_cast<const float*>(b),
                                            *static_cast<const int64_t*>(depth));
  }
  int64_t depth_;
};

bool better(const Labelled& a, const Labelled& b) {
  return a.score != b.score ? a.score > b.score : a.label < b.label;
}

void require_finite(const float* values, int64_t count, const char* what) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i]))
      throw std::invalid_argument(std::string(what) +
                                  " holds a value that is not finite (NaN or "
                                  "infinity) at position " +
                                  std::to_string(i));
}

}  // namespace

struct HnswIndex::Graph {
  Graph(int64_t depth, int64_t capacity, int64_t M, int64_t ef_construction, int64_t seed)
      : space(depth),
        hnsw(&space, static_cast<size_t>(capacity), static_cast<size_t>(M),
             static_cast<size_t>(ef_construction), static_cast<size_t>(seed)) {}

  const float* vector(int64_t label) const {
    return reinterpret_cast<const float*>(hnsw.getDataByInternalId(internal(label)));
  }
  bool removed(int64_t label) const { return hnsw.isMarkedDeleted(internal(label)); }
  hnswlib::tableint internal(int64_t label) const {
    return hnsw.label_lookup_.find(static_cast<hnswlib::labeltype>(label))->second;
  }

  InnerProduct space;
  hnswlib::HierarchicalNSW<float> hnsw;
};

HnswIndex::HnswIndex(int64_t depth, int64_t M, int64_t ef_construction, int64_t ef_search,
                     int64_t seed)
    : depth_(depth), M_(M), ef_construction_(ef_construction), ef_search_(ef_search), seed_(seed) {
  if (depth < 1 || M < 2 || ef_construction < 1 || ef_search < 1)
    throw std::invalid_argument("an index needs dimension >= 1, M >= 2 and ef values >= 1");
  graph_ = std::make_unique<Graph>(depth, 1024, M, ef_construction, seed);
  graph_->hnsw.setEf(static_cast<size_t>(ef_search_));
}

HnswIndex::~HnswIndex() = default;

void HnswIndex::add(const float* vectors, const int32_t* languages, int64_t count, int threads) {
  require_finite(vectors, count * depth_, "a vector to add");
  for (int64_t i = 0; i < count; ++i)
    if (languages[i] < 0) throw std::invalid_argument("a language number is negative");
  std::unique_lock<std::shared_mutex> guard(lock_);
  auto& hnsw = graph_->hnsw;
  const int64_t first = static_cast<int64_t>(languages_.size());
  if (first + count > static_cast<int64_t>(hnsw.max_elements_))
    hnsw.resizeIndex(static_cast<size_t>(std::max(first + count, 2 * first)));
  const auto add_one = [&](int64_t i) {
    hnsw.addPoint(vectors + i * depth_, static_cast<hnswlib::labeltype>(first + i));
  };
  // The first point of a graph has to be in before others are linked to it.
  const int64_t alone = first == 0 && count > 0 ? 1 : 0;
  if (alone) add_one(0);
  similarity::parallel_for(count - alone, threads, [&](int64_t i) { add_one(i + alone); });
  for (int64_t i = 0; i < count; ++i) {
    const size_t language = static_cast<size_t>(languages[i]);
    if (language >= by_language_.size()) {
      by_language_.resize(language + 1);
      live_by_language_.resize(language + 1);
    }
    languages_.push_back(languages[i]);
    by_language_[language].push_back(first + i);
    ++live_by_language_[language];
  }
}

int64_t HnswIndex::live_in(const std::vector<bool>* allowed) const {
  int64_t live = 0;
  for (size_t l = 0; l < live_by_language_.size(); ++l)
    if (!allowed || (l < allowed->size() && (*allowed)[l])) live += live_by_language_[l];
  return live;
}

std::vector<Labelled> HnswIndex::scan(const float* query, int64_t k,
                                      const std::vector<bool>* allowed) const {
  const auto& kernel = similarity::active_kernel();
  std::vector<Labelled> hits;
  for (size_t l = 0; l < by_language_.size(); ++l) {
    if (allowed && (l >= allowed->size() || !(*allowed)[l])) continue;
    for (int64_t label : by_language_[l])
      if (!graph_->removed(label))
        hits.push_back({label, kernel.dot(query, graph_->vector(label), depth_)});
  }
  const auto end = hits.begin() + std::min<int64_t>(k, static_cast<int64_t>(hits.size()));
  std::partial_sort(hits.begin(), end, hits.end(), better);
  hits.erase(end, hits.end());
  return hits;
}

std::vector<Labelled> HnswIndex::search(const float* query, int64_t k,
                                        const std::vector<bool>* allowed) const {
  require_finite(query, depth_, "the query vector");
  std::shared_lock<std::shared_mutex> guard(lock_);
  const int64_t admitted = live_in(allowed);
  const int64_t wanted = std::min(k, admitted);
  if (admitted <= kExactScan || admitted * kExactShare <= static_cast<int64_t>(languages_.size()))
    return scan(query, k, allowed);

  struct LanguageFilter : hnswlib::BaseFilterFunctor {
    const std::vector<int32_t>* languages;
    const std::vector<bool>* allowed;
    bool operator()(hnswlib::labeltype label) override {
      const size_t language = static_cast<size_t>((*languages)[label]);
      return language < allowed->size() && (*allowed)[language];
    }
  } filter;
  filter.languages = &languages_;
  filter.allowed = allowed;
  auto heap =
      graph_->hnsw.searchKnn(query, static_cast<size_t>(wanted), allowed ? &filter : nullptr);
  if (static_cast<int64_t>(heap.size()) < wanted) return scan(query, k, allowed);
  std::vector<Labelled> hits;
  for (; !heap.empty(); heap.pop())
    hits.push_back({static_cast<int64_t>(heap.top().second), -heap.top().first});
  std::sort(hits.begin(), hits.end(), better);
  return hits;
}

std::vector<Labelled> HnswIndex::search_exact(const float* query, int64_t k,
                                              const std::vector<bool>* allowed) const {
  require_finite(query, depth_, "the query vector");
  std::shared_lock<std::shared_mutex> guard(lock_);
  return scan(query, k, allowed);
}

void HnswIndex::remove(int64_t label) {
  std::unique_lock<std::shared_mutex> guard(lock_);
  if (label < 0 || label >= static_cast<int64_t>(languages_.size()) || graph_->removed(label))
    throw std::invalid_argument("no live document has label " + std::to_string(label));
  graph_->hnsw.markDelete(static_cast<hnswlib::labeltype>(label));
  --live_by_language_[static_cast<size_t>(languages_[static_cast<size_t>(label)])];
}

void HnswIndex::save(const std::string& path) const {
  std::shared_lock<std::shared_mutex> guard(lock_);
  graph_->hnsw.saveIndex(path);  // reports nothing: a full disk shows in the size alone
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto expected = static_cast<std::streamoff>(graph_->hnsw.indexFileSize());
  if (!file || file.tellg() != expected)
    throw std::runtime_error("could not write the index to " + path + ": " +
                             std::to_string(file ? static_cast<long long>(file.tellg()) : 0LL) +
                             " of " + std::to_string(static_cast<long long>(expected)) +
                             " bytes were written");
}

// Checks every size in the file before hnswlib reads it: hnswlib allocates and seeks by these
// sizes, and an exception half-way through its loading leaves it in a state in which its destructor
// crashes.
void HnswIndex::check_layout(const std::string& path, int64_t count) const {
  const Graph shape(depth_, 1, M_, ef_construction_, seed_);
  const auto& h = shape.hnsw;
  const auto foreign = [&](bool condition) {
    if (condition)
      throw std::runtime_error(path +
                               " is not the graph of this index: its layout does not match "
                               "dimension, M and number of documents");
  };
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot open " + path);
  const auto bytes = static_cast<std::streamoff>(file.tellg());
  file.seekg(0);
  size_t sizes[6] = {};  // offset of level 0, capacity, count, element size, label and data offsets
  file.read(reinterpret_cast<char*>(sizes), sizeof(sizes));
  foreign(!file || sizes[0] != h.offsetLevel0_ || sizes[2] != static_cast<size_t>(count) ||
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
  for (int64_t i = 0; i < count; ++i) {
    unsigned int upper = 0;
    foreign(at + static_cast<std::streamoff>(sizeof(upper)) > bytes);
    file.seekg(at);
    file.read(reinterpret_cast<char*>(&upper), sizeof(upper));
    foreign(!file || upper % h.size_links_per_element_ != 0);
    at += static_cast<std::streamoff>(sizeof(upper)) + upper;
  }
  foreign(at != bytes);
}

void HnswIndex::load(const std::string& path, const int32_t* languages, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (languages[i] < 0) throw std::invalid_argument("a language number is negative");
  check_layout(path, count);
  auto graph = std::make_unique<Graph>(depth_, 1, M_, ef_construction_, seed_);
  auto& h = graph->hnsw;
  if (count > 0)  // the first add would use an empty graph's entry point and levels
    h.loadIndex(path, &graph->space, static_cast<size_t>(std::max<int64_t>(count, 1024)));
  h.setEf(static_cast<size_t>(ef_search_));
  const auto damaged = [&](bool condition) {
    if (condition) throw std::runtime_error(path + " is damaged: a link or label is out of range");
  };
  damaged(count > 0 && h.enterpoint_node_ >= static_cast<size_t>(count));
  damaged(count > 0 && h.element_levels_[h.enterpoint_node_] != h.maxlevel_);
  damaged(h.label_lookup_.size() != static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<hnswlib::tableint>(i);
    damaged(h.getExternalLabel(id) >= static_cast<size_t>(count));
    for (int level = 0; level <= h.element_levels_[id]; ++level) {
      auto* list = h.get_linklist_at_level(id, level);
      const size_t links = h.getListCount(list);
      damaged(links > (level == 0 ? h.maxM0_ : h.maxM_));
      for (size_t n = 0; n < links; ++n) {
        const hnswlib::tableint to = reinterpret_cast<hnswlib::tableint*>(list + 1)[n];
        damaged(to >= static_cast<size_t>(count) || h.element_levels_[to] < level);
      }
    }
    require_finite(graph->vector(static_cast<int64_t>(h.getExternalLabel(id))), depth_,
                   "a vector of the file");
  }

  std::unique_lock<std::shared_mutex> guard(lock_);
  graph_ = std::move(graph);
  languages_.assign(languages, languages + count);
  by_language_.clear();
  live_by_language_.clear();
  for (int64_t label = 0; label < count; ++label) {
    const size_t language = static_cast<size_t>(languages_[static_cast<size_t>(label)]);
    if (language >= by_language_.size()) {
      by_language_.resize(language + 1);
      live_by_language_.resize(language + 1);
    }
    by_language_[language].push_back(label);
    live_by_language_[language] += !graph_->removed(label);
  }
}

std::vector<int64_t> HnswIndex::removed() const {
  std::shared_lock<std::shared_mutex> guard(lock_);
  std::vector<int64_t> labels;
  for (int64_t label = 0; label < static_cast<int64_t>(languages_.size()); ++label)
    if (graph_->removed(label)) labels.push_back(label);
  return labels;
}

int64_t HnswIndex::size() const {
  std::shared_lock<std::shared_mutex> guard(lock_);
  return static_cast<int64_t>(languages_.size());
}

int64_t HnswIndex::live() const {
  std::shared_lock<std::shared_mutex> guard(lock_);
  return live_in(nullptr);
}

}  // namespace hybridret::index
