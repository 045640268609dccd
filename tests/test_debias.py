"""Language directions: found where they were put, taken out exactly, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_cli import fails, run

pytest.importorskip("torch")

from hybridret.data.table import Dataset, Document, Query
from hybridret.debiasing import STRENGTHS, choose_strength, debias, is_easy, refusal
from hybridret.encoder.base import EncoderConfig
from hybridret.encoder.debias import METHODS, language_components, language_directions
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError
from hybridret.evaluation.judging import evaluate_embeddings
from hybridret.evaluation.trade_off import Side, TradeOff, one_language_each, trade_off

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
    assert len(scores.own) + len(scores.other) == 2 * len(dataset.queries)
    assert len(scores.other) == pytest.approx(3 * len(scores.own), rel=0.1)
    assert scores.gained("RR", 1) > 0.2
    assert scores.lost("RR", 1) >= 0
    for language in (None, *LANGUAGES):
        share, lost = scores.break_even("RR", 1, language), scores.lost("RR", 1, language)
        assert share * lost == pytest.approx((1 - share) * scores.gained("RR", 1, language))
    counts = [(scores.own.language == name).sum() for name in LANGUAGES]
    means = [scores.own.mean("RR", name)[1] for name in LANGUAGES]
    assert np.average(means, weights=counts) == pytest.approx(scores.own.mean("RR")[1])
    json.dumps(scores.to_dict(), allow_nan=False)
    same = trade_off(q, d, dataset, found, strengths=(0.0, 1.0), draws=2)
    assert same.own.mean("RR").tolist() == scores.own.mean("RR").tolist()


def test_the_trade_off_against_plain_arithmetic():
    """Reciprocal ranks by sorting similarities in one pool, drawn as the function draws it."""
    dataset, q, d = biased(4, noise=0.8)
    found = language_directions(d, [x.language for x in dataset.documents], method="means")
    scores = trade_off(q, d, dataset, found, strengths=(0.5,), draws=1, seed=7)
    pool, rows = one_language_each(dataset, np.random.default_rng([7, 0]))
    a, b = found.remove(q, 0.5), found.remove(d[rows], 0.5)
    similar = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    own, other = [], []
    for i, query in enumerate(dataset.queries):
        answer = [x.group_id for x in pool.documents].index(query.group_id)
        rank = 1 + (similar[i] > similar[i, answer]).sum()
        home = pool.documents[answer].language == query.language
        (own if home else other).append(1 / rank)
    assert scores.own.mean("RR")[0] == pytest.approx(np.mean(own))
    assert scores.other.mean("RR")[0] == pytest.approx(np.mean(other))


def test_pools_of_one_main_language():
    """Weights are how often a language is drawn; untranslated documents are thinned alike."""
    groups = [(f"g{n}", name) for n in range(600) for name in ("de", "en")]
    alone = [(f"{name}{n}", name) for n in range(600) for name in ("de", "en")]
    documents = [Document(f"{g}-{x}", "", x, g) for g, x in groups + alone]
    pool, rows = one_language_each(
        Dataset("pool", [], documents, {}), np.random.default_rng(0), {"de": 0.1, "en": 0.9}
    )
    assert [documents[row] for row in rows] == pool.documents
    count = Counter((d.language, d.group_id.startswith("g")) for d in pool.documents)
    assert count["de", True] + count["en", True] == 600
    assert count["en", True] == pytest.approx(540, abs=30)
    assert count["en", False] == 600
    assert count["de", False] == pytest.approx(600 / 9, abs=30)
    dataset, q, d = biased()
    found = language_directions(d, [x.language for x in dataset.documents], method="means")
    with pytest.raises(DataError, match="no weight above 0 for the documents in th"):
        trade_off(q, d, dataset, found, weights={"ar": 1, "de": 1, "en": 1})


def some_scores(own: list[float], other: list[float] | None = None) -> TradeOff:
    """``own`` RR and ``other`` recall@10 at strengths 0, .5, .75 and 1."""
    table = np.array([own])
    recall = np.array([other or []]).reshape(-1, 4)
    return TradeOff(
        "given",
        [0.0, 0.5, 0.75, 1.0],
        Side({"RR": table, "recall@10": table}, np.array(["de"]), np.zeros(1, int)),
        Side(
            {"RR": recall, "recall@10": recall},
            np.array(["de"] * len(recall)),
            np.zeros(len(recall), int),
        ),
    )


def test_the_strength_that_is_chosen():
    """As much as costs little; half where the texts cannot show a cost, or a gain."""
    other = [0.4, 0.6, 0.7, 0.8]
    assert choose_strength(some_scores([0.8, 0.79, 0.785, 0.75], other)) == 0.75
    assert choose_strength(some_scores([0.8, 0.81, 0.8, 0.8], other)) == 1
    assert choose_strength(some_scores([0.8, 0.7, 0.6, 0.5], other)) == 0
    assert choose_strength(some_scores([0.99, 0.99, 0.99, 0.99], other)) == 0.5
    assert choose_strength(some_scores([0.99, 0.9, 0.9, 0.9], other)) == 0
    assert choose_strength(some_scores([0.8, 0.79, 0.79, 0.79])) == 0.5


class GivenVectors:
    """An encoder that knows its texts' vectors, and keeps what is added to it."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.config = EncoderConfig("cosine")
        self.read: list[str] = []
        self.matrix: np.ndarray | None = None

    def encode_documents(self, texts, **_):
        self.read += texts
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    encode_queries = encode_documents

    def add_linear(self, matrix):
        self.matrix = matrix


