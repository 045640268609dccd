// In-batch InfoNCE on a GPU: the products in their order, panel by panel.
//
// For a panel of R queries, with E its R x M weights in bfloat16 (float32 input: three planes):
//
//   E   = masked e^(s - shift)   s = scale Q D^T, in the epilogue of the first product, which also
//                                leaves exact row sums and the positives apart
//   dQ  = E D                    the rows' factors follow
//   dD += E^T (Q factor)         in the order of the panels
//
// 6 N M depth operations, 6 bytes of memory traffic for each weight. The shifts come from the
// lengths of the vectors; a tile of rows one of whose sums is too small to trust is computed again
// with its rows' true maxima, by kernels that find nothing to do otherwise: the host never waits.
//
// The symmetric loss needs the sums of all columns first. Where E fits the workspace whole, its
// elements are then multiplied in place by what the sums make of them: 6 N M depth operations and
// another 4 bytes for each weight. Where it does not, or where a tile was computed again, the
// weights come from another product: 8 N M depth.
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>

#include "infonce_cuda.h"
#include "rows.h"
#include "runtime.h"
#include "workspace.h"

namespace hybridret::cuda {
namespace {

class Run {
 public:
  Run(const Batch& batch, bool columns, bool gradients, void* workspace, int64_t bytes,
      Stream stream)
      : b_(batch),
        device_(current_device()),
        stream_(stream),
        w_(batch, columns, gradients, largest_panel(batch, columns, gradients, bytes), workspace),
        n_(static_cast<int>(batch.rows)),
        m_(static_cast<int>(batch.columns)) {
    measure_vectors(columns);
  }

  void forward(const hybridret_cuda_forward_output& out) {
    const bool symmetric = out.column_negatives_lse, gradients = out.by_scale;
    if (!symmetric) {
      for_panels([&](int first, int count) {
        row_statistics(first, count, out, gradients);
        if (gradients) products(first, count, out.by_query, out.by_document);
      });
      ranks(out);
      if (gradients) finish_documents(out.by_document);
      if (out.loss) totals(out.loss, out.weight, out.by_scale);
      return;
    }
    const bool kept = gradients && w_.panel_rows >= n_ && m_ > 0;
    if (kept)
      column_statistics<true>(out);
    else
      column_statistics<false>(out);
    ranks(out);
    if (!out.loss) return;
    zero(w_.column_weight, int64_t{m_} * 4, stream_);
    float* by_lse = gradients ? w_.row_weight : nullptr;
    each(n_, symmetric_rows, n_, w_.mate, out.negatives_lse, out.positive, out.column_negatives_lse,
         out.weight, w_.losses, by_lse, w_.by_positive, w_.column_weight);
    if (gradients)
      weighted_gradients(out.negatives_lse, w_.row_weight, w_.by_positive, out.column_negatives_lse,
                         w_.column_weight, out.by_query, out.by_document, kept);
    totals(out.loss, out.weight, out.by_scale);
  }

  void backward(const hybridret_cuda_backward_arguments& a) {
    weighted_gradients(a.negatives_lse, a.by_negatives_lse, a.by_positive, a.column_negatives_lse,
                       a.by_column_negatives_lse, a.by_query, a.by_document, false);
    totals(nullptr, 0, a.by_scale);
  }

 private:
  // ---- launches -------------------------------------------------------------------------------

  // A thread for each of `count`.
  template <class Kernel, class... Arguments>
  void each(int64_t count, Kernel kernel, const Arguments&... arguments) const {
    if (count > 0)
      launch(kernel, static_cast<int>(ceil_div(count, 256)), 256, 0, stream_, arguments...);
  }

  // A warp for each of `rows`.
  template <class Kernel, class... Arguments>
  void each_row(int64_t rows, Kernel kernel, const Arguments&... arguments) const {
    if (rows > 0)
      launch(kernel, static_cast<int>(ceil_div(rows, kRowsPerBlock)), kRowThreads, 0, stream_,
             arguments...);
  }

