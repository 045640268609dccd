"""Whether an installed wheel works, where nothing else is: ``python smoke.py``.

Needs numpy, onnxruntime and tokenizers; no torch, no compiler, no test runner.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import hybridret

DATA = Path(__file__).parent / "data"


def loss() -> None:
    """Against the definition, in float64."""
    rng = np.random.default_rng(0)
    queries, documents = (rng.normal(size=(n, 96)).astype(np.float32) for n in (50, 80))
    found = float(hybridret.infonce(queries, documents, temperature=0.1, normalize=True))
    q, d = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.float64, (queries, documents))
    )
    logits = q @ d.T / 0.1
    expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(50), np.arange(50)]).mean()
    assert abs(found - expected) < 1e-5, (found, expected)


def ranks() -> None:
    """A perfect system finds everything, in eleven languages."""
    data = hybridret.load_dataset("facts-evaluation")
    groups = {d.document_id: n for n, d in enumerate(data.documents)}
    documents = np.random.default_rng(0).normal(size=(len(groups), 64)).astype(np.float32)
    answers = [groups[next(iter(data.qrels[q.query_id]))] for q in data.queries]
    report = hybridret.evaluate_embeddings(documents[answers], documents, data)
    assert len(report.languages) == 11
    assert report.summary["multi"]["RR"] > 0.999, report.summary


def search(folder: Path) -> None:
    """An encoder and a store that a release wrote."""
    expected = json.loads((folder / "expected.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        encoder = shutil.copytree(folder / "encoder", Path(temporary) / "encoder")
        retriever = hybridret.Retriever.load(encoder)
        assert len(retriever) == expected["documents"]
        for mode, hits in expected["hits"].items():
            found = retriever.search(
                expected["question"], k=5, mode=mode, where={"number": {"lt": 60}}
            )
            assert [hit.document_id for hit in found] == [hit["id"] for hit in hits], mode
            for hit, known in zip(found, hits, strict=True):
                assert abs(hit.score - known["score"]) < 1e-3, (mode, hit)
        retriever.add([hybridret.Document("new", expected["question"], "en")])
        best = hybridret.Retriever.load(encoder).search(expected["question"], k=1)
        assert best[0].document_id == "new", best


def main() -> None:
    command = [sys.executable, "-m", "hybridret.cli", "info", "--json"]
    info = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    loss()
    ranks()
    for folder in sorted(DATA.glob("release-*")):
        search(folder)
    for heavy in ("torch", "transformers"):
        assert heavy not in sys.modules, heavy
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"hybridret {info['version']} works: Python {python}, {info['isa']} kernels")


if __name__ == "__main__":
    main()
