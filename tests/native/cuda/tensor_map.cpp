// What the CUDA library asks of a driver, for the emulator.
#include "cuda/runtime.h"

namespace hybridret::cuda {

TensorMap make_tensor_map(const Operand& operand, int planes) {
  if (operand.stride % 8 || reinterpret_cast<uintptr_t>(operand.data) % 16 ||
      (planes > 1 && operand.plane % 8) || operand.rows <= 0 || operand.columns <= 0)
    throw std::runtime_error("no tensor map can be made of this matrix");
  return {operand.data, operand.columns, operand.rows, planes, operand.stride, operand.plane};
}

}  // namespace hybridret::cuda
