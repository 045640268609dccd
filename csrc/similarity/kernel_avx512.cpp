#define HYBRIDRET_LANES 16
#define HYBRIDRET_ROWS 14
#define HYBRIDRET_KERNEL kAvx512Kernel
#define HYBRIDRET_ISA_NAME "avx512"
#include "similarity/kernel_source.h"
