// AVX-512 with its byte, doubleword and vector-length parts, which every such server core has.
#include "similarity/avx512_source.h"

#define HYBRIDRET_KERNEL kAvx512Kernel
#define HYBRIDRET_ISA_NAME "avx512"
#include "similarity/kernel_source.h"
