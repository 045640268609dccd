/* In-batch InfoNCE on a GPU. The mathematics is that of infonce/infonce.h. */
#pragma once

#include <stdint.h>

#include "cuda/hybridret_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A batch, or one segment of a batch: then all but the labels and their order point at the
 * segment's own part. Strides in elements; vectors are contiguous. */
typedef struct {
  const void* queries;   /* [query_count, depth] */
  const void* documents; /* [document_count, depth] */
  int64_t query_stride, document_stride;
  int64_t query_count, document_count, depth;
  const int64_t* labels;       /* [query_count], of documents of the batch, or null: 0, 1, 2, ... */
  const int64_t* label_order;  /* with labels: the queries of the batch by label, stable */
  const int64_t* label_begin;  /* [document_count + 1], with labels: where each label's queries
                                  begin in label_order */
  const int64_t* query_groups; /* [query_count] or null */
  const int64_t* document_groups;      /* [document_count] or null */
  const float* log_bias;               /* [document_count] or null */
  const float* scale;                  /* 1 / temperature */
  int64_t first_query, first_document; /* of the segment, in the batch */
  float logit_bound; /* that no logit's magnitude exceeds, where the host knows one; else 0 */
  int32_t format;    /* of queries and documents */
  int32_t normalize, unit_norm, hard_only;
  int32_t labels_elsewhere; /* a label of -1: the positive is not among these documents */
  int32_t first_segment;    /* loss and by_scale are written, not added to */
} hybridret_cuda_infonce_batch;

typedef struct {
  float* negatives_lse;          /* [query_count] */
  float* positive;               /* [query_count] */
  float* document_negatives_lse; /* [document_count] or null: with it the loss is symmetric */
  int32_t* rank;                 /* [query_count] or null */
  double* loss;                  /* the weighted sum, or null: no loss and no gradients */
  void* by_query;                /* [query_count, depth], bfloat16 for bfloat16, else float32 */
  void* by_document;             /* [document_count, depth] */
  double* by_scale;              /* or null: no gradients */
  float weight;                  /* of each query's loss */
} hybridret_cuda_infonce_forward_output;

typedef struct {
  const float* negatives_lse;             /* [query_count] */
  const float* document_negatives_lse;    /* [document_count] or null */
  const float* by_negatives_lse;          /* [query_count] */
  const float* by_positive;               /* [query_count] */
  const float* by_document_negatives_lse; /* [document_count] or null */
  void* by_query;
  void* by_document;
  double* by_scale;
} hybridret_cuda_infonce_backward_arguments;

/* Bytes of workspace: as many as are of use, at most `limit`; fails if that is too few. */
int hybridret_cuda_infonce_workspace(const hybridret_cuda_infonce_batch* batch,
                                     int document_statistics, int gradients, int64_t limit,
                                     int64_t* bytes);

int hybridret_cuda_infonce_forward(const hybridret_cuda_infonce_batch* batch,
                                   const hybridret_cuda_infonce_forward_output* output,
                                   void* workspace, int64_t bytes, void* stream);

int hybridret_cuda_infonce_backward(const hybridret_cuda_infonce_batch* batch,
                                    const hybridret_cuda_infonce_backward_arguments* arguments,
                                    void* workspace, int64_t bytes, void* stream);

#ifdef __cplusplus
}
#endif
