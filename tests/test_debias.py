"""Language directions: found where they were put, taken out exactly, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from test_cli import fails, run

pytest.importorskip("torch")

from hybridret.data.table import Dataset, Document, Query
from hybridret.debiasing import choose_strength
from hybridret.encoder.debias import METHODS, language_directions
from hybridret.errors import DataError
from hybridret.evaluation.judging import evaluate_embeddings
from hybridret.evaluation.trade_off import TradeOff, trade_off

LANGUAGES = ["ar", "de", "en", "th"]
DIMENSION, MEANINGS = 24, 60


def biased(seed: int = 0, *, noise: float = 0.05) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Texts that are their meaning plus their language, along three known directions."""
    rng = np.random.default_rng(seed)
    meaning = rng.standard_normal((MEANINGS, DIMENSION))
    meaning[:, :3] = 0
    language = np.zeros((len(LANGUAGES), DIMENSION))
    language[:, :3] = rng.standard_normal((len(LANGUAGES), 3)) * 6
    queries, documents, q, d = [], [], [], []
    for m in range(MEANINGS):
        for n, name in enumerate(LANGUAGES):
            queries.append(Query(f"q{m}{name}", "?", name, f"{m}"))
            documents.append(Document(f"d{m}{name}", "!", name, f"{m}"))
            for vectors in (q, d):
                vectors.append(meaning[m] + language[n] + noise * rng.standard_normal(DIMENSION))
    qrels = {x.query_id: {f"d{x.query_id[1:]}": 1} for x in queries}
    return Dataset("biased", queries, documents, qrels), np.array(q), np.array(d)


@pytest.mark.parametrize("method", METHODS)
def test_known_directions_are_found_and_taken_out(method):
    dataset, q, d = biased()
    languages, groups = zip(*((x.language, x.group_id) for x in dataset.documents), strict=True)
    found = language_directions(d, languages, groups=groups, method=method)
    assert found.basis.shape == (3, DIMENSION)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(3), atol=1e-12)
    assert (np.diff(found.variances) <= 0).all()
    assert found.languages == LANGUAGES
    if method != "lsar":  # which looks for directions orthogonal to what is common
        assert np.abs(found.basis[:, 3:]).max() < 0.05
    before = evaluate_embeddings(q, d, dataset)
    after = evaluate_embeddings(found.remove(q), found.remove(d), dataset)
    assert after.summary["rank_distance"] < 0.3 * before.summary["rank_distance"]
    assert after.summary["multi"]["AP"] > before.summary["multi"]["AP"] + 0.1
    np.testing.assert_allclose(found.remove(d, 0.0), d, rtol=1e-6)
    half = found.remove(d, 0.5)
    np.testing.assert_allclose(half, (d + found.remove(d)) / 2, atol=1e-5)
    # What was taken out is gone: a second time changes nothing.
    np.testing.assert_allclose(found.remove(found.remove(d)), found.remove(d), atol=1e-5)


def test_translations_keep_the_topic_out_of_the_directions():
    """Each language talks mostly of other things, which plain means mistake for the language."""
    dataset, _, d = biased(1)
    rng = np.random.default_rng(2)
    number = {name: n for n, name in enumerate(LANGUAGES)}
    # Half of the meanings have a single language, and those of a language are alike.
    keep = []
    for row, document in enumerate(dataset.documents):
        m = int(document.group_id)
        if m < 30 or number[document.language] == m % 4:
            keep.append(row)
            if m >= 30:
                d[row, 3 + m % 4] += 8 + 0.1 * rng.standard_normal()
    languages = [dataset.documents[row].language for row in keep]
    groups = [dataset.documents[row].group_id for row in keep]
    parallel = language_directions(d[keep], languages, groups=groups)
    means = language_directions(d[keep], languages, method="means")
    wrong = [float(np.square(x.basis[:, 3:]).sum()) for x in (parallel, means)]
    assert wrong[0] < 0.05 < 0.2 < wrong[1]


def test_groups_that_lack_languages():
    """The effects are those of least squares, by a dense solver."""
    rng = np.random.default_rng(0)
    group, language = rng.integers(0, 12, 40), rng.integers(0, 4, 40)
    group[:8], language[:8] = np.repeat([0, 1], 4), np.tile(range(4), 2)
    vectors = rng.standard_normal((40, 6))
    keep = [len(set(language[group == g])) > 1 for g in group]
    design = np.concatenate([np.eye(12)[group], np.eye(4)[language]], axis=1)[keep]
    effects = np.linalg.lstsq(design, vectors[keep], rcond=None)[0][12:]
    effects -= effects.mean(0)
    found = language_directions(
        vectors, [f"l{x}" for x in language], groups=[str(g) for g in group], directions=3
    )
    span = np.linalg.svd(effects, full_matrices=False)[2][:3]
    np.testing.assert_allclose(found.basis.T @ found.basis, span.T @ span, atol=1e-6)


