"""Our batches and loss in sentence-transformers' trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")

from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from test_batches import texts  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

import hybridret  # noqa: E402
from hybridret.training.batches import Sampler  # noqa: E402
from hybridret.training.pairs import TrainingData  # noqa: E402
from hybridret.training.sentence_transformers import TrainerBatches  # noqa: E402


def sampler() -> Sampler:
    """Epochs of different lengths, hard negatives, two data sets."""
    rows = {f"{n}": "abc" for n in range(50)} | {f"x{n}": "a" for n in range(40)}
    table = texts(rows, {f"q{n}a": [f"d{n + 1}a", f"d{n + 2}a"] for n in range(0, 40, 2)})
    alone = texts({f"y{n}": "b" for n in range(30)})
    return Sampler([TrainingData("one", table), TrainingData("two", alone)], 8, alpha=0.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = sampler()
    every = [t for s in made.sources for t in (*s.table.query_texts, *s.table.document_texts)]
    hybridret.TorchEncoder.new_static(every, dimension=16, vocabulary_size=300).save(folder)
    return folder


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step


def train(folder, output, *, stop: int | None = None, resume: bool = False):
    """(model, texts of each step, losses)."""
    model = SentenceTransformer(str(folder), device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(output),
        num_train_epochs=3,
        learning_rate=0.02,
        logging_steps=1,
        save_steps=7,
        report_to="none",
        disable_tqdm=True,
        seed=3,
    )
    batches = TrainerBatches(model, sampler())
    seen: list[list[int]] = []
    original = batches._batch

    def noted(step: int):
        batch = original(step)
        seen.append([step, *batch.rows.tolist(), *batch.query_languages.tolist()])
        return batch

    batches._batch = noted
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        loss=hybridret.InfoNCELoss(model, temperature=0.05, labels_are_groups=True),
        **batches.arguments(args),
    )
    if stop is not None:
        trainer.add_callback(Stop(stop))
    trainer.train(resume_from_checkpoint=resume or None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return model, seen, losses


def test_the_trainer_draws_our_batches(folder, tmp_path):
    _, seen, losses = train(folder, tmp_path / "run")
    made = sampler()
    count = 3 * made.epoch_length(0)
    expected = [
        [step, *batch.rows.tolist(), *batch.query_languages.tolist()]
        for step, batch in made.steps(count)
    ]
    assert seen == expected
    assert len(losses) == count
    assert np.isfinite(losses).all()


def test_resumed_in_a_later_epoch(folder, tmp_path):
    whole, expected, _ = train(folder, tmp_path / "whole")
    length = sampler().epoch_length(0)
    stop = 7 * ((length + 10) // 7)  # a checkpoint in the second epoch
    assert length < stop < 2 * length
    train(folder, tmp_path / "parts", stop=stop)
    resumed, seen, _ = train(folder, tmp_path / "parts", resume=True)
    assert seen == expected[stop:]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("policy", [{"temperature": 0.1}, {"in_batch_negatives": False}])
def test_policies_that_the_trainer_has_no_place_for(policy, folder, tmp_path):
    model = SentenceTransformer(str(folder), device="cpu")
    made = sampler()
    alone = Sampler([TrainingData("one", made.sources[0].table, **policy)], 8)
    args = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(hybridret.DataError, match="one: the loss of the trainer has one temper"):
        TrainerBatches(model, alone).arguments(args)


def test_the_loss_is_that_of_the_batch(folder):
    """Hard negatives and groups included."""
    model = SentenceTransformer(str(folder), device="cpu")
    made = sampler()
    batches = TrainerBatches(model, made)
    batches.processes = 1
    step, batch = next((n, b) for n, b in made.steps(100) if len(b.negatives))
    batches.epoch, number = divmod(step, batches.length)
    features = batches([{"batch": number}])
    table = made.sources[batch.source].table
    groups = torch.from_numpy(batch.groups(table))
    assert features["label"].tolist() == groups[:, None].tolist()
    loss = hybridret.InfoNCELoss(model, temperature=0.05, labels_are_groups=True)
    columns = [
        {
            key.removeprefix(f"{side}_"): value
            for key, value in features.items()
            if key.startswith(side)
        }
        for side in ("query", "document")
    ]
    q = torch.from_numpy(model.encode(batch.query_texts(table)))
    d = torch.from_numpy(model.encode(batch.document_texts(table)))
    expected = hybridret.infonce(
        q, d, temperature=0.05, query_groups=groups[: len(batch)], document_groups=groups
    )
    torch.testing.assert_close(loss(columns, features["label"]).detach(), expected)
    with pytest.raises(ValueError, match="groups for 8 anchors: expected one column of as many"):
        loss.compute_loss_from_embeddings([q, d[:9]], groups[:, None])


def test_two_processes_train_as_one(folder, tmp_path):
    """The same batches, negatives and gradients; with and without hard negatives."""
    found = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        script = Path(__file__).parent / "st_ranks.py"
        done = subprocess.run(
            [sys.executable, *launcher, script, folder, tmp_path / f"{processes}", "6"],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(tmp_path / f"{processes}.pt", weights_only=True))
    one, two = found
    before = next(iter(SentenceTransformer(str(folder), device="cpu").parameters())).detach()
    change = one["weights"] - before
    assert float((two["weights"] - one["weights"]).norm()) < 1e-4 * float(change.norm())
