"""``hybridret train``: data sets with their own settings, a run in a file, dry runs, the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import fails, run

pytest.importorskip("torch")


@pytest.fixture
def pairs(tmp_path) -> Path:
    """30 English questions with two hard negatives each, without translations."""
    rows = [
        {
            "query": f"what is thing {n}",
            "positive": f"thing {n} is this",
            "negatives": [f"thing {n} is not that", f"thing {n} is nothing"],
            "language": "en",
        }
        for n in range(30)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return file


SMALL = ("--vocabulary-size", 600, "--dimension", 16)


def test_a_run_in_a_file(capsys, pairs, tmp_path):
    """Fields of the file hold unless the command line says otherwise."""
    config = toml(
        tmp_path,
        f"""
        model = "static"
        vocabulary_size = 600
        dimension = 16
        steps = 6
        batch_size = 8
        alpha = 0.6
        output = "{tmp_path / "run"}"

        [[data]]
        path = "facts-evaluation"
        languages = ["de", "en"]
        weight = 1

        [[data]]
        path = "{pairs}"
        name = "english"
        weight = 1
        hard_negatives = 1
        in_batch_negatives = false
        temperature = 0.1
        query_prompt = "question: "
        """,
    )
    status, text, _ = run(capsys, "train", "--config", config, "--steps", 4, "--json")
    assert status == 0
    assert json.loads(text)["steps"] == 4
    state = json.loads((tmp_path / "run" / "training.json").read_text())
    assert state["config"]["alpha"] == 0.6
    assert state["config"]["steps"] == 4
    assert state["rows_by_data_set"]["english"] == 30
    assert state["data_sets"][1]["temperature"] == 0.1
    assert state["config"]["precision"] == "fp32"  # of a static encoder
    assert {"command", "versions", "model", "encoder"} <= state.keys()
    log = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert set(log[0]["pairs"]) <= {"de-de", "en-en", "de-en", "en-de"}
    # The same with options alone.
    data = [
        *("--data", "facts-evaluation", "languages=de,en", "weight=1"),
        *("--data", pairs, "name=english", "weight=1", "hard_negatives=1"),
        *("in_batch_negatives=false", "temperature=0.1", "query_prompt=question: "),
    ]
    options = ("--steps", 4, "--batch-size", 8, "--alpha", 0.6)
    status, _, _ = run(capsys, "train", *data, *options, *SMALL, "--output", tmp_path / "again")
    assert status == 0
    assert (tmp_path / "run" / "log.jsonl").read_text() == (
        tmp_path / "again" / "log.jsonl"
    ).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3", "unknown field 'stesp' \\(did you mean steps\\?\\)"),
        ("steps = 'many'", "steps: expected a value of type int, got 'many'"),
        ("steps = 1.5", "steps: expected a value of type int, got 1.5"),
        ("steps = [1]", r"steps must be one value, got \[1\]"),
        (
            "sampler = 'bilingual'",
            "sampler: expected monolingual, cross-lingual, mixed, any-pair, hybrid, got",
        ),
        ("languages = 'de'", "languages must be a list, got 'de'"),
        ("normalize = 1", "normalize must be true or false, got 1"),
        (
            "[[data]]\npath = 'facts-train'\nwieght = 1",
            "unknown field 'wieght' \\(did you mean weight\\?\\)",
        ),
        ("[[data]]\nweight = 1", "data set: no path"),
        ("[[data]]\npath = 'facts-train'\nweight = 'x'", "weight must be of type float, got 'x'"),
        ("steps = ", "run.toml: not TOML"),
        ("steps = 3", "--data is missing: give it, or a --config that has it"),
    ],
)
def test_mistakes_in_a_file(text, message, capsys, tmp_path):
    config = toml(tmp_path, text)
    error = fails(capsys, "train", "--config", config, "--output", tmp_path / "run")
    import re

    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_mistakes_in_options(capsys, pairs, tmp_path):
    output = ("--output", tmp_path / "run")
    message = fails(capsys, "train", "--data", "facts-train", pairs, *output)
    assert "--data takes one path and then name=value, got" in message
    message = fails(capsys, "train", "--data", pairs, "--data", pairs, "--batch-size", 8, *output)
    assert "two data sets have the name 'pairs.jsonl'" in message
    english = ("--data", pairs, "--batch-size", 8, *SMALL, *output)
    message = fails(capsys, "train", *english, "--sampler", "cross-lingual")
    assert "needs translation groups that have a query and a document in different" in message
    message = fails(capsys, "train", "--data", pairs, "--batch-size", 31, *SMALL, *output)
    assert "batch_size is 31, but only 30 translation groups" in message
    mono = (*english, "--sampler", "monolingual")
    message = fails(capsys, "train", *mono, "--evaluate-every", 2)
    assert "--evaluate-every needs --evaluate or --hold-out" in message
    message = fails(capsys, "train", *mono, "--best", "multi AP")
    assert "best needs evaluate_every" in message
    message = fails(
        capsys, "train", *mono, "--hold-out", 0.2, "--evaluate-every", 1, "--best", "AP"
    )
    assert "no value 'AP' in the evaluation; it has mono AP, " in message


def test_a_dry_run(capsys, pairs, tmp_path):
    data = ("--data", pairs, "weight=1", "--data", "facts-train", "languages=de,en", "weight=3")
    options = (*SMALL, "--batch-size", 10, "--alpha", 0.5, "--max-length", 4, "--dry-run")
    command = ("train", *data, *options, "--output", tmp_path / "run")
    status, text, _ = run(capsys, *command)
    assert status == 0
    assert "An epoch: 12 batches of 10 pairs: " in text
    assert "30 of 30" in text
    status, text, _ = run(capsys, *command, "--json")
    found = json.loads(text)
    assert found["batches"] == {"monolingual": 6, "cross-lingual": 6}
    assert found["rows"]["pairs.jsonl"] == {"en-en": 30}
    assert found["negatives"] == {"pairs.jsonl": 2.0, "facts-train": 0.0}
    assert found["truncated"]["facts-train"] > 0.5
    assert not (tmp_path / "run").exists()


def test_the_best_encoder_is_what_the_run_ends_with(capsys, tmp_path):
    """At a rate this high it becomes worse; the run stops, and ends with what it had before."""
    arguments = (
        *("train", "--data", "facts-evaluation", "--languages", "de", "en", "--hold-out", 0.3),
        *("--steps", 40, "--batch-size", 16, "--learning-rate", 5, "--warmup", 0, *SMALL),
        *("--evaluate-every", 2, "--best", "mono AP", "--patience", 2, "--checkpoint-every", 0),
        *("--sampler", "monolingual", "--output", tmp_path / "run", "--json"),
    )
    status, text, _ = run(capsys, *arguments)
    assert status == 0
    summary = json.loads(text)
    entries = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    values = [
        (entry["step"], entry["evaluation"]["mono AP"])
        for entry in map(json.loads, entries)
        if "evaluation" in entry
    ]
    best = max(values, key=lambda item: item[1])
    assert summary["steps"] == values[-1][0]
    assert sum(step > best[0] for step, _ in values) in (2, 0)
    assert summary["development"]["mono"]["AP"] == pytest.approx(best[1])
    state = json.loads((tmp_path / "run" / "training.json").read_text())
    assert state["best"] == {"step": best[0], "mono AP": best[1]}
    assert state["step"] == summary["steps"]


def test_the_command_line_goes_first(capsys, pairs, tmp_path):
    """Data sets and flags, too, not single values alone."""
    config = toml(tmp_path, f"resume = false\n[[data]]\npath = '{pairs}'\n")
    options = ("--data", "facts-train", "languages=de,en", "--batch-size", 8, *SMALL)
    command = ("train", "--config", config, *options, "--output", tmp_path / "run", "--resume")
    status, text, error = run(capsys, *command, "--dry-run", "--json")
    assert status == 0
    assert list(json.loads(text)["rows"]) == ["facts-train"]
    assert "no checkpoint" in error  # it was asked to resume


def test_layers_that_are_not_trained(capsys, bert_folder, tmp_path):
    from hybridret.encoder.torch_encoder import TorchEncoder

    arguments = ("train", "--data", "facts-evaluation", "--model", bert_folder, "--steps", 2)
    arguments = (*arguments, "--batch-size", 8, "--learning-rate", 0.01)
    before = dict(TorchEncoder.load(bert_folder).model.named_parameters())
    for layers, frozen in ((0, ["word_embeddings"]), (1, ["embeddings", "layer.0."])):
        output = tmp_path / f"{layers}"
        assert run(capsys, *arguments, "--freeze-layers", layers, "--output", output)[0] == 0
        after = dict(TorchEncoder.load(output / "model").model.named_parameters())
        for name, parameter in before.items():
            same = bool((parameter == after[name]).all())
            assert same == (any(x in name for x in frozen) or "pooler" in name), name
    message = fails(capsys, *arguments, "--freeze-layers", 3, "--output", tmp_path / "many")
    assert "freeze_layers is 3, but the encoder has 2 layers" in message


def test_a_checkpoint_of_another_model(capsys, bert_folder, tmp_path):
    command = ("train", "--data", "facts-evaluation", "--languages", "de", "en", "--steps", 4)
    command = (*command, "--batch-size", 8, "--checkpoint-every", 2, "--output", tmp_path / "run")
    assert run(capsys, *command, "--model", bert_folder)[0] == 0
    more = (*command[:6], "--steps", 6, *command[8:], "--resume")
    message = fails(capsys, *more, *SMALL)
    assert f"was started with --model {bert_folder}, not static" in message
    message = fails(capsys, *more, "--model", bert_folder, "--max-length", 16)
    assert "was started with max_length 64, not 16" in message
    message = fails(capsys, *more, "--model", bert_folder, "--pooling", "cls")
    assert "was started with pooling 'mean', not 'cls'" in message
    assert run(capsys, *more, "--model", bert_folder, "--max-length", 64)[0] == 0


def test_the_recipe_has_known_fields_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[1] / "examples" / "recipe" / "run.toml"
    message = fails(capsys, "train", "--config", recipe)
    assert "data/questions.jsonl" in message  # it gets as far as the data
    assert "unknown field" not in message
