// In-batch InfoNCE on a GPU: the products in their order, panel by panel.
//
// For a panel of R queries, with E its R x M weights in bfloat16 (float32 input: three planes):
//
//   E   = masked e^(s - shift)   s = scale Q D^T, in the epilogue of the first product, which also
//                                leaves exact sums of the queries and the positives apart
//   dQ  = E D                    the queries' factors follow
//   dD += E^T (Q factor)         in the order of the panels
//
// 6 N M depth operations, 6 bytes of memory traffic for each weight. The shifts come from the
// lengths of the vectors; a tile of queries one of whose sums is too small to trust is computed
// again with its queries' true maxima, by kernels that find nothing to do otherwise: the host never
// waits.
//
// The symmetric loss needs the sums of all documents first. Where E fits the workspace whole, its
// elements are then multiplied in place by what the sums make of them: 6 N M depth operations and
// another 4 bytes for each weight. Where it does not, or where a tile was computed again, the
// weights come from another product: 8 N M depth.
#include "cuda/infonce/infonce_cuda.h"
#include "cuda/infonce/run.h"
#include "cuda/library.h"

namespace hybridret::cuda::infonce {

void Run::forward(const ForwardOutput& out) const {
  const bool gradients = out.by_scale;
  if (!out.document_negatives_lse) {
    for_panels([&](int first, int count) {
      query_statistics(first, count, out, gradients);
      if (gradients) products(first, count, out.by_query, out.by_document);
    });
    ranks(out);
    if (gradients) finish_documents(out.by_document);
    if (out.loss) totals(out.loss, out.weight, out.by_scale);
    return;
  }
  const bool kept = gradients && w_.panel_queries >= n_ && m_ > 0;
  query_and_document_statistics(out, kept);
  ranks(out);
  if (!out.loss) return;
  symmetric_losses(out, gradients ? w_.query_weight : nullptr, w_.by_positive, w_.document_weight);
  if (gradients)
    weighted_gradients(
        {out.negatives_lse, out.document_negatives_lse, w_.query_weight, w_.by_positive,
         w_.document_weight, out.by_query, out.by_document, out.by_scale},
        kept);
  totals(out.loss, out.weight, out.by_scale);
}

void Run::backward(const BackwardArguments& given) const {
  weighted_gradients(given, false);
  totals(nullptr, 0, given.by_scale);
}

}  // namespace hybridret::cuda::infonce

using namespace hybridret::cuda;

HYBRIDRET_EXPORT int hybridret_cuda_infonce_workspace(const hybridret_cuda_infonce_batch* batch,
                                                      int document_statistics, int gradients,
                                                      int64_t limit, int64_t* bytes) {
  return guarded([&] {
    const int64_t panel = infonce::choose_panel(*batch, document_statistics, gradients, limit,
                                                current_device().multiprocessors);
    *bytes = infonce::Workspace(*batch, document_statistics, gradients, panel, nullptr).bytes;
  });
}

HYBRIDRET_EXPORT int hybridret_cuda_infonce_forward(
    const hybridret_cuda_infonce_batch* batch, const hybridret_cuda_infonce_forward_output* output,
    void* workspace, int64_t bytes, void* stream) {
  return guarded([&] {
    infonce::Run(*batch, output->document_negatives_lse, output->by_scale, workspace, bytes,
                 static_cast<Stream>(stream))
        .forward(*output);
  });
}

HYBRIDRET_EXPORT int hybridret_cuda_infonce_backward(
    const hybridret_cuda_infonce_batch* batch,
    const hybridret_cuda_infonce_backward_arguments* arguments, void* workspace, int64_t bytes,
    void* stream) {
  return guarded([&] {
    infonce::Run(*batch, arguments->by_document_negatives_lse, true, workspace, bytes,
                 static_cast<Stream>(stream))
        .backward(*arguments);
  });
}
