// The arithmetic of the engine: one table of functions per instruction set (ISA).
//
// A tile is `rows` x `columns` inner products held in registers, made by one call:
//
//   c[i * c_row + j] (+)= sum over k < depth of a_ik b_kj
//
// Operand a holds the rows in slices of `columns` depths: element (i, k) is at
//   a[i * a_row + (k / columns) * a_slice + k % columns]
// With a_slice = columns that is a plain row-major matrix; tiles of another product, one for each
// slice, can be read as they were written.
// Operand b is a block, `columns` vectors packed side by side: element (k, j) is b[k * columns + j]
// in float32, b[(k / 2 * columns + j) * 2 + k % 2] in bfloat16. Of Split elements both operands
// hold one part after the other, slice by slice of kSplitSlice depths. Tiles are always whole:
// callers pad a and b, and give c the room.
//
// Every element is one chain of multiply-adds in ascending order of depth, whatever the position of
// the element in the tile, of the tile in the matrix, and of the thread that computes it; to
// accumulate, a chain is added to the old value of c. Within one ISA, equal inputs give equal bits.
// The scorer's ranks and the loss's run-to-run determinism depend on that.
//
// What is done with a tile is an epilogue's: infonce/epilogue.h for the loss, ranking/epilogue.h
// for the scorer. Their sources are compiled into the same files as the tiles, see kernel_source.h.
#pragma once

#include <cstdint>

#include "similarity/elements.h"

namespace hybridret::infonce {
struct Epilogue;
}
namespace hybridret::ranking {
struct Epilogue;
}

namespace hybridret::similarity {

template <class Element>
struct TileKernel {
  int64_t rows;            // of a tile; 0: this ISA has no arithmetic on this element
  int64_t depth_multiple;  // the depth is a multiple of this
  void (*tile)(int64_t depth, const Element* a, int64_t a_row, int64_t a_slice, const Element* b,
               float* c, int64_t c_row, bool accumulate);
  // Rounds; `count` is a multiple of kSplitSlice for Split elements.
  void (*convert)(const float* from, int64_t count, Element* to);
};

struct Kernel {
  const char* isa;
  int64_t columns;      // of every tile
  int64_t cache_bytes;  // of the second-level cache, for what is read again and again
  TileKernel<float> float_tile;
  TileKernel<Bfloat16> bfloat16_tile;
  // Products of float32 where bfloat16 is so fast that six of it beat one of float32: of the nine
  // products of three parts, all but those below the last bit; of the four of two parts, the
  // smallest is left out as well, and the error of a product is at most 2^-14 of it.
  TileKernel<Split<3>> split3_tile;
  TileKernel<Split<2>> split2_tile;

  // to[c * to_row + r] = from[r * from_row + c], any 32-bit elements.
  void (*transpose)(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to,
                    int64_t to_row);
  // Inner product of two vectors (the distance of the HNSW graph and of its exact scan). At most
  // depth / 16 + 32 roundings on the way of any product to the sum.
  float (*dot)(const float* a, const float* b, int64_t depth);
  // The same in double; the same bits on every ISA.
  double (*exact_dot)(const float* a, const float* b, int64_t depth);
  // Inner product of a query in 16 bits and a vector in 8, exact: |a| * |b| summed over the depth
  // must stay below 2^31.
  int32_t (*code_dot)(const int16_t* a, const int8_t* b, int64_t depth);
  // As the functions of elements.h.
  void (*widen)(Format format, const void* from, int64_t count, float* to);
  void (*narrow)(Format format, const float* from, int64_t count, void* to);
  // Around any use of tiles on a thread, or null: AMX has registers to set up and to give back.
  void (*enter)();
  void (*leave)();

  // What the users of tiles have compiled for this ISA.
  const infonce::Epilogue& loss;
  const ranking::Epilogue& scorer;

  template <class Element>
  const TileKernel<Element>& tiles() const;
};

template <>
inline const TileKernel<float>& Kernel::tiles() const {
  return float_tile;
}
template <>
inline const TileKernel<Bfloat16>& Kernel::tiles() const {
  return bfloat16_tile;
}
template <>
inline const TileKernel<Split<3>>& Kernel::tiles() const {
  return split3_tile;
}
template <>
inline const TileKernel<Split<2>>& Kernel::tiles() const {
  return split2_tile;
}

class TileScope {
 public:
  explicit TileScope(const Kernel& kernel) : leave_(kernel.leave) {
    if (kernel.enter) kernel.enter();
  }
  ~TileScope() {
    if (leave_) leave_();
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  void (*leave_)();
};

// The largest tile of any ISA, for buffers on the stack.
constexpr int64_t kMaximumTileRows = 32;
constexpr int64_t kMaximumColumns = 32;

// The kernels this build holds and this machine can run, best first.
int usable_kernel_count();
const Kernel& usable_kernel(int index);

// The kernel in use: the best usable one, or the one HYBRIDRET_ISA names.
// Throws std::runtime_error for a name this machine cannot run.
const Kernel& active_kernel();

// One definition per ISA, each in a file compiled with that ISA's flags.
extern const Kernel kBaselineKernel;
extern const Kernel kAvx2Kernel;
extern const Kernel kAvx512Kernel;
extern const Kernel kAvx512Bf16Kernel;
extern const Kernel kAmxKernel;

}  // namespace hybridret::similarity
