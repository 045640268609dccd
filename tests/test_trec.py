"""TREC files, and runs scored as trec_eval's own code does."""

from __future__ import annotations

import ctypes
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import TREC_NAMES

from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation
from hybridret.evaluation.ranking import Pool, rank_embeddings
from hybridret.evaluation.trec import evaluate_run, read_qrels, read_run, write_qrels, write_run


@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 3, 1000]))
@settings(max_examples=80, deadline=None)
def test_every_value_is_trec_evals(seed, levels):
    """Graded, negative and missing judgements, ties, short and empty lists, missing queries."""
    trec = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(seed)
    ids = [f"d{i}" for i in rng.permutation(40)]
    qrels = {
        f"q{i}": {d: int(rng.integers(-1, 4)) for d in ids if rng.random() < 0.2} or {"d1": 0}
        for i in range(6)
    }
    run = {
        f"q{i}": {d: float(np.float32(rng.integers(0, levels))) for d in ids if rng.random() < 0.6}
        for i in (*range(rng.integers(1, 6)), 9)
    }
    run = {q: listed for q, listed in run.items() if listed}
    judged_and_run = [q for q in qrels if q in run]
    if not judged_and_run:
        return
    expected = trec.RelevanceEvaluator(
        qrels,
        {"map", "map_cut", "recip_rank", "ndcg_cut", "recall", "P", "success", "Rprec", "bpref"},
    ).evaluate({q: listed for q, listed in run.items() if q in qrels})
    actual = evaluate_run(qrels, run, metrics=list(TREC_NAMES), score_type="float")
    assert list(actual.queries) == judged_and_run
    assert actual.missing == len(qrels) - len(judged_and_run)
    for query, values in actual.queries.items():
        # pytrec_eval has no AP@3 and P@1 of its own: cutoffs are 5 10 15 20 30 100 200 500 1000,
        # success 1 5 10.
        for name, value in values.items():
            if TREC_NAMES[name] in expected[query]:
                assert value == pytest.approx(expected[query][TREC_NAMES[name]], abs=1e-9), name
    for name, trec_name in TREC_NAMES.items():
        if trec_name in next(iter(expected.values())):
            mean = np.mean([expected[q][trec_name] for q in judged_and_run])
            assert actual.metrics[name] == pytest.approx(mean, abs=1e-9)


def test_policies_of_missing_queries():
    qrels = {"a": {"d": 1}, "b": {"d": 1}, "c": {"d": 0}}
    run = {"a": {"d": 1.0}, "c": {"d": 1.0}, "x": {"d": 1.0}}
    report = evaluate_run(qrels, run, metrics=["AP"])
    assert (report.n, report.metrics["AP"]) == (2, 0.5)  # b dropped, c scores 0
    assert (report.missing, report.unanswerable, report.unjudged) == (1, 1, 1)
    assert evaluate_run(qrels, run, metrics=["AP"], missing="zero").metrics["AP"] == 1 / 3
    assert evaluate_run(qrels, run, metrics=["AP"], unanswerable="drop").metrics["AP"] == 1
    with pytest.raises(DataError, match="no query to score: 3 judged, 3 of them not in the run"):
        evaluate_run(qrels, {"x": {"d": 1.0}})


