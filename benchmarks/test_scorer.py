"""How fast are exact ranks? All 122 settings of a data set of XQuAD-R's shape."""

from __future__ import annotations

import numpy as np
import pytest

from hybridret.data.table import Dataset, Document, Query
from hybridret.evaluation import Pool, rank_embeddings

torch = pytest.importorskip("torch")

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")


@pytest.fixture(scope="module")
def pool() -> Pool:
    """1,190 questions in 11 languages, 1,183 candidates a language, one answer each."""
    queries = [Query(f"{x}{i}", "?", x, f"g{i}") for x in LANGUAGES for i in range(1190)]
    documents = [Document(f"{x}-{i}", "!", x, f"{x}{i}") for x in LANGUAGES for i in range(1183)]
    qrels = {f"{x}{i}": {f"{x}-{i % 1183}": 1} for x in LANGUAGES for i in range(1190)}
    return Pool(Dataset("XQuAD-R's shape", queries, documents, qrels))


def test_ranks(benchmark, pool, unit_vectors):
    benchmark.group = "exact ranks, 13,090 queries x 13,013 documents x 768"
    q = unit_vectors(len(pool.query_language), 768, 0)
    d = unit_vectors(len(pool.document_language), 768, 1)
    benchmark.pedantic(lambda: rank_embeddings(pool, q, d), rounds=3, warmup_rounds=1)


def test_matmul_alone(benchmark, pool, unit_vectors):
    """torch's sgemm of the same matrices, a block at a time, with nothing done to the scores."""
    benchmark.group = "exact ranks, 13,090 queries x 13,013 documents x 768"
    q = torch.from_numpy(unit_vectors(len(pool.query_language), 768, 0))
    d = torch.from_numpy(unit_vectors(len(pool.document_language), 768, 1))

    def multiply():
        for block in q.split(1024):
            block @ d.T

    benchmark.pedantic(multiply, rounds=3, warmup_rounds=1)


def test_matmul_and_full_sort_of_a_tenth(benchmark, pool, unit_vectors):
    benchmark.group = "a tenth of it: torch matmul and argsort, pool of all languages only"
    q = torch.from_numpy(unit_vectors(len(pool.query_language), 768, 0))[::10]
    d = torch.from_numpy(unit_vectors(len(pool.document_language), 768, 1))

    def sort():
        for block in q.split(512):
            np.asarray((block @ d.T).argsort(dim=1, descending=True))

    benchmark.pedantic(sort, rounds=3, warmup_rounds=1)
