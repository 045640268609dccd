// The Python face of the extension: argument checks, the GIL, docstrings. No algorithm lives here.

#include "index/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "infonce/infonce.h"
#include "ranking/ranking.h"
#include "similarity/elements.h"
#include "similarity/kernel.h"
#include "similarity/memory.h"
#include "similarity/threads.h"

namespace py = pybind11;

namespace {

using hybridret::similarity::Format;
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

// Rows may be strided; the last axis has unit stride. uint16 holds the bits of bfloat16.
Matrix matrix(const py::array& array, const char* name) {
  const auto fail = [&](const std::string& what) {
    throw py::value_error(std::string(name) + " " + what);
  };
  if (array.ndim() != 2) fail("must have two dimensions, got shape " + shape_of(array));
  Format format = Format::kFloat32;
  const char kind = array.dtype().kind();
  if (kind == 'f' && array.itemsize() == 2)
    format = Format::kFloat16;
  else if (kind == 'u' && array.itemsize() == 2)
    format = Format::kBfloat16;
  else if (kind != 'f' || array.itemsize() != 4)
    fail("must be float32, float16 or the uint16 bits of bfloat16");
  if (array.dtype().attr("isnative").cast<bool>() == false) fail("must be in native byte order");
  const bool unit =
      array.size() == 0 || array.shape(1) == 1 || array.strides(1) == array.itemsize();
  if (!unit || array.strides(0) % array.itemsize() != 0)
    fail("must have unit stride along its last axis");
  return {array.data(), format, array.shape(0), array.shape(1),
          array.strides(0) / array.itemsize()};
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

// What every call about the loss says, checked.
struct Loss {
  Loss(const py::array& queries, const py::array& documents, const Integers& labels,
       const std::optional<Integers>& query_groups, const std::optional<Integers>& document_groups,
       const std::optional<Integers>& segments, const std::optional<Floats>& log_bias, float scale,
       bool normalize, bool unit_norm, bool hard_only, bool labels_elsewhere)
      : kept{queries, documents, labels} {
    for (const auto& given : {query_groups, document_groups, segments})
      if (given) kept.push_back(*given);
    if (log_bias) kept.push_back(*log_bias);
    auto& p = problem;
    p.queries = matrix(queries, "queries");
    p.documents = matrix(documents, "documents");
    n = p.queries.rows, m = p.documents.rows;
    if (p.queries.depth != p.documents.depth)
      throw py::value_error("queries and documents differ in dimension: " + shape_of(queries) +
                            " against " + shape_of(documents));
    if (p.queries.format != p.documents.format)
      throw py::value_error("queries and documents differ in dtype");
    // Copied: they are checked now and index memory later, when other Python threads may run.
    const int64_t* given = vector_data(labels, n, "labels");
    own_labels.assign(given, given + n);
    p.labels = own_labels.data();
    for (int64_t i = 0; i < n; ++i)
      if (p.labels[i] < (labels_elsewhere ? -1 : 0) || p.labels[i] >= m)
        throw py::value_error("labels[" + std::to_string(i) + "] is " +
                              std::to_string(p.labels[i]) + ", but there are " + std::to_string(m) +
                              " documents");
    if (query_groups.has_value() != document_groups.has_value())
      throw py::value_error("query_groups and document_groups go together: give both or neither");
    if (query_groups) {
      p.query_groups = vector_data(*query_groups, n, "query_groups");
      p.document_groups = vector_data(*document_groups, m, "document_groups");
    }
    if (log_bias) p.log_bias = vector_data(*log_bias, m, "log_bias");
    if (segments) set_segments(*segments);
    if (!(scale > 0) || scale > 1e30f)
      throw py::value_error("temperature must be positive and finite");
    p.scale = scale;
    p.normalize = normalize, p.unit_norm = unit_norm, p.hard_only = hard_only;
  }

  Loss(const Loss&) = delete;
  Loss& operator=(const Loss&) = delete;

  void set_segments(const Integers& segments) {
    if (segments.ndim() != 2 || segments.shape(1) != 2)
      throw py::value_error("segments must have shape [count, 2], got " + shape_of(segments));
    problem.segments = segments.data();
    problem.segment_count = segments.shape(0);
    int64_t queries = 0, documents = 0;
    for (int64_t s = 0; s < problem.segment_count; ++s) {
      const int64_t own_queries = segments.at(s, 0), own_documents = segments.at(s, 1);
      if (own_queries < 0 || own_documents < 0 || own_queries > n - queries ||
          own_documents > m - documents)
        throw py::value_error("segments[" + std::to_string(s) + "] goes past the batch of " +
                              std::to_string(n) + " queries and " + std::to_string(m) +
                              " documents");
      for (int64_t i = queries; i < queries + own_queries; ++i)
        if (problem.labels[i] != -1 &&
            (problem.labels[i] < documents || problem.labels[i] >= documents + own_documents))
          throw py::value_error("labels[" + std::to_string(i) + "] is " +
                                std::to_string(problem.labels[i]) +
                                ", outside its segment's documents [" + std::to_string(documents) +
                                ", " + std::to_string(documents + own_documents) + ")");
      queries += own_queries, documents += own_documents;
    }
    if (queries != n || documents != m)
      throw py::value_error("segments hold " + std::to_string(queries) + " queries and " +
                            std::to_string(documents) + " documents, the batch has " +
                            std::to_string(n) + " and " + std::to_string(m));
  }

  py::array gradient(int64_t rows) const {
    const bool narrow =
        hybridret::infonce::gradient_format(problem.queries.format) != Format::kFloat32;
    return py::array(narrow ? py::dtype::of<uint16_t>() : py::dtype::of<float>(),
                     std::vector<py::ssize_t>{rows, problem.queries.depth});
  }

  void check_labels_present() const {
    for (int64_t i = 0; i < n; ++i)
      if (problem.labels[i] < 0)
        throw py::value_error("labels[" + std::to_string(i) + "] is -1: a row whose positive is " +
                              "elsewhere has no rank and no loss of its own");
  }

  // Columns have a loss of their own only where they answer one row.
  void check_distinct_labels() const {
    std::vector<int64_t> row(static_cast<size_t>(m), -1);
    for (int64_t i = 0; i < n; ++i) {
      if (problem.labels[i] < 0) continue;
      int64_t& first = row[problem.labels[i]];
      if (first >= 0)
        throw py::value_error("symmetric needs distinct labels, but labels[" +
                              std::to_string(first) + "] and labels[" + std::to_string(i) +
                              "] are both " + std::to_string(problem.labels[i]));
      first = i;
    }
  }

  std::vector<py::object> kept;  // the arrays that `problem` points into
  std::vector<int64_t> own_labels;
  int64_t n = 0, m = 0;
  hybridret::infonce::Problem problem{};
};

py::tuple infonce_forward(const Loss& loss, bool columns, bool ranks,
                          const std::optional<Floats>& row_weights, int threads) {
  threads = thread_count(threads);
  if (columns) loss.check_distinct_labels();
  if (ranks || (columns && row_weights)) loss.check_labels_present();
  Floats lse(loss.n), positive(loss.n), column_lse(columns ? loss.m : 0);
  Array<int32_t> rank(ranks ? loss.n : 0);
  const hybridret::infonce::Statistics statistics{lse.mutable_data(), positive.mutable_data(),
                                                  columns ? column_lse.mutable_data() : nullptr,
                                                  ranks ? rank.mutable_data() : nullptr};
  py::array by_query = loss.gradient(row_weights ? loss.n : 0);
  py::array by_document = loss.gradient(row_weights ? loss.m : 0);
  double by_scale = 0;
  const float* weights = row_weights ? vector_data(*row_weights, loss.n, "row_weights") : nullptr;
  const hybridret::infonce::Gradients gradients{by_query.mutable_data(), by_document.mutable_data(),
                                                &by_scale};
  {
    py::gil_scoped_release release;
    if (weights)
      hybridret::infonce::statistics_and_gradients(loss.problem, statistics, weights, gradients,
                                                   threads);
    else
      hybridret::infonce::statistics(loss.problem, statistics, threads);
  }
  return py::make_tuple(lse, positive, column_lse, rank, by_query, by_document, by_scale);
}

py::tuple infonce_backward(const Loss& loss, const Floats& lse,
                           const std::optional<Floats>& column_lse, const Floats& by_lse,
                           const Floats& by_positive, const std::optional<Floats>& by_column_lse,
                           int threads) {
  threads = thread_count(threads);
  if (column_lse.has_value() != by_column_lse.has_value())
    throw py::value_error("column_negatives_lse and its derivative go together");
  const hybridret::infonce::Statistics statistics{
      vector_data(lse, loss.n, "negatives_lse"), nullptr,
      column_lse ? vector_data(*column_lse, loss.m, "column_negatives_lse") : nullptr, nullptr};
  const hybridret::infonce::Upstream upstream{
      vector_data(by_lse, loss.n, "by_negatives_lse"),
      vector_data(by_positive, loss.n, "by_positive"),
      by_column_lse ? vector_data(*by_column_lse, loss.m, "by_column_negatives_lse") : nullptr};
  py::array by_query = loss.gradient(loss.n), by_document = loss.gradient(loss.m);
  double by_scale = 0;
  const hybridret::infonce::Gradients gradients{by_query.mutable_data(), by_document.mutable_data(),
                                                &by_scale};
  {
    py::gil_scoped_release release;
    hybridret::infonce::gradients(loss.problem, statistics, upstream, gradients, threads);
  }
  return py::make_tuple(by_query, by_document, by_scale);
}

// The rows of both matrices, which the calls about ranks read.
struct Vectors {
  Vectors(const py::array& query_array, const py::array& document_array)
      : queries(matrix(query_array, "queries")), documents(matrix(document_array, "documents")) {
    if (queries.depth != documents.depth)
      throw py::value_error("queries and documents differ in dimension: " + shape_of(query_array) +
                            " against " + shape_of(document_array));
    if (queries.depth == 0) throw py::value_error("vectors must have at least one dimension");
  }
  Matrix queries, documents;
};

template <class T>
void within(const T* values, int64_t count, int64_t end, const char* name) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= end)
      throw py::value_error(std::string(name) + "[" + std::to_string(i) + "] is " +
                            std::to_string(values[i]) + ", expected at least 0 and below " +
                            std::to_string(end));
}

