"""Studies: arms that draw the same rows, scores summed by question, verdicts, the whole command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import fails, run

torch = pytest.importorskip("torch")

from hybridret.data import load_dataset, load_facts  # noqa: E402
from hybridret.data.table import Dataset, StreamedDocuments, hold_out  # noqa: E402
from hybridret.errors import DataError  # noqa: E402
from hybridret.evaluation.judging import Evaluation  # noqa: E402
from hybridret.evaluation.significance import compare  # noqa: E402
from hybridret.studies import paper, preparation  # noqa: E402
from hybridret.studies.claims import Claim, Draws, answer  # noqa: E402
from hybridret.studies.page import write_page  # noqa: E402
from hybridret.studies.protocol import (  # noqa: E402
    Arm,
    Budget,
    check_same_rows,
    complete_rows,
    held_out_texts,
    of_seeds,
    size,
    trials,
)
from hybridret.studies.runs import Runs  # noqa: E402
from hybridret.studies.scores import DRAWS, PREFERENCE, RANK_DISTANCE, Scores  # noqa: E402
from hybridret.training.pairs import PairTable  # noqa: E402

BUDGET = Budget(6, 16, (1e-3, 1e-2), (0.05,), (3, 4))


def judged(dataset: Dataset, seed: int, shift: float = 0.0):
    """Evaluation, ranks and report of vectors that find some answers."""
    rng = np.random.default_rng(seed)
    groups = {g: rng.normal(size=24) for g in sorted({d.group_id for d in dataset.documents})}
    relevant = dataset.relevant_by_group()
    group_of = {d.document_id: d.group_id for d in dataset.documents}
    told = [groups[d.group_id] + (1.5 - shift) * rng.normal(size=24) for d in dataset.documents]
    asked = [
        groups[group_of[next(iter(relevant[q.group_id]))]] + rng.normal(size=24)
        for q in dataset.queries
    ]
    evaluation = Evaluation(dataset, metrics=("AP", "nDCG@10"))
    vectors = np.array(asked, np.float32), np.array(told, np.float32)
    ranks = evaluation.rank(*vectors, "cosine", best=0)
    return evaluation, ranks, evaluation.judge(ranks, "made")


@pytest.fixture(scope="module")
def some() -> Dataset:
    """Questions in up to three languages, some of them in two or one."""
    whole = load_facts("evaluation").only_languages(["de", "en", "zh"])
    groups = sorted({q.group_id for q in whole.queries})[:60]
    found = whole.only_query_groups(groups)
    left_out = {q.query_id for n, q in enumerate(found.queries) if n % 7 == 0}
    queries = [q for q in found.queries if q.query_id not in left_out]
    documents = [d for n, d in enumerate(found.documents) if n % 5]
    kept = {d.document_id for d in documents}
    qrels = {
        q.query_id: {d: g for d, g in found.qrels[q.query_id].items() if d in kept} for q in queries
    }
    return Dataset("some", queries, documents, qrels)


# ------------------------------------------------------------------------------------ protocol


def test_all_arms_draw_the_same_rows():
    whole = load_facts("train").only_languages(["de", "en", "zh"])
    training, held = hold_out(complete_rows(whole, ["de", "en", "zh"]), 0.1)
    tables = {"a": PairTable.from_dataset(training), "b": PairTable.from_dataset(held)}
    study = paper.study(["a", "b"], start="static")
    check_same_rows(tables, study.arms, BUDGET)
    names = [arm.name for arm in study.arms]
    assert len(set(names)) == len(names)
    assert {arm.alpha for arm in study.arms if arm.sampler == "hybrid"} == {
        0.25,
        0.4,
        0.5,
        0.6,
        0.75,
    }
    used = {s for claim in study.claims for pair in claim.pairs for s, _ in pair}
    assert used <= {*names, "untrained"}
    assert set(study.curve.values()) <= set(names)


def test_rows_that_lack_a_language_are_refused_or_left_out():
    whole = load_facts("train").only_languages(["de", "en"])
    some = [q for n, q in enumerate(whole.queries) if q.language == "de" or n % 3]
    lacking = Dataset(
        "lacking", some, whole.documents, {q.query_id: whole.qrels[q.query_id] for q in some}
    )
    arms = [Arm(kind, kind, ("x",)) for kind in paper.BATCHES]
    with pytest.raises(DataError, match="do not draw the same rows"):
        check_same_rows({"x": PairTable.from_dataset(lacking)}, arms, BUDGET)
    complete = complete_rows(lacking, ["de", "en"])
    assert 0 < len(complete.queries) < len(some)
    check_same_rows({"x": PairTable.from_dataset(complete)}, arms, BUDGET)
    with pytest.raises(DataError, match="no language zh"):
        complete_rows(lacking, ["de", "zh"])
    german = [q for q in some if q.language == "de"]
    apart = Dataset(
        "apart", german, whole.documents, {q.query_id: whole.qrels[q.query_id] for q in german}
    )
    with pytest.raises(
        DataError, match="apart: no group has a query and an answer in each of de, en"
    ):
        complete_rows(apart, ["de", "en"])


def test_budget_and_sizes():
    arm = Arm("hybrid", "hybrid", ("x",))
    assert [t.seed for t in trials(arm, BUDGET)] == [3, 3]
    best = trials(arm, BUDGET)[1]
    assert of_seeds(best, BUDGET) == [best, replace(best, seed=4)]
    assert BUDGET.runs == 3
    assert BUDGET.pairs == 96
    table = PairTable.from_dataset(load_facts("evaluation").only_languages(["de", "en", "zh"]))
    for kind, pairs in (("monolingual", 3), ("cross-lingual", 6), ("hybrid", 9), ("any-pair", 9)):
        found = size({"x": table}, Arm(kind, kind, ("x",)), BUDGET)
        assert (found.groups, found.distinct, found.seen) == (len(table), pairs * len(table), 96)
    with pytest.raises(DataError, match="seeds must be different values"):
        Budget(6, 16, (1e-3,), (0.05,), (3, 3))


def test_texts_for_directions_are_held_out(some):
    whole = load_facts("train").only_languages(["de", "en", "zh"])
    training, held = hold_out(complete_rows(whole, ["de", "en"]), 0.1, pool=5000)
    texts = held_out_texts(whole, held, ["de", "en", "zh", "ru"])
    assert {d.language for d in texts} == {"de", "en", "zh"}
    assert not {d.group_id for d in texts} & {d.group_id for d in training.documents}
    assert len({d.group_id for d in texts}) == len(texts) / 3 == 160


# ------------------------------------------------------------------------------------ scores


def test_scores_are_those_of_the_report(some, tmp_path):
    evaluation, ranks, report = judged(some, 0)
    made = Scores.of(evaluation, ranks, report)
    made.save(tmp_path / "scores.npz")
    for scores, close in ((made, 1e-12), (Scores.load(tmp_path / "scores.npz"), 1e-6)):
        for kind in ("mono", "cross", "multi"):
            for metric in ("AP", "nDCG@10"):
                measure = f"{metric} {kind}"
                assert scores.mean(measure) == pytest.approx(
                    report.summary[kind][metric], abs=close
                )
                assert scores.ceiling(measure) == pytest.approx(report.ceilings[kind][metric])
                assert scores.n(measure) == report.summary["n"][kind]
        distance = report.summary["rank_distance"]
        assert scores.mean(RANK_DISTANCE) == pytest.approx(distance, rel=close)
        assert scores.mean(PREFERENCE) == pytest.approx(report.bias.preference_rate.mean, abs=close)
        assert scores.ceiling(RANK_DISTANCE) is None
        values, counts = scores.matrix("AP", report.languages)
        np.testing.assert_allclose(values[:, :-1], report.matrix("AP"), atol=close)
        assert counts.sum() == scores.n("AP mono") + scores.n("AP cross") + scores.n("AP multi")
    (tmp_path / "scores.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="not the scores of a run, or damaged"):
        Scores.load(tmp_path / "scores.npz")


def test_draws_are_a_bootstrap_of_questions(some):
    """As a loop draws them; and the interval is that of hybridret.compare."""
    first, second = judged(some, 0), judged(some, 1, shift=0.5)
    runs = [Scores.of(*x) for x in (first, second)]
    clusters = len(runs[0].sums)
    rng = np.random.default_rng(0)
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), DRAWS)
    for measure in ("AP cross", RANK_DISTANCE):
        drawn = runs[0].draws(measure)
        for n in range(5):
            by_query: dict[str, list[float]] = {}
            for k, (name, asked, _) in enumerate(runs[0].columns):
                if name == measure:
                    total = sum(t * x for t, x in zip(times[n], runs[0].sums[:, k], strict=True))
                    number = sum(t * x for t, x in zip(times[n], runs[0].counts[:, k], strict=True))
                    by_query.setdefault(asked, []).append(total / number)
            assert drawn[n] == pytest.approx(np.mean([np.mean(v) for v in by_query.values()]))
    difference = runs[1].draws("AP multi") - runs[0].draws("AP multi")
    found = {d.setting: d for d in compare(second[2], first[2], "AP").means}["multi"]
    np.testing.assert_allclose(
        np.quantile(difference, [0.025, 0.975]), [found.low, found.high], atol=0.004
    )


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_run_is_level_with_itself(questions, seed):
    rng = np.random.default_rng(seed)
    scores = made_scores(rng.random(questions))
    draws = Draws({(name, ""): {"x": [scores, scores]} for name in ("a", "b")})
    claim = Claim("?", "a is level with b", "level", [(("a", ""), ("b", ""))], ["AP multi"])
    assert answer(claim, draws, ["x"]).verdict == "supported"


def made_scores(values, measure: str = "AP multi") -> Scores:
    counts = np.ones((len(values), 1), dtype=np.int64)
    return Scores([(measure, "de", None)], np.array(values, float)[:, None], counts, [1.0])


def verdict(kind: str, own, other, measure: str = "AP multi", seeds: int = 3):
    """Of values by question, a little apart in every seed."""
    rng = np.random.default_rng(0)
    scores = {
        (name, ""): {"x": [made_scores(v + rng.normal(0, 1e-4), measure) for _ in range(seeds)]}
        for name, v in (("a", own), ("b", other))
    }
    claim = Claim("?", "a against b", kind, [(("a", ""), ("b", ""))], [measure])
    return answer(claim, Draws(scores), ["x"])


def test_verdicts():
    rng = np.random.default_rng(0)
    base = rng.random(400)
    noise = rng.normal(0, 0.3, 400)
    noise -= noise.mean()
    assert verdict("better", base + 0.02, base).verdict == "supported"
    assert verdict("better", base, base + 0.02).verdict == "not supported"
    assert verdict("better", base + 1e-3, base).verdict == "supported"  # small, and sure
    assert verdict("better", base - 1e-3, base).verdict == "not supported"
    assert verdict("better", base + noise, base).verdict == "underpowered"
    assert verdict("level", base, base).verdict == "supported"
    assert verdict("level", base - 0.02, base).verdict == "not supported"
    assert verdict("level", base + noise, base).verdict == "underpowered"
    assert verdict("level", base + 0.5, base).verdict == "supported"  # better is level, too
    # Of a rank distance less is better.
    found = verdict("better", 100 * base, 100 * base + 50, RANK_DISTANCE)
    assert found.verdict == "supported"
    assert found.comparisons[0].difference == pytest.approx(50, abs=0.01)
    assert found.comparisons[0].values[0] < found.comparisons[0].reference_values[0]


def test_a_claim_of_measures_that_no_data_set_has():
    claim = Claim("?", "better", "better", [(("a", ""), ("b", ""))], ["AP multi"])
    assert answer(claim, Draws({}), ["x"]).verdict == "not measured"


def test_seeds_widen_an_interval():
    """Two seeds that differ by more than the questions do."""
    base = np.linspace(0.4, 0.6, 100)
    apart = [made_scores(base + 0.1), made_scores(base - 0.1)]
    one = Draws({("a", ""): {"x": apart[:1]}}).interval(("a", ""), "x", "AP multi")
    both = Draws({("a", ""): {"x": apart}}).interval(("a", ""), "x", "AP multi")
    assert both[1] - both[0] > 5 * (one[1] - one[0])


def test_no_claim_without_a_difference():
    """Runs whose seeds differ far more than their questions: seldom a verdict by chance."""
    rng = np.random.default_rng(0)
    base = rng.random(200)
    verdicts = []
    for _ in range(100):
        scores = {
            (name, ""): {"x": [made_scores(base + rng.normal(0, 0.02)) for _ in range(3)]}
            for name in "ab"
        }
        claim = Claim("?", "better", "better", [(("a", ""), ("b", ""))], ["AP multi"])
        verdicts.append(answer(claim, Draws(scores), ["x"]).verdict)
    assert verdicts.count("supported") <= 7  # 2.5 % are expected


def test_a_single_seed_supports_nothing():
    base = np.linspace(0, 0.5, 100)
    assert verdict("better", base + 0.2, base, seeds=1).verdict == "underpowered"
    assert verdict("better", base, base + 0.2, seeds=1).verdict == "underpowered"


def test_holm_is_over_the_comparisons_of_a_claim():
    rng = np.random.default_rng(1)
    base = rng.random(100)
    scores = {("b", ""): {"x": [made_scores(base)]}}
    for n in range(20):
        scores[f"a{n}", ""] = {"x": [made_scores(base + rng.normal(0, 0.1, 100))]}
    pairs = [((f"a{n}", ""), ("b", "")) for n in range(20)]
    found = answer(Claim("?", "all", "better", pairs, ["AP multi"]), Draws(scores), ["x"])
    for c in found.comparisons:
        assert c.p <= c.p_holm <= min(1, 20 * c.p)
    assert min(c.p_holm for c in found.comparisons) == pytest.approx(
        min(1, 20 * min(c.p for c in found.comparisons))
    )


# ------------------------------------------------------------------------------------ command


@pytest.fixture
def parallel(tmp_path):
    """Two small data sets of translations, and one to judge on."""
    files = []
    whole = load_facts("train").only_languages(["de", "en", "ru", "zh"])
    text = {d.document_id: d for d in whole.documents}
    groups = sorted({q.group_id for q in whole.queries})
    for n, name in enumerate(("short", "long", "judged")):
        file = tmp_path / f"{name}.jsonl"
        kept = set(groups[n * 60 : n * 60 + 60])
        with file.open("w", encoding="utf-8") as out:
            for q in whole.queries:
                if q.group_id in kept:
                    answer_text = text[next(iter(whole.qrels[q.query_id]))].text
                    row = {"query": q.text, "positive": answer_text, "language": q.language}
                    out.write(json.dumps(row | {"group": q.group_id}) + "\n")
        files.append(file)
    return files


def command(parallel, model, output, *more):
    data = [x for file in parallel[:2] for x in ("--data", file)]
    return (
        "study", "paper", "--model", model, *data, "--evaluate", f"set={parallel[2]}",
        "--languages", "de", "en", "ru", "--output", output, "--steps", 3, "--batch-size", 8,
        "--learning-rates", 0.01, "--temperatures", 0.05, "--leaks", "allow", *more,
    )  # fmt: skip


def test_the_whole_study_of_a_static_encoder(capsys, tmp_path, parallel, xlmr_folder):
    output = tmp_path / "study"
    line = command(parallel, xlmr_folder, output, "--start", "static", "--seeds", 0, 1)
    status, text, error = run(capsys, *line)
    assert status == 0, error
    found = json.loads((output / "results.json").read_text())
    arms = [arm["name"] for arm in found["arms"]]
    assert arms[:4] == ["monolingual", "cross-lingual", "mixed", "hybrid"]
    assert {"hybrid, short", "any-pair", "hybrid, alpha 0.25"} < set(arms)
    first = found["systems"][0]
    assert (first["system"], first["variant"]) == ("untrained", "as it comes")
    hybrid = next(
        s for s in found["systems"] if (s["system"], s["variant"]) == ("hybrid", "as it comes")
    )
    ap = hybrid["measures"]["AP multi"]
    assert len(ap["seeds"]) == 2
    assert ap["interval"][0] <= ap["mean"] <= ap["interval"][1]
    assert {c["verdict"] for c in found["claims"]} <= {"supported", "not supported", "underpowered"}
    assert found["data"]["training"]["short"]["languages"] == ["de", "en", "ru"]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Hybrid batches are best or level with the best in mono, cross and multi." in page
    assert "Share of monolingual batches (alpha)" in page
    assert "hybrid: learning rate 0.01, temperature 0.05" in text
    assert not list(output.glob("runs/*/model"))

    # Again: everything is read, nothing is trained.
    before = {f: f.stat().st_mtime_ns for f in output.glob("runs/**/*") if f.is_file()}
    status, again, _ = run(capsys, *line)
    assert status == 0
    assert again == text
    assert before == {f: f.stat().st_mtime_ns for f in output.glob("runs/**/*") if f.is_file()}
    # The order of the data sets is part of a study; so is what is in them.
    turned = [*line]
    turned[4:8] = [*line[6:8], *line[4:6]]
    assert "other settings (data)" in fails(capsys, *turned)
    kept = parallel[2].read_text(encoding="utf-8")
    parallel[2].write_text(kept.replace('"positive": "', '"positive": "x '), encoding="utf-8")
    assert "other settings (data)" in fails(capsys, *line)
    parallel[2].write_text(kept, encoding="utf-8")
    # More seeds of the same study; another study is refused.
    more = command(
        parallel, xlmr_folder, output, "--start", "static", "--seeds", 0, 1, 2, "--dry-run"
    )
    status, text, _ = run(capsys, *more)
    assert "runs that are done" in text
    refused = fails(capsys, *line, "--max-length", 32)
    assert "has a study with other settings (max_length); choose another folder" in refused


def test_a_dry_run_loads_no_model(capsys, tmp_path, parallel, xlmr_folder, monkeypatch):
    from hybridret.encoder.torch_encoder import TorchEncoder

    monkeypatch.setattr(TorchEncoder, "load", None)
    output = tmp_path / "study"
    status, text, _ = run(capsys, *command(parallel, xlmr_folder, output, "--dry-run"))
    assert status == 0
    assert "12 trainings (4 of them trials of settings), 288 pairs" in text
    assert "arms: monolingual, cross-lingual, mixed, hybrid" in text
    assert not output.exists()


def test_the_recipe(capsys, tmp_path, parallel, xlmr_folder):
    """Draws data sets by their sizes, stops early, and prints ours minus the paper's."""
    output = tmp_path / "study"
    model = tmp_path / "xlm-roberta-tiny"
    model.symlink_to(xlmr_folder)
    english = tmp_path / "english.jsonl"
    rows = [json.loads(line) for line in parallel[1].read_text().splitlines()]
    english.write_text(
        "".join(
            json.dumps(row | {"language": "en"}) + "\n" for row in rows if row["language"] == "en"
        )
    )
    line = [*command([parallel[0], english, parallel[2]], model, output, "--start", "recipe")]
    line[line.index("--evaluate") + 1] = f"xquad-r={parallel[2]}"
    line[line.index("--data") + 2 : line.index("--data") + 2] = ["name=mmarco"]
    line[line.index("--steps") + 1] = 60
    line += ["--stop-on", parallel[1], "--hold-out", 0.1]
    same = [parallel[2] if x == parallel[1] else x for x in line]
    same[same.index("--leaks") + 1] = "remove"
    assert "it ends the training, and is judged on" in fails(capsys, *same)
    status, text, _ = run(capsys, *line, "--dry-run")
    assert "1,440 pairs" in text  # all steps: a data set of any size may be given
    assert "mmarco: given (39,780,811 rows" in text
    assert "wikiqa: not given (13,221 rows in nine languages)" in text
    assert "shares of the batches: mmarco 100.0%, english 0.0%" in text
    line[line.index("name=mmarco") + 1 : line.index("name=mmarco") + 1] = ["weight=3"]
    line[line.index(english) + 1 : line.index(english) + 1] = ["weight=1"]
    _, text, _ = run(capsys, *line, "--dry-run")
    assert "shares of the batches: mmarco 75.0%, english 25.0%" in text
    alone = [x for x in line if x not in (parallel[0], "name=mmarco", "weight=3")]
    alone.remove("--data")
    message = fails(capsys, *alone, "--dry-run")
    assert "cross-lingual: no data set has rows in more than one language" in message
    status, _, error = run(capsys, *line)
    assert status == 0, error
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "ours − paper" in page
    assert "0.7977" in page  # of the paper: hybrid batches, XLM-R, mono
    found = json.loads((output / "results.json").read_text())
    rows_of = {arm: found["sizes"][arm]["groups"] for arm in ("hybrid", "cross-lingual")}
    assert rows_of["cross-lingual"] < rows_of["hybrid"]  # English alone has no pairs of languages
    folder = output / "runs" / "hybrid-lr0.01-t0.05-s0"
    log = [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]
    losses = [entry["evaluation"]["loss"] for entry in log if "evaluation" in entry]
    state = json.loads((folder / "training.json").read_text())
    assert state["best"]["loss"] == min(losses)
    assert len(losses) == 20 or losses[-1] > min(losses)  # it ends two after the best
    steps = next(arm["steps"] for arm in found["arms"] if arm["name"] == "hybrid")
    assert steps == [state["step"]] <= [60]
    assert found["sizes"]["hybrid"]["pairs"] == 8 * state["step"]


