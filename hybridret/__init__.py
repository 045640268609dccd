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
    from hybridret.ranking import Pool, Ranks, rank_embeddings
    from hybridret.retriever import Retriever
    from hybridret.significance import Comparison, compare, over_seeds
    from hybridret.torch_encoder import TorchEncoder
    from hybridret.training import train
    from hybridret.training_config import TrainingConfig
    from hybridret.trec import RunReport, evaluate_run, read_qrels, read_run

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
    "Pool": "ranking",
    "Ranks": "ranking",
    "rank_embeddings": "ranking",
    "Comparison": "significance",
    "compare": "significance",
    "over_seeds": "significance",
    "RunReport": "trec",
    "evaluate_run": "trec",
    "read_qrels": "trec",
    "read_run": "trec",
    "TorchEncoder": "torch_encoder",
    "Retriever": "retriever",
    "TrainingConfig": "training_config",
    "train": "training",
}

__all__ = [
    "Comparison",
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
    "Pool",
    "Ranks",
    "Report",
    "Retriever",
    "RunReport",
    "TorchEncoder",
    "TrainingConfig",
    "__version__",
    "compare",
    "evaluate",
    "evaluate_embeddings",
    "evaluate_run",
    "export",
    "infonce",
    "infonce_statistics",
    "load_dataset",
    "load_encoder",
    "make_sampler",
    "over_seeds",
    "rank_embeddings",
    "read_qrels",
    "read_run",
    "train",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"hybridret.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hybridret' has no attribute {name!r}")
