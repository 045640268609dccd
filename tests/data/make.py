"""Writes what a release writes, to be opened by later ones: ``python tests/data/make.py``.

Run it once for a release, by that release, and commit the folder: test_compatibility.py opens it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import hybridret

LANGUAGES = ["de", "en", "ar"]
QUESTION = "Which currency is legal tender there? Madagascar"


def main() -> None:
    version = ".".join(hybridret.__version__.split(".")[:2])
    folder = Path(__file__).parent / f"release-{version}"
    if folder.exists():
        sys.exit(f"{folder} is there; remove it only if {version} is not released yet")
    folder.mkdir()
    data = hybridret.load_dataset("facts-evaluation", languages=LANGUAGES)
    documents = list(data.documents)[::40]
    texts = [d.full_text for d in documents]
    encoder = hybridret.TorchEncoder.new_static(texts, dimension=16, vocabulary_size=300)
    table = hybridret.PairTable.from_dataset(data)
    config = hybridret.TrainingConfig(steps=4, batch_size=16, checkpoint_every=2)
    hybridret.train(encoder, table, folder / "run", config, progress=False)
    for kept in ("model", "plots.png"):
        path = folder / "run" / kept
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    hybridret.export(encoder, folder / "encoder", source="facts")
    retriever = hybridret.Retriever.create(folder / "encoder")
    retriever.add(
        [
            hybridret.Document(
                d.document_id, d.text, d.language, d.group_id, metadata={"number": n}
            )
            for n, d in enumerate(documents)
        ]
    )
    retriever.delete([documents[0].document_id])
    expected = {
        mode: [
            {"id": hit.document_id, "score": hit.score}
            for hit in retriever.search(QUESTION, k=5, mode=mode, where={"number": {"lt": 60}})
        ]
        for mode in ("dense", "words", "hybrid")
    }
    (folder / "expected.json").write_text(
        json.dumps({"question": QUESTION, "documents": len(retriever), "hits": expected}, indent=1)
    )
    report = hybridret.evaluate(encoder, data)
    report.save_json(folder / "report.json")


if __name__ == "__main__":
    main()
