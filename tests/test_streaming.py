"""Texts on disk: the same table, batches and errors as from a data set in memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridret.data import load_dataset
from hybridret.errors import DataError
from hybridret.training.batches import Sampler
from hybridret.training.pairs import PairTable, TrainingData
from hybridret.training.streaming import stream_pairs

LANGUAGES = ("de", "en", "zh-CN")
few = st.integers(0, 5)
lines = st.lists(
    st.fixed_dictionaries(
        {
            "query": few.map("q{}".format),
            "positive": few.map("d{}ä".format),
            "language": st.sampled_from(LANGUAGES),
            "positive_language": st.sampled_from([*LANGUAGES, None]),
            "group": st.one_of(st.none(), few.map("g{}".format)),
            "negatives": st.lists(few.map("d{}ä".format), max_size=3),
            "negative_language": st.sampled_from([*LANGUAGES, None]),
        }
    ),
    min_size=1,
    max_size=30,
)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def equal(a: PairTable, b: PairTable) -> None:
    assert a.languages == b.languages
    assert list(a.query_texts) == list(b.query_texts)
    assert list(a.document_texts) == list(b.document_texts)
    rows, columns = np.indices(b.queries.shape)
    for name in ("queries", "documents"):
        cells, array = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(cells[rows, columns], array, name)
        np.testing.assert_array_equal(cells != -1, array != -1, name)
        np.testing.assert_array_equal(cells.max(1), array.max(1), name)
        assert len(cells) == len(array)
    for name in ("query_groups", "document_groups"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    assert dict(a.relevant) == dict(b.relevant)
    assert a.negatives.keys() == b.negatives.keys()
    for key, found in b.negatives.items():
        np.testing.assert_array_equal(a.negatives[key], found)


def in_memory(path: Path, languages: list[str] | None) -> PairTable:
    return PairTable.from_dataset(load_dataset(path, languages=languages))


@given(rows=lines, languages=st.one_of(st.none(), st.sets(st.sampled_from(LANGUAGES), min_size=1)))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_is_that_of_the_data_set(tmp_path, rows, languages):
    for row in rows:
        row["negatives"] = [x for x in row["negatives"] if x != row["positive"]]
        for name in ("positive_language", "group", "negative_language"):
            if row[name] is None:
                del row[name]
    path = write(tmp_path / "pairs.jsonl", rows)
    asked = sorted(languages) if languages else None
    try:
        expected = in_memory(path, asked)
    except DataError as error:
        with pytest.raises(DataError) as found:
            stream_pairs(path, asked)
        message = str(error)
        if "two queries" in message:
            assert "a group has two queries in" in str(found.value)
        else:
            assert str(found.value) == message
        return
    equal(stream_pairs(path, asked), expected)


def test_batches_are_the_same(tmp_path):
    rows = [
        {
            "query": f"{language} {n}",
            "positive": f"{language} answer {n}",
            "language": language,
            "group": f"{n}",
            "negatives": [f"{language} none {n} {i}" for i in range(n % 3)],
        }
        for n in range(60)
        for language in ("de", "en")
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    drawn = []
    for table in (in_memory(path, None), stream_pairs(path), stream_pairs(packed)):
        batches = list(Sampler([TrainingData("data", table)], 8).epoch(0))
        drawn.append(
            [
                (b.kind, b.query_texts(table), b.document_texts(table), b.groups(table).tolist())
                for b in batches
            ]
        )
    assert drawn[0] == drawn[1] == drawn[2]


def test_errors_name_the_line(tmp_path):
    path = write(tmp_path / "pairs.jsonl", [{"query": "a", "positive": "b"}, {"query": "a"}])
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: "):
        stream_pairs(path)
