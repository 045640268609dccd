#include "index/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>

#include "index/graph.h"
#include "index/table.h"
#include "similarity/threads.h"

namespace py = pybind11;

namespace hybridret::index {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Searches share the lock, changes own it.
struct SharedTable {
  explicit SharedTable(int64_t depth) : table(depth) {}
  Table table;
  py::object vectors;  // what the rows lie in
  std::shared_mutex lock;
};

struct SharedGraph {
  SharedGraph(std::shared_ptr<SharedTable> of, int64_t M, int64_t ef_construction, int64_t seed)
      : table(std::move(of)), graph(M, ef_construction, seed) {}
  std::shared_ptr<SharedTable> table;
  Graph graph;
};

int thread_count(int threads) {
  if (threads < 0) throw py::value_error("threads must be 0 (all) or more");
  return threads ? threads : similarity::default_threads();
}

void extend(SharedTable& shared, const Array<float>& vectors, int threads) {
  if (vectors.ndim() != 2 || vectors.shape(1) != shared.table.depth())
    throw py::value_error("vectors must have shape [rows, " + std::to_string(shared.table.depth()) +
                          "]");
  threads = thread_count(threads);
  {
    py::gil_scoped_release release;
    std::unique_lock<std::shared_mutex> guard(shared.lock);
    shared.table.extend(vectors.data(), vectors.shape(0), threads);
  }
  shared.vectors = vectors;  // no search reads the former ones any more
}

void remove(SharedTable& shared, const Array<uint32_t>& rows) {
  py::gil_scoped_release release;
  std::unique_lock<std::shared_mutex> guard(shared.lock);
  shared.table.remove(rows.data(), rows.size());
}

py::tuple search(SharedTable& shared, const Graph* graph, const Array<float>& queries, int64_t k,
                 int64_t ef, const std::optional<Array<uint8_t>>& admitted,
                 const std::optional<Array<uint32_t>>& rows, int threads) {
  if (queries.ndim() != 2 || queries.shape(1) != shared.table.depth())
    throw py::value_error("queries must have shape [count, " +
                          std::to_string(shared.table.depth()) + "]");
  if (k < 1 || ef < 1) throw py::value_error("k and ef must be at least 1");
  if (admitted.has_value() != rows.has_value())
    throw py::value_error("give admitted and rows, or neither");
  threads = thread_count(threads);
  const int64_t count = queries.shape(0);
  std::vector<std::vector<Hit>> found(static_cast<size_t>(count));
  {
    py::gil_scoped_release release;
    std::shared_lock<std::shared_mutex> guard(shared.lock);
    const Table& table = shared.table;
    std::optional<Subset> subset;
    if (admitted) {
      if (rows->size() > 0 && rows->data()[rows->size() - 1] >= table.size())
        throw std::invalid_argument("rows has a number beyond the table");
      subset = Subset{admitted->data(), admitted->size(), rows->data(), rows->size()};
    }
    similarity::parallel_for(count, std::min<int64_t>(threads, count), [&](int64_t i) {
      const Query query(queries.data() + i * table.depth(), table.depth());
      found[static_cast<size_t>(i)] =
          index::search(table, graph, query, k, ef, subset ? &*subset : nullptr);
    });
  }
  size_t width = 0;
  for (const auto& hits : found) width = std::max(width, hits.size());
  const std::vector<py::ssize_t> shape{count, static_cast<py::ssize_t>(width)};
  Array<int64_t> numbers(shape);
  Array<float> scores(shape);
  for (int64_t i = 0; i < count; ++i) {
    int64_t* number = numbers.mutable_data() + i * static_cast<int64_t>(width);
    float* score = scores.mutable_data() + i * static_cast<int64_t>(width);
    std::fill(number, number + width, -1);
    std::fill(score, score + width, -std::numeric_limits<float>::infinity());
    for (const Hit& hit : found[static_cast<size_t>(i)]) *number++ = hit.row, *score++ = hit.score;
  }
  return py::make_tuple(numbers, scores);
}

}  // namespace

void bind(py::module_& m) {
  using py::arg;
  using py::kw_only;
  py::class_<SharedTable, std::shared_ptr<SharedTable>>(
      m, "Table", "Vectors in float32, elsewhere, with 8-bit codes: see csrc/index/table.h.")
      .def(py::init<int64_t>(), arg("dimension"))
      .def("extend", &extend, arg("vectors"), kw_only(), arg("threads") = 0,
           "The rows lie here now: those of before and new ones.")
      .def("remove", &remove, arg("rows"))
      .def_property_readonly("size", [](const SharedTable& s) { return s.table.size(); })
      .def_property_readonly("live", [](const SharedTable& s) { return s.table.live(); })
      .def(
          "search",
          [](SharedTable& shared, const Array<float>& queries, int64_t k,
             const std::optional<Array<uint8_t>>& admitted,
             const std::optional<Array<uint32_t>>& rows, int threads) {
            return search(shared, nullptr, queries, k, 1, admitted, rows, threads);
          },
          arg("queries"), arg("k"), kw_only(), arg("admitted") = py::none(),
          arg("rows") = py::none(), arg("threads") = 1, "Exact; rows [Q, k], scores [Q, k].");
  py::class_<SharedGraph>(m, "Graph", "An HNSW graph of a table: see csrc/index/graph.h.")
      .def(py::init<std::shared_ptr<SharedTable>, int64_t, int64_t, int64_t>(), arg("table"),
           kw_only(), arg("M"), arg("ef_construction"), arg("seed"))
      .def(
          "build",
          [](SharedGraph& shared, int64_t count, int threads) {
            threads = thread_count(threads);
            py::gil_scoped_release release;
            std::shared_lock<std::shared_mutex> guard(shared.table->lock);
            shared.graph.build(shared.table->table, count, threads);
          },
          arg("count"), kw_only(), arg("threads") = 0)
      .def_property_readonly("size", [](const SharedGraph& s) { return s.graph.size(); })
      .def(
          "search",
          [](SharedGraph& shared, const Array<float>& queries, int64_t k, int64_t ef,
             const std::optional<Array<uint8_t>>& admitted,
             const std::optional<Array<uint32_t>>& rows, int threads) {
            return search(*shared.table, &shared.graph, queries, k, ef, admitted, rows, threads);
          },
          arg("queries"), arg("k"), kw_only(), arg("ef"), arg("admitted") = py::none(),
          arg("rows") = py::none(), arg("threads") = 1, "Rows [Q, k], scores [Q, k].")
      .def(
          "save", [](const SharedGraph& s, const std::string& path) { s.graph.save(path); },
          arg("path"), py::call_guard<py::gil_scoped_release>())
      .def(
          "load",
          [](SharedGraph& shared, const std::string& path, int64_t count) {
            py::gil_scoped_release release;
            std::shared_lock<std::shared_mutex> guard(shared.table->lock);
            shared.graph.load(path, shared.table->table, count);
          },
          arg("path"), arg("count"));
}

}  // namespace hybridret::index