def test_where_tools_disagree():
    tied = {"q": {"d1": 0.5, "d2": 0.5, "d3": 0.5}}
    qrels = {"q": {"d1": 1}}
    assert evaluate_run(qrels, tied, metrics=["RR"]).metrics["RR"] == pytest.approx(1 / 3)
    by = "sentence-transformers"
    assert evaluate_run(qrels, tied, metrics=["RR"], convention=by).metrics["RR"] == 1
    close = {"q": {"d1": 0.7000000010, "d2": 0.7}}
    assert evaluate_run(qrels, close, metrics=["RR"]).metrics["RR"] == 1
    assert evaluate_run(qrels, close, metrics=["RR"], score_type="float").metrics["RR"] == 0.5
    many = {"q": {f"d{i}": 1 for i in range(10)}}
    first = {"q": {f"d{i}": 10.0 - i for i in range(10)}}
    assert evaluate_run(many, first, metrics=["AP@5"]).metrics["AP@5"] == 0.5
    assert evaluate_run(many, first, metrics=["AP@5"], convention="xtreme").metrics["AP@5"] == 1
    itself = {"d1": {"d1": 9.0, "d2": 1.0}}
    assert evaluate_run({"d1": {"d2": 1}}, itself, metrics=["RR"]).metrics["RR"] == 0.5
    beir = evaluate_run({"d1": {"d2": 1}}, itself, metrics=["RR"], convention="beir")
    assert beir.metrics["RR"] == 1
    graded = {"q": {"d1": 3, "d2": 1}}
    inverted = {"q": {"d2": 2.0, "d1": 1.0}}
    ndcg = evaluate_run(graded, inverted, metrics=["nDCG@10"]).metrics["nDCG@10"]
    assert ndcg == pytest.approx(0.7967, abs=1e-4)
    binary = evaluate_run(graded, inverted, metrics=["nDCG@10"], convention=by)
    assert binary.metrics["nDCG@10"] == 1


def test_files_are_read_and_written_whole(tmp_path):
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"dé": 1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert read_qrels(tmp_path / "qrels") == qrels
    text = "q1 Q0 d1 1 0.5 tag\nq1\tQ0\td2  2   .25e0 tag\r\n\nq2 Q0 dé 1 -1 tag\n"
    (tmp_path / "run").write_text(text)
    with gzip.open(tmp_path / "run.gz", "wt") as file:
        file.write(text)
    expected = {"q1": {"d1": 0.5, "d2": 0.25}, "q2": {"dé": -1.0}}
    assert read_run(tmp_path / "run") == read_run(tmp_path / "run.gz") == expected
    report = evaluate_run(qrels, expected, metrics=["AP"])
    report.save_json(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["queries"]["q2"] == {"AP": 1.0}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("q1 Q0 d1 1 0.5", "run:2: 5 fields, expected 6: query_id Q0 document_id rank score tag"),
        ("q1 Q0 d1 1 high tag", "run:2: the score must be a finite decimal number, got 'high'"),
        ("q1 Q0 d1 1 nan tag", "run:2: the score must be a finite decimal number, got 'nan'"),
        ("q0 Q0 d0 1 1 tag", "run:2: duplicate document 'd0' in the list of query 'q0'"),
    ],
)
def test_bad_lines_of_runs_are_named(tmp_path, line, error):
    (tmp_path / "run").write_text(f"q0 Q0 d0 1 1 tag\n{line}\n")
    with pytest.raises(DataError, match=error.replace("(", r"\(")):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("q1 0 d1", "qrels:2: 3 fields, expected 4: query_id iteration document_id grade"),
        ("q1 0 d1 0.5", "qrels:2: the grade must be a whole number of 64 bits, got '0.5'"),
        ("q0 0 d0 1", "qrels:2: duplicate judgement of document 'd0' for query 'q0': 1 and 1"),
        ("q0 0 d0 2", "qrels:2: duplicate judgement of document 'd0' for query 'q0': 1 and 2"),
    ],
)
def test_bad_lines_of_qrels_are_named(tmp_path, line, error):
    (tmp_path / "qrels").write_text(f"q0 0 d0 1\n{line}\n")
    with pytest.raises(DataError, match=error):
        read_qrels(tmp_path / "qrels")


def test_lines_as_trec_eval_reads_them(tmp_path):
    """get_qrels.c and get_trec_results.c of trec_eval 10: C's isspace, lines end at a line feed."""
    (tmp_path / "qrels").write_bytes(
        "# one\n#two\n\n \t\v\f\r# three\nq1 0 d1 1.0\n  q1\t0\v\fd2 \r+2\r\n"
        "q\u00a01 Q0 d\u2028#3 -3.000 \t\nq#1 0 d 0".encode()
    )
    assert read_qrels(tmp_path / "qrels") == {
        "q1": {"d1": 1, "d2": 2},
        "q\u00a01": {"d\u2028#3": -3},
        "q#1": {"d": 0},
    }
    (tmp_path / "run").write_bytes(
        b" # one\n\nq1 Q0 d1 1 +5e-1 #tag\n\tq1 Q0\vd2 x -.5 t\r\nq2 0 d 1 2. t"
    )
    assert read_run(tmp_path / "run") == {"q1": {"d1": 0.5, "d2": -0.5}, "q2": {"d": 2.0}}