def given(*, noise: float = 0.4):
    """(encoder, data set): the texts of :func:`biased`, by name."""
    dataset, q, d = biased(3, noise=noise)
    queries = [replace(x, text=x.query_id) for x in dataset.queries]
    documents = [replace(x, text=x.document_id) for x in dataset.documents]
    texts = [x.text for x in (*queries, *documents)]
    encoder = GivenVectors(dict(zip(texts, np.concatenate([q, d]), strict=True)))
    return encoder, Dataset("given", queries, documents, dataset.qrels)


def test_directions_and_trade_off_come_from_different_texts():
    encoder, dataset = given()
    result = debias(encoder, dataset)
    assert result.directions.method == "parallel"
    assert result.strength in STRENGTHS
    np.testing.assert_allclose(encoder.matrix, result.directions.matrix(result.strength))
    # 30 of the 60 meanings each, in 4 languages, as query and as document.
    assert len(encoder.read) == len(set(encoder.read)) == 2 * MEANINGS * len(LANGUAGES)
    assert result.directions.counts == [MEANINGS] * len(LANGUAGES)
    assert len(result.trade_off.own) + len(result.trade_off.other) == 3 * 30 * len(LANGUAGES)
    again, _ = given()
    assert debias(again, dataset).to_dict() == result.to_dict()


def test_other_data_to_measure_on():
    encoder, dataset = given()
    groups = [f"{m}" for m in range(20)]
    part = dataset.only_query_groups(groups)
    rest = Dataset("rest", [], [d for d in dataset.documents if d.group_id not in groups], {})
    result = debias(encoder, rest, measure_on=part, languages=["de", "en", "th"], strength=0.3)
    assert result.directions.counts == [40, 40, 40]
    assert result.trade_off.languages == ["de", "en", "th"]
    assert 0.3 in result.trade_off.strengths
    assert len(result.trade_off.own) + len(result.trade_off.other) == 3 * 20 * 3


def test_texts_alone_are_their_own_queries():
    """A sentence finds itself and its translations: the loss is not seen, so half is taken."""
    encoder, dataset = given(noise=0.05)
    result = debias(encoder, Dataset("texts", [], dataset.documents, {}))
    assert result.strength == 0.5
    assert is_easy(result.trade_off)
    alone = [d for d in dataset.documents if LANGUAGES[int(d.group_id) % 4] == d.language]
    with pytest.raises(DataError, match="alone: nothing to measure the trade-off on; it needs doc"):
        debias(encoder, Dataset("alone", [], alone, {}))
    result = debias(encoder, Dataset("alone", [], alone, {}), measure_on=dataset)
    assert result.directions.method == "means"
    assert result.directions.counts == [15] * 4


