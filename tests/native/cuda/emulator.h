// The names of csrc/cuda/hardware.h and runtime.h for a CPU: the kernels themselves are run, a
// fiber for each thread, one block after the other. Copies and matrix instructions that a GPU may
// delay are delayed as long as the program allows, and what they will overwrite is made NaN at
// once: a wait or a barrier that is missing shows in the result, one too many as a deadlock.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace hybridret::cuda {

using std::isfinite;
using std::isinf;
using std::isnan;
using std::min;

struct Index {
  int x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

template <class To, class From>
To bits_of(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(uint32_t bits) { return bits_of<float>(bits); }

// ---- one block ----------------------------------------------------------------------------------

// HYBRIDRET_EMULATED: "hopper" or "ampere", and how many multiprocessors, as in "hopper3"; with
// "slow" at the end a warp of every block lags behind the others.
inline std::string emulated() {
  const char* given = std::getenv("HYBRIDRET_EMULATED");
  return given ? given : "hopper3";
}
inline bool is_slow() { return emulated().find("slow") != std::string::npos; }

struct Block {
  struct Barrier {
    int arrived = 0, phase = 0;
  };
  struct Transaction {
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
  };
  using Action = std::function<void()>;
  struct Fiber {
    ucontext_t start;
    jmp_buf at;  // swapcontext asks the kernel for signal masks; these jumps do not
    std::unique_ptr<char[]> stack;
    bool begun = false, done = false;
    std::deque<Action> copies, products;  // not yet committed
    std::deque<std::deque<Action>> copy_groups, product_groups;
  };
  struct Warp {
    Barrier barrier;
    uint32_t words[32][6];
    const void* rows[32];
  };

  int threads, current = 0, idle_rounds = 0;
  bool moved = false;
  std::vector<char> memory;
  char* shared;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::map<int, Barrier> barriers;
  std::map<const void*, Transaction> transactions;
  std::deque<Action> bulk_copies;
  jmp_buf scheduler;
  uint32_t random;
  bool lags;

  Block(int count, int bytes, int seed)
      : threads(count),
        memory(bytes + 2048, '\xff'),
        fibers(count),
        random(12345 + seed),
        lags(is_slow()) {
    shared = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 1023);
    warps.resize((count + 31) / 32);
  }

  uint32_t next_random() {
    random = random * 1664525u + 1013904223u;
    return random >> 16;
  }
  void yield() {
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
  }
  void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    setcontext(&fiber.start);
  }
  Warp& warp() { return warps[current / 32]; }

  void wait(Barrier& barrier, int count) {
    const int phase = barrier.phase;
    moved = true;
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      ++barrier.phase;
      return;
    }
    while (barrier.phase == phase) yield();
  }
  void warp_wait() { wait(warp().barrier, 32); }

  void settle(Transaction& t) {
    moved = true;
    if (t.pending > 0 || t.bytes != 0) return;
    t.pending = t.arrivals;
    ++t.phase;
  }

  template <class Work>
  void run(const Work& work);
};
inline Block* block = nullptr;
inline const std::function<void()>* block_work = nullptr;

inline void fiber_main() {
  (*block_work)();
  block->fibers[block->current].done = true;
  block->moved = true;
  block->yield();
}

template <class Work>
void Block::run(const Work& work) {
  const std::function<void()> own = work;
  block = this;
  block_work = &own;
  constexpr int kStack = 256 << 10;
  for (Fiber& fiber : fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
  }
  bool stalls = false;
  // One falls far behind, where that is asked for.
  const int slow = lags ? static_cast<int>(next_random() % warps.size()) : -1;
  for (int alive = threads; alive > 0;) {
    alive = 0;
    moved = false;
    for (current = 0; current < threads; ++current) {
      Fiber& fiber = fibers[current];
      if (fiber.done) continue;
      ++alive;
      // Warps come to run in no order.
      if (current % 32 == 0)
        stalls = current / 32 == slow ? next_random() % 16 != 0 : next_random() % 8 == 0;
      if (stalls) continue;
      threadIdx.x = current;
      resume(fiber);
    }
    // A bulk copy comes at some time or other.
    if (!bulk_copies.empty() && next_random() % 3 == 0) {
      bulk_copies.front()();
      bulk_copies.pop_front();
      moved = true;
    }
    idle_rounds = moved || !bulk_copies.empty() ? 0 : idle_rounds + 1;
    if (idle_rounds > 1000) {
      std::fprintf(stderr, "emulator: the block waits for ever\n");
      std::abort();
    }
  }
  if (!bulk_copies.empty()) {
    std::fprintf(stderr, "emulator: the block ended with copies under way\n");
    std::abort();
  }
  block = nullptr;
}

