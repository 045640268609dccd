#include "similarity/elements.h"

#include "similarity/kernel.h"

namespace hybridret::similarity {

void widen(Format format, const void* from, int64_t count, float* to) {
  active_kernel().widen(format, from, count, to);
}

void narrow(Format format, const float* from, int64_t count, void* to) {
  active_kernel().narrow(format, from, count, to);
}

}  // namespace hybridret::similarity
