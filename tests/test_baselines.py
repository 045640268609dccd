"""Chance and word matching."""

from __future__ import annotations

import pytest

from hybridret.data import load_facts
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.evaluation.baselines import evaluate_baseline, terms


def test_terms_are_words_or_pairs_of_characters():
    assert terms("Paris, 2024: the END") == ["paris", "2024", "the", "end"]
    assert terms("法国的首都") == ["法国", "国的", "的首", "首都"]
    assert terms("ปารีส 10 km") == ["ปา", "าร", "รี", "ีส", "10", "km"]
    assert terms("日") == ["日"]
    assert terms("हिन्दी भाषा में") == ["हिन्दी", "भाषा", "में"]
    assert terms("Việt Nam") == terms("Vie\u0323\u0302t Nam")  # composed or not
    assert terms("كِتَابٌ") == terms("كتاب") == ["كتاب"]


def test_bm25_finds_words_and_ranks_by_pool():
    pytest.importorskip("bm25s")
    queries = [Query("q1", "red apple", "en", "1"), Query("q2", "roter Apfel", "de", "1")]
    documents = [
        Document("a", "a red apple", "en", "1"),
        Document("b", "a green pear", "en", "2"),
        Document("c", "ein roter Apfel", "de", "1"),
        Document("d", "eine Birne", "de", "2"),
    ]
    dataset = Dataset("fruit", queries, documents, {"q1": {"a": 1}, "q2": {"c": 1}})
    report = evaluate_baseline("bm25", dataset, metrics=["AP"])
    assert report.summary["mono"]["AP"] == 1
    # No word in common across languages: all score zero, and 'd' comes before 'c' by its id.
    cross = {(s.query_language, s.document_language): s for s in report.settings}
    assert cross["en", "de"].metrics["AP"] == pytest.approx(1 / 2)
    assert cross["de", "en"].metrics["AP"] == pytest.approx(1 / 2)


def test_random_is_chance():
    dataset = load_facts("evaluation")
    report = evaluate_baseline("random", dataset, metrics=["recall@10"])
    pool = len(dataset.documents) // len(dataset.languages)
    assert report.summary["mono"]["recall@10"] == pytest.approx(10 / pool, rel=0.2)
    assert report.summary["cross"]["recall@10"] == pytest.approx(10 / pool, rel=0.1)
    again = evaluate_baseline("random", dataset, metrics=["recall@10"])
    assert again.summary == report.summary


def test_an_unknown_baseline():
    with pytest.raises(DataError, match="random, bm25"):
        evaluate_baseline("tfidf", load_facts("evaluation"))
