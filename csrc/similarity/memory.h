// Memory for packed operands and results: aligned, kept from call to call, prefetched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace hybridret::similarity {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Uninitialised memory at the start of a cache line. Large allocations are kept for the next call,
// at most 64 MiB of them, and ask for huge pages: touching fresh memory 4 KiB at a time would cost
// as much as a tenth of a bfloat16 loss.
void* allocate(std::size_t bytes);
void deallocate(void* memory, std::size_t bytes) noexcept;

// Gives what is kept back to the operating system.
void release_kept() noexcept;

// An uninitialised array.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count)
      : memory_(static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T))),
                Deallocate{static_cast<std::size_t>(count) * sizeof(T)}) {}
  T* get() const { return memory_.get(); }
  T& operator[](int64_t i) const { return memory_.get()[i]; }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  struct Deallocate {
    std::size_t bytes = 0;
    void operator()(T* memory) const noexcept { deallocate(memory, bytes); }
  };
  std::unique_ptr<T, Deallocate> memory_;
};

// Asks for memory that will be read or written soon.
inline void prefetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
}

}  // namespace hybridret::similarity