  Shape shape_of(int64_t rows, int64_t columns, int64_t depth, int planes, int width,
                 int together) const {
    Shape s{static_cast<int>(rows),
            static_cast<int>(columns),
            static_cast<int>(depth),
            0,
            {},
            {},
            static_cast<int>(ceil_div(rows, kTileRows)),
            static_cast<int>(ceil_div(columns, width)),
            together};
    // Planes p and q make terms of 2^-8(p + q): the small ones first, those past 2^-24 not at all.
    for (int order = planes - 1; order >= 0; --order)
      for (int p = 0; p <= order; ++p) {
        s.a_plane[s.pairs] = static_cast<signed char>(p);
        s.b_plane[s.pairs++] = static_cast<signed char>(order - p);
      }
    return s;
  }

  // Narrow tiles where wide ones would leave multiprocessors idle.
  bool narrow(int64_t rows, int64_t columns) const {
    return ceil_div(rows, kTileRows) * ceil_div(columns, 256) < device_.multiprocessors;
  }
  int tile_width(bool is_narrow) const { return device_.hopper && !is_narrow ? 256 : 128; }
  int strips(int64_t columns, bool is_narrow) const {
    return static_cast<int>(device_.hopper ? ceil_div(columns, tile_width(is_narrow))
                                           : ceil_div(columns, AmpereTile::kColumns) * 4);
  }

  template <int kWidth, bool kHalf, bool kTransposedA, bool kTransposedB, class Epilogue>
  void multiply_wide(const Matrix& a, const Matrix& b, const Shape& shape,
                     const Epilogue& epilogue) const {
    const TensorMap a_map = make_tensor_map(a.operand(), a.planes);
    const TensorMap b_map = make_tensor_map(b.operand(), b.planes);
    launch(multiply_hopper<kWidth, kHalf, kTransposedA, kTransposedB, Epilogue>, blocks(shape),
           HopperTile<kWidth>::kThreads, HopperTile<kWidth>::kShared + 1024, stream_, a_map, b_map,
           shape, epilogue);
  }

  int blocks(const Shape& shape) const {
    return std::min(shape.row_tiles * shape.column_tiles, device_.multiprocessors);
  }

  template <bool kHalf, bool kTransposedA, bool kTransposedB, bool kNarrow, class Epilogue>
  void multiply(const Matrix& a, const Matrix& b, int64_t rows, int64_t columns, int64_t depth,
                int together, bool is_narrow, const Epilogue& epilogue) const {
    if (rows == 0 || columns == 0 || depth == 0) return;
    const Shape shape = shape_of(rows, columns, depth, a.planes, tile_width(is_narrow), together);
    if (!device_.hopper)
      launch(multiply_ampere<kHalf, kTransposedA, kTransposedB, Epilogue>, blocks(shape),
             AmpereTile::kThreads, AmpereTile::kShared, stream_, a.operand(), b.operand(), shape,
             epilogue);
    else if (!is_narrow)
      multiply_wide<256, kHalf, kTransposedA, kTransposedB>(a, b, shape, epilogue);
    else if constexpr (kNarrow)
      multiply_wide<128, kHalf, kTransposedA, kTransposedB>(a, b, shape, epilogue);
  }

  // Inner products of rows of both, for an epilogue that makes logits of them.
  template <bool kNarrow, class Epilogue>
  void inner_products(const Matrix& a, const Matrix& b, bool is_narrow,
                      const Epilogue& epilogue) const {
    if (b_.format == kFloat16)
      multiply<true, false, false, kNarrow>(a, b, a.rows, b.rows, w_.depth, 16, is_narrow,
                                            epilogue);
    else
      multiply<false, false, false, kNarrow>(a, b, a.rows, b.rows, w_.depth, 16, is_narrow,
                                             epilogue);
  }

  template <class Work>
  void for_panels(const Work& work) const {
    for (int64_t first = 0; first < n_; first += w_.panel_rows)
      work(static_cast<int>(first), static_cast<int>(std::min<int64_t>(w_.panel_rows, n_ - first)));
  }

  // ---- what is known of the vectors -----------------------------------------------------------

