// Which kernel runs: the first usable one of an ordered list, chosen once, on first use.

#if defined(HYBRIDRET_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "similarity/kernel.h"

namespace hybridret::similarity {
namespace {

#if defined(HYBRIDRET_X86)
// AMX needs the processor, an operating system that saves its registers (XCR0 bits 17 and 18), and
// on Linux a permission, which threads and children inherit.
bool amx_works() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 22) || !(d & 1u << 24)) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return false;  // OSXSAVE
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTiles = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return (low & kTiles) == kTiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<const Kernel*> find_usable_kernels() {
  std::vector<const Kernel*> usable;
#if defined(HYBRIDRET_X86)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 =
      avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (bf16 && amx_works()) usable.push_back(&kAmxKernel);
  if (bf16) usable.push_back(&kAvx512Bf16Kernel);
  if (avx512) usable.push_back(&kAvx512Kernel);
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
