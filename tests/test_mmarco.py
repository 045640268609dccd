"""mMARCO's collections, queries and triples as its authors lay them out."""

from __future__ import annotations

import pytest

from hybridret.data import load_dataset
from hybridret.errors import DataError
from hybridret.training.batches import make_sampler
from hybridret.training.pairs import PairTable


@pytest.fixture
def folder(tmp_path):
    for name, tag in (("english", "e"), ("chinese", "z"), ("hindi", "h")):
        made = tmp_path / "google"
        (made / "collections").mkdir(parents=True, exist_ok=True)
        (made / "queries" / "train").mkdir(parents=True, exist_ok=True)
        passages = "".join(f"{n}\t{tag} passage {n}, “so”\n" for n in range(30))
        (made / "collections" / f"{name}_collection.tsv").write_text(passages, encoding="utf-8")
        if name != "hindi":
            queries = "".join(f"{n}\t{tag} query {n}\n" for n in range(100, 120))
            file = made / "queries" / "train" / f"{name}_queries.train.tsv"
            file.write_text(queries, encoding="utf-8")
    triples = "".join(f"{100 + n % 8}\t{n % 8}\t{8 + n}\n" for n in range(16))
    (tmp_path / "triples.train.ids.small.tsv").write_text(triples + "100\t20\t21\n")
    return tmp_path


def test_queries_passages_and_negatives(folder):
    found = load_dataset(folder)
    assert found.languages == ["en", "zh"]  # hindi has no queries
    assert len(found.queries) == 16
    assert {d.group_id for d in found.documents} == {str(n) for n in (*range(16), 20, 21)}
    assert found.qrels["en-101"] == {"en-1": 1}
    assert found.negatives["zh-101"] == ["zh-9"]  # the first of them
    assert found.qrels["zh-100"] == {"zh-0": 1, "zh-20": 1}
    text = {d.document_id: d.text for d in found.documents}
    assert text["zh-9"] == "z passage 9, “so”"
    table = PairTable.from_dataset(found)
    assert len(table) == 9  # query 100 has two passages
    for kind in ("monolingual", "cross-lingual", "hybrid"):
        batch = next(make_sampler(kind, table, 4).epoch(0))
        assert batch.negative_counts.min() >= 1
    assert load_dataset(folder, languages=["zh"]).languages == ["zh"]


def test_what_is_missing_is_named(folder):
    triples = folder / "triples.train.ids.small.tsv"
    triples.write_text("100\t0\t99\n")
    with pytest.raises(DataError, match=r"english_collection.tsv: 1 numbers .* such as 99"):
        load_dataset(folder)
    triples.write_text("100\t0\tx\n")
    with pytest.raises(DataError, match=r"tsv:1: expected three numbers with tabs between"):
        load_dataset(folder)
    triples.unlink()
    with pytest.raises(DataError, match=r"no triples\.train\.ids"):
        load_dataset(folder)
    with pytest.raises(DataError, match="mMARCO has no language ru; it has en, zh"):
        load_dataset(folder, languages=["ru"])
