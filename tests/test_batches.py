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
from hybridret.training.batches import SAMPLERS, Sampler, make_sampler
from hybridret.training.pairs import Batch, PairTable, TrainingData


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
    elif batch.kind == "mixed":
        assert same.all()
    else:
        assert batch.kind == "any-pair"


def test_any_pair_draws_both_languages_apart_from_each_other():
    table = parallel(600)
    counts: Counter[tuple[int, int]] = Counter()
    for batch in make_sampler("any-pair", table, 50).epoch(0):
        counts.update(zip(batch.query_languages, batch.document_languages, strict=True))
    assert len(counts) == len(table.languages) ** 2
    assert 600 // 16 // 2 < min(counts.values()) < max(counts.values()) < 600 // 16 * 2


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


def test_frequencies_of_kinds_and_languages():
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
        with pytest.raises(DataError, match="batch_size is 11, but only 10 translation groups"):
            make_sampler(name, table, 11)
    one = parallel(10, languages="a")
    with pytest.raises(DataError, match="query and a document in different languages, but"):
        make_sampler("cross-lingual", one, 4)
    with pytest.raises(DataError, match="at least 2"):
        make_sampler("mixed", table, 1)
    with pytest.raises(DataError, match="alpha"):
        make_sampler("hybrid", table, 4, alpha=1.0)
    with pytest.raises(DataError, match="unknown sampler 'bilingual'"):
        make_sampler("bilingual", table, 4)


def test_the_error_names_a_sampler_that_can_use_the_data():
    """Queries in one language, documents in another: all pairs are cross-lingual."""
    queries = [Query(f"q{i}", f"q{i}", "de", f"{i}") for i in range(20)]
    documents = [Document(f"d{i}", f"d{i}", "en", f"{i}") for i in range(20)]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(20)}
    table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
    for name in ("monolingual", "mixed", "hybrid"):
        with pytest.raises(DataError, match=f"the {name} sampler needs translation") as error:
            make_sampler(name, table, 4)
        assert "always in different languages; use the cross-lingual sampler" in str(error.value)
    assert len(list(make_sampler("cross-lingual", table, 4).epoch(0))) == 5
    with pytest.raises(
        DataError, match="use the monolingual or mixed sampler, which need no transl"
    ):
        make_sampler("cross-lingual", parallel(20, languages="a"), 4)


def test_rows_without_a_negative_are_refused():
    """Eight questions on one document: none could be the negative of another."""
    queries = [Query(f"q{i}", f"q{i}", "en", f"g{i}") for i in range(8)]
    documents = [Document("d", "d", "en", "d")]
    dataset = Dataset("made", queries, documents, {f"q{i}": {"d": 1} for i in range(8)})
    with pytest.raises(DataError, match="batch_size is 4, but only 1 translation groups"):
        make_sampler("monolingual", PairTable.from_dataset(dataset), 4)


def test_several_relevant_documents_count_once_for_the_batch_size():
    queries = [Query(f"q{i}", f"q{i}", "en", f"g{i}") for i in range(3)]
    documents = [Document(f"d{i}", f"d{i}", "en", f"d{i}") for i in range(9)]
    qrels = {f"q{i}": {f"d{3 * i + n}": 1 for n in range(3)} for i in range(3)}
    table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
    assert len(table) == 9
    with pytest.raises(DataError, match="only 3 translation groups"):
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


def texts(rows: dict[str, str], negatives: dict[str, list[str]] | None = None) -> PairTable:
    """A row for each name, in the languages given as letters; hard negatives by query."""
    queries = [Query(f"q{r}{x}", f"q{r}{x}", x, f"{r}") for r, found in rows.items() for x in found]
    documents = [
        Document(f"d{r}{x}", f"d{r}{x}", x, f"{r}") for r, found in rows.items() for x in found
    ]
    qrels = {q.query_id: {"d" + q.query_id[1:]: 1} for q in queries}
    return PairTable.from_dataset(Dataset("made", queries, documents, qrels, negatives or {}))


def drawn(sampler: Sampler, epochs: int) -> list[list[Batch]]:
    found = [list(sampler.epoch(epoch)) for epoch in range(epochs)]
    assert [len(batches) for batches in found] == [sampler.epoch_length(e) for e in range(epochs)]
    return found


