"""Samplers: what is in a batch, and that a batch depends on seed and epoch alone."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret.data import load_facts
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.training.batches import SAMPLERS, PairTable, make_sampler


def parallel(rows: int, languages: str = "abcd") -> PairTable:
    queries = [Query(f"q{r}{x}", f"q{r}{x}", x, f"{r}") for r in range(rows) for x in languages]
    documents = [
        Document(f"d{r}{x}", f"d{r}{x}", x, f"{r}") for r in range(rows) for x in languages
    ]
    qrels = {q.query_id: {"d" + q.query_id[1:]: 1} for q in queries}
    return PairTable.from_dataset(Dataset("made", queries, documents, qrels))


def check_batch(table: PairTable, batch, size: int) -> None:
    assert len(batch.rows) == len(set(batch.rows.tolist())) == size
    assert (table.queries[batch.rows, batch.query_languages] >= 0).all()
    assert (table.documents[batch.rows, batch.document_languages] >= 0).all()
    same = batch.query_languages == batch.document_languages
    if batch.kind == "monolingual":
        assert same.all()
        assert len(set(batch.query_languages.tolist())) == 1
    elif batch.kind == "cross-lingual":
        assert not same.any()
    else:
        assert batch.kind == "mixed"
        assert same.all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_hold_what_their_kind_says(name):
    table = parallel(100)
    sampler = make_sampler(name, table, 16, seed=3)
    batches = list(sampler.epoch(0))
    assert len(batches) == 6
    for batch in batches:
        check_batch(table, batch, 16)
    seen = np.concatenate([b.rows for b in batches])
    assert len(set(seen.tolist())) == 96


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pure_function_of_seed_and_epoch(name):
    table = parallel(60)

    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler = make_sampler(name, table, 8, seed=seed)
        return [[*b.rows, *b.query_languages, *b.document_languages] for b in sampler.epoch(epoch)]

    sampler = make_sampler(name, table, 8, seed=1)
    list(sampler.epoch(0))  # asking for other epochs first changes nothing
    assert [[*b.rows, *b.query_languages, *b.document_languages] for b in sampler.epoch(2)] == draw(
        1, 2
    )
    assert draw(1, 2) != draw(1, 3)
    assert draw(1, 2) != draw(2, 2)


def test_all_samplers_draw_the_same_rows():
    table = parallel(100)
    rows = {
        name: [b.rows.tolist() for b in make_sampler(name, table, 16, seed=5).epoch(4)]
        for name in SAMPLERS
    }
    assert all(found == rows["hybrid"] for found in rows.values())


def test_steps_go_through_epochs_and_can_start_anywhere():
    sampler = make_sampler("hybrid", parallel(50), 16, seed=1)
    whole = [(step, b.rows.tolist(), b.kind) for step, b in sampler.steps(11)]
    assert [step for step, _, _ in whole] == list(range(11))
    assert [(s, b.rows.tolist(), b.kind) for s, b in sampler.steps(11, start=7)] == whole[7:]


def test_shares_of_kinds_and_languages():
    table = parallel(1000)
    kinds: Counter[str] = Counter()
    mono: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    sampler = make_sampler("hybrid", table, 10, alpha=0.4, seed=0)
    for epoch in range(10):
        for batch in sampler.epoch(epoch):
            kinds[batch.kind] += 1
            if batch.kind == "monolingual":
                mono[int(batch.query_languages[0])] += 1
            else:
                pairs.update(
                    zip(
                        batch.query_languages.tolist(),
                        batch.document_languages.tolist(),
                        strict=True,
                    )
                )
    assert kinds["monolingual"] / kinds.total() == pytest.approx(0.4, abs=0.05)
    assert len(mono) == 4
    assert min(mono.values()) / mono.total() == pytest.approx(0.25, abs=0.06)
    assert len(pairs) == 12
    assert min(pairs.values()) / pairs.total() == pytest.approx(1 / 12, abs=0.015)


@given(
    present=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=6, max_size=40),
    name=st.sampled_from(SAMPLERS),
    size=st.integers(2, 5),
    seed=st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_rows_that_lack_languages(present, name, size, seed):
    """Texts exist in any subset of three languages: no batch asks for a missing one."""
    queries, documents, qrels = [], [], {}
    for r, (asked, told) in enumerate(present):
        has = [x for n, x in enumerate("abc") if told >> n & 1]
        documents += [Document(f"d{r}{x}", f"d{r}{x}", x, f"{r}") for x in has]
        for x in [x for n, x in enumerate("abc") if asked >> n & 1]:
            queries.append(Query(f"q{r}{x}", f"q{r}{x}", x, f"{r}"))
            qrels[f"q{r}{x}"] = {f"d{r}{y}": 1 for y in has}
    try:
        table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
        sampler = make_sampler(name, table, size, seed=seed)
    except DataError:
        return
    batches = list(itertools.islice(sampler.epoch(0), 50))
    assert batches
    seen = np.concatenate([b.rows for b in batches])
    assert len(seen) == len(set(seen.tolist()))
    for batch in batches:
        check_batch(table, batch, size)
        for text, row, language in zip(
            batch.query_texts(table), batch.rows, batch.query_languages, strict=True
        ):
            assert text.endswith(table.languages[language])
            assert table.query_texts[table.queries[row, language]] == text
        for q, d in zip(batch.query_texts(table), batch.document_texts(table), strict=True):
            assert q[1:-1] == d[1:-1]


def test_several_answers_to_one_question_are_rows_of_their_own():
    queries = [Query("q", "q", "en", "g"), Query("p", "p", "de", "g")]
    documents = [Document(f"d{n}", f"d{n}", "en", f"d{n}") for n in range(3)]
    documents.append(Document("e", "e", "de", "e"))
    table = PairTable.from_dataset(
        Dataset("made", queries, documents, {"q": {"d0": 1, "d1": 2, "d2": 0}, "p": {"e": 1}})
    )
    assert len(table) == 2
    assert table.documents.tolist() == [[2, 0], [-1, 1]]  # of the answers


def test_batches_that_cannot_be_filled():
    table = parallel(10)
    for name in SAMPLERS:
        with pytest.raises(DataError, match="batch_size is 11, but only 10 distinct groups"):
            make_sampler(name, table, 11)
    one = parallel(10, languages="a")
    with pytest.raises(DataError, match="no groups have two languages to pair"):
        make_sampler("cross-lingual", one, 4)
    with pytest.raises(DataError, match="at least 2"):
        make_sampler("mixed", table, 1)
    with pytest.raises(DataError, match="alpha"):
        make_sampler("hybrid", table, 4, alpha=1.0)
    with pytest.raises(DataError, match="unknown sampler 'bilingual'"):
        make_sampler("bilingual", table, 4)


def test_data_that_a_sampler_cannot_use_name_one_that_can():
    """Queries in one language, documents in another: all pairs are cross-lingual."""
    queries = [Query(f"q{i}", f"q{i}", "de", f"{i}") for i in range(20)]
    documents = [Document(f"d{i}", f"d{i}", "en", f"{i}") for i in range(20)]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(20)}
    table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
    for name in ("monolingual", "mixed", "hybrid"):
        with pytest.raises(DataError, match=f"the {name} sampler needs") as error:
            make_sampler(name, table, 4)
        assert "never in the same language, as the cross-lingual sampler takes them" in str(
            error.value
        )
    assert len(list(make_sampler("cross-lingual", table, 4).epoch(0))) == 5
    with pytest.raises(DataError, match="the monolingual and mixed samplers need no translations"):
        make_sampler("cross-lingual", parallel(20, languages="a"), 4)


def test_rows_without_a_negative_are_refused():
    """Eight questions on one document: all negatives are masked, the loss would be zero."""
    queries = [Query(f"q{i}", f"q{i}", "en", f"g{i}") for i in range(8)]
    documents = [Document("d", "d", "en", "d")]
    dataset = Dataset("made", queries, documents, {f"q{i}": {"d": 1} for i in range(8)})
    with pytest.raises(DataError, match="no row would have a negative"):
        make_sampler("monolingual", PairTable.from_dataset(dataset), 4)


def test_several_answers_make_no_larger_batch():
    queries = [Query(f"q{i}", f"q{i}", "en", f"g{i}") for i in range(3)]
    documents = [Document(f"d{i}", f"d{i}", "en", f"d{i}") for i in range(9)]
    qrels = {f"q{i}": {f"d{3 * i + n}": 1 for n in range(3)} for i in range(3)}
    table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
    assert len(table) == 9
    with pytest.raises(DataError, match="only 3 distinct groups"):
        make_sampler("mixed", table, 4)


def test_an_empty_table():
    queries = [Query("q", "q", "en", "g")]
    with pytest.raises(DataError, match="empty"):
        PairTable.from_dataset(Dataset("made", queries, [], {}))


def test_the_facts_are_fully_parallel():
    table = PairTable.from_dataset(load_facts("train"))
    assert (table.queries >= 0).all()
    assert (table.documents >= 0).all()
    assert len(set(table.groups.tolist())) == len(table)