def test_a_carriage_return_ends_no_line(tmp_path):
    """Of such a run trec_eval would read the first line: it skips what follows a tag."""
    (tmp_path / "run").write_bytes(b"q1 Q0 d1 1 .5 t\rq1 Q0 d2 2 .4 t\r")
    with pytest.raises(DataError, match="run:1: 12 fields, expected 6"):
        read_run(tmp_path / "run")
    (tmp_path / "qrels").write_bytes(b"q1 0 d1 1\rq1 0 d2 1\r")
    with pytest.raises(DataError, match="qrels:1: 8 fields, expected 4"):
        read_qrels(tmp_path / "qrels")


NUMBERS = st.text("0123456789+-._eExXnNaAiIfF,²٣", min_size=1, max_size=8)
libc = ctypes.CDLL(None)
libc.atol.restype, libc.atof.restype = ctypes.c_long, ctypes.c_double


@given(text=NUMBERS | st.integers().map(str) | st.floats().map(repr))
@settings(max_examples=500)
def test_numbers_are_those_of_trec_eval_or_refused(tmp_path_factory, text):
    """A value that is read is the one that its atol or atof gives; what they cut off is refused."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "qrels").write_text(f"q 0 d {text}\n", encoding="utf-8")
    (folder / "run").write_text(f"q Q0 d 1 {text} t\n", encoding="utf-8")
    try:
        assert read_qrels(folder / "qrels")["q"]["d"] == libc.atol(text.encode())
    except DataError:
        assert not text.lstrip("+-").isdecimal() or not text.isascii() or abs(int(text)) >= 2**63
    try:
        assert read_run(folder / "run")["q"]["d"] == libc.atof(text.encode())
    except DataError:
        assert not text.lstrip("+-").replace(".", "", 1).isdecimal() or not text.isascii()


REFUSED = [
    "1_0",
    "--5",
    "+-1",
    "²",
    "٣",
    "0x10",
    "1,5",
    "inf",
    "nan",
    "-Infinity",
    "1.5.1",
    ".",
    "e5",
]


@pytest.mark.parametrize("text", [*REFUSED, "0.5", "1e3", ".0", "9223372036854775808", "9" * 5000])
def test_what_is_no_grade(tmp_path, text):
    (tmp_path / "qrels").write_text(f"q 0 d {text}\n", encoding="utf-8")
    with pytest.raises(
        DataError, match="qrels:1: the grade must be a whole number of 64 bits, got "
    ):
        read_qrels(tmp_path / "qrels")


@pytest.mark.parametrize("text", [*REFUSED, "1e400", "-1e400", "0x1p3", "1e", "9" * 5000])
def test_what_is_no_score(tmp_path, text):
    (tmp_path / "run").write_text(f"q Q0 d 1 {text} t\n", encoding="utf-8")
    with pytest.raises(DataError, match="run:1: the score must be a finite decimal number, got '"):
        read_run(tmp_path / "run")


@pytest.mark.filterwarnings("error")
def test_scores_beyond_float_are_equal():
    run = {"q": {"d": 1e301, "e": 1e300}}
    assert evaluate_run({"q": {"d": 1}}, run, metrics=["RR"]).metrics == {"RR": 1}
    found = evaluate_run({"q": {"d": 1}}, run, metrics=["RR"], score_type="float")
    assert found.metrics == {"RR": 0.5}


def test_grades_of_64_bits_can_be_scored(tmp_path):
    (tmp_path / "qrels").write_text(f"q 0 d {2**63 - 1}\nq 0 e {-(2**63)}\n")
    report = evaluate_run(read_qrels(tmp_path / "qrels"), {"q": {"d": 1.0, "e": 2.0}})
    assert report.metrics["nDCG@10"] == pytest.approx(0.6309, abs=1e-4)


@pytest.mark.parametrize(
    "text", ["a b", "a\tb", "a\nb", "a\rb", "a\vb", "a\fb", "a\0b", "a\ud800", ""]
)
def test_ids_that_a_file_cannot_hold_are_not_written(tmp_path, text):
    for qrels in ({text: {"d": 1}}, {"q": {text: 1}}):
        with pytest.raises(DataError, match="cannot hold the id '"):
            write_qrels(tmp_path / "qrels", qrels)
    assert not (tmp_path / "qrels").exists()


def test_a_query_that_would_be_a_comment_is_not_written(tmp_path):
    with pytest.raises(DataError, match="cannot hold the query id '#1': # begins a comment"):
        write_qrels(tmp_path / "qrels", {"#1": {"d": 1}})
    write_qrels(tmp_path / "qrels", {"q": {"#1": 1, "d\u00a0e\u2028": 0}})
    assert read_qrels(tmp_path / "qrels") == {"q": {"#1": 1, "d\u00a0e\u2028": 0}}


def test_a_nul_is_no_character_of_a_line(tmp_path):
    (tmp_path / "qrels").write_bytes(b"q 0 d 1\nq 0 e" + bytes(9) + b" 1\n")
    with pytest.raises(DataError, match="qrels:2: a NUL character"):
        read_qrels(tmp_path / "qrels")


def test_the_former_name_of_an_argument_and_grades_that_do_not_fit():
    with pytest.warns(DeprecationWarning, match="convention="):
        report = evaluate_run({"q": {"d": 1}}, {"q": {"d": 1.0}}, metrics=["RR"], tool="xtreme")
    assert report.metrics == {"RR": 1.0}
    with pytest.raises(DataError, match="query 'q': a grade is not a whole number of 64 bits"):
        evaluate_run({"q": {"d": 2**70}}, {"q": {"d": 1.0}})
    with pytest.raises(DataError, match="query 'q': a grade is not a whole number of 64 bits"):
        Dataset(
            "made",
            [Query("q", "?", "en", "q")],
            [Document("d", "!", "en", "d")],
            {"q": {"d": 2**70}},
        )


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="empty: empty; expected lines of query_id"):
        read_run(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        read_qrels(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"q 0 d\xe9 1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_qrels(tmp_path / "latin")


def test_a_run_of_the_scorer_scores_as_the_scorer(tmp_path):
    """What is written, to the last digit, is what was ranked: ties and all."""
    rng = np.random.default_rng(0)
    ids = [f"d{i}" for i in rng.permutation(30)]
    queries = [Query(f"q{i}", "?", "a", f"g{i}") for i in range(10)]
    qrels = {f"q{i}": {ids[i]: 1, ids[i + 10]: 2} for i in range(10)}
    dataset = Dataset("made", queries, [Document(d, "!", "a", d) for d in ids], qrels)
    pool = Pool(dataset)
    q, d = rng.integers(-2, 3, (10, 3)) + 0.1, rng.integers(-2, 3, (30, 3)) + 0.1
    ranks = rank_embeddings(pool, q, d, best=30)
    metrics = ["AP", "nDCG@10", "RR", "recall@5"]
    expected = Evaluation(dataset, metrics=metrics).judge(ranks, "made")
    write_run(tmp_path / "run", pool, ranks)
    write_qrels(tmp_path / "qrels", qrels)
    actual = evaluate_run(
        read_qrels(tmp_path / "qrels"), read_run(tmp_path / "run"), metrics=metrics
    )
    assert actual.metrics == pytest.approx(expected.summary["mono"], abs=1e-12)
    with pytest.raises(DataError, match="hold no best documents"):
        write_run(tmp_path / "run", pool, rank_embeddings(pool, q, d))
    with pytest.raises(DataError, match="cannot hold the id 'a b'"):
        write_qrels(tmp_path / "qrels", {"a b": {"d": 1}})
