"""hybridret: train, evaluate and serve multilingual dense retrievers.

Importing hybridret needs only numpy; torch, transformers and onnxruntime are imported by the
functions that use them. Serving queries never imports torch or transformers.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from hybridret._native import __version__
from hybridret.errors import (
    DataError,
    HybridretError,
    IndexFileError,
    KnownDocumentError,
    MissingExtraError,
    ModelError,
    UnknownDocumentError,
)

if TYPE_CHECKING:
    from hybridret.data import Dataset, Document, Query, load_dataset
    from hybridret.debiasing import DebiasResult, debias
    from hybridret.encoder.debias import (
        LanguageComponents,
        LanguageDirections,
        language_components,
        language_directions,
    )
    from hybridret.encoder.distillation import distill
    from hybridret.encoder.exporting import export
    from hybridret.encoder.loading import load_encoder
    from hybridret.encoder.onnx import OnnxEncoder
    from hybridret.encoder.torch_encoder import TorchEncoder
    from hybridret.encoder.vocabulary import trim_vocabulary
    from hybridret.evaluation.baselines import evaluate_baseline
    from hybridret.evaluation.gate import RetrievalGate
    from hybridret.evaluation.judging import Evaluation, evaluate, evaluate_embeddings
    from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings
    from hybridret.evaluation.report import Report
    from hybridret.evaluation.significance import Comparison, compare, over_seeds
    from hybridret.evaluation.trec import RunReport, evaluate_run, read_qrels, read_run
    from hybridret.losses._options import InBatchMetrics, InfoNCEStatistics
    from hybridret.losses.functional import infonce, infonce_statistics
    from hybridret.losses.sentence_transformers import InfoNCELoss
    from hybridret.serving.index import Hit, Index
    from hybridret.serving.retriever import Retriever
    from hybridret.serving.state import GraphSettings
    from hybridret.training.batches import Sampler, make_sampler
    from hybridret.training.config import TrainingConfig
    from hybridret.training.loop import train
    from hybridret.training.pairs import Batch, PairTable, TrainingData
    from hybridret.training.sentence_transformers import TrainerBatches

_MODULES = {
    "data": ("Dataset", "Document", "Query", "load_dataset"),
    "debiasing": ("DebiasResult", "debias"),
    "encoder.debias": (
        "LanguageComponents",
        "LanguageDirections",
        "language_components",
        "language_directions",
    ),
    "encoder.distillation": ("distill",),
    "encoder.exporting": ("export",),
    "encoder.loading": ("load_encoder",),
    "encoder.onnx": ("OnnxEncoder",),
    "encoder.torch_encoder": ("TorchEncoder",),
    "encoder.vocabulary": ("trim_vocabulary",),
    "evaluation.baselines": ("evaluate_baseline",),
    "evaluation.gate": ("RetrievalGate",),
    "evaluation.judging": ("Evaluation", "evaluate", "evaluate_embeddings"),
    "evaluation.ranking": ("Pool", "Ranks", "rank_embeddings"),
    "evaluation.report": ("Report",),
    "evaluation.significance": ("Comparison", "compare", "over_seeds"),
    "evaluation.trec": ("RunReport", "evaluate_run", "read_qrels", "read_run"),
    "losses._options": ("InBatchMetrics", "InfoNCEStatistics"),
    "losses.functional": ("infonce", "infonce_statistics"),
    "losses.sentence_transformers": ("InfoNCELoss",),
    "serving.index": ("Hit", "Index"),
    "serving.retriever": ("Retriever",),
    "serving.state": ("GraphSettings",),
    "training.batches": ("Sampler", "make_sampler"),
    "training.pairs": ("Batch", "PairTable", "TrainingData"),
    "training.sentence_transformers": ("TrainerBatches",),
    "training.config": ("TrainingConfig",),
    "training.loop": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_RENAMED = {"InfoNCEStats": "InBatchMetrics"}  # former names, to be removed in the next version

__all__ = [
    "Batch",
    "Comparison",
    "DataError",
    "Dataset",
    "DebiasResult",
    "Document",
    "Evaluation",
    "GraphSettings",
    "Hit",
    "HybridretError",
    "InBatchMetrics",
    "Index",
    "IndexFileError",
    "InfoNCELoss",
    "InfoNCEStatistics",
    "KnownDocumentError",
    "LanguageComponents",
    "LanguageDirections",
    "MissingExtraError",
    "ModelError",
    "OnnxEncoder",
    "PairTable",
    "Pool",
    "Query",
    "Ranks",
    "Report",
    "RetrievalGate",
    "Retriever",
    "RunReport",
    "Sampler",
    "TorchEncoder",
    "TrainerBatches",
    "TrainingConfig",
    "TrainingData",
    "UnknownDocumentError",
    "__version__",
    "compare",
    "debias",
    "distill",
    "evaluate",
    "evaluate_baseline",
    "evaluate_embeddings",
    "evaluate_run",
    "export",
    "infonce",
    "infonce_statistics",
    "language_components",
    "language_directions",
    "load_dataset",
    "load_encoder",
    "make_sampler",
    "over_seeds",
    "rank_embeddings",
    "read_qrels",
    "read_run",
    "train",
    "trim_vocabulary",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(
            f"hybridret.{name} is now hybridret.{_RENAMED[name]}", DeprecationWarning, stacklevel=2
        )
        name = _RENAMED[name]
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"hybridret.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # so that this function is not called for it again
        return value
    raise AttributeError(f"module 'hybridret' has no attribute {name!r}")
