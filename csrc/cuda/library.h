// How the parts of the library export their functions.
#pragma once

#include <exception>

#include "cuda/hybridret_cuda.h"

#define HYBRIDRET_EXPORT extern "C" __attribute__((visibility("default")))

namespace hybridret::cuda {

// What hybridret_cuda_error() says from now on, in this thread.
void set_error(const char* text);

// Does the work of an exported function: 0, or 1 and a sentence. No exception leaves the library.
template <class Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    set_error(error.what());
    return 1;
  }
}

}  // namespace hybridret::cuda
