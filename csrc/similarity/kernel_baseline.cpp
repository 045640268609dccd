#define HYBRIDRET_LANES 4
#define HYBRIDRET_ROWS 6
#define HYBRIDRET_KERNEL kBaselineKernel
#define HYBRIDRET_ISA_NAME "baseline"
#include "similarity/kernel_source.h"
