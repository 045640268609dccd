"""A graph in 8-bit integers: a quarter of the size, and on a processor about twice as fast.

The weights of matrix products have 8 bits and a scale for each column; what they are
multiplied by is rounded as it comes, with one scale for all texts of a call (ONNX Runtime's dynamic
quantisation), so that a vector depends a little on the texts beside it. Token vectors have 8 bits
and a scale for each token: with one scale for all, as the quantiser would have it, those of small
values would lose most.

What that costs in retrieval has to be measured: see :func:`hybridret.export`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Vectors
from hybridret.errors import ModelError

Precision = Literal["float32", "int8", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "float16")
LARGEST_LOSS = 0.01
"""Of nDCG@10, in any language, that a smaller encoder may cost unless more is allowed."""
ONE_FILE = 1.8e9
"""Bytes of weights from which they are in a file beside the graph; protobuf's limit is 2 GiB."""
_TABLE = 1 << 18  # values from which a table of vectors is worth it
_ROWS = 65_536  # token vectors at a time


def quantize(path: Path) -> None:
    """Replaces a float32 graph by one in 8-bit integers.

    Raises:
        ModelError: ONNX Runtime's quantiser cannot do it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _load(path)
    for node in list(model.graph.node):
        if node.op_type == "Gather":
            _quantize_table(model.graph, node)
    _save(model, path)
    large = path.with_name(f"{path.name}.data").exists()
    del model
    with TemporaryDirectory(dir=path.parent) as folder, _without_advice():
        made = Path(folder) / path.name
        try:
            quantize_dynamic(
                str(path),
                str(made),
                op_types_to_quantize=["MatMul", "Attention"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=large,
                # Fused nodes have no shape inference: without a type for what they give, it stops.
                extra_options={"DefaultTensorType": 1, "MatMulConstBOnly": True},
            )
        except Exception as error:  # of graphs of any kind, whatever it trips over
            raise ModelError(f"this graph cannot be quantised: {error}") from error
        _remove(path)
        for file in Path(folder).iterdir():
            shutil.move(file, path.parent / file.name)


def _quantize_table(graph: Any, gather: Any) -> None:
    """Rows of a table in 8 bits, each with its scale: ``Gather(rows) * Gather(scales)``."""
    from onnx import TensorProto, helper, numpy_helper

    table = next((t for t in graph.initializer if t.name == gather.input[0]), None)
    if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2:
        return
    axis = next((a.i for a in gather.attribute if a.name == "axis"), 0)
    shared = sum(table.name in node.input for node in graph.node) > 1
    if axis != 0 or shared or int(np.prod(table.dims)) < _TABLE:
        return
    rows, scales = _eight_bits(numpy_helper.to_array(table))
    name, ids, out = table.name, gather.input[1], gather.output[0]
    graph.initializer.remove(table)
    graph.initializer.extend(
        [
            numpy_helper.from_array(rows, f"{name}_int8"),
            numpy_helper.from_array(scales, f"{name}_scales"),
        ]
    )
    place = list(graph.node).index(gather)
    graph.node.remove(gather)
    for number, node in enumerate(
        (
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{name}_rows"], axis=0),
            helper.make_node("Cast", [f"{name}_rows"], [f"{name}_floats"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scales", ids], [f"{name}_scale"], axis=0),
            helper.make_node("Mul", [f"{name}_floats", f"{name}_scale"], [out]),
        )
    ):
        graph.node.insert(place + number, node)


def _eight_bits(table: Vectors) -> tuple[NDArray[np.int8], Vectors]:
    """int8 [V, D] and float32 [V, 1]: their product is a table [V, D], rounded."""
    rows: NDArray[np.int8] = np.empty(table.shape, dtype=np.int8)
    scales = np.empty((len(table), 1), dtype=np.float32)
    for start in range(0, len(table), _ROWS):
        part = slice(start, start + _ROWS)
        scales[part] = np.abs(table[part]).max(1, keepdims=True) / 127
        divisor = np.where(scales[part] == 0, 1, scales[part])
        rows[part] = np.rint(table[part] / divisor)
    return rows, scales


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _save(model: Any, path: Path) -> None:
    """Writes a graph, with its weights in a second file where they are large."""
    import onnx

    weights = sum(
        int(np.prod(t.dims)) * _BYTES.get(t.data_type, 8) for t in model.graph.initializer
    )
    _remove(path)
    onnx.save(
        model,
        str(path),
        save_as_external_data=weights > ONE_FILE,
        location=f"{path.name}.data",
    )


_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}  # by onnx.TensorProto.DataType


def _remove(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}.data")):
        file.unlink(missing_ok=True)


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser advises to prepare the graph, which its own tool does not do for this one; and
    by the way it sets up the logging of the program."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
