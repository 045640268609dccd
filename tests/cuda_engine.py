"""The CUDA library with the interface of the native module's InfoNCE: on a GPU, or emulated."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridret.losses import _cuda
from hybridret.losses._library import Library
from hybridret.losses._options import Batch

ROOT = Path(__file__).parents[1]
SPARE = 512


def build_emulated(target: Path) -> Library:
    """The kernels for the emulator of tests/native/cuda."""
    emulator, csrc = ROOT / "tests" / "native" / "cuda", ROOT / "csrc"
    options = [
        *("-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # unroll is not of g++
        *("-DHYBRIDRET_EMULATED", '-DHYBRIDRET_ARCHITECTURES="emulated"'),
        *(f"-I{csrc}", f"-I{emulator}", "-x", "c++"),
    ]
    sources = [*sorted((csrc / "cuda").rglob("*.cu")), emulator / "tensor_map.cpp"]
    subprocess.run(["g++", *options, *sources, "-o", target], check=True)
    return Library(target)


class GuardedProblem(_cuda.Problem):
    """Its workspace holds NaN at first, and what lies behind it has to stay."""

    rooms: list[torch.Tensor]

    def workspace(self, *arguments: Any, **options: Any) -> torch.Tensor:
        needed = super().workspace(*arguments, **options).numel()
        memory = torch.full((needed + SPARE,), 0x7F, dtype=torch.uint8, device=self.queries.device)
        self.rooms.append(memory)
        return memory[:needed]


class InfoNCE:
    """As ``hybridret._native.InfoNCE``: numpy in, numpy out."""

    device = "cpu"
    workspace = 1 << 32

    def __init__(self, queries: Any, documents: Any, labels: Any, *, scale: float, **options: Any):
        names = ("query_groups", "document_groups", "log_bias")
        segments = options.get("segments")
        self.batch = Batch(
            self.tensor(queries),
            self.tensor(documents),
            self.tensor(labels),
            *(self.tensor(options.get(name)) for name in names[:2]),
            None if segments is None else torch.tensor(np.asarray(segments)),
            self.tensor(options.get("log_bias")),
            self.tensor(np.array(scale, dtype=np.float32)),
            *(
                bool(options.get(name))
                for name in ("normalize", "unit_norm", "hard_only", "labels_elsewhere")
            ),
            self.workspace,
            options.pop("logit_bound", 0.0),
        )
        unknown = set(options) - {*names, "segments", *Batch._fields}
        assert not unknown, unknown

    def tensor(self, array: Any) -> torch.Tensor | None:
        if array is None:
            return None
        tensor = torch.from_numpy(array if isinstance(array, np.ndarray) else np.array(array))
        tensor = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
        return tensor.to(self.device)

    def forward(self, *, columns=False, ranks=False, row_weights=None, threads=1) -> tuple:
        gradients = row_weights is not None
        weight = (float(row_weights[0]) if len(row_weights) else 1.0) if gradients else None
        GuardedProblem.rooms = []
        found = _cuda._forward(
            self.batch, columns=columns, ranks=ranks, weight=weight, gradients=gradients
        )
        self.loss = found.loss.item() if gradients else None
        return self.arrays((*found[:4], *found[5:]))

    def backward(
        self,
        lse,
        column_lse,
        *,
        by_negatives_lse,
        by_positive,
        by_column_negatives_lse=None,
        threads=1,
    ) -> tuple:
        GuardedProblem.rooms = []
        given = (lse, column_lse, by_negatives_lse, by_positive, by_column_negatives_lse)
        found = _cuda.statistics_backward(self.batch, *map(self.tensor, given))
        return self.arrays(found)

    @staticmethod
    def arrays(tensors: tuple[torch.Tensor, ...]) -> tuple:
        for room in GuardedProblem.rooms:
            assert (room[-SPARE:] == 0x7F).all(), "written past the end of the workspace"
        *arrays, by_scale = [
            (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).cpu().numpy()
            for x in tensors
        ]
        return *arrays, float(by_scale)