  Vectors vectors(const void* data, int64_t stride, int64_t first, int64_t rows) const {
    const int64_t bytes = b_.format == kFloat32 ? 4 : 2;
    return {static_cast<const char*>(data) + first * stride * bytes, stride, static_cast<int>(rows),
            static_cast<int>(b_.depth), b_.format};
  }
  Vectors queries(int64_t first, int64_t rows) const {
    return vectors(b_.queries, b_.query_stride, first, rows);
  }
  Vectors documents() const { return vectors(b_.documents, b_.document_stride, 0, m_); }

  static Planes planes(const Matrix& m, bool half = false) {
    return {m.data, m.stride, m.plane, m.planes, half};
  }

  void measure_vectors(bool common_shift) {
    const bool half = b_.format == kFloat16, biased = b_.log_bias || b_.hard_only;
    const Planes none{nullptr, 0, 0, 0, false};
    const float tolerance = !b_.unit_norm ? 0.0f : b_.format == kFloat32 ? 1e-3f : 1e-2f;
    const int depth = static_cast<int>(w_.depth);
    const int row_tiles = static_cast<int>(ceil_div(n_, kTileRows));
    const int column_tiles = static_cast<int>(ceil_div(m_, kTileRows));
    each(std::max({row_tiles, column_tiles, 1}), start, w_.measures, b_.log_bias && m_ > 0,
         w_.chosen, row_tiles, w_.chosen_columns, column_tiles);
    each_row(int64_t{n_} + m_, measure,
             Side{queries(0, n_), w_.queries_in_place ? none : planes(w_.queries, half), none,
                  w_.query_factor, w_.query_length},
             Side{documents(), w_.documents_in_place ? none : planes(w_.documents, half),
                  w_.rounded.data != w_.documents.data ? planes(w_.rounded) : none,
                  w_.document_factor, w_.document_length},
             depth, w_.measures, b_.normalize != 0, tolerance);
    if (biased) each(m_, measure_biases, b_.log_bias, m_, w_.bias, w_.positive_bias, w_.measures);
    if (b_.hard_only) each(n_, mask_labels, b_.labels, n_, b_.column_offset, m_, w_.bias);
    each(n_, start_rows, n_, m_, b_.scale, w_.measures, b_.labels, b_.column_offset,
         b_.labels_elsewhere != 0, common_shift, w_.query_factor, w_.query_length, w_.row_scale,
         w_.shift, w_.mate, w_.positive);
  }

  Terms terms(int first, int count, bool positives) const {
    const bool biased = b_.log_bias || b_.hard_only;
    Terms t{};
    t.rows = count;
    t.columns = m_;
    t.row_scale = w_.row_scale + first;
    t.column_scale = b_.normalize ? w_.document_factor : nullptr;
    t.column_bias = biased ? w_.bias : nullptr;
    t.positive_bias = biased ? w_.positive_bias : nullptr;
    t.row_group = b_.query_groups ? b_.query_groups + first : nullptr;
    t.column_group = b_.query_groups ? b_.document_groups : nullptr;
    t.row_mate = w_.mate + first;
    t.positive = positives ? w_.positive + first : nullptr;
    return t;
  }

  // Documents as rows, queries as columns.
  Terms swapped_terms(int first, int count) const {
    const bool biased = b_.log_bias || b_.hard_only;
    Terms t{};
    t.rows = count;
    t.columns = n_;
    t.first_row = first;
    t.row_scale = w_.document_factor + first;
    t.column_scale = w_.row_scale;
    t.row_bias = biased ? w_.bias + first : nullptr;
    t.row_group = b_.query_groups ? b_.document_groups + first : nullptr;
    t.column_group = b_.query_groups;
    t.column_mate = w_.mate;
    return t;
  }

  // ---- statistics -----------------------------------------------------------------------------

