#include "similarity/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

namespace hybridret::similarity {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kLarge = kHugePage / 4;              // allocations from here on are kept
constexpr std::size_t kMostBytes = std::size_t{64} << 20;  // of all that is kept
constexpr std::size_t kMostAllocations = 32;

// Large allocations that nobody uses now. A caller that finds the list locked does without it, and
// so does the child of a fork during which another thread held the lock.
class Kept {
 public:
  void* take(std::size_t bytes) noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock()) return nullptr;
    for (std::size_t i = 0; i < count_; ++i) {
      if (allocations_[i].bytes != bytes) continue;
      void* memory = allocations_[i].memory;
      allocations_[i] = allocations_[--count_];
      total_ -= bytes;
      return memory;
    }
    return nullptr;
  }

  bool keep(void* memory, std::size_t bytes) noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock() || bytes > kMostBytes) return false;
    while (count_ == kMostAllocations || total_ + bytes > kMostBytes) {  // the oldest goes
      std::free(allocations_[0].memory);
      total_ -= allocations_[0].bytes;
      std::copy(allocations_ + 1, allocations_ + count_, allocations_);
      --count_;
    }
    allocations_[count_++] = {memory, bytes};
    total_ += bytes;
    return true;
  }

  void release() noexcept {
    const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
    if (!guard.owns_lock()) return;
    while (count_ > 0) std::free(allocations_[--count_].memory);
    total_ = 0;
  }

 private:
  struct Allocation {
    void* memory;
    std::size_t bytes;
  };
  std::mutex lock_;
  Allocation allocations_[kMostAllocations];
  std::size_t count_ = 0, total_ = 0;
};

Kept& kept() {
  static Kept& instance = *new Kept;  // never destroyed: threads may outlive it
  return instance;
}

std::size_t rounded(std::size_t bytes, std::size_t alignment) {
  return (bytes / alignment + 1) * alignment;
}

}  // namespace

void* allocate(std::size_t bytes) {
  const bool large = bytes >= kLarge;
  bytes = rounded(bytes, large ? kPage : kCacheLine);
  if (large)
    if (void* memory = kept().take(bytes)) return memory;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // advice: may be refused
#endif
  return memory;
}

void deallocate(void* memory, std::size_t bytes) noexcept {
  if (bytes < kLarge || !kept().keep(memory, rounded(bytes, kPage))) std::free(memory);
}

void release_kept() noexcept { kept().release(); }

}  // namespace hybridret::similarity