int64_t length_of(const py::array& array) { return array.ndim() == 1 ? array.shape(0) : -1; }

Array<double> pair_scores(const py::array& queries, const py::array& documents,
                          const Integers& query_rows, const Integers& document_rows, bool cosine,
                          int threads) {
  const Vectors v(queries, documents);
  const int64_t count = length_of(query_rows);
  const int64_t* query_row = vector_data(query_rows, count, "query_rows");
  const int64_t* document_row = vector_data(document_rows, count, "document_rows");
  within(query_row, count, v.queries.rows, "query_rows");
  within(document_row, count, v.documents.rows, "document_rows");
  threads = thread_count(threads);
  Array<double> scores(count);
  double* out = scores.mutable_data();
  py::gil_scoped_release release;
  hybridret::ranking::pair_scores(v.queries, v.documents, cosine, count, query_row, document_row,
                                  out, threads);
  return scores;
}

py::tuple rank(const py::array& queries, const py::array& documents,
               const Array<int32_t>& document_language, const Integers& tie_order,
               const Integers& target_begin, const Array<double>& target_scores,
               const Integers& target_order, int64_t languages, bool cosine, bool ties, int64_t k,
               const std::string& screening, int threads) {
  using hybridret::ranking::Screening;
  const Vectors v(queries, documents);
  hybridret::ranking::Problem p{};
  p.queries = v.queries, p.documents = v.documents, p.cosine = cosine, p.languages = languages;
  p.document_language = vector_data(document_language, v.documents.rows, "document_language");
  within(p.document_language, v.documents.rows, languages, "document_language");
  p.tie_order = vector_data(tie_order, v.documents.rows, "tie_order");
  const int64_t total = length_of(target_scores);
  p.target_scores = vector_data(target_scores, total, "target_scores");
  for (int64_t t = 0; t < total; ++t)
    if (!std::isfinite(p.target_scores[t]))
      throw py::value_error("target_scores[" + std::to_string(t) + "] is not finite");
  p.target_order = vector_data(target_order, total, "target_order");
  p.target_begin = vector_data(target_begin, v.queries.rows + 1, "target_begin");
  for (int64_t i = 0; i <= v.queries.rows; ++i)
    if (i == 0 ? p.target_begin[0] != 0 : p.target_begin[i] < p.target_begin[i - 1])
      throw py::value_error("target_begin must start at 0 and not descend");
  if (p.target_begin[v.queries.rows] != total)
    throw py::value_error("target_begin must end at the number of targets, " +
                          std::to_string(total));
  if (k < 0) throw py::value_error("k must not be negative");
  if (screening == "auto")
    p.screening = Screening::kAuto;
  else if (screening == "bfloat16")
    p.screening = Screening::kBfloat16;
  else if (screening == "float32")
    p.screening = Screening::kFloat32;
  else
    throw py::value_error("screening must be auto, bfloat16 or float32, got '" + screening + "'");
  threads = thread_count(threads);

  Integers above({total, languages}), tied({ties ? total : 0, languages, int64_t{2}}),
      best({v.queries.rows, k});
  Array<double> scores({v.queries.rows, k});
  hybridret::ranking::Result result{above.mutable_data(),
                                    ties ? tied.mutable_data() : nullptr,
                                    k,
                                    best.mutable_data(),
                                    scores.mutable_data(),
                                    0};
  {
    py::gil_scoped_release release;
    hybridret::ranking::rank(p, result, threads);
  }
  return py::make_tuple(above, tied, best, scores, result.unsettled);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  using py::arg;
  using py::kw_only;
  m.doc() = "Native kernels of hybridret: InfoNCE, rank counting, search.";
  m.attr("__version__") = HYBRIDRET_VERSION;
  hybridret::similarity::watch_forks();
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
  m.def("share_openmp", &hybridret::similarity::share_openmp, arg("path"),
        "Runs on the threads of this libgomp, if it is loaded; whether it is.");
  m.def("release_scratch", &hybridret::similarity::release_kept,
        "Gives back the memory that is kept from call to call, at most 64 MiB.");
  m.def("default_threads", &hybridret::similarity::default_threads,
        "Processors this process may use.");

  py::class_<Loss>(m, "InfoNCE",
                   "One batch and how its logits are made; the arrays are not copied.")
      .def(py::init<const py::array&, const py::array&, const Integers&,
                    const std::optional<Integers>&, const std::optional<Integers>&,
                    const std::optional<Integers>&, const std::optional<Floats>&, float, bool, bool,
                    bool, bool>(),
           arg("queries"), arg("documents"), arg("labels"), kw_only(),
           arg("query_groups") = py::none(), arg("document_groups") = py::none(),
           arg("segments") = py::none(), arg("log_bias") = py::none(), arg("scale"),
           arg("normalize") = false, arg("unit_norm") = false, arg("hard_only") = false,
           arg("labels_elsewhere") = false)
      .def(
          "forward", &infonce_forward, kw_only(), arg("columns") = false, arg("ranks") = false,
          arg("row_weights") = py::none(), arg("threads") = 0,
          "(negatives_lse [N], positive [N], column_negatives_lse [M], rank [N], by_query [N, D], "
          "by_document [M, D], by_scale). What was not asked for is empty: the columns, the ranks, "
          "and without row_weights [N], the derivative of the total by each row's loss, the "
          "gradients. With columns the loss is the symmetric one.")
      .def("backward", &infonce_backward, arg("negatives_lse"),
           arg("column_negatives_lse") = py::none(), kw_only(), arg("by_negatives_lse"),
           arg("by_positive"), arg("by_column_negatives_lse") = py::none(), arg("threads") = 0,
           "(by_query [N, D], by_document [M, D], by_scale) from derivatives by the statistics.");
  // BadRow(text, "query" or "document", row)
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> bad_row;
  bad_row.call_once_and_store_result(
      [&] { return py::exception<hybridret::ranking::BadRow>(m, "BadRow", PyExc_ValueError); });
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const hybridret::ranking::BadRow& bad) {
      const char* side = bad.query ? "query" : "document";
      py::set_error(bad_row.get_stored(), py::make_tuple(bad.what(), side, bad.row));
    }
  });
  m.def("pair_scores", &pair_scores, arg("queries"), arg("documents"), kw_only(), arg("query_rows"),
        arg("document_rows"), arg("cosine"), arg("threads") = 0,
        "float64 [T]: exact scores of pairs.");
  m.def("rank", &rank, arg("queries"), arg("documents"), kw_only(), arg("document_language"),
        arg("tie_order"), arg("target_begin"), arg("target_scores"), arg("target_order"),
        arg("languages"), arg("cosine"), arg("ties") = false, arg("k") = 0,
        arg("screening") = "auto", arg("threads") = 0,
        "(above [T, L], tied [T or 0, L, 2], best rows [Q, k], their scores [Q, k], unsettled "
        "pairs), "
        "see ranking.h.");

  hybridret::index::bind(m);
}
