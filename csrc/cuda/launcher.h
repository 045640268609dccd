// What the host asks of one GPU on one stream: a thread or a warp for each of many things, and
// products in tiles that suit the GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/memory.h"
#include "cuda/runtime.h"
#include "cuda/vectors.h"

namespace hybridret::cuda {

class Launcher {
 public:
  Launcher(const Device& device, Stream stream) : device_(device), stream_(stream) {}

  // A thread for each of `count`.
  template <class Kernel, class... Arguments>
  void each(int64_t count, Kernel kernel, const Arguments&... arguments) const {
    if (count > 0)
      launch(kernel, static_cast<int>(ceil_div(count, kBlockThreads)), kBlockThreads, 0, stream_,
             arguments...);
  }

  // A warp for each of `count`.
  template <class Kernel, class... Arguments>
  void each_warp(int64_t count, Kernel kernel, const Arguments&... arguments) const {
    if (count > 0)
      launch(kernel, static_cast<int>(ceil_div(count, kBlockWarps)), kBlockThreads, 0, stream_,
             arguments...);
  }

  // So many blocks, whose threads work together.
  template <class Kernel, class... Arguments>
  void blocks(int count, int threads, int shared, Kernel kernel,
              const Arguments&... arguments) const {
    launch(kernel, count, threads, shared, stream_, arguments...);
  }

  void zero(void* target, int64_t bytes) const { cuda::zero(target, bytes, stream_); }

  // ---- products -------------------------------------------------------------------------------

  // Narrow tiles where wide ones would leave multiprocessors idle.
  bool narrow(int64_t rows, int64_t columns) const {
    return ceil_div(rows, kTileRows) * ceil_div(columns, 256) < device_.multiprocessors;
  }

  // Strips of columns that warps have, over the whole product.
  int strips(int64_t columns, bool is_narrow) const {
    return static_cast<int>(device_.hopper ? ceil_div(columns, tile_width(is_narrow))
                                           : ceil_div(columns, AmpereTile::kColumns) * 4);
  }

  // A B to the epilogue, tile by tile; kNarrow: there may be narrow tiles, and they are compiled.
  template <bool kHalf, bool kTransposedA, bool kTransposedB, bool kNarrow, class Epilogue>
  void multiply(const Matrix& a, const Matrix& b, int64_t rows, int64_t columns, int64_t depth,
                int together, bool is_narrow, const Epilogue& epilogue) const {
    if (rows == 0 || columns == 0 || depth == 0) return;
    const Shape shape = shape_of(rows, columns, depth, a.planes, tile_width(is_narrow), together);
    if (!device_.hopper)
      launch(multiply_ampere<kHalf, kTransposedA, kTransposedB, Epilogue>, grid(shape),
             AmpereTile::kThreads, AmpereTile::kShared, stream_, a.operand(), b.operand(), shape,
             epilogue);
    else if (!is_narrow)
      multiply_on_hopper<256, kHalf, kTransposedA, kTransposedB>(a, b, shape, epilogue);
    else if constexpr (kNarrow)
      multiply_on_hopper<128, kHalf, kTransposedA, kTransposedB>(a, b, shape, epilogue);
  }

 private:
  int tile_width(bool is_narrow) const { return device_.hopper && !is_narrow ? 256 : 128; }

  int grid(const Shape& shape) const {
    return std::min(shape.row_tiles * shape.column_tiles, device_.multiprocessors);
  }

  static Shape shape_of(int64_t rows, int64_t columns, int64_t depth, int planes, int width,
                        int together) {
    Shape s{static_cast<int>(rows),
            static_cast<int>(columns),
            static_cast<int>(depth),
            0,
            {},
            {},
            static_cast<int>(ceil_div(rows, kTileRows)),
            static_cast<int>(ceil_div(columns, width)),
            together};
    // Planes p and q make terms of 2^-8(p + q): the small ones first, those past 2^-24 not at all.
    for (int order = planes - 1; order >= 0; --order)
      for (int p = 0; p <= order; ++p) {
        s.a_plane[s.pairs] = static_cast<signed char>(p);
        s.b_plane[s.pairs++] = static_cast<signed char>(order - p);
      }
    return s;
  }

  template <int kWidth, bool kHalf, bool kTransposedA, bool kTransposedB, class Epilogue>
  void multiply_on_hopper(const Matrix& a, const Matrix& b, const Shape& shape,
                          const Epilogue& epilogue) const {
    const TensorMap a_map = make_tensor_map(a.operand(), a.planes);
    const TensorMap b_map = make_tensor_map(b.operand(), b.planes);
    launch(multiply_hopper<kWidth, kHalf, kTransposedA, kTransposedB, Epilogue>, grid(shape),
           HopperTile<kWidth>::kThreads, HopperTile<kWidth>::kShared + 1024, stream_, a_map, b_map,
           shape, epilogue);
  }

  const Device device_;
  const Stream stream_;
};

}  // namespace hybridret::cuda