  // Sums of exponentials of all tiles, or of the chosen ones with their true maxima.
  template <bool kStore, bool kColumnSums>
  void exponentials(const Matrix& a, const Matrix& b, const Terms& terms, const int* chosen,
                    const float* shift, int strips, bool is_narrow) const {
    const Stored stored{w_.weights.data, w_.weights.stride, w_.weights.plane, w_.weights.planes};
    const auto at = [&](auto level) {
      inner_products<kStore && !kColumnSums>(
          a, b, is_narrow,
          Exponentials<level, kStore, kColumnSums>{
              {terms, chosen}, shift, w_.sums, strips, w_.column_sums, stored});
    };
    if (kColumnSums || terms.row_group || terms.column_mate)
      at(std::integral_constant<Level, kMasked>());
    else if constexpr (!kColumnSums) {
      if (terms.column_scale || terms.column_bias || terms.row_bias)
        at(std::integral_constant<Level, kScaled>());
      else
        at(std::integral_constant<Level, kPlain>());
    }
  }

  // Whether an exponential may be so small that one alone does not reach kWeakSum.
  bool may_be_weak() const { return !(b_.logit_bound > 0 && b_.logit_bound <= kHeadroom); }

  // Tiles of rows with a weak sum, again with their true maxima.
  template <bool kStore>
  void strengthen(const Matrix& a, const Matrix& b, const Terms& terms, const int* chosen,
                  float* largest, int strips, bool is_narrow) const {
    inner_products<false>(a, b, false, Maxima{{terms, chosen}, largest});
    exponentials<kStore, false>(a, b, terms, chosen, largest, strips, is_narrow);
  }

  void row_statistics(int first, int count, const hybridret_cuda_forward_output& out,
                      bool store) const {
    const Matrix rows = w_.queries.row_range(first, count);
    const bool is_narrow = store && narrow(count, m_);
    const int parts = strips(m_, is_narrow);
    int* chosen = w_.chosen + first / kTileRows;
    float* largest = w_.largest + first;
    if (store)
      exponentials<true, false>(rows, w_.documents, terms(first, count, true), nullptr,
                                w_.shift + first, parts, is_narrow);
    else
      exponentials<false, false>(rows, w_.documents, terms(first, count, true), nullptr,
                                 w_.shift + first, parts, is_narrow);
    finish_row_sums(first, count, parts, out, store, [&](const Terms& t) {
      if (store)
        strengthen<true>(rows, w_.documents, t, chosen, largest, parts, is_narrow);
      else
        strengthen<false>(rows, w_.documents, t, chosen, largest, parts, is_narrow);
    });
  }

  template <class Again>
  void finish_row_sums(int first, int count, int parts, const hybridret_cuda_forward_output& out,
                       bool gradients, const Again& again) const {
    int* chosen = w_.chosen + first / kTileRows;
    if (may_be_weak()) {
      each_row(count, choose_weak, count, w_.sums, parts, chosen, w_.largest + first);
      again(terms(first, count, false));
    }
    each_row(count, finish_rows,
             Finished{count, w_.sums, parts, chosen, w_.shift + first, w_.largest + first,
                      out.negatives_lse + first},
             row_output(first, count, out.weight, out.positive + first, gradients));
  }

  RowOutput row_output(int first, int count, float weight, float* positive, bool gradients) const {
    return {w_.positive + first,
            w_.mate + first,
            b_.scale,
            weight,
            positive,
            w_.losses + first,
            gradients ? w_.factor + first : nullptr,
            w_.positive_factor + first,
            queries(first, count),
            planes(w_.scaled),
            w_.query_factor + first,
            static_cast<int>(w_.depth)};
  }

