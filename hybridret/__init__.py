"""hybridret: train, judge and serve multilingual dense retrievers.

Importing it, and everything that serves queries, needs numpy alone; torch, transformers,
onnxruntime are imported by the parts that use them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hybridret._native import __version__
from hybridret.errors import (
    DataError,
    HybridretError,
    IndexFileError,
    MissingExtraError,
    ModelError,
)
from hybridret.losses import InfoNCEStatistics, InfoNCEStats, infonce, infonce_statistics

if TYPE_CHECKING:
    from hybridret.batches import PairTable, make_sampler
    from hybridret.data import Dataset, Document, load_dataset
    from hybridret.encoder import OnnxEncoder, load_encoder
    from hybridret.evaluation import Report, evaluate, evaluate_embeddings
    from hybridret.exporting import export
    from hybridret.loss_module import InfoNCELoss
    from hybridret.retriever import Retriever
    from hybridret.torch_encoder import TorchEncoder
    from hybridret.training import train
    from hybridret.training_config import TrainingConfig

_HOMES = {
    "PairTable": "batches",
    "make_sampler": "batches",
    "Dataset": "data",
    "Document": "data",
    "load_dataset": "data",
    "OnnxEncoder": "encoder",
    "load_encoder": "encoder",
    "Report": "evaluation",
    "evaluate": "evaluation",
    "evaluate_embeddings": "evaluation",
    "InfoNCELoss": "loss_module",
    "export": "exporting",
    "TorchEncoder": "torch_encoder",
    "Retriever": "retriever",
    "TrainingConfig": "training_config",
    "train": "training",
}

__all__ = [
    "DataError",
    "Dataset",
    "Document",
    "HybridretError",
    "IndexFileError",
    "InfoNCELoss",
    "InfoNCEStatistics",
    "InfoNCEStats",
    "MissingExtraError",
    "ModelError",
    "OnnxEncoder",
    "PairTable",
    "Report",
    "Retriever",
    "TorchEncoder",
    "TrainingConfig",
    "__version__",
    "evaluate",
    "evaluate_embeddings",
    "export",
    "infonce",
    "infonce_statistics",
    "load_dataset",
    "load_encoder",
    "make_sampler",
    "train",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"hybridret.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hybridret' has no attribute {name!r}")
