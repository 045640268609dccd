"""The CUDA library as a C library: no torch here, raw pointers in and out."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from hybridret import _native

LIBRARY = Path(_native.__file__).parent / "libhybridret_cuda.so"
ABI = 2
FORMATS = {"float32": 0, "bfloat16": 1, "float16": 2}


class Batch(Structure):
    """``hybridret_cuda_infonce_batch``; csrc/cuda/infonce/infonce_cuda.h says what fields are."""

    _fields_ = (
        *((name, c_void_p) for name in ("queries", "documents")),
        *(
            (name, c_int64)
            for name in (
                "query_stride",
                "document_stride",
                "query_count",
                "document_count",
                "depth",
            )
        ),
        *(
            (name, c_void_p)
            for name in (
                "labels",
                "label_order",
                "label_begin",
                "query_groups",
                "document_groups",
                "log_bias",
                "scale",
            )
        ),
        *((name, c_int64) for name in ("first_query", "first_document")),
        ("logit_bound", c_float),
        *(
            (name, c_int32)
            for name in (
                "format",
                "normalize",
                "unit_norm",
                "hard_only",
                "labels_elsewhere",
                "first_segment",
            )
        ),
    )


class ForwardOutput(Structure):
    """``hybridret_cuda_infonce_forward_output``."""

    _fields_ = (
        *(
            (name, c_void_p)
            for name in (
                "negatives_lse",
                "positive",
                "document_negatives_lse",
                "rank",
                "loss",
                "by_query",
                "by_document",
                "by_scale",
            )
        ),
        ("weight", c_float),
    )


class BackwardArguments(Structure):
    """``hybridret_cuda_infonce_backward_arguments``."""

    _fields_ = tuple(
        (name, c_void_p)
        for name in (
            "negatives_lse",
            "document_negatives_lse",
            "by_negatives_lse",
            "by_positive",
            "by_document_negatives_lse",
            "by_query",
            "by_document",
            "by_scale",
        )
    )


class Library:
    """The functions of one library.

    Raises:
        RuntimeError: it cannot be loaded, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise RuntimeError(f"{path} cannot be loaded: {error}") from None
        found = self._library.hybridret_cuda_abi()
        if found != ABI:
            raise RuntimeError(f"{path} is of version {found}, expected {ABI}: build it again")
        self._library.hybridret_cuda_error.restype = ctypes.c_char_p
        self._library.hybridret_cuda_architectures.restype = ctypes.c_char_p
        self._library.hybridret_cuda_infonce_workspace.argtypes = [
            POINTER(Batch),
            c_int,
            c_int,
            c_int64,
            POINTER(c_int64),
        ]
        for name, arguments in (("forward", ForwardOutput), ("backward", BackwardArguments)):
            getattr(self._library, f"hybridret_cuda_infonce_{name}").argtypes = [
                POINTER(Batch),
                POINTER(arguments),
                c_void_p,
                c_int64,
                c_void_p,
            ]

    @property
    def architectures(self) -> list[str]:
        """What it was built for, such as ``90a``."""
        return str(self._library.hybridret_cuda_architectures().decode()).split()

    def check_device(self) -> None:
        """Raises RuntimeError unless the current device can be used."""
        self._call("device")

    def workspace(self, batch: Batch, *, columns: bool, gradients: bool, limit: int) -> int:
        """Bytes that are of use, at most ``limit``."""
        size = c_int64()
        self._call("infonce_workspace", byref(batch), columns, gradients, limit, byref(size))
        return size.value

    def forward(
        self, batch: Batch, output: ForwardOutput, workspace: int, size: int, stream: int
    ) -> None:
        self._call("infonce_forward", byref(batch), byref(output), workspace, size, stream)

    def backward(
        self, batch: Batch, arguments: BackwardArguments, workspace: int, size: int, stream: int
    ) -> None:
        self._call("infonce_backward", byref(batch), byref(arguments), workspace, size, stream)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"hybridret_cuda_{name}")(*arguments):
            reason = self._library.hybridret_cuda_error().decode()
            raise RuntimeError(f"infonce on CUDA: {reason}")


@functools.cache
def library() -> Library:
    """The library that was built with the package.

    Raises:
        RuntimeError: this build has none.
    """
    if not LIBRARY.is_file():
        raise RuntimeError(
            "this build of hybridret has CPU kernels only: build it where a GPU and nvcc are, or "
            "with HYBRIDRET_CUDA=on"
        )
    return Library(LIBRARY)


def describe() -> dict[str, Any]:
    """What ``hybridret info`` says of CUDA."""
    found: dict[str, Any] = {"compiled": False, "architectures": [], "available": False}
    try:
        found |= {"compiled": LIBRARY.is_file(), "architectures": library().architectures}
        library().check_device()
    except RuntimeError as error:
        return found | {"reason": str(error).removeprefix("infonce on CUDA: ")}
    return found | {"available": True, "reason": None}
