// The CUDA library on a CPU: the same C functions over host pointers.
#define HYBRIDRET_EMULATED
#define HYBRIDRET_ARCHITECTURES "emulated"
#include "cuda/infonce.cu"

namespace hybridret::cuda {

TensorMap make_tensor_map(const Operand& operand, int planes) {
  if (operand.stride % 8 || reinterpret_cast<uintptr_t>(operand.data) % 16 ||
      (planes > 1 && operand.plane % 8) || operand.rows <= 0 || operand.columns <= 0)
    throw std::runtime_error("no tensor map can be made of this matrix");
  return {operand.data, operand.columns, operand.rows, planes, operand.stride, operand.plane};
}

}  // namespace hybridret::cuda