def share(batches: list[Batch], kind: str = "monolingual") -> float:
    return sum(b.kind == kind for b in batches) / len(batches)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_alpha_is_kept_where_few_rows_have_translations(alpha):
    """2,100 rows in one language beside 1,023 groups: no row twice in an epoch, none forgotten."""
    rows = {f"a{n}": "a" for n in range(2100)} | {f"g{n}": "abc" for n in range(1023)}
    table = texts(rows)
    sampler = make_sampler("hybrid", table, 32, alpha=alpha, seed=1)
    epochs = drawn(sampler, 12)
    for batches in epochs:
        seen = np.concatenate([b.rows for b in batches])
        assert len(seen) == len(set(seen.tolist()))
        assert share(batches) == pytest.approx(alpha, abs=1.5 / len(batches))
    batches = [b for epoch in epochs for b in epoch]
    assert share(batches) == pytest.approx(alpha, abs=1.5 / len(batches))
    # What an epoch did not come to is drawn first in the next: nothing waits while others repeat.
    count = np.bincount(np.concatenate([b.rows for b in batches]), minlength=len(table))
    alone = table.has_query.sum(1) == 1
    assert count[alone].max() - count[alone].min() <= 5


def test_tiny_epochs_keep_alpha():
    """One batch of an epoch could be cross-lingual: the kinds are dealt out over epochs."""
    table = texts({f"a{n}": "a" for n in range(40)} | {f"g{n}": "ab" for n in range(9)})
    sampler = make_sampler("hybrid", table, 8, alpha=0.3, seed=0)
    batches = [b for epoch in drawn(sampler, 60) for b in epoch]
    assert share(batches) == pytest.approx(0.3, abs=0.03)


def test_several_sources():
    """By their sizes, or weights; a source of one language has no cross-lingual batches."""
    english = TrainingData("english", texts({f"{n}": "a" for n in range(300)}))
    parallel_rows = TrainingData("parallel", parallel(600, "abc"))
    sampler = Sampler([english, parallel_rows], 10, alpha=0.5, seed=2)
    for batches in drawn(sampler, 3):
        assert len(batches) == 90
        assert [sum(b.source == s for b in batches) for s in (0, 1)] == [30, 60]
        assert share([b for b in batches if b.source == 0]) == 1
        assert share(batches) == pytest.approx(0.5, abs=0.02)
    heavy = TrainingData("english", english.table, weight=3)
    with pytest.raises(DataError, match=r"alpha 0\.5 cannot be had: .* can be 0\.750 to 1\.000"):
        Sampler([heavy, TrainingData("parallel", parallel_rows.table, weight=1)], 10)
    sampler = Sampler(
        [heavy, TrainingData("parallel", parallel_rows.table, weight=1)], 10, alpha=0.8
    )
    batches = [b for epoch in drawn(sampler, 8) for b in epoch]
    assert np.mean([b.source == 0 for b in batches]) == pytest.approx(0.75, abs=0.01)
    assert share(batches) == pytest.approx(0.8, abs=0.02)
    assert 8 * 37 <= len(batches) <= 8 * 40  # until the English rows have been drawn once
    # A share of its own is kept whatever the run's alpha is.
    own = TrainingData("parallel", parallel_rows.table, weight=1, alpha=0.1)
    batches = [b for e in drawn(Sampler([heavy, own], 10, alpha=0.5), 5) for b in e]
    assert share([b for b in batches if b.source == 1]) == pytest.approx(0.1, abs=0.03)
    with pytest.raises(DataError, match="parallel: weight must be above 0 for every data set or g"):
        Sampler([heavy, parallel_rows], 10)
    with pytest.raises(DataError, match="two data sets have the name 'english'"):
        Sampler([english, english], 10)
    with pytest.raises(DataError, match="english: the cross-lingual sampler needs translation gr"):
        Sampler([english, parallel_rows], 10, sampler="cross-lingual")


def test_languages_by_size_temperature_and_weight():
    rows = {f"a{n}": "a" for n in range(900)} | {f"b{n}": "b" for n in range(100)}
    table = texts(rows)

    def share_of_b(epochs: int = 6, **options: object) -> float:
        sampler = Sampler([TrainingData("s", table)], 10, sampler="monolingual", seed=3, **options)
        batches = [b for epoch in drawn(sampler, epochs) for b in epoch]
        return float(np.mean([b.query_languages[0] == 1 for b in batches]))

    assert share_of_b() == pytest.approx(0.1, abs=0.01)
    assert share_of_b(temperature=2) == pytest.approx(0.25, abs=0.02)
    assert share_of_b(temperature=np.inf) == pytest.approx(0.5, abs=0.02)
    assert share_of_b(weights={"a": 1, "b": 3}) == pytest.approx(0.75, abs=0.02)
    assert share_of_b(weights={"b": 1}) == 1
    with pytest.raises(DataError, match="s: no language with a weight above 0; it has a, b"):
        share_of_b(weights={"a": 0})
    with pytest.raises(DataError, match="temperature of the languages must be above 0, got 0"):
        share_of_b(temperature=0)


