#define HYBRIDRET_LANES 8
#define HYBRIDRET_ROWS 6
#define HYBRIDRET_KERNEL kAvx2Kernel
#define HYBRIDRET_ISA_NAME "avx2"
#include "similarity/kernel_source.h"
