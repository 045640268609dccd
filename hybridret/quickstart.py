"""All steps in one run, on the built-in facts: train, evaluate, export, index, search.

It prints what it measures and claims nothing else. When training from scratch, only cross-lingual
batches teach which words mean the same, and a hybrid run has half as many of them: expect hybrid to
score between monolingual and cross-lingual, unlike with a pretrained multilingual encoder
(arXiv 2408.10536).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

from hybridret._files import write_json, write_text
from hybridret.data import Dataset, load_facts
from hybridret.encoder.exporting import export
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError
from hybridret.evaluation.baselines import evaluate_baseline
from hybridret.evaluation.judging import evaluate
from hybridret.evaluation.page import write_html
from hybridret.evaluation.report import Report
from hybridret.evaluation.text import summary_text
from hybridret.serving.retriever import Retriever
from hybridret.training.config import TrainingConfig
from hybridret.training.loop import train
from hybridret.training.pairs import PairTable

COMPARED = ("monolingual", "cross-lingual", "mixed", "hybrid")
"""The samplers that are compared."""
_MARKER = "results.json"
# Queries about held-out entities: (language of the query, languages of the documents).
_SEARCHES = (
    ("de", ["en", "zh"]),
    ("tr", ["ru", "es"]),
    ("en", None),
)


def quickstart(
    output: Path, *, steps: int = 1500, seed: int = 0, overwrite: bool = False
) -> list[Report]:
    """Runs all steps, prints what it measures, and writes models, index and report to ``output``.

    Raises:
        DataError: ``output`` is not empty and ``overwrite`` is not set, or it is not the output of
            a quick start; steps or seed is out of range.
    """
    if (os.environ.get("WORLD_SIZE") or "1") != "1":
        raise DataError("the quick start runs in one process; torchrun started several")
    runs = [TrainingConfig(sampler=sampler, steps=steps, seed=seed) for sampler in COMPARED]
    _clear(output, overwrite)
    began = time.monotonic()
    training, evaluation = load_facts("train"), load_facts("evaluation")
    table = PairTable.from_dataset(training)
    _say(
        "Data",
        f"facts from Unicode CLDR in {len(table.languages)} languages "
        f"({' '.join(table.languages)})\n"
        f"training   {len(table):,} facts, each as question and passage in every language\n"
        f"evaluation {len(evaluation.queries):,} questions and {len(evaluation.documents):,} "
        f"passages, about entities that are not in the training questions",
    )
    reports = [evaluate_baseline(name, evaluation) for name in ("random", "bm25")]
    untrained = _new_encoder(table, seed)
    reports.append(evaluate(untrained, evaluation, name="untrained"))
    for config in runs:
        encoder = _new_encoder(table, seed)
        train(encoder, table, output / config.sampler, config, progress=sys.stderr.isatty())
        reports.append(evaluate(encoder, evaluation, name=config.sampler))
        _print(f"trained {config.sampler}: {steps} steps of {config.batch_size} pairs")
    _say(
        "Average precision (1 is perfect)",
        summary_text(reports, ["AP"])
        + "\nRank distance: worst minus best rank of the 11 translations of an answer among all "
        f"passages\n(at best {len(table.languages) - 1}). All four samplers start from the "
        "untrained encoder and draw the same facts.\nWith a pretrained encoder the order differs, "
        "see the README.",
    )
    exported = export(encoder, output / "encoder", source="quick start, hybrid")
    retriever = Retriever.create(exported.folder)
    count = retriever.add(evaluation.documents)
    _say(
        "Export and index",
        f"{exported.folder}: ONNX, {exported.megabytes:.1f} MB, largest relative difference from "
        f"torch {exported.parity:.0e}\n{exported.folder}/index: {count:,} passages",
    )
    _say("Search across languages", _searches(Retriever.load(exported.folder), evaluation))
    write_html(output / "report.html", reports[::-1], "hybridret quick start")
    write_json(output / _MARKER, {"schema": 1, "systems": [r.to_dict() for r in reports]})
    _say(
        "Files",
        f"{output}/report.html   scores of every pair of languages\n"
        f"{output}/{_MARKER}   the same as JSON"
        f"\n({time.monotonic() - began:.0f} seconds)\n\nNow try\n"
        f'hybridret search {exported.folder} "Madagascar: which currency is legal tender there?" '
        f"-k 3 --languages hi th",
    )
    return reports


def _new_encoder(table: PairTable, seed: int) -> TorchEncoder:
    return TorchEncoder.new_static([*table.query_texts, *table.document_texts], seed=seed)


def _searches(retriever: Retriever, dataset: Dataset) -> str:
    """A few questions, each followed by the best passages."""
    lines = []
    groups = sorted({q.group_id for q in dataset.queries if q.group_id.endswith("/currency")})
    for (language, targets), group in zip(_SEARCHES, groups[3::11], strict=False):
        query = next(q for q in dataset.queries if q.group_id == group and q.language == language)
        only = f"  (passages in {' and '.join(targets)})" if targets else ""
        lines.append(f"? [{language}] {query.text}{only}")
        for hit in retriever.search(query.text, k=3, languages=targets):
            mark = "+" if hit.document_id.startswith(f"{group}/") else " "
            lines.append(f"  {mark} {hit.score:.2f} [{hit.language}] {hit.text}")
    lines.append("(+ marks passages that answer the question)")
    return "\n".join(lines)


def _clear(output: Path, overwrite: bool) -> None:
    if not output.exists():
        output.mkdir(parents=True)
    elif any(output.iterdir()):
        if not overwrite:
            raise DataError(f"{output} is not empty; choose another --output, or pass --overwrite")
        if not (output / _MARKER).is_file():
            raise DataError(f"{output} is not the output of a quick start; it is not overwritten")
        shutil.rmtree(output)
        output.mkdir()
    write_text(output / _MARKER, json.dumps({"schema": 1, "systems": []}))


def _say(title: str, text: str) -> None:
    _print(f"\n{title}\n{'=' * len(title)}\n{text}")


def _print(text: str) -> None:
    print(text, flush=True)
