// The Python face of the extension: argument checks, the GIL, docstrings. No algorithm lives here.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "index/hnsw.h"
#include "infonce/infonce.h"
#include "ranking/ranking.h"
#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace py = pybind11;

namespace {

using hybridret::index::HnswIndex;
using hybridret::similarity::Matrix;
template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Floats = Array<float>;
using Integers = Array<int64_t>;

std::string shape_of(const py::array& array) {
  std::string text = "[";
  for (py::ssize_t i = 0; i < array.ndim(); ++i)
    text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

// Rows may be strided; the last axis has unit stride.
Matrix matrix(const py::array_t<float>& array, const char* name) {
  if (array.ndim() != 2)
    throw py::value_error(std::string(name) + " must have two dimensions, got shape " +
                          shape_of(array));
  const bool unit = array.size() == 0 || array.shape(1) == 1 || array.strides(1) == sizeof(float);
  if (!unit || array.strides(0) % static_cast<py::ssize_t>(sizeof(float)) != 0)
    throw py::value_error(std::string(name) + " must have unit stride along its last axis");
  return {array.data(), array.shape(0), array.shape(1),
          array.strides(0) / static_cast<py::ssize_t>(sizeof(float))};
}

template <class T>
T* vector_data(const Array<T>& array, int64_t count, const char* name) {
  if (array.ndim() != 1 || array.shape(0) != count)
    throw py::value_error(std::string(name) + " must have shape [" + std::to_string(count) +
                          "], got " + shape_of(array));
  return const_cast<T*>(array.data());
}

int thread_count(int threads) {
  if (threads < 0) throw py::value_error("threads must be 0 (all) or more");
  return threads ? threads : hybridret::similarity::default_threads();
}

hybridret::infonce::Problem infonce_problem(const py::array_t<float>& queries,
                                            const py::array_t<float>& documents,
                                            const Integers& labels,
                                            const std::optional<Integers>& query_groups,
                                            const std::optional<Integers>& document_groups,
                                            float scale) {
  hybridret::infonce::Problem p{};
  p.queries = matrix(queries, "queries");
  p.documents = matrix(documents, "documents");
  if (p.queries.depth != p.documents.depth)
    throw py::value_error("queries and documents differ in dimension: " + shape_of(queries) +
                          " against " + shape_of(documents));
  p.labels = vector_data(labels, p.queries.rows, "labels");
  for (int64_t i = 0; i < p.queries.rows; ++i)
    if (p.labels[i] < 0 || p.labels[i] >= p.documents.rows)
      throw py::value_error("labels[" + std::to_string(i) + "] is " + std::to_string(p.labels[i]) +
                            ", but there are " + std::to_string(p.documents.rows) + " documents");
  if (query_groups.has_value() != document_groups.has_value())
    throw py::value_error("query_groups and document_groups go together: give both or neither");
  if (query_groups) {
    p.query_groups = vector_data(*query_groups, p.queries.rows, "query_groups");
    p.document_groups = vector_data(*document_groups, p.documents.rows, "document_groups");
  }
  if (!(scale > 0) || scale > 1e30f)
    throw py::value_error("temperature must be positive and finite");
  p.scale = scale;
  return p;
}

py::tuple infonce_forward(const py::array_t<float>& queries, const py::array_t<float>& documents,
                          const Integers& labels, const std::optional<Integers>& query_groups,
                          const std::optional<Integers>& document_groups, float scale,
                          const std::optional<Floats>& row_weights, int threads) {
  const auto p = infonce_problem(queries, documents, labels, query_groups, document_groups, scale);
  threads = thread_count(threads);
  const int64_t n = p.queries.rows;
  Floats lse(n), positive(n);
  Floats query_gradient({row_weights ? n : 0, p.queries.depth});
  Floats document_gradient({row_weights ? p.documents.rows : 0, p.queries.depth});
  const hybridret::infonce::Statistics statistics{lse.mutable_data(), positive.mutable_data()};
  hybridret::infonce::Gradients gradients{};
  if (row_weights)
    gradients = {vector_data(*row_weights, n, "row_weights"), query_gradient.mutable_data(),
                 document_gradient.mutable_data()};
  {
    py::gil_scoped_release release;
    hybridret::infonce::forward(p, statistics, row_weights ? &gradients : nullptr, threads);
  }
  if (!row_weights) return py::make_tuple(lse, positive, py::none(), py::none());
  return py::make_tuple(lse, positive, query_gradient, document_gradient);
}

py::tuple infonce_backward(const py::array_t<float>& queries, const py::array_t<float>& documents,
                           const Integers& labels, const Floats& negatives_lse,
                           const Floats& positive, const std::optional<Integers>& query_groups,
                           const std::optional<Integers>& document_groups, float scale,
                           const Floats& row_weights, int threads) {
  const auto p = infonce_problem(queries, documents, labels, query_groups, document_groups, scale);
  threads = thread_count(threads);
  const int64_t n = p.queries.rows;
  Floats query_gradient({n, p.queries.depth});
  Floats document_gradient({p.documents.rows, p.queries.depth});
  const hybridret::infonce::Statistics statistics{vector_data(negatives_lse, n, "negatives_lse"),
                                                  vector_data(positive, n, "positive")};
  const hybridret::infonce::Gradients gradients{vector_data(row_weights, n, "row_weights"),
                                                query_gradient.mutable_data(),
                                                document_gradient.mutable_data()};
  {
    py::gil_scoped_release release;
    hybridret::infonce::backward(p, statistics, gradients, threads);
  }
  return py::make_tuple(query_gradient, document_gradient);
}

Integers count_above(const py::array_t<float>& queries, const py::array_t<float>& documents,
                     const Integers& language_begin, const Integers& tie_order,
                     const Integers& target_begin, const Integers& targets, int threads) {
  hybridret::ranking::Problem p{};
  p.queries = matrix(queries, "queries");
  p.documents = matrix(documents, "documents");
  if (p.queries.depth != p.documents.depth)
    throw py::value_error("queries and documents differ in dimension: " + shape_of(queries) +
                          " against " + shape_of(documents));
  const auto ascending = [](const Integers& a, int64_t end, const char* name) {
    if (a.ndim() != 1 || a.shape(0) < 1 || a.data()[0] != 0 || a.data()[a.shape(0) - 1] != end)
      throw py::value_error(std::string(name) + " must run from 0 to " + std::to_string(end));
    for (py::ssize_t i = 1; i < a.shape(0); ++i)
      if (a.data()[i] < a.data()[i - 1])
        throw py::value_error(std::string(name) + " must not descend");
  };
  ascending(language_begin, p.documents.rows, "language_begin");
  p.languages = language_begin.shape(0) - 1;
  p.language_begin = language_begin.data();
  p.tie_order = vector_data(tie_order, p.documents.rows, "tie_order");
  const int64_t total = targets.ndim() == 1 ? targets.shape(0) : -1;
  ascending(target_begin, total, "target_begin");
  p.target_begin = vector_data(target_begin, p.queries.rows + 1, "target_begin");
  p.targets = vector_data(targets, total, "targets");
  for (int64_t t = 0; t < total; ++t)
    if (p.targets[t] < 0 || p.targets[t] >= p.documents.rows)
      throw py::value_error("targets[" + std::to_string(t) + "] is out of range");
  threads = thread_count(threads);
  Integers above({total, p.languages});
  {
    py::gil_scoped_release release;
    hybridret::ranking::count_above(p, above.mutable_data(), threads);
  }
  return above;
}

py::tuple search(const HnswIndex& index, const Floats& query, int64_t k,
                 const std::optional<std::vector<int64_t>>& languages, bool exact) {
  vector_data(query, index.depth(), "query");
  if (k < 1) throw py::value_error("k must be at least 1, got " + std::to_string(k));
  std::vector<bool> allowed;
  if (languages) {
    for (int64_t language : *languages) {
      if (language < 0) throw py::value_error("a language number is negative");
      if (static_cast<size_t>(language) >= allowed.size()) allowed.resize(language + 1);
      allowed[language] = true;
    }
  }
  std::vector<hybridret::index::Hit> hits;
  {
    py::gil_scoped_release release;
    const auto* filter = languages ? &allowed : nullptr;
    hits =
        exact ? index.search_exact(query.data(), k, filter) : index.search(query.data(), k, filter);
  }
  Integers labels(hits.size());
  Floats scores(hits.size());
  for (size_t i = 0; i < hits.size(); ++i) {
    labels.mutable_data()[i] = hits[i].label;
    scores.mutable_data()[i] = hits[i].score;
  }
  return py::make_tuple(labels, scores);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  using py::arg;
  using py::kw_only;
  m.doc() = "Native kernels of hybridret: InfoNCE, rank counting, HNSW.";
  m.attr("__version__") = HYBRIDRET_VERSION;
  m.attr("compiler") = HYBRIDRET_COMPILER;
  m.attr("hnswlib_version") = HYBRIDRET_HNSWLIB_VERSION;

  m.def(
      "isa", [] { return std::string(hybridret::similarity::active_kernel().isa); },
      "Instruction set of the kernels in use.");
  m.def(
      "usable_isas",
      [] {
        std::vector<std::string> names;
        for (int i = 0; i < hybridret::similarity::usable_kernel_count(); ++i)
          names.emplace_back(hybridret::similarity::usable_kernel(i).isa);
        return names;
      },
      "Instruction sets this build holds and this machine can run, best first.");
  m.def("default_threads", &hybridret::similarity::default_threads,
        "Processors this process may use.");

  m.def("infonce_forward", &infonce_forward, arg("queries"), arg("documents"), arg("labels"),
        kw_only(), arg("query_groups") = py::none(), arg("document_groups") = py::none(),
        arg("scale"), arg("row_weights") = py::none(), arg("threads") = 0,
        "(negatives_lse [N], positive [N], query_gradient [N, D], document_gradient [M, D]); the "
        "gradients are None without row_weights [N], the derivative of the total by each row's "
        "loss.");
  m.def("infonce_backward", &infonce_backward, arg("queries"), arg("documents"), arg("labels"),
        arg("negatives_lse"), arg("positive"), kw_only(), arg("query_groups") = py::none(),
        arg("document_groups") = py::none(), arg("scale"), arg("row_weights"), arg("threads") = 0,
        "(query_gradient [N, D], document_gradient [M, D]) from given statistics.");
  m.def("count_above", &count_above, arg("queries"), arg("documents"), kw_only(),
        arg("language_begin"), arg("tie_order"), arg("target_begin"), arg("targets"),
        arg("threads") = 0,
        "int64 [T, L]: documents of each language that come before each target.");

  py::class_<HnswIndex>(m, "HnswIndex", "HNSW graph over inner products, see hybridret.index.")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t>(), arg("dimension"), kw_only(),
           arg("links"), arg("ef_construction"), arg("ef_search"), arg("seed"))
      .def(
          "add",
          [](HnswIndex& index, const Floats& vectors, const Array<int32_t>& languages,
             int threads) {
            if (vectors.ndim() != 2 || vectors.shape(1) != index.depth())
              throw py::value_error("vectors must have shape [count, " +
                                    std::to_string(index.depth()) + "], got " + shape_of(vectors));
            const int32_t* language = vector_data(languages, vectors.shape(0), "languages");
            threads = thread_count(threads);
            py::gil_scoped_release release;
            index.add(vectors.data(), language, vectors.shape(0), threads);
          },
          arg("vectors"), arg("languages"), kw_only(), arg("threads") = 0)
      .def("search", &search, arg("query"), arg("k"), kw_only(), arg("languages") = py::none(),
           arg("exact") = false, "(labels [<= k], scores [<= k]), best first.")
      .def("remove", &HnswIndex::remove, arg("label"), py::call_guard<py::gil_scoped_release>())
      .def("save", &HnswIndex::save, arg("path"), py::call_guard<py::gil_scoped_release>())
      .def(
          "load",
          [](HnswIndex& index, const std::string& path, const Array<int32_t>& languages) {
            const int64_t count = languages.ndim() == 1 ? languages.shape(0) : -1;
            const int32_t* language = vector_data(languages, count, "languages");
            py::gil_scoped_release release;
            index.load(path, language, count);
          },
          arg("path"), arg("languages"))
      .def("removed", &HnswIndex::removed, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly(
          "size", py::cpp_function(&HnswIndex::size, py::call_guard<py::gil_scoped_release>()))
      .def_property_readonly(
          "live", py::cpp_function(&HnswIndex::live, py::call_guard<py::gil_scoped_release>()))
      .def_property_readonly("dimension", &HnswIndex::depth);
}