def test_a_streamed_corpus_is_judged_as_one_in_memory(tmp_path, parallel, xlmr_folder):
    files = {"a": str(parallel[0])}
    found = []
    for streamed in (False, True):
        data = preparation.read(
            files, [f"set={parallel[2]}"], languages=["de", "en"], share=0.2, leaks="allow"
        )
        if streamed:
            whole = data.judged["set"]
            documents = StreamedDocuments(partial(iter, whole.documents))
            data.judged["set"] = replace(whole, documents=documents)
        folder = tmp_path / str(streamed)
        runs = Runs(folder=folder, start=xlmr_folder, data=data, budget=BUDGET)
        found.append(runs.scores_of_start())
        assert {f.suffix for f in folder.rglob("*") if f.is_file()} == {".npz", ".json"}
    assert found[0].keys() == found[1].keys()
    assert {variant for _, variant in found[0]} == {
        "as it comes", "without directions", "code-switched",
    }  # fmt: skip
    for key, scores in found[0].items():
        assert scores.columns == found[1][key].columns
        np.testing.assert_allclose(scores.sums, found[1][key].sums, atol=1e-6)


def test_a_trial_that_diverges_is_not_chosen(capsys, tmp_path, parallel, xlmr_folder):
    output = tmp_path / "study"
    line = [*command(parallel, xlmr_folder, output, "--seeds", 0)]
    at = line.index("--learning-rates")
    line[at + 1 : at + 2] = [1e-3, 1e30]
    status, text, error = run(capsys, *line)
    assert status == 0, error
    assert text.count("learning rate 0.001") == 4
    found = json.loads((output / "results.json").read_text())
    assert found["arms"][0]["development"]["monolingual-lr1e+30-t0.05-s0"] is None
    assert "diverged" in (output / "report.html").read_text(encoding="utf-8")
    line[at + 1 : at + 3] = [1e30]
    line[line.index(output)] = tmp_path / "other"
    status, _, error = run(capsys, *line)
    assert status == 1
    assert "monolingual: the loss of every trial became NaN or infinite" in error


def test_mistakes(capsys, tmp_path, parallel, xlmr_folder):
    line = command(parallel, xlmr_folder, tmp_path / "study")
    assert "two data sets are named 'short'" in fails(capsys, *line, "--data", parallel[0])
    assert "--stop-on is for --start recipe" in fails(capsys, *line, "--stop-on", "x")
    refusing = tuple("refuse" if x == "allow" else x for x in line)
    same = tuple(parallel[0] if x == f"set={parallel[2]}" else x for x in refusing)
    assert "training and evaluation share texts: " in fails(capsys, *same)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    other = tuple(tmp_path / "full" if x == tmp_path / "study" else x for x in line)
    assert "not empty, and not the folder of a study" in fails(capsys, *other)
    assert load_dataset(parallel[0]).languages == ["de", "en", "ru", "zh"]
    assert write_page.__doc__
