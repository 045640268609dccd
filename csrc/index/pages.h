// Memory that is read at random: in huge pages, where the operating system has them. A search of
// 100,000 vectors comes to a thousand of them, each on a page of its own, whose address a processor
// would have to look up.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hybridret::index {

template <class T>
struct HugePages {
  using value_type = T;
  static constexpr std::size_t kPage = std::size_t{1} << 21, kLine = 64;

  HugePages() = default;
  template <class U>
  HugePages(const HugePages<U>&) {}

  T* allocate(std::size_t count) {
    const std::size_t align = count * sizeof(T) < kPage ? kLine : kPage;
    const std::size_t bytes = (count * sizeof(T) + align - 1) / align * align;
    void* memory = std::aligned_alloc(align, bytes);
    if (!memory) throw std::bad_alloc();
#ifdef __linux__
    if (align == kPage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) noexcept { std::free(memory); }

  template <class U>
  bool operator==(const HugePages<U>&) const {
    return true;
  }
};

}  // namespace hybridret::index