  // kKeep: of the only panel the exponentials are stored.
  template <bool kKeep>
  void column_statistics(const hybridret_cuda_forward_output& out) const {
    const int parts = strips(m_, false);
    for_panels([&](int first, int count) {
      const Matrix rows = w_.queries.row_range(first, count);
      exponentials<kKeep, true>(rows, w_.documents, terms(first, count, true), nullptr,
                                w_.shift + first, parts, false);
      each(m_, add_column_sums, w_.column_sums, static_cast<int>(ceil_div(count, kTileRows)), m_,
           w_.column_total, first == 0, may_be_weak() && first + w_.panel_rows >= n_,
           w_.chosen_columns, w_.column_largest);
      finish_row_sums(first, count, parts, out, false, [&](const Terms& t) {
        strengthen<false>(rows, w_.documents, t, w_.chosen + first / kTileRows, w_.largest + first,
                          parts, false);
      });
    });
    if (n_ == 0)
      each(m_, add_column_sums, w_.column_sums, 0, m_, w_.column_total, true, false,
           w_.chosen_columns, w_.column_largest);
    each(m_, finish_strong_columns, w_.column_total, m_, w_.shift, w_.chosen_columns,
         out.column_negatives_lse);
    if (!may_be_weak()) return;
    const int swapped_parts = strips(n_, false);
    for (int64_t first = 0; first < m_; first += w_.panel_rows) {
      const int count = static_cast<int>(std::min<int64_t>(w_.panel_rows, m_ - first));
      const Matrix rows = w_.documents.row_range(first, count);
      int* chosen = w_.chosen_columns + first / kTileRows;
      float* largest = w_.column_largest + first;
      strengthen<false>(rows, w_.queries, swapped_terms(static_cast<int>(first), count), chosen,
                        largest, swapped_parts, false);
      each_row(count, finish_weak_columns,
               Finished{count, w_.sums, swapped_parts, chosen, largest, largest,
                        out.column_negatives_lse + first});
    }
  }

  void ranks(const hybridret_cuda_forward_output& out) const {
    if (!out.rank) return;
    const int parts = strips(m_, false);
    for_panels([&](int first, int count) {
      int* counts = reinterpret_cast<int*>(w_.sums);
      inner_products<false>(
          w_.queries.row_range(first, count), w_.documents, false,
          Above{{terms(first, count, false), nullptr}, w_.positive + first, counts, parts});
      each_row(count, finish_ranks, count, counts, parts, out.negatives_lse + first,
               out.positive + first, out.rank + first);
    });
  }

  // ---- gradients ------------------------------------------------------------------------------

  // dQ and dD of a panel whose weights and scaled queries are there.
  void products(int first, int count, void* by_query, void* by_document) const {
    const int64_t depth = w_.depth;
    Matrix weights = w_.weights, scaled = w_.scaled;
    weights.rows = scaled.rows = count;
    if (m_ == 0) zero(w_.by_query, count * depth * 4, stream_);
    multiply<false, false, true, true>(
        weights, w_.rounded, count, depth, m_, 1, narrow(count, depth),
        Sums{w_.by_query, count, static_cast<int>(depth), depth, false});
    const int64_t bytes = b_.format == kBfloat16 ? 2 : 4;
    each_row(count, finish_queries,
             QueryGradients{
                 queries(first, count), documents(), w_.by_query, static_cast<int>(depth),
                 w_.factor + first, w_.positive_factor + first, w_.query_factor + first,
                 w_.document_factor, w_.mate + first, b_.normalize != 0,
                 static_cast<char*>(by_query) + first * b_.depth * bytes, w_.scale_terms + first});
    multiply<false, true, true, true>(
        weights, scaled, m_, depth, count, 1, narrow(m_, depth),
        Sums{document_sums(by_document), m_, static_cast<int>(depth), depth, first > 0});
  }

  float* document_sums(void* by_document) const {
    return w_.by_document ? w_.by_document : static_cast<float*>(by_document);
  }

  void weighted_gradients(const float* lse, const float* by_lse, const float* by_positive,
                          const float* column_lse, const float* by_column, void* by_query,
                          void* by_document, bool kept) const {
    each(n_, start_weights, n_, lse, by_lse, w_.row_lse, w_.row_weight);
    if (by_column)
      each(m_, start_weights, m_, column_lse, by_column, w_.column_lse, w_.column_weight);
    const Stored stored{w_.weights.data, w_.weights.stride, w_.weights.plane, w_.weights.planes};
    if (kept) weigh_kept(stored);
    for_panels([&](int first, int count) {
      if (!kept || may_be_weak())
        inner_products<false>(w_.queries.row_range(first, count), w_.documents, false,
                              Weights{{terms(first, count, false), kept ? w_.any : nullptr},
                                      w_.row_lse + first,
                                      w_.row_weight + first,
                                      by_column ? w_.column_lse : nullptr,
                                      w_.column_weight,
                                      stored});
      each_row(count, start_gradient_rows, count, by_positive + first,
               row_output(first, count, 0, nullptr, true));
      products(first, count, by_query, by_document);
    });
    finish_documents(by_document);
  }

