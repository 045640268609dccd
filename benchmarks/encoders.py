"""What test_encoder.py and test_service.py measure: exported encoders, documents, questions."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from hybridret.data import Dataset, load_dataset

MODEL, DATA = os.environ.get("HYBRIDRET_MODEL"), os.environ.get("HYBRIDRET_TEST_DATA")
PRECISIONS = ("float32", "int8")
NEEDED = pytest.mark.skipif(
    not MODEL or not DATA, reason="HYBRIDRET_MODEL and HYBRIDRET_TEST_DATA are not set"
)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return load_dataset(f"{DATA}/xquad-r")


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """Exported encoders with an index of the documents, and the vectors in ``documents.npy``.

    HYBRIDRET_CACHE keeps them: they take some minutes.
    """
    from hybridret import OnnxEncoder, Retriever, export
    from hybridret.serving.change import Embedded

    cache = os.environ.get("HYBRIDRET_CACHE")
    folder = Path(cache) if cache else tmp_path_factory.mktemp("exported")
    dataset = load_dataset(f"{DATA}/xquad-r")
    for precision in PRECISIONS:
        if not (folder / precision).is_dir():
            export(MODEL, folder / precision, precision=precision, unmeasured=True)
    if not (folder / "documents.npy").is_file():
        encoder = OnnxEncoder(folder / "float32")
        texts = [d.full_text for d in dataset.documents]
        np.save(folder / "documents.npy", encoder.encode_documents(texts, progress=True))
    for precision in PRECISIONS:  # the same vectors in each: only queries are embedded here
        if not (folder / precision / "index").is_dir():
            retriever = Retriever.create(folder / precision)
            documents, index = list(dataset.documents), retriever.index
            terms = index.words.documents([d.full_text for d in documents])
            vectors = np.load(folder / "documents.npy")
            index.write(documents, {index.number: Embedded(vectors, terms)}, replacing=False)
            index.link()
    return folder


@pytest.fixture(scope="session")
def questions(dataset) -> list[str]:
    return [q.text for q in random.Random(0).sample(dataset.queries, 400)]
