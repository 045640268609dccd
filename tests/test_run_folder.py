"""What a run leaves behind, and settings of batches: plots, a model card, trackers."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from test_cli import fails, run

torch = pytest.importorskip("torch")

from hybridret.data import load_facts  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.errors import DataError  # noqa: E402
from hybridret.training.batches import Sampler  # noqa: E402
from hybridret.training.config import TrainingConfig  # noqa: E402
from hybridret.training.loop import train  # noqa: E402
from hybridret.training.optimizer import RowAdamW  # noqa: E402
from hybridret.training.pairs import PairTable, TrainingData  # noqa: E402
from hybridret.training.plots import write_plots  # noqa: E402

SMALL = ("--vocabulary-size", 600, "--dimension", 16, "--languages", "de", "en")


def test_plots_and_a_card(capsys, tmp_path):
    output = tmp_path / "run"
    data = ("--data", "facts-evaluation", "--hold-out", 0.3, "--evaluate-every", 4)
    options = ("--steps", 8, "--batch-size", 16, "--log-every", 2, "--best", "multi AP")
    status, text, _ = run(capsys, "train", *data, *SMALL, *options, "--output", output, "--json")
    assert status == 0
    picture = (output / "plots.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 1000
    assert height > 900  # two rows: evaluations, too
    card = (output / "model" / "README.md").read_text()
    measured = json.loads(text)["development"]
    assert f"AP                {measured['mono']['AP']:.3f}" in card
    assert '- "de"\n- "en"\n' in card
    best = json.loads((output / "training.json").read_text())["best"]["step"]
    assert f"| kept | step {best}, by multi AP |" in card
    assert "| batches | 8 of 16 pairs, hybrid (alpha 0.5) |" in card


def test_plots_of_an_empty_log(tmp_path):
    write_plots(tmp_path / "plots.png", [], "nothing")
    assert (tmp_path / "plots.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_gets_the_log(capsys, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output = tmp_path / "run"
    data = ("--data", "facts-evaluation", "--hold-out", 0.3, "--evaluate-every", 4)
    options = ("--steps", 8, "--batch-size", 16, "--log-every", 1, "--trackers", "tensorboard")
    assert run(capsys, "train", *data, *SMALL, *options, "--output", output)[0] == 0
    events = reader.EventAccumulator(str(output / "hybridret"))
    events.Reload()
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["loss"] for e in log if "loss" in e}
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(losses)
    judged = [e["evaluation"]["multi AP"] for e in log if "evaluation" in e]
    assert [e.value for e in events.Scalars("evaluation/multi AP")] == pytest.approx(judged)
    assert events.Scalars("accuracy/de-de")


def test_a_tracker_that_is_not_installed(capsys, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    options = ("--data", "facts-evaluation", *SMALL, "--trackers", "wandb")
    message = fails(capsys, "train", *options, "--output", tmp_path / "run")
    assert "the tracker wandb needs wandb, which is not installed: pip install" in message
    assert not (tmp_path / "run").exists()


def gradients(monkeypatch, tmp_path, **settings) -> list[dict[str, torch.Tensor]]:
    """Of every change of the weights."""
    table = PairTable.from_dataset(load_facts("evaluation").only_languages(["de", "en"]))
    texts = [*table.query_texts, *table.document_texts]
    encoder = TorchEncoder.new_static(texts, dimension=16, vocabulary_size=600)
    found = []

    def keep(self, closure=None):
        named = encoder.model.named_parameters()
        found.append({n: p.grad.to_dense().clone() for n, p in named if p.grad is not None})

    monkeypatch.setattr(RowAdamW, "step", keep)
    config = TrainingConfig(steps=4, batch_size=16, **settings)
    train(encoder, table, tmp_path, config, progress=False)
    return found


def test_gradients_of_several_batches_are_averaged(monkeypatch, tmp_path):
    settings = {"checkpoint_every": 0}
    each = gradients(monkeypatch, tmp_path / "1", **settings)
    pairs = gradients(monkeypatch, tmp_path / "2", accumulate=2, **settings)
    assert (len(each), len(pairs)) == (4, 2)
    for number, both in enumerate(pairs):
        for name, gradient in both.items():
            mean = (each[2 * number][name] + each[2 * number + 1][name]) / 2
            torch.testing.assert_close(gradient, mean)
    with pytest.raises(DataError, match="steps is 4, and must be a multiple of accumulate, 3"):
        TrainingConfig(steps=4, accumulate=3)


def test_languages_by_weight(capsys, tmp_path):
    table = PairTable.from_dataset(load_facts("evaluation").only_languages(["de", "en", "es"]))
    source = TrainingData("facts", table)
    sampler = Sampler([source], 16, sampler="monolingual", weights={"de": 3, "en": 1})
    drawn = [table.languages[b.query_languages[0]] for _, b in sampler.steps(40)]
    assert (drawn.count("de"), drawn.count("en")) == (30, 10)
    with pytest.raises(DataError, match="a weight for 'fr', but no data set has that language"):
        Sampler([source], 16, weights={"fr": 1})
    command = ("train", "--data", "facts-evaluation", "--batch-size", 16, *SMALL)
    command = (*command, "--sampler", "monolingual", "--dry-run", "--json", "--output", tmp_path)
    status, text, _ = run(capsys, *command, "--language-weights", "de=1")
    assert status == 0
    assert set(json.loads(text)["rows"]["facts-evaluation"]) == {"de-de"}
    file = tmp_path / "run.toml"
    file.write_text("[language_weights]\nen = 1\n")
    status, text, _ = run(capsys, *command, "--config", file)
    assert set(json.loads(text)["rows"]["facts-evaluation"]) == {"en-en"}
    message = fails(capsys, *command, "--language-weights", "de=much")
    assert "language_weights: expected a number for 'de', got 'much'" in message


def test_a_run_out_of_patience_is_finished(capsys, tmp_path):
    command = (
        *("train", "--data", "facts-evaluation", "--hold-out", 0.3, *SMALL, "--batch-size", 16),
        *("--learning-rate", 1e-12, "--sampler", "monolingual", "--steps", 40),
        *("--evaluate-every", 2, "--best", "mono AP", "--checkpoint-every", 2),
        *("--output", tmp_path / "run"),
    )
    assert run(capsys, *command, "--patience", 2, "--json")[0] == 0
    assert json.loads((tmp_path / "run" / "training.json").read_text())["step"] == 6
    message = fails(capsys, *command, "--patience", 2, "--resume")
    assert "is already finished: 2 evaluations were not better than the best" in message
    # Killed after the last checkpoint, before the encoder was written: it is written now.
    shutil.rmtree(tmp_path / "run" / "model")
    status, text, _ = run(capsys, *command, "--patience", 2, "--resume", "--json")
    assert status == 0
    assert json.loads(text)["steps"] == 6
    assert TorchEncoder.load(tmp_path / "run" / "model").model.is_static
    status, text, _ = run(capsys, *command, "--patience", 4, "--resume", "--json")
    assert status == 0
    assert json.loads(text)["steps"] == 10