  // The exponentials of the only panel become weights, unless some tile was computed again.
  void weigh_kept(const Stored& stored) const {
    launch(any_chosen, 1, 32, 0, stream_, w_.chosen, static_cast<int>(ceil_div(n_, kTileRows)),
           w_.chosen_columns, static_cast<int>(ceil_div(m_, kTileRows)), w_.any);
    each(n_, start_factors, n_, w_.row_lse, w_.row_weight, w_.shift, w_.row_factor);
    each(m_, start_factors, m_, w_.column_lse, w_.column_weight, w_.shift, w_.column_factor);
    each_row(ceil_div(n_, kRowsPerWarp), weigh, stored, n_, m_, w_.row_factor, w_.column_factor,
             w_.any);
  }

  void finish_documents(void* by_document) const {
    each_row(m_, hybridret::cuda::finish_documents,
             DocumentGradients{queries(0, n_), documents(), document_sums(by_document),
                               static_cast<int>(w_.depth), w_.positive_factor, w_.query_factor,
                               w_.document_factor, b_.label_order, b_.label_begin, b_.row_offset,
                               b_.normalize != 0, by_document});
  }

  // The loss, and the derivative by the scale; either may be missing.
  void totals(double* loss, double weight, double* by_scale) const {
    const Total of_loss{w_.losses, n_, weight, nullptr, loss};
    const Total of_scale{w_.scale_terms, n_, 1, b_.scale, by_scale};
    launch(add_up, loss && by_scale ? 2 : 1, kRowThreads, 2048, stream_, loss ? of_loss : of_scale,
           of_scale, b_.first == 0);
  }

  const Batch& b_;
  const Device device_;
  const Stream stream_;
  const Workspace w_;
  const int n_, m_;
};

thread_local std::string error_text;

template <class Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    error_text = error.what();
    return 1;
  }
}

}  // namespace
}  // namespace hybridret::cuda

using namespace hybridret::cuda;

#define HYBRIDRET_EXPORT extern "C" __attribute__((visibility("default")))

HYBRIDRET_EXPORT int hybridret_cuda_abi(void) { return HYBRIDRET_CUDA_ABI; }

HYBRIDRET_EXPORT const char* hybridret_cuda_error(void) { return error_text.c_str(); }

HYBRIDRET_EXPORT const char* hybridret_cuda_architectures(void) { return HYBRIDRET_ARCHITECTURES; }

HYBRIDRET_EXPORT int hybridret_cuda_device(void) {
  return guarded([] { current_device(); });
}

HYBRIDRET_EXPORT int hybridret_cuda_workspace(const hybridret_cuda_batch* batch, int columns,
                                              int gradients, int64_t limit, int64_t* bytes) {
  return guarded([&] {
    const int64_t panel =
        choose_panel(*batch, columns, gradients, limit, current_device().multiprocessors);
    *bytes = Workspace(*batch, columns, gradients, panel, nullptr).bytes;
  });
}

HYBRIDRET_EXPORT int hybridret_cuda_forward(const hybridret_cuda_batch* batch,
                                            const hybridret_cuda_forward_output* output,
                                            void* workspace, int64_t bytes, void* stream) {
  return guarded([&] {
    Run(*batch, output->column_negatives_lse, output->by_scale, workspace, bytes,
        static_cast<Stream>(stream))
        .forward(*output);
  });
}

HYBRIDRET_EXPORT int hybridret_cuda_backward(const hybridret_cuda_batch* batch,
                                             const hybridret_cuda_backward_arguments* arguments,
                                             void* workspace, int64_t bytes, void* stream) {
  return guarded([&] {
    Run(*batch, arguments->by_column_negatives_lse, true, workspace, bytes,
        static_cast<Stream>(stream))
        .backward(*arguments);
  });
}