// ---- threads ------------------------------------------------------------------------------------

inline char* shared_memory() { return block->shared; }
inline void __syncthreads() { block->wait(block->barriers[0], block->threads); }
inline void named_barrier(int id, int threads) { block->wait(block->barriers[id], threads); }
template <int>
void take_registers() {}
template <int>
void give_registers() {}

template <class T>
T shuffle_xor(T value, int mask) {
  auto& warp = block->warp();
  const int lane = block->current % 32;
  std::memcpy(warp.words[lane], &value, sizeof value);
  block->warp_wait();
  T found;
  std::memcpy(&found, warp.words[lane ^ mask], sizeof found);
  block->warp_wait();
  return found;
}

// ---- numbers ------------------------------------------------------------------------------------

inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline uint32_t pack_bfloat16(float first, float second) {
  return to_bfloat16(first) | static_cast<uint32_t>(to_bfloat16(second)) << 16;
}
inline float bfloat16_value(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
inline float float16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31 ? (fraction ? std::nanf("") : HUGE_VALF)
                     : exponent     ? std::ldexp(1024.0f + fraction, exponent - 25)
                                    : std::ldexp(1.0f * fraction, -24);
  return bits & 0x8000 ? -size : size;
}
inline float exponential2(float x) {
  const float value = std::exp2(x);
  return value < 1.17549435e-38f ? 0.0f : value;
}
inline void atomic_maximum(float* target, float value) {
  *target = std::max(*target, value + 0.0f);
}

inline void add_pair(float* target, float2 value) {
  target[0] += value.x;
  target[1] += value.y;
}
template <int kCount>
void pin(float (&)[kCount][4]) {}

// ---- sm_80 --------------------------------------------------------------------------------------

inline void copy16(void* shared, const void* global, bool there) {
  std::memset(shared, 0x7f, 16);  // NaN as bfloat16, and as float16
  block->fibers[block->current].copies.push_back([=] {
    if (there)
      std::memcpy(shared, global, 16);
    else
      std::memset(shared, 0, 16);
  });
}

inline void commit(std::deque<Block::Action>& actions,
                   std::deque<std::deque<Block::Action>>& groups) {
  groups.push_back(std::move(actions));
  actions.clear();
}
inline void wait_groups(std::deque<std::deque<Block::Action>>& groups, size_t pending) {
  for (; groups.size() > pending; groups.pop_front())
    for (auto& action : groups.front()) action();
}

inline void commit_copies() {
  auto& fiber = block->fibers[block->current];
  commit(fiber.copies, fiber.copy_groups);
}
template <int kPending>
void wait_copies() {
  wait_groups(block->fibers[block->current].copy_groups, kPending);
}

template <bool kTransposed>
void load_matrices(uint32_t (&words)[4], const void* row) {
  auto& warp = block->warp();
  const int lane = block->current % 32;
  warp.rows[lane] = row;
  block->warp_wait();
  for (int m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int other = lane % 4 * 2 + i;
      const auto* from =
          static_cast<const uint16_t*>(warp.rows[m * 8 + (kTransposed ? other : lane / 4)]);
      pair[i] = from[kTransposed ? lane / 4 : other];
    }
    words[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
  block->warp_wait();
}

template <bool kHalf>
float value_of(uint16_t bits) {
  return kHalf ? float16_value(bits) : bfloat16_value(bits);
}

template <bool kHalf>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  auto& warp = block->warp();
  const int lane = block->current % 32;
  for (int i = 0; i < 4; ++i) warp.words[lane][i] = a[i];
  for (int i = 0; i < 2; ++i) warp.words[lane][4 + i] = b[i];
  block->warp_wait();
  const auto half_of = [](uint32_t word, int k) {
    return value_of<kHalf>(static_cast<uint16_t>(word >> (k % 2 * 16)));
  };
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 16; ++k) {
      const float left = half_of(warp.words[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8], k);
      const float right = half_of(warp.words[column * 4 + k % 8 / 2][4 + k / 8], k);
      c[e] += left * right;
    }
  }
  block->warp_wait();
}

// ---- sm_90a -------------------------------------------------------------------------------------

struct TensorMap {
  const uint16_t* data;
  int64_t columns, rows, planes, stride, plane;
};
inline void prefetch_map(const TensorMap&) {}