def test_nothing_to_gain_is_refused():
    """Answers in the query's language alone, which the language of a text helps to find."""
    encoder, dataset = given(noise=3.0)  # so that meanings alone are hard to tell apart
    home = {f"{m}": LANGUAGES[m % 4] for m in range(MEANINGS)}
    queries = [q for q in dataset.queries if home[q.group_id] == q.language]
    documents = [d for d in dataset.documents if home[d.group_id] == d.language]
    qrels = {q.query_id: dataset.qrels[q.query_id] for q in queries}
    native = Dataset("native", queries, documents, qrels)
    with pytest.raises(
        DataError, match=r"so there is nothing to gain, and at strength 1 recall@10"
    ):
        debias(encoder, native, strength=1.0)
    assert encoder.matrix is None
    result = debias(encoder, native, strength=1.0, force=True)
    assert encoder.matrix is not None
    assert not len(result.trade_off.other)
    assert result.to_dict()["trade_off"]["other"] is None
    json.dumps(result.to_dict(), allow_nan=False)
    assert refusal(result) is not None
    assert choose_strength(result.trade_off) <= 0.5


def test_a_language_without_texts():
    encoder, dataset = given()
    with pytest.raises(
        DataError, match=r"given: no texts in fr; it has ar, de, en, th\. A language"
    ):
        debias(encoder, dataset, languages=["de", "en", "fr"])
    result = debias(encoder, dataset, languages=["de", "en", "fr"], force=True)
    assert (result.lacking, result.directions.languages) == (["fr"], ["de", "en"])
    with pytest.raises(DataError, match="need texts in at least two languages, got de"):
        debias(encoder, dataset, languages=["de", "fr"], force=True)
    # A variety of a language is that language.
    swiss = [replace(d, language="de-CH") if d.language == "de" else d for d in dataset.documents]
    result = debias(encoder, Dataset("given", [], swiss, {}), languages=["de", "en"])
    assert result.directions.languages == ["de-CH", "en"]


def test_components_of_each_language():
    """LIR: what is left is orthogonal to the leading components of the text's own language."""
    dataset, _, d = biased()
    languages = [x.language for x in dataset.documents]
    found = language_components(d, languages, components=2)
    left = found.remove(d, languages)
    for name in LANGUAGES:
        rows = [n for n, x in enumerate(languages) if x == name]
        own = np.linalg.svd(d[rows], full_matrices=False)[2][:2]
        np.testing.assert_allclose(found.bases[name].T @ found.bases[name], own.T @ own, atol=1e-9)
        np.testing.assert_allclose(left[rows] @ own.T, 0, atol=1e-5)
    half = found.remove(d, languages, 0.5)
    np.testing.assert_allclose(half, (d + left) / 2, atol=1e-5)
    after = evaluate_embeddings(left, left, dataset)
    before = evaluate_embeddings(d, d, dataset)
    assert after.summary["multi"]["AP"] > before.summary["multi"]["AP"] + 0.1
    with pytest.raises(DataError, match="no components of fr; there are those of ar, de, en, th"):
        found.remove(d[:1], ["fr"])
    with pytest.raises(DataError, match="60 texts of ar in 24 dimensions have 1 to 24 components"):
        language_components(d, languages, components=25)
    with pytest.raises(DataError, match="have 3 dimensions, the components 24"):
        found.remove(d[:, :3], languages)


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


def test_an_encoder_that_normalises_in_between(capsys, bert_folder, tmp_path):
    """Its vectors are not linear in what a layer would be added to."""
    model = tmp_path / "model"
    model.mkdir()
    TorchEncoder.load(bert_folder).save(model)
    modules = json.loads((model / "modules.json").read_text())
    between, after = ("2_Normalize", "Normalize"), ("3_Dense", "Dense")
    for n, (path, kind) in enumerate((between, after), 2):
        (model / path).mkdir(exist_ok=True)
        kind = f"sentence_transformers.models.{kind}"
        modules[n:] = [{"idx": n, "name": f"{n}", "path": path, "type": kind}]
    (model / "modules.json").write_text(json.dumps(modules))
    message = fails(capsys, "debias", model, tmp_path / "out")
    assert "unsupported modules: Transformer, Pooling, Normalize, Dense; supported are" in message


def test_the_commands_mistakes(capsys, bert_folder, tmp_path):
    def wrong(*arguments: object) -> str:
        return fails(capsys, "debias", tmp_path / "model", tmp_path / "out", *arguments)

    assert "no such model folder" in wrong()
    assert "facts-wrong" in wrong("--texts", "facts-wrong")
    assert "facts-wrong" in wrong("--measure-on", "facts-wrong")
    message = fails(capsys, "debias", bert_folder, tmp_path / "out", "--languages", "fr", "de")
    assert "facts-train: no texts in fr; it has ar, de, " in message
    assert not (tmp_path / "out").exists()
