"""Search by words: BM25 against a slow twin, scripts, filters, fusion, reranking, evaluation."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections import Counter

import numpy as np
import pytest
import tokenizers
from conftest import TEXTS
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from hybridret.cli import main
from hybridret.data.table import Dataset, Document, Query
from hybridret.encoder.exporting import export
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError, IndexFileError
from hybridret.evaluation.judging import Evaluation, evaluate
from hybridret.serving import words
from hybridret.serving.index import Index
from hybridret.serving.retriever import Retriever

MORE = [
    "Order 4711 was shipped on 3 May.",
    "Заказ 4711 отправлен в мае.",
    "注文番号4711は五月に発送されました。",
    "El río Danubio pasa por Viena.",
    "The Danube flows through Vienna; Vienna is the capital of Austria.",
    "Парижские Budapest Vienna заметки путешественника из Белграда",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    encoder = TorchEncoder.new_static(TEXTS + MORE, dimension=24, vocabulary_size=600)
    return export(encoder, tmp_path_factory.mktemp("words") / "encoder").folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "encoder")


LANGUAGES = ("en", "de", "ru", "zh", "ar", "en", "en", "ru", "ja", "es", "en", "ru")
DOCUMENTS = [
    Document(f"d{n}", text, language, metadata={"n": n})
    for n, (text, language) in enumerate(zip([*TEXTS[:6], *MORE], LANGUAGES, strict=True))
]


def ids(hits) -> list[str]:
    return [hit.document_id for hit in hits]


def bm25(documents: list[list[str]], query: list[str]) -> list[float]:
    """As FTS5 defines it: k1 1.2, b .75, in float64, a document at a time."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for terms in documents:
        counts, score = Counter(terms), 0.0
        for term in query:
            having = sum(term in other for other in documents)
            idf = math.log((len(documents) - having + 0.5) / (having + 0.5))
            often = counts[term]
            norm = 1.2 * (1 - 0.75 + 0.75 * len(terms) / mean)
            score += max(idf, 1e-6) * often * 2.2 / (often + norm)
        scores.append(score)
    return scores


def test_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    documents = [
        [f"latin{n}" for n in rng.zipf(1.5, size=rng.integers(1, 60)) if n < 200] or ["latin1"]
        for _ in range(300)
    ]
    connection = sqlite3.connect(":memory:")
    words.create(connection, 7)
    words.add(connection, 7, range(300), [" ".join(sorted(d)) for d in documents])
    counts = words.Counts(7)
    for _ in range(30):
        query = [f"latin{n}" for n in set(rng.integers(1, 60, size=5).tolist())]
        known = counts.of(connection, [*query, "latin99999"], 300)
        assert known == {t: n for t in query if (n := sum(t in d for d in documents))}
        (terms,) = words.turns(known)
        found = dict(
            pair
            for rows, scores in words.ranked(connection, 7, terms)
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        )
        expected = bm25(documents, terms)
        assert found == pytest.approx({n: s for n, s in enumerate(expected) if s})
        assert list(found.values()) == sorted(found.values(), reverse=True)
    words.remove(connection, 7, list(range(0, 300, 2)))
    words.remove(connection, 7, [2, 5000])  # not there
    left = [d for n, d in enumerate(documents) if n % 2]
    (rows, scores), *_ = words.ranked(connection, 7, ["latin3", "latin4"])
    expected = bm25(left, ["latin3", "latin4"])
    assert {int(row) % 2 for row in rows} == {1}
    assert scores[0] == pytest.approx(max(expected))
    words.drop(connection, 7)


def test_rare_terms_come_first_and_bound_the_work():
    counts = Counter({"a": 9_000, "b": 5, "c": 4_000, "d": 1})
    assert words.turns(counts) == [["d", "b", "c"], ["a"]]
    assert words.turns(Counter({"a": 50_000, "b": 60_000})) == [["a"], ["b"]]
    assert words.turns(Counter()) == []


@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), min_size=2, max_size=2))
def test_fusion_adds_reciprocal_ranks(rankings):
    expected = {
        row: sum(1 / (60 + r.index(row) + 1) for r in rankings if row in r)
        for row in {row for r in rankings for row in r}
    }
    rows, scores = words.fuse([np.array(r, dtype=np.int64) for r in rankings], 5)
    assert scores.tolist() == sorted(expected.values(), reverse=True)[:5]
    assert [expected[row] for row in rows.tolist()] == scores.tolist()


