#include <string>

#include "cuda/library.h"
#include "cuda/runtime.h"

namespace hybridret::cuda {
namespace {

thread_local std::string error_text;

}  // namespace

void set_error(const char* text) { error_text = text; }

}  // namespace hybridret::cuda

HYBRIDRET_EXPORT int hybridret_cuda_abi(void) { return HYBRIDRET_CUDA_ABI; }

HYBRIDRET_EXPORT const char* hybridret_cuda_error(void) {
  return hybridret::cuda::error_text.c_str();
}

HYBRIDRET_EXPORT const char* hybridret_cuda_architectures(void) { return HYBRIDRET_ARCHITECTURES; }

HYBRIDRET_EXPORT int hybridret_cuda_device(void) {
  return hybridret::cuda::guarded([] { hybridret::cuda::current_device(); });
}
