// What the loss on a CPU and the loss on a GPU have in common: limits, and the formulas they are
// for.
#pragma once

#include <cmath>
#include <limits>

#include "similarity/elements.h"

#ifdef __CUDACC__
#define HYBRIDRET_HOST_DEVICE __host__ __device__
#else
#define HYBRIDRET_HOST_DEVICE
#endif

namespace hybridret::infonce {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLeastLength = 1e-12f;  // as torch.nn.functional.normalize
// Logits up to this far below the bound on them keep their digits: e^-87 is the smallest float.
constexpr float kHeadroom = 40;
// A sum of exponentials beneath this is weak: what has been flushed to zero (at most M e^-87) might
// matter.
constexpr double kWeakSum = 1e-20;

// Largest deviation from length 1 that unit_norm accepts: well above the rounding of the format.
constexpr float unit_norm_tolerance(similarity::Format format) {
  return format == similarity::Format::kFloat32 ? 1e-3f : 1e-2f;
}

// A shift that keeps e^(s - shift) within float32 for every s <= bound. Infinite where the bound is
// not finite: all is flushed to zero then, and the sum computed again with the true maximum.
HYBRIDRET_HOST_DEVICE inline float shift_for(double bound) {
  float shift = 0;
  if (!std::isfinite(bound))
    shift = kInfinity;
  else if (bound > kHeadroom)
    shift = static_cast<float>(bound) - kHeadroom;
  else if (bound < -kHeadroom)
    shift = static_cast<float>(bound) + kHeadroom;
  return shift;
}

HYBRIDRET_HOST_DEVICE inline double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

}  // namespace hybridret::infonce