def test_weights_of_cross_lingual_pairs():
    sampler = Sampler(
        [TrainingData("s", parallel(400, "abc"))],
        20,
        sampler="cross-lingual",
        weights={"a": 2, "b": 1, "c": 1},
    )
    batches = list(sampler.epoch(0))
    asked = np.concatenate([b.query_languages for b in batches])
    told = np.concatenate([b.document_languages for b in batches])
    # Pairs ab ba ac ca have weight 2, bc cb 1.
    assert np.mean((asked == 0) | (told == 0)) == pytest.approx(0.8, abs=0.05)


@given(
    answers=st.lists(
        st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=4, max_size=30
    ),
    size=st.integers(2, 4),
    seed=st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_no_row_answers_the_query_of_another(answers, size, seed):
    queries = [Query(f"q{n}", f"q{n}", "a", f"q{n}") for n in range(len(answers))]
    documents = [Document(f"d{n}", f"d{n}", "a", f"d{n}") for n in range(10)]
    qrels = {f"q{n}": {f"d{d}": 1 for d in found} for n, found in enumerate(answers)}
    table = PairTable.from_dataset(Dataset("made", queries, documents, qrels))
    try:
        sampler = make_sampler("monolingual", table, size, seed=seed)
    except DataError:
        return
    for epoch in range(3):
        seen: list[int] = []
        for batch in sampler.epoch(epoch):
            seen += batch.rows.tolist()
            told = [text[1:] for text in batch.document_texts(table)]
            for query, own in zip(batch.query_texts(table), told, strict=True):
                relevant = {str(d) for d in answers[int(query[1:])]}
                assert [d for d in told if d in relevant] == [own]
        assert seen
        assert len(seen) == len(set(seen))


def test_hard_negatives_come_with_the_document():
    """Any number a row, in the language of its document; at most as many as asked, and changing."""
    rows = {f"{n}": "ab" for n in range(40)}
    table = texts(rows, {"q0a": ["d1a", "d2a", "d3a"], "q0b": ["d4b"], "q5a": ["d6a"]})
    for name in ("monolingual", "cross-lingual"):
        sampler = make_sampler(name, table, 40)
        for epoch in range(4):
            (batch,) = sampler.epoch(epoch)
            told = dict(zip(batch.rows.tolist(), batch.document_languages.tolist(), strict=True))
            expected = ["d4b"] if told[0] else ["d1a", "d2a", "d3a"]
            # The second has none in b: those of the query are taken.
            expected += ["d6a"] if not told[5] or name == "cross-lingual" else []
            found = batch.document_texts(table)
            assert len(found) == 40 + len(batch.negatives)
            assert sorted(found[40:]) == sorted(expected)
            groups = batch.groups(table)
            names = dict(zip(found, groups.tolist(), strict=True))
            position = {row: n for n, row in enumerate(batch.rows.tolist())}
            assert all(names[x] == groups[position[int(x[1:-1])]] for x in expected)
    few = Sampler([TrainingData("s", table, hard_negatives=1)], 40, sampler="mixed")
    picked = {t for e in range(60) for b in few.epoch(e) for t in b.document_texts(table)[40:]}
    assert picked == {"d1a", "d2a", "d3a", "d4b", "d6a"}
    none = Sampler([TrainingData("s", table, hard_negatives=0)], 40, sampler="mixed")
    assert not any(len(b.negatives) for b in none.epoch(0))


def test_a_negative_that_answers_another_query_has_its_group():
    """Query 0 has two answers; the one that is not in the batch is no negative for it."""
    queries = [Query(f"q{n}", f"q{n}", "a", f"q{n}") for n in range(4)]
    documents = [Document(f"d{n}", f"d{n}", "a", f"d{n}") for n in range(5)]
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(4)}
    qrels["q0"]["d4"] = 1
    dataset = Dataset("made", queries, documents, qrels, {"q1": ["d4", "d0"]})
    table = PairTable.from_dataset(dataset)
    for epoch in range(5):
        for batch in make_sampler("monolingual", table, 4).epoch(epoch):
            found = dict(
                zip(batch.document_texts(table), batch.groups(table).tolist(), strict=True)
            )
            assert found["d0"] == found["d4"]
            assert len(set(found.values())) == 4
