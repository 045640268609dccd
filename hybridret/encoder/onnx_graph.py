"""The ONNX graph of an encoder: written by torch's exporter, fused for ONNX Runtime.

Fusing replaces the dozens of nodes of a layer by a few of ONNX Runtime's own: attention with one
product for queries, keys and values, GELU with its bias. The patterns are onnxscript's
(``onnxscript.rewriter.ort_fusions``); what they do not find stays as torch wrote it. Other runtimes
than ONNX Runtime do not know the fused nodes.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybridret.encoder.model import EncoderModel
from hybridret.encoder.quantization import ONE_FILE
from hybridret.errors import ModelError

OPSET = 18
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
_FUSED_DOMAIN = "com.microsoft"
_LONGEST_CHECK = 2048  # tokens; windows of local attention are shorter


class _Graph(nn.Module):
    def __init__(self, model: EncoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        # Of 16 bits: sums over tokens and lengths of vectors can be more than these hold.
        tokens = self.model.tokens(input_ids, attention_mask).float()
        return tokens, self.model.pool(tokens, attention_mask)


def write_graph(
    model: EncoderModel, path: Path, *, fuse: bool, half: bool = False, max_length: int
) -> dict[str, int]:
    """Writes the graph ``input_ids, attention_mask -> last_hidden_state, sentence_embedding``.

    Weights that do not fit into one file go to a second one beside it.

    Args:
        half: weights and products in 16 bits; pooling, layers after it and outputs in 32.
        max_length: tokens of a text.

    Returns:
        How many fused nodes of each kind it has.

    Raises:
        ModelError: torch cannot export the model.
    """
    if half:
        model = deepcopy(model)
        model.backbone.half()
    program = _exported(model)
    if fuse:
        _fuse(program.model, max_length)
    _strip_metadata(program.model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    program.save(str(path), external_data=weights > ONE_FILE)
    nodes = program.model.graph.all_nodes()
    return dict(Counter(node.op_type for node in nodes if node.domain == _FUSED_DOMAIN))


def _exported(model: EncoderModel) -> Any:
    training = model.training
    model.eval()
    graph = _Graph(model)
    # Several texts and tokens: the exporter would treat an axis of length 1 as a constant.
    example = (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    for name in ("onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                graph,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=(axes, axes),
                verbose=False,
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"torch cannot export this model to ONNX: {reason}") from error
    finally:
        model.train(training)


def _strip_metadata(model: Any) -> None:
    """Removes the exporter's stack traces: paths of this machine, in which equal models differ."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()


def _fuse(model: Any, max_length: int) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    try:
        optimize_for_ort(model, clear_metadata=True)
        # The weights of queries, keys and values, beside each other: large ones are left to the
        # runtime otherwise, and the quantiser does not see them.
        fold_constants(model, should_fold=lambda node: node.op_type == "Concat" or None)
        _part_sums(model.graph)
        _mask_tokens(model, max_length)
        RemoveUnusedNodesPass()(model)
    except Exception as error:  # a library's search for patterns, in graphs of any kind
        raise ModelError(f"this graph cannot be fused: {error}") from error


def _part_sums(graph: Any) -> None:
    """Parts layer norms from the sums before them, which the patterns put into one node.

    On a processor ONNX Runtime takes 37 us for that node (20 tokens of 384) and 14 for its parts,
    see :func:`hybridret.encoder.onnx.open_session`. For a GPU it puts them together again.
    """
    import onnx_ir as ir

    for node in [n for n in graph if n.op_type == "SkipLayerNormalization"]:
        total, skip, scale, *rest = node.inputs
        bias, before = (*rest, None, None)[:2]
        made = []
        for other in (before, skip):
            if other is not None:
                made.append(ir.node("Add", [total, other]))
                total = made[-1].outputs[0]
        epsilon = {"axis": -1, "epsilon": node.attributes["epsilon"].as_float()}
        made.append(ir.node("LayerNormalization", [total, scale, bias], epsilon))
        graph.insert_before(node, made)
        for old, new in zip(node.outputs[::3], (made[-1].outputs[0], total), strict=False):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _mask_tokens(model: Any, max_length: int) -> None:
    """Gives the fused attention the mask [B, S] instead of a table [B, 1, S, S] made of it.

    Smaller, and what the 8-bit form of the node takes: ONNX Runtime's quantiser forgets a table.
    Only where the table says which tokens are padding and nothing else.
    """
    import onnx_ir as ir

    graph = model.graph
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    whole: dict[str, bool] = {}
    masked = None
    for node in [n for n in graph if (n.domain, n.op_type) == (_FUSED_DOMAIN, "Attention")]:
        table = node.inputs[5] if len(node.inputs) > 5 else None
        if table is None:
            continue
        if table.name not in whole:
            whole[table.name] = _says_padding(graph, table, min(max_length, _LONGEST_CHECK))
        if not whole[table.name]:
            continue
        if masked is None:
            cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
            masked = cast.outputs[0]
            graph.insert_before(next(iter(graph)), cast)
        node.replace_input_with(3, masked)
        node.replace_input_with(5, None)
        # Names the sizes that it would have anyway; the 8-bit form does not take it.
        sizes = node.attributes.get("qkv_hidden_sizes")
        if sizes is not None and len(set(sizes.as_ints())) == 1:
            node.attributes.pop("qkv_hidden_sizes")


def _says_padding(graph: Any, table: Any, length: int) -> bool:
    """Whether a table of what is added to attention scores is 0 for tokens and low for padding."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    nodes: dict[Any, None] = {}
    values: dict[str, Any] = {}
    waiting = [table]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None:
            if value.name is not None:
                values[value.name] = value
        elif node not in nodes:
            nodes[node] = None
            waiting.extend(v for v in node.inputs if v is not None)
    inputs = [value for value in graph.inputs if value.name in values]
    constants = [v.const_value for name, v in values.items() if name in graph.initializers]
    if any(constant is None or constant.size > 1 << 16 for constant in constants):
        return False
    ordered = [ir.serde.serialize_node(node) for node in graph if node in nodes]
    part = onnx.helper.make_graph(
        ordered,
        "mask",
        [onnx.helper.make_tensor_value_info(v.name, onnx.TensorProto.INT64, None) for v in inputs],
        [onnx.helper.make_tensor_value_info(table.name, table.dtype, None)],
        [ir.serde.serialize_tensor(constant) for constant in constants],
    )
    imports = [onnx.helper.make_opsetid(d, v) for d, v in graph.opset_imports.items()]
    mask = np.ones((2, length), dtype=np.int64)
    mask[1, (length + 1) // 2 :] = 0
    feed = {"attention_mask": mask, "input_ids": np.ones_like(mask)}
    try:
        made = onnx.helper.make_model(part, opset_imports=imports)
        (found,) = ReferenceEvaluator(made).run(None, {v.name: feed[v.name] for v in inputs})
    except Exception:  # a node that the evaluator does not have: it stays as it is
        return False
    if found.ndim != 4 or found.shape[-1] != length:
        return False
    wanted = np.broadcast_to(mask[:, None, None, :].astype(bool), found.shape)
    return bool((found[wanted] == 0).all() and (found[~wanted] < -1e4).all())
