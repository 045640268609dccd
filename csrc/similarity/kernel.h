// The arithmetic of the engine, one table of functions per instruction set (ISA).
//
// A tile is `rows` x `columns` inner products held in registers:
//
//   c[i * c_row + j] (+)= sum over k < depth of a_ik b_kj
//
// Operand a is row-major in blocks of `columns` depths: element (i, k) is at
//   a[i * a_row + (k / columns) * a_block + k % columns]
// so a plain row-major matrix is a_block = columns, and a panel of tiles is one as well.
// Operand b is packed: b[k * columns + j] in float32, b[(k / 2 * columns + j) * 2 + k % 2] in
// bfloat16. Split elements have their parts' operands side by side, block by block of kSplitBlock
// depths. Tiles are always whole: callers pad a and b, and give c the room.
//
// Every element is one chain of multiply-adds in ascending order of depth, whatever the position of
// the element in the tile, of the tile in the matrix, and of the thread that computes it; to
// accumulate, a chain is added to what stands in c. Within one ISA, equal inputs give equal bits.
// The scorer's ranks and the loss's run-to-run determinism rest on that.
#pragma once

#include <cstdint>

#include "similarity/elements.h"

namespace hybridret::similarity {

template <class Element>
struct TileKernel {
  int64_t rows;         // of a tile; 0: this ISA has no arithmetic on this element
  int64_t depth_block;  // depth is a multiple of this
  void (*tile)(int64_t depth, const Element* a, int64_t a_row, int64_t a_block, const Element* b,
               float* c, int64_t c_row, bool accumulate);
  // Rounds; `count` is a multiple of kSplitBlock for Split elements.
  void (*convert)(const float* from, int64_t count, Element* to);
};

// A tile of inner products on its way to logits: documents down, queries across.
//   logit_jq = tile[j * columns + q] * (query_scale[q] * document_scale[j]) + document_bias[j]
struct Logits {
  const float* tile;
  int64_t documents;
  const float* query_scale;        // [columns]
  const int32_t* query_groups;     // [columns]
  const float* document_scale;     // [documents]
  const float* document_bias;      // [documents], -inf: no negative of anybody
  const int32_t* document_groups;  // [documents], or null: nothing is masked
};

// A document is masked for the queries of its own group, and where its tile entry is -inf.
struct Epilogues {
  // The logit itself, in the same arithmetic as everywhere.
  float (*logit)(const Logits&, int64_t document, int64_t query);
  // Raises row_maximum [columns] and, unless null, column_maximum [documents].
  void (*maxima)(const Logits&, float* row_maximum, float* column_maximum);
  // counts[columns] += documents whose logit is above threshold[columns].
  void (*count_above)(const Logits&, const float* threshold, int32_t* counts);
};

// Exponentials of a tile, and weights made of them, stored as the gradient products read them:
// rows [documents, columns] is an operand a over the queries, pairs [documents, columns] an operand
// b over the documents; of float both are one and only rows is written.
template <class Element>
struct Stores {
  // e = exp(logit - shift[q]), 0 where masked; adds to row_sums [columns] and, unless null,
  // column_sums [documents]; stores e * document_scale unless `rows` is null.
  // Relative error of e below 3e-7.
  void (*exponentials)(const Logits&, const float* shift, float* row_sums, double* column_sums,
                       Element* rows, Element* pairs);
  // Stores (exp(logit - row_lse[q]) * row_weight[q] + exp(logit - column_lse[j]) *
  // column_weight[j]) * document_scale[j], 0 where masked.
  void (*weights)(const Logits&, const float* row_lse, const float* row_weight,
                  const float* column_lse, const float* column_weight, Element* rows,
                  Element* pairs);
};

// Scores of a tile, queries down and documents across, against thresholds known to be within
// `bound` of exact ones: what is decided, and what is not. Bit j of a mask is column j.
struct Screens {
  // Bit i where row i of the tile [rows, columns] reaches lowest[i] - (along[i] * length +
  // across[i] * residual).
  uint32_t (*rows_reaching)(const float* tile, int64_t rows, const float* lowest,
                            const float* along, const float* across, float length, float residual);
  // Of the valid columns of one row, for each threshold t, ascending: adds to above[t] how many are
  // over threshold[t] + bound. Returns those within it of any. Ends where no column reaches.
  uint32_t (*screen)(const float* row, uint32_t valid, int64_t thresholds, const float* threshold,
                     float bound, int32_t* above);
};

struct Kernel {
  const char* isa;
  int64_t columns;      // of every tile
  int64_t cache_bytes;  // of the second-level cache, for what is read again and again
  TileKernel<float> float_tile;
  TileKernel<Bfloat16> bfloat16_tile;
  // Products of float32 where bfloat16 is so fast that six of it beat one of float32: of the nine
  // products of three parts, all but those beneath the last bit; of the four of two parts, the
  // smallest is left out as well, and the error of a product is at most 2^-14 of it.
  TileKernel<Split<3>> split3_tile;
  TileKernel<Split<2>> split2_tile;
  Epilogues epilogues;
  Screens screens;
  Stores<float> float_stores;
  Stores<Bfloat16> bfloat16_stores;
  Stores<Split<3>> split3_stores;

  // to[c * to_row + r] = from[r * from_row + c], any 32-bit elements.
  void (*transpose)(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to,
                    int64_t to_row);
  // Inner product of two vectors (the distance of the HNSW graph and of its exact scan). At most
  // depth / 16 + 32 roundings on the way of any product to the sum.
  float (*dot)(const float* a, const float* b, int64_t depth);
  // The same in double; the same bits on every ISA.
  double (*exact_dot)(const float* a, const float* b, int64_t depth);
  // As the functions of elements.h.
  void (*widen)(Format format, const void* from, int64_t count, float* to);
  void (*narrow)(Format format, const float* from, int64_t count, void* to);
  // Around any use of tiles on a thread, or null: AMX has registers to set up and to give back.
  void (*enter)();
  void (*leave)();

  template <class Element>
  const TileKernel<Element>& tiles() const;
  template <class Element>
  const Stores<Element>& stores() const;
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
template <>
inline const Stores<Split<3>>& Kernel::stores() const {
  return split3_stores;
}
template <>
inline const Stores<float>& Kernel::stores() const {
  return float_stores;
}
template <>
inline const Stores<Bfloat16>& Kernel::stores() const {
  return bfloat16_stores;
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