inline void barrier_init(uint64_t* barrier, int arrivals) {
  block->transactions[barrier] = {arrivals, arrivals, 0, 0};
}
inline void barriers_visible() {}
inline void barrier_arrive(uint64_t* barrier) {
  auto& t = block->transactions.at(barrier);
  --t.pending;
  block->settle(t);
}
inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  auto& t = block->transactions.at(barrier);
  t.bytes += bytes;
  --t.pending;
  block->settle(t);
}
inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  while ((block->transactions.at(barrier).phase & 1) == parity) block->yield();
}

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - block->shared);
}
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline void load_box(void* shared, const TensorMap& map, uint64_t* barrier, int column, int row,
                     int plane) {
  std::memset(shared, 0x7f, 8192);
  if (shared_address(shared) % 1024) throw std::logic_error("a box is not aligned");
  block->bulk_copies.push_back([=] {
    const uint32_t base = shared_address(shared);
    for (int r = 0; r < 64; ++r)
      for (int c = 0; c < 64; ++c) {
        uint16_t value = 0;
        if (row + r < map.rows && column + c < map.columns && plane < map.planes)
          value = map.data[plane * map.plane + (row + r) * map.stride + column + c];
        std::memcpy(block->shared + swizzled(base + r * 128 + c * 2), &value, 2);
      }
    auto& t = block->transactions.at(barrier);
    t.bytes -= 8192;
    block->settle(t);
  });
}

inline void group_begin() {}
inline void group_commit() {
  auto& fiber = block->fibers[block->current];
  commit(fiber.products, fiber.product_groups);
}
template <int kPending>
void group_wait() {
  wait_groups(block->fibers[block->current].product_groups, kPending);
}

template <bool kTransposed>
uint64_t describe(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kGroup = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kNextBox = uint64_t{kTransposed ? 8192 >> 4 : 1} << 16;
  return kSwizzle128 | kGroup | kNextBox | (shared_address(shared) >> 4);
}

// Element (i, k) of the matrix that a descriptor names, as the PTX manual lays it out.
template <bool kHalf, bool kTransposed>
float described(uint64_t matrix, int i, int k) {
  const uint32_t start = (matrix & 0x3fff) << 4, leading = (matrix >> 16 & 0x3fff) << 4,
                 stride = (matrix >> 32 & 0x3fff) << 4;
  const uint32_t at = kTransposed
                          ? start + i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2
                          : start + i / 8 * stride + i % 8 * 128 + k * 2;
  uint16_t bits;
  std::memcpy(&bits, block->shared + swizzled(at), 2);
  return value_of<kHalf>(bits);
}

template <bool kHalf, bool kTransposedA, bool kTransposedB, size_t kFragments>
void group_multiply(float (&c)[kFragments][4], uint64_t a, uint64_t b, bool fresh) {
  const int lane = block->current % 32, warp = block->current / 32 % 4;
  block->fibers[block->current].products.push_back([=, &c] {
    float rows[2][16];
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < 16; ++k)
        rows[half][k] = described<kHalf, kTransposedA>(a, warp * 16 + lane / 4 + half * 8, k);
    for (size_t f = 0; f < kFragments; ++f)
      for (int e = 0; e < 2; ++e) {
        float sums[2] = {};
        for (int k = 0; k < 16; ++k) {
          const float right =
              described<kHalf, kTransposedB>(b, static_cast<int>(f) * 8 + lane % 4 * 2 + e, k);
          sums[0] += rows[0][k] * right;
          sums[1] += rows[1][k] * right;
        }
        for (int half = 0; half < 2; ++half)
          c[f][half * 2 + e] = (fresh ? 0 : c[f][half * 2 + e]) + sums[half];
      }
  });
  if (fresh)
    for (auto& fragment : c) std::fill(fragment, fragment + 4, std::nanf(""));
}

// ---- the host's side ----------------------------------------------------------------------------

using Stream = void*;

struct Device {
  int multiprocessors;
  bool hopper;
};

inline Device current_device() {
  const std::string name = emulated();
  return {std::atoi(name.c_str() + 6), name.substr(0, 6) == "hopper"};
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, int shared, Stream,
            const Arguments&... arguments) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    Block(threads, shared, blockIdx.x).run([&] { kernel(arguments...); });
}

inline void zero(void* target, int64_t bytes, Stream) { std::memset(target, 0, bytes); }

}  // namespace hybridret::cuda

namespace hybridret::cuda {
struct Operand;
TensorMap make_tensor_map(const Operand& operand, int planes);
}  // namespace hybridret::cuda
