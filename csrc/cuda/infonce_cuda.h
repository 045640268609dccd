/* In-batch InfoNCE on a GPU, as a C library: raw device pointers and a stream, no allocation, no
 * host synchronisation. The mathematics is that of infonce/infonce.h. All functions return 0, or
 * fail and leave a sentence in hybridret_cuda_error(). */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HYBRIDRET_CUDA_ABI 1

enum { HYBRIDRET_FLOAT32 = 0, HYBRIDRET_BFLOAT16 = 1, HYBRIDRET_FLOAT16 = 2 };

/* A batch, or one segment of a batch: then all but the labels and their order point at the
 * segment's own part. Strides in elements; rows of vectors are contiguous. */
typedef struct {
  const void* queries;   /* [rows, depth] */
  const void* documents; /* [columns, depth] */
  int64_t query_stride, document_stride;
  int64_t rows, columns, depth;
  const int64_t*
      labels; /* [rows] or null: 0, 1, 2, ...; less column_offset the positive's column */
  const int64_t* label_order;     /* [N] or null: all rows by label, stable; with labels */
  const int64_t* label_begin;     /* [columns + 1] or null: where each label's rows stand in it */
  const int64_t* query_groups;    /* [rows] or null */
  const int64_t* document_groups; /* [columns] or null */
  const float* log_bias;          /* [columns] or null */
  const float* scale;             /* 1 / temperature */
  int64_t row_offset, column_offset; /* of the segment */
  float logit_bound; /* that no logit's magnitude exceeds, where the host knows one; else 0 */
  int32_t format;
  int32_t normalize, unit_norm, hard_only;
  int32_t labels_elsewhere; /* a label of -1: the positive is not among these columns */
  int32_t first;            /* of several segments: totals are written, not added to */
} hybridret_cuda_batch;

typedef struct {
  float* negatives_lse;        /* [rows] */
  float* positive;             /* [rows] */
  float* column_negatives_lse; /* [columns] or null: with it the loss is symmetric */
  int32_t* rank;               /* [rows] or null */
  double* loss;                /* the weighted sum, or null: no loss and no gradients */
  void* by_query;              /* [rows, depth], bfloat16 for bfloat16, else float32 */
  void* by_document;           /* [columns, depth] */
  double* by_scale;            /* or null: no gradients */
  float weight;                /* of each row's loss */
} hybridret_cuda_forward_output;

typedef struct {
  const float* negatives_lse;           /* [rows] */
  const float* column_negatives_lse;    /* [columns] or null */
  const float* by_negatives_lse;        /* [rows] */
  const float* by_positive;             /* [rows] */
  const float* by_column_negatives_lse; /* [columns] or null */
  void* by_query;
  void* by_document;
  double* by_scale;
} hybridret_cuda_backward_arguments;

int hybridret_cuda_abi(void);
const char* hybridret_cuda_error(void);
const char* hybridret_cuda_architectures(void); /* that it was built for, separated by blanks */
int hybridret_cuda_device(void);                /* whether the current device can be used */

/* Bytes of workspace: as many as are of use, at most `limit`; fails if that is too few. */
int hybridret_cuda_workspace(const hybridret_cuda_batch* batch, int columns, int gradients,
                             int64_t limit, int64_t* bytes);

int hybridret_cuda_forward(const hybridret_cuda_batch* batch,
                           const hybridret_cuda_forward_output* output, void* workspace,
                           int64_t bytes, void* stream);

int hybridret_cuda_backward(const hybridret_cuda_batch* batch,
                            const hybridret_cuda_backward_arguments* arguments, void* workspace,
                            int64_t bytes, void* stream);

#ifdef __cplusplus
}
#endif