def test_the_trade_off_by_hand():
    """Own-language answers lose what their language said of them; others win."""
    dataset, q, d = biased(3, noise=0.4)
    languages = [x.language for x in dataset.documents]
    found = language_directions(d, languages, method="means")
    scores = trade_off(q, d, dataset, found, strengths=(0.0, 1.0), draws=2)
    assert scores.n_own + scores.n_other == 2 * len(dataset.queries)
    assert scores.n_other == pytest.approx(3 * scores.n_own, rel=0.1)
    assert scores.other["RR"][1] > scores.other["RR"][0] + 0.2
    assert scores.own["RR"][1] <= scores.own["RR"][0]
    share = scores.break_even("RR")
    lost = scores.own["RR"][0] - scores.own["RR"][1]
    gained = scores.other["RR"][1] - scores.other["RR"][0]
    assert share * lost == pytest.approx((1 - share) * gained)
    json.dumps(scores.to_dict())
    same = trade_off(q, d, dataset, found, strengths=(0.0, 1.0), draws=2)
    assert same.own["RR"].tolist() == scores.own["RR"].tolist()


def test_the_strength_that_is_chosen():
    """As much as costs little; half where the texts cannot show a cost."""
    strengths = [0.0, 0.5, 0.75, 1.0]

    def scores(own: list[float]) -> TradeOff:
        recall = np.array([0.4, 0.6, 0.7, 0.8])
        return TradeOff(
            strengths,
            {"RR": np.array(own), "recall@10": np.ones(4)},
            {"RR": recall, "recall@10": recall},
            {},
            1,
            1,
        )

    assert choose_strength(scores([0.8, 0.79, 0.785, 0.75])) == 0.75
    assert choose_strength(scores([0.8, 0.81, 0.8, 0.8])) == 1
    assert choose_strength(scores([0.8, 0.7, 0.6, 0.5])) == 0
    assert choose_strength(scores([0.99, 0.99, 0.99, 0.99])) == 0.5
    assert scores([0.8, 0.8, 0.8, 0.8]).break_even() == 1
    assert scores([0.8, 0.7, 0.6, 0.4]).break_even() == pytest.approx(0.5)


def test_mistakes_are_named():
    rng = np.random.default_rng(0)
    v = rng.standard_normal((6, 4))
    two = ["a", "b"] * 3
    for message, arguments, options in (
        ("at least two languages, got a", (v, ["a"] * 6), {"method": "means"}),
        ("6 embeddings, but 2 languages", (v, ["a", "b"]), {}),
        ("have 1 to 1 directions, got 2", (v, two), {"directions": 2, "method": "means"}),
        ("have 1 to 1 directions, got 0", (v, two), {"directions": 0, "method": "means"}),
        ("unknown method 'pca'", (v, two), {"method": "pca"}),
        ("needs the translation group", (v, two), {}),
        ("6 embeddings, but 1 groups", (v, two), {"groups": ["1"]}),
        ("the texts of 2 of 2 languages have none", (v, two), {"groups": list("abcdef")}),
        (
            "row 2 has a value that is not finite",
            (v * [[1], [1], [np.nan], [1], [1], [1]], two),
            {},
        ),
        ("must be floats", (np.ones((6, 4), int), two), {}),
    ):
        with pytest.raises(DataError, match=message):
            language_directions(*arguments, **options)
    found = language_directions(v, two, method="means")
    with pytest.raises(DataError, match=r"strength must be from 0 to 1, got 1\.5"):
        found.remove(v, 1.5)
    with pytest.raises(DataError, match="have 3 dimensions, the language directions 4"):
        found.remove(v[:, :3])


def test_the_command(capsys, bert_folder, tmp_path):
    """A sentence-transformers folder with one more layer, which everybody reads alike."""
    pytest.importorskip("onnxscript")
    out = tmp_path / "fair"
    status, text, _ = run(
        capsys,
        "debias",
        bert_folder,
        out,
        "--languages",
        "de",
        "en",
        "zh",
        "--strength",
        0.5,
        "--json",
    )
    assert status == 0
    result = json.loads(text)
    assert (result["strength"], result["directions"], result["method"]) == (0.5, 2, "parallel")
    assert json.loads((out / "debias.json").read_text()) == result
    assert "strength" in (out / "README.md").read_text()
    modules = [m["type"].rpartition(".")[2] for m in json.loads((out / "modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", "Dense"]
    assert "already exists" in fails(capsys, "debias", bert_folder, out)
    code = (
        "import sys, numpy as np; from sentence_transformers import SentenceTransformer; "
        "import hybridret; texts = ['Wie heißt es?', 'What is it called?']; "
        "theirs = SentenceTransformer(sys.argv[1], device='cpu').encode(texts); "
        "ours = hybridret.TorchEncoder.load(sys.argv[1]).encode_documents(texts); "
        "print(np.abs(theirs - ours).max() / np.abs(ours).max())"
    )
    pytest.importorskip("sentence_transformers")
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
    assert float(done.stdout) < 1e-6, done.stderr
    assert run(capsys, "export", out, tmp_path / "onnx")[0] == 0


def test_the_commands_mistakes(capsys, tmp_path):
    def wrong(*arguments: object) -> str:
        return fails(capsys, "debias", tmp_path / "model", tmp_path / "out", *arguments)

    assert "no such model folder" in wrong()
    assert "has no language fr" in wrong("--languages", "fr", "de")
