// The arithmetic of the engine, one table of functions per instruction set (ISA).
//
// A tile is `rows` x `columns` inner products held in registers. Every element is one chain of
// multiply-adds in ascending order of depth, whatever the position of the element in the tile, of
// the tile in the matrix, and of the thread that computes it: within one ISA, equal inputs give
// equal bits. The scorer's ranks and the loss's run-to-run determinism rest on that.
#pragma once

#include <cstdint>

namespace hybridret::similarity {

struct Kernel {
  const char* isa;
  int64_t rows;     // rows of a register tile
  int64_t columns;  // columns of a register tile

  // c[i * c_row + j] (+)= sum_k a[k * a_step + i] * b[k * b_step + j], for i < valid_rows and
  // j < valid_columns. `rows` values of a and `columns` values of b are read at every k, so both
  // operands are padded; c is not.
  void (*tile)(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step,
               float* c, int64_t c_row, int64_t valid_rows, int64_t valid_columns, bool accumulate);

  // values[j] = exp(values[j] - shift); returns the sum. -inf gives 0, NaN stays NaN.
  // Relative error below 3e-7.
  double (*exponentials)(float* values, int64_t count, float shift);

  // values[j] *= factor; returns the largest value (NaN is passed over, -inf when empty).
  float (*scale_and_max)(float* values, int64_t count, float factor);

  // Inner product of two vectors (the distance of the HNSW graph and of its exact scan).
  float (*dot)(const float* a, const float* b, int64_t depth);
};

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

}  // namespace hybridret::similarity
