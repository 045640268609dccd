/* libhybridret_cuda, a C library: raw device pointers and a stream, no allocation, no host
 * synchronisation. Here is what belongs to the library as a whole; the functions of its parts have
 * headers of their own (infonce/infonce_cuda.h) and the part's name in theirs. Functions that do
 * work return 0, or fail and leave a sentence in hybridret_cuda_error(). */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with any function or struct of any part. */
#define HYBRIDRET_CUDA_ABI 2

enum { HYBRIDRET_FLOAT32 = 0, HYBRIDRET_BFLOAT16 = 1, HYBRIDRET_FLOAT16 = 2 };

int hybridret_cuda_abi(void);
const char* hybridret_cuda_error(void);         /* of this thread's last failure */
const char* hybridret_cuda_architectures(void); /* that it was built for, separated by blanks */
int hybridret_cuda_device(void);                /* whether the current device can be used */

#ifdef __cplusplus
}
#endif