def test_words_are_found_in_their_own_script(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    found = {
        query: ids(retriever.search(query, mode="words"))
        for query in ("VIENNA", "Vienna Dunaj", "Париж", TEXTS[3], "4711", "4711 shipped", "… — !")
    }
    assert found["VIENNA"][0] == "d10"
    # d11 has the name, but in a Russian text.
    assert set(found["VIENNA"]) <= {"d0", "d1", "d3", "d5", "d6", "d9", "d10"}
    assert "d11" not in found["Vienna Dunaj"]
    assert found["Париж"][0] in {"d2", "d11"}
    assert found[TEXTS[3]][0] == "d3"
    assert set(found["4711"][:3]) == {"d6", "d7", "d8"}
    assert found["4711 shipped"][0] == "d6"
    assert found["… — !"] == []
    mixed = ids(retriever.search("Vienna заметки", mode="words"))
    assert {"d10", "d11"} <= set(mixed)


def test_all_of_a_long_text_is_searched(folder):
    retriever = Retriever.create(folder)
    limit = retriever.encoder.config.max_length
    retriever.add([Document("long", "Paris " * 3 * limit + "Belgrade"), Document("short", "river")])
    assert ids(retriever.search("Belgrade", mode="words"))[0] == "long"


def test_changes_filters_and_other_retrievers(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    other = Retriever.load(folder)
    everything = ids(other.search("capital Vienna Danube", mode="words"))
    assert everything[0] == "d10"
    russian = other.search("4711", mode="words", languages="ru")
    assert ids(russian)[0] == "d7"
    assert {h.language for h in russian} == {"ru"}
    later = other.search("Vienna", mode="words", where={"n": {"lt": 10}})
    assert "d10" not in ids(later)
    assert later
    retriever.delete(["d10"])
    assert "d10" not in ids(other.search("capital Vienna Danube", mode="words"))
    retriever.upsert([Document("d0", "Belgrade", "en")])
    assert ids(other.search("Belgrade", mode="words"))[0] == "d0"
    assert "d0" not in ids(other.search("capital of France", mode="words"))
    retriever.index.compact()
    assert ids(other.search("Belgrade", mode="words"))[0] == "d0"
    retriever.index.verify()
    # Without the encoder: its subwords are in the store.
    index = Index.open(folder / "index")
    index.add([Document("new", "Budapest Budapest", "en")], np.ones((1, 24), np.float32))
    assert ids(other.search("Budapest", mode="words"))[0] == "new"
    assert ids(index.search(words="Budapest"))[0] == "new"
    index.delete(["new"])
    assert "new" not in ids(other.search("Budapest", mode="words"))


def test_a_hybrid_search_fuses_both(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    queries = ["capital of Austria", "4711", "Париж столица"]
    together = retriever.search(queries, k=4, mode="hybrid")
    for query, hits in zip(queries, together, strict=True):
        dense = ids(retriever.search(query, k=12))
        lexical = ids(retriever.search(query, k=12, mode="words"))
        scores = {
            d: 1 / (61 + dense.index(d)) + (1 / (61 + lexical.index(d)) if d in lexical else 0)
            for d in dense
        }
        assert [h.score for h in hits] == pytest.approx(sorted(scores.values())[::-1][:4])
        assert [scores[h.document_id] for h in hits] == pytest.approx([h.score for h in hits])
        assert hits == retriever.search(query, k=4, mode="hybrid")
    assert {h.language for h in retriever.search("Paris", mode="hybrid", languages="de")} == {"de"}


def test_hits_are_reranked(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)

    def by_length(query, hits):
        assert query == "Paris"
        return [len(hit.text) for hit in hits]

    hits = retriever.search("Paris", k=3, rerank=by_length)
    lengths = sorted((len(d.text) for d in DOCUMENTS), reverse=True)
    assert [h.score for h in hits] == lengths[:3]
    few = retriever.search("Paris", k=2, rerank=by_length, depth=2)
    assert set(ids(few)) == set(ids(retriever.search("Paris", k=2)))
    assert retriever.search(["Paris"], k=3, rerank=by_length) == [hits]
    assert retriever.search("…", mode="words", rerank=by_length) == []
    for scores, message in (
        ([1.0], r"one finite number for each of the 12 hits, got shape \[1\]"),
        ([np.nan] * 12, "one finite number for each"),
        (["high"] * 12, "must be numbers"),
    ):
        with pytest.raises(DataError, match=message):
            retriever.search("Paris", rerank=lambda *_, scores=scores: scores)
    with pytest.raises(DataError, match="depth must be an integer of at least 1"):
        retriever.search("Paris", rerank=by_length, depth=0)


def test_where_there_are_no_words(folder, tmp_path, monkeypatch):
    index = Index.create(tmp_path / "vectors", dimension=3)
    index.add([Document("a", "text")], np.eye(1, 3, dtype=np.float32))
    with pytest.raises(DataError, match="has no words to search for: it was made for vectors"):
        index.search(words="text")
    with pytest.raises(DataError, match="nothing to search for"):
        index.search()
    for bad in (5, (x for x in ["a"]), {"a": 1}):
        with pytest.raises(DataError, match="the query must be a non-empty string"):
            index.search(words=bad)
    with pytest.raises(DataError, match="lone surrogate"):
        Retriever.create(folder, store=tmp_path / "other").search("a\ud800")
    with pytest.raises(DataError, match="the query must be a non-empty string, got 3"):
        index.search(words=[3])
    monkeypatch.setattr(words, "available", lambda: False)
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    assert retriever.search("Paris")
    with pytest.raises(DataError, match="where Python's SQLite has no FTS5"):
        retriever.search("Paris", mode="hybrid")
    with pytest.raises(DataError, match="mode must be dense, words or hybrid, got 'bm25'"):
        retriever.search("Paris", mode="bm25")


def test_missing_words_are_found(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    with retriever.index.store.change() as change:
        change.connection.execute("DELETE FROM terms_1 WHERE row = 3")
    with pytest.raises(IndexFileError, match="damaged: words of 11 documents, not 12"):
        retriever.index.verify()


def test_a_word_that_comes_later_is_found(folder):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS[:2])
    assert retriever.search("Столица", mode="words") == []
    retriever.add(DOCUMENTS[2:3])
    assert ids(retriever.search("Столица", mode="words")) == ["d2"]


def test_what_is_not_in_the_vocabulary_is_no_word():
    """Nor is the mark of a space: each would be in most texts."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram(
            [
                ("<unk>", 0.0),
                ("\u2581", -2.0),
                ("Paris", -1.0),
                ("\u2581river", -1.0),
                ("的", -1.0),
            ],
            unk_id=0,
        )
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    own = words.Words(Tokenizer(backend, max_length=8))
    assert own.documents(["的 გამარჯობა", "river", "xylophone", "5"]) == [
        "georgian4",
        "latin3",
        "",
        "",
    ]
    pieces = ["[UNK]", "[CLS]", "river", "##s", "5", "x"]
    piece = tokenizers.models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(piece)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[CLS]"])
    own = words.Words(Tokenizer(backend, max_length=8))
    assert own.documents(["rivers 5 [CLS] quartz"]) == ["4 latin2 latin3 latin4"]
    assert own.query("quartz") == []


def test_the_script_of_a_text():
    for text, scripts in (
        ("12 345 " * 500 + "Париж", ["cyrillic"]),
        ("Paris " * 130 + "巴黎是法国的首都" * 1200, ["cjk"]),
        ("ｃａｐｉｔａｌ ﾊﾟﾘ 人々", ["latin", "cjk"]),
        ("パリ・巴里ー", ["cjk"]),
        ("сhеck 1 2", ["latin", "cyrillic"]),
        ("42 … ☃", []),
    ):
        assert sorted(words._scripts(words._normal(text))) == sorted(scripts), text


def test_a_filter_finds_what_the_rarest_words_do_not(folder, monkeypatch):
    """The terms that a bounded search leaves out are looked for where nothing else is found."""
    monkeypatch.setattr(words.turns, "__defaults__", (10,))
    retriever = Retriever.create(folder)
    texts = ["river Vienna"] * 8 + ["river"] * 30
    retriever.add([Document(f"{n}", t, "en" if n < 37 else "de") for n, t in enumerate(texts)])
    assert ids(retriever.search("river Vienna", k=3, mode="words")) == ["0", "1", "2"]
    assert ids(retriever.search("river Vienna", mode="words", languages="de")) == ["37"]


def dataset() -> Dataset:
    queries = [
        Query("q0", "capital of France", "en", "paris"),
        Query("q1", "Hauptstadt von Frankreich", "de", "paris"),
        Query("q2", "столица Франции", "ru", "paris"),
        Query("q3", "4711", "en", "order"),
    ]
    groups = ["paris"] * 5 + ["river"] + ["order"] * 3 + ["danube"] * 2 + ["notes"]
    documents = [
        Document(d.document_id, d.text, d.language, group)
        for d, group in zip(DOCUMENTS, groups, strict=True)
    ]
    qrels = {q.query_id: {"d0": 1} for q in queries[:3]} | {"q3": {"d6": 1}}
    return Dataset("words", queries, documents, qrels)


@pytest.mark.parametrize("mode", ["words", "hybrid"])
def test_the_evaluation_ranks_as_the_search_does(folder, mode):
    """In all languages and in one, of more documents than are fused. Equal scores are in the same
    order in both: that of the rows here, of the ids there."""
    rng = np.random.default_rng(0)
    parts = [word for text in TEXTS[:6] + MORE for word in text.split()]
    documents = [
        Document(f"x{399 - n:03}", " ".join(rng.choice(parts, 6)), LANGUAGES[n % 12], f"g{n % 40}")
        for n in range(400)
    ]
    queries = [
        Query(f"q{n}", " ".join(documents[n].text.split()[:3]), LANGUAGES[n % 12], f"g{n}")
        for n in range(40)
    ]
    qrels = {f"q{n}": {f"x{399 - n:03}": 1} for n in range(40)}
    data = Dataset("words", queries, documents, qrels)
    retriever = Retriever.create(folder)
    retriever.add(documents)
    encoder = retriever.encoder
    evaluation = Evaluation(data, mix_at=10)
    vectors = [
        encoder.encode_queries([q.text for q in queries]),
        encoder.encode_documents([d.full_text for d in documents]),
    ]
    ranks = evaluation.rank_mode(mode, encoder, *vectors)
    report = evaluate(encoder, data, mode=mode)
    assert report.to_dict()["settings"] == evaluation.judge(ranks, "model").to_dict()["settings"]
    pool = evaluation.pool
    compared = 0
    for q, query in enumerate(queries):
        hits = retriever.search(query.text, k=60, mode=mode)
        count = min(10, len(hits))
        assert ranks.best_scores[q, :count] == pytest.approx([h.score for h in hits[:10]])
        for t in range(pool.target_begin[q], pool.target_begin[q + 1]):
            target = documents[pool.targets[t]]
            own = retriever.search(query.text, k=60, mode=mode, languages=[target.language])
            for found, rank in ((hits, ranks.in_all[t]), (own, ranks.in_language[t])):
                places = ids(found)
                if target.document_id in places:
                    assert places[rank - 1] == target.document_id
                    compared += 1
                else:
                    assert rank > len(found)
    assert compared > 40


def test_modes_that_cannot_be_evaluated(folder):
    encoder = Retriever.create(folder).encoder
    with pytest.raises(DataError, match="is evaluated with ties by id"):
        evaluate(encoder, dataset(), mode="words", ties="optimistic")
    with pytest.raises(DataError, match="mode must be words or hybrid, got 'bm25'"):
        evaluate(encoder, dataset(), mode="bm25")


def test_the_command_judges_the_modes(exported, tmp_path, capsys):
    lines = [
        {"query": d.text, "positive": d.text, "language": d.language, "group": f"g{n}"}
        for n, d in enumerate(DOCUMENTS)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = tmp_path / "scores.json"
    command = ["evaluate", str(exported), "--data", str(data), "--json", str(out)]
    assert main([*command, "--modes", "words", "hybrid"]) == 0
    printed = capsys.readouterr().out
    assert "encoder words" in printed
    assert "encoder hybrid" in printed
    others = json.loads(out.read_text())["others"]
    assert [report["name"] for report in others] == ["encoder words", "encoder hybrid"]
    assert others[0]["summary"]["mono"]["AP"] > 0.5
    assert main(["evaluate", "--data", str(data), "--baselines", "random", "--modes", "words"]) == 1
    assert "--modes needs a model" in capsys.readouterr().err
