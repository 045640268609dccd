// Which kernel runs: an ordered list, looked at once, on first use.

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

std::vector<const Kernel*> find_usable_kernels() {
  std::vector<const Kernel*> usable;
#if defined(HYBRIDRET_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) usable.push_back(&kAvx512Kernel);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    usable.push_back(&kAvx2Kernel);
#endif
  usable.push_back(&kBaselineKernel);
  return usable;
}

const std::vector<const Kernel*>& usable_kernels() {
  static const std::vector<const Kernel*> usable = find_usable_kernels();
  return usable;
}

const Kernel& choose_kernel() {
  const char* forced = std::getenv("HYBRIDRET_ISA");
  if (forced == nullptr || *forced == '\0') return *usable_kernels().front();
  std::string names;
  for (const Kernel* kernel : usable_kernels()) {
    if (std::string(kernel->isa) == forced) return *kernel;
    names += (names.empty() ? "" : ", ") + std::string(kernel->isa);
  }
  throw std::runtime_error("HYBRIDRET_ISA is '" + std::string(forced) +
                           "', but this machine and build can run only: " + names);
}

}  // namespace

int usable_kernel_count() { return static_cast<int>(usable_kernels().size()); }
const Kernel& usable_kernel(int index) { return *usable_kernels().at(index); }

const Kernel& active_kernel() {
  static const Kernel& kernel = choose_kernel();
  return kernel;
}

}  // namespace hybridret::similarity
