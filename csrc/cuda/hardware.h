// What a GPU gives beyond C++: asynchronous copies, barriers, matrix instructions. Thin names over
// PTX and nothing else, so that the kernels read as algorithms. tests/native/cuda has the same
// names for a CPU, where the kernels are run without a GPU.
#pragma once

#ifdef HYBRIDRET_EMULATED
#include "emulator.h"
#else

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace hybridret::cuda {

using TensorMap = CUtensorMap;

// ---- threads ------------------------------------------------------------------------------------

// Dynamic shared memory of the block, aligned for swizzled boxes.
__device__ __forceinline__ char* shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return memory + (-reinterpret_cast<uintptr_t>(memory) & 1023);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Some of the block's threads wait for each other; id from 1.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// ---- numbers ------------------------------------------------------------------------------------

// Two bfloat16 in a word, the first in its low half; to nearest.
__device__ __forceinline__ uint32_t pack_bfloat16(float first, float second) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}

__device__ __forceinline__ float float16_value(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// 2^x to 22 bits, zero for what a normal float cannot hold.
__device__ __forceinline__ float exponential2(float x) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}

// The larger one stays; any order of calls gives the same bits. Neither is NaN.
__device__ __forceinline__ void atomic_maximum(float* target, float value) {
  value += 0.0f;  // no negative zero
  if (value >= 0)
    atomicMax(reinterpret_cast<int*>(target), __float_as_int(value));
  else
    atomicMin(reinterpret_cast<unsigned*>(target), __float_as_uint(value));
}

// Adds to two neighbours in memory that no other thread writes.
__device__ __forceinline__ void add_pair(float* target, float2 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(target), "f"(value.x), "f"(value.y)
               : "memory");
#else
  float2* pair = reinterpret_cast<float2*>(target);
  const float2 before = *pair;
  *pair = make_float2(before.x + value.x, before.y + value.y);
#endif
}

// The compiler leaves these registers alone across this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&values)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    asm volatile(""
                 : "+f"(values[i][0]), "+f"(values[i][1]), "+f"(values[i][2]),
                   "+f"(values[i][3])::"memory");
}

// ---- copies to shared memory, sm_80 -------------------------------------------------------------

// 16 bytes, or zeros in their place.
__device__ __forceinline__ void copy16(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- matrix instructions, sm_80 -----------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements; lane l names the address of row l % 8 of matrix l / 8.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
  const uint32_t address = shared_address(row);
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8]; kHalf: float16, else bfloat16.
template <bool kHalf>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t* b) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kHalf)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// ---- barriers and bulk copies, sm_90 ------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// What was initialised is seen by the copy engine.
__device__ __forceinline__ void barriers_visible() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrives; the phase ends once these bytes have been copied, too.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  const uint32_t address = shared_address(barrier);
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  } while (!done);
}

// A box of the map at (column, row, plane), swizzled, zeros where the matrix ends.
__device__ __forceinline__ void load_box(void* shared, const TensorMap& map, uint64_t* barrier,
                                         int column, int row, int plane) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(plane)
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- matrix instructions of a group of four warps, sm_90a ---------------------------------------

__device__ __forceinline__ void group_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void group_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// A matrix in boxes of 64 x 64 elements with the 128-byte swizzle, each 8 KiB. Stored rows are
// groups of eight, 1 KiB apart. Where the stored rows are the depth (kTransposed), the next 64
// elements of the other dimension stand in the next box.
template <bool kTransposed>
__device__ __forceinline__ uint64_t describe(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kGroup = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kNextBox = uint64_t{kTransposed ? 8192 >> 4 : 1} << 16;
  return kSwizzle128 | kGroup | kNextBox | ((shared_address(shared) & 0x3FFFF) >> 4);
}

// Registers c[i][0..3] for i < n / 8 as operands of one instruction.
#define HYBRIDRET_C4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define HYBRIDRET_C16(i) \
  HYBRIDRET_C4(i), HYBRIDRET_C4(i + 1), HYBRIDRET_C4(i + 2), HYBRIDRET_C4(i + 3)
#define HYBRIDRET_C64(i) \
  HYBRIDRET_C16(i), HYBRIDRET_C16(i + 4), HYBRIDRET_C16(i + 8), HYBRIDRET_C16(i + 12)

#define HYBRIDRET_R64                                                                            \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
  "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define HYBRIDRET_R128                                                                            \
  HYBRIDRET_R64                                                                                   \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
  "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,"  \
  "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,"    \
  "%126,%127"

#define HYBRIDRET_GROUP_MULTIPLY(columns, type, registers, operands, a, b, add, ta, tb)            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add                                             \
               ", 0;\n"                                                                            \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" registers \
               "}, " a ", " b ", p, 1, 1, " ta ", " tb ";\n}\n"                                    \
               : operands                                                                          \
               : "l"(a_matrix), "l"(b_matrix), "r"(static_cast<int>(!fresh)),                      \
                 "n"(kTransposedA ? 1 : 0), "n"(kTransposedB ? 1 : 0))

// c [64, n] += a [64, 16] b [16, n], or = where fresh; both stand in shared memory.
template <bool kHalf, bool kTransposedA, bool kTransposedB>
__device__ __forceinline__ void group_multiply(float (&c)[16][4], uint64_t a_matrix,
                                               uint64_t b_matrix, bool fresh) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kHalf)
    HYBRIDRET_GROUP_MULTIPLY("128", "f16", HYBRIDRET_R64, HYBRIDRET_C64(0), "%64", "%65", "%66",
                             "%67", "%68");
  else
    HYBRIDRET_GROUP_MULTIPLY("128", "bf16", HYBRIDRET_R64, HYBRIDRET_C64(0), "%64", "%65", "%66",
                             "%67", "%68");
#endif
}

#define HYBRIDRET_C128 HYBRIDRET_C64(0), HYBRIDRET_C64(16)

template <bool kHalf, bool kTransposedA, bool kTransposedB>
__device__ __forceinline__ void group_multiply(float (&c)[32][4], uint64_t a_matrix,
                                               uint64_t b_matrix, bool fresh) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kHalf)
    HYBRIDRET_GROUP_MULTIPLY("256", "f16", HYBRIDRET_R128, HYBRIDRET_C128, "%128", "%129", "%130",
                             "%131", "%132");
  else
    HYBRIDRET_GROUP_MULTIPLY("256", "bf16", HYBRIDRET_R128, HYBRIDRET_C128, "%128", "%129", "%130",
                             "%131", "%132");
#endif
}

}  // namespace hybridret::cuda
#endif
