// The index as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

namespace hybridret::index {

void bind(pybind11::module_& m);

}  // namespace hybridret::index
