"""Conditions on metadata: what the index admits is what Python says of each document."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridret.data.table import Document
from hybridret.errors import DataError
from hybridret.serving.filters import Columns, check_metadata, parsed
from hybridret.serving.index import Index

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -2.5]),
    st.sampled_from(["a", "b", "1", ""]),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(["x", "y"]), scalars, max_size=2),
)
objects = st.one_of(st.none(), st.dictionaries(st.sampled_from(["f", "g"]), values, max_size=2))
ORDERS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def found(metadata, name):
    """The values of a field, as a reader of the documentation would look for them."""
    value = metadata or {}
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return []
        value = value[part]
    if isinstance(value, dict):
        return []
    return value if isinstance(value, list) else [value]


def same(a, b):
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def holds(metadata, name, test, operand):
    there = found(metadata, name)
    if test == "exists":
        return bool(there) == operand
    if test == "ne":
        return not any(same(v, operand) for v in there)
    if test == "eq":
        return any(same(v, operand) for v in there)
    if test == "in":
        return any(same(v, o) for v in there for o in operand)
    return any(
        isinstance(v, str) == isinstance(operand, str)
        and isinstance(v, str | int | float)
        and not isinstance(v, bool)
        and ORDERS[test](v, operand)
        for v in there
    )


numbers_and_strings = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, "a", "b"]))
conditions = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), scalars),
    st.tuples(st.just("in"), st.lists(scalars, max_size=3)),
    st.tuples(st.sampled_from(sorted(ORDERS)), numbers_and_strings),
    st.tuples(st.just("exists"), st.booleans()),
)


@given(
    st.lists(objects, min_size=1, max_size=12),
    st.lists(st.tuples(st.sampled_from(["f", "g", "f.x", "g.y"]), conditions), max_size=3),
    st.integers(0, 12),
)
def test_conditions(metadata, asked, cut):
    columns = Columns()
    columns.extend(metadata[:cut])
    columns.extend(metadata[cut:])
    where: dict = {}
    for name, (test, operand) in asked:
        where.setdefault(name, {})[test] = operand
    known = set(columns.fields)
    if not set(where) <= known:
        with pytest.raises(DataError, match="no document has a field"):
            columns.admitted(parsed(where))
        return
    expected = [
        all(holds(m, n, t, o) for n, tests in where.items() for t, o in tests.items())
        for m in metadata
    ]
    assert columns.admitted(parsed(where)).tolist() == expected


def test_many_documents():
    rng = np.random.default_rng(0)
    years = rng.integers(1990, 2030, 5000).tolist()
    columns = Columns()
    columns.extend([{"year": year, "day": f"{year}-01-02"} for year in years])
    admitted = columns.admitted(parsed({"year": {"gte": 2000, "lt": 2010}, "day": {"gt": "2005"}}))
    assert admitted.tolist() == [2005 <= year < 2010 for year in years]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], r'where must be an object such as \{"year": \{"gte": 2024\}\}, got \[\]'),
        ("year", "where must be an object"),
        ({1: 2}, "a field must be a string, got 1"),
        ({"a": {}}, "where: a has no condition"),
        ({"a": {"gtee": 3}}, r"a: unknown operator 'gtee' \(did you mean gte\?\)"),
        ({"a": {"in": "xy"}}, "a: in takes a list of values, got 'xy'"),
        ({"a": {"in": [[1]]}}, "a: in takes a string, number, true, false or null, got list"),
        ({"a": [1]}, "a: eq takes a string, number, true, false or null, got list"),
        ({"a": {"gt": None}}, "a: gt takes a number or a string, got None"),
        ({"a": {"gt": True}}, "a: gt takes a number or a string, got True"),
        ({"a": {"exists": 1}}, "a: exists takes true or false, got 1"),
        ({"a": float("nan")}, "a: nan is not a number of JSON"),
    ],
)
def test_mistakes(where, message):
    with pytest.raises(DataError, match=message):
        parsed(where)


def test_numbers_of_numpy_are_numbers():
    assert parsed({"a": np.int64(3)}) == [("a", "eq", 3)]


def test_metadata_are_json():
    assert check_metadata(None, "x") is None
    assert check_metadata({"ä": [1, {"b": None}]}, "x") == {"ä": [1, {"b": None}]}
    assert check_metadata({"a": (1, 2)}, "x") == {"a": [1, 2]}
    for bad in (3, [1], {1: 2}, {"a": {1, 2}}, {"a": "\ud83d"}, {"a": float("inf")}):
        with pytest.raises(DataError, match=r"^x: metadata"):
            check_metadata(bad, "x")


def test_a_kept_filter_follows_what_comes(tmp_path):
    """It is worked out for new documents alone; the answers are those of an index opened anew."""
    rng = np.random.default_rng(3)
    index = Index.create(tmp_path / "index", dimension=8)
    asked = [
        {"languages": "de"},
        {"where": {"year": {"gte": 2010}}},
        {"where": {"tags": {"ne": "b"}}, "languages": ["de", "fr"]},
        {"where": {"late": {"exists": True}}},
    ]
    query = rng.standard_normal(8, dtype=np.float32)
    for step in range(12):
        documents = [
            Document(
                f"{step}-{n}",
                "text",
                ("de", "fr", "de-CH")[(step + n) % 3],
                metadata={
                    "year": 2000 + 3 * step + n,
                    "tags": ["a", "b"][: n % 3],
                    **({"late": step} if step > 5 else {}),
                },
            )
            for n in range(5)
        ]
        index.add(documents, rng.standard_normal((5, 8), dtype=np.float32))
        if step % 3 == 2:
            index.delete([f"{step - 1}-{n}" for n in range(2)])
        fresh = Index.open(tmp_path / "index")
        for options in asked[: 4 if step > 5 else 3]:
            if step > 3 or "where" not in options:
                found = index.search(query, 100, **options)
                assert found == fresh.search(query, 100, **options)
                assert found
