"""Training learns, can be stopped at any moment, and goes on with the same batches."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hybridret.data import load_facts  # noqa: E402
from hybridret.data.table import Dataset  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.errors import DataError, ModelError  # noqa: E402
from hybridret.evaluation.judging import evaluate  # noqa: E402
from hybridret.training import checkpoints, loop  # noqa: E402
from hybridret.training.batches import make_sampler  # noqa: E402
from hybridret.training.config import TrainingConfig  # noqa: E402
from hybridret.training.loop import train  # noqa: E402
from hybridret.training.pairs import PairTable  # noqa: E402
from hybridret.training.run import locked  # noqa: E402


@pytest.fixture(scope="module")
def facts() -> Dataset:
    return load_facts("evaluation").only_languages(["de", "en", "zh"])


@pytest.fixture(scope="module")
def table(facts) -> PairTable:
    return PairTable.from_dataset(facts)


def new_encoder(table: PairTable, seed: int = 0) -> TorchEncoder:
    texts = [*table.query_texts, *table.document_texts]
    return TorchEncoder.new_static(texts, dimension=32, vocabulary_size=1500, seed=seed)


def test_a_static_encoder_learns_across_languages(table, facts, tmp_path):
    encoder = new_encoder(table)
    before = evaluate(encoder, facts, metrics=["AP"]).summary
    config = TrainingConfig(sampler="hybrid", steps=150, batch_size=64)
    result = train(encoder, table, tmp_path / "run", config, progress=False)
    after = evaluate(encoder, facts, metrics=["AP"]).summary
    assert after["mono"]["AP"] > before["mono"]["AP"]
    assert after["cross"]["AP"] > 3 * before["cross"]["AP"]
    assert after["rank_distance"] < before["rank_distance"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    cross = [entry["loss"] for entry in log if entry["kind"] == "cross-lingual"]
    assert cross[-1] < 0.7 * cross[0]
    assert {entry["kind"] for entry in log} == {"monolingual", "cross-lingual"}
    state = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (state["step"], state["pairs_seen"]) == (150, 150 * 64)
    saved = TorchEncoder.load(result.model)
    np.testing.assert_array_equal(saved.encode_queries(["a b"]), encoder.encode_queries(["a b"]))


@pytest.mark.parametrize("folder", ["bert_folder", "xlmr_folder"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_hugging_face_encoders_learn(folder, pooling, request, table, tmp_path):
    encoder = TorchEncoder.load(
        request.getfixturevalue(folder),
        pooling=pooling,
        normalize=True,
        query_prompt="Query: ",
        document_prompt="Passage: ",
    )
    config = TrainingConfig(
        sampler="mixed", steps=12, batch_size=16, learning_rate=3e-3, log_every=1
    )
    train(encoder, table, tmp_path / "run", config, progress=False)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    saved = TorchEncoder.load(tmp_path / "run" / "model")
    assert saved.config.query_prompt == "Query: "
    assert saved.model.pooling == pooling


def test_the_same_seed_gives_the_same_encoder(table, tmp_path):
    config = TrainingConfig(steps=10, batch_size=32, seed=4)
    losses = []
    for run in ("a", "b"):
        train(new_encoder(table), table, tmp_path / run, config, progress=False)
        losses.append((tmp_path / run / "log.jsonl").read_text())
    assert losses[0] == losses[1]


class Interrupted(KeyboardInterrupt):
    pass


def stop_at(monkeypatch, step: int) -> None:
    """Ctrl-C in the middle of a step."""
    original = loop._rate

    def rate(config, number):
        if number == step:
            raise Interrupted
        return original(config, number)

    monkeypatch.setattr(loop, "_rate", rate)


@pytest.mark.parametrize("folder", [None, "bert_folder"])
def test_a_resumed_run_equals_an_uninterrupted_one(folder, request, table, tmp_path, monkeypatch):
    """Dropout included: the random state is part of the checkpoint."""

    def encoder() -> TorchEncoder:
        return TorchEncoder.load(request.getfixturevalue(folder)) if folder else new_encoder(table)

    config = TrainingConfig(
        steps=14, batch_size=24, checkpoint_every=5, log_every=1, learning_rate=1e-3
    )
    whole = encoder()
    train(whole, table, tmp_path / "whole", config, progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            train(encoder(), table, tmp_path / "parts", config, progress=False)
    assert not (tmp_path / "parts" / "model").exists()
    checkpoint = tmp_path / "parts" / "checkpoint"
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 10
    resumed = TorchEncoder.load(checkpoint)
    train(resumed, table, tmp_path / "parts", config, resume=True, progress=False)
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (
        tmp_path / "parts" / "log.jsonl"
    ).read_text()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_ctrl_c_while_a_checkpoint_is_written(table, tmp_path, monkeypatch):
    """The checkpoint before stays whole, and no temporary folder is left."""
    config = TrainingConfig(steps=10, batch_size=24, checkpoint_every=4)
    original = checkpoints.save_tensors
    # The first checkpoint's parameters and optimizer pass; the second's optimizer does not.
    passed = {"optimizer": 0}

    def counting(tensors, path):
        if "optimizer" in str(path):
            passed["optimizer"] += 1
            if passed["optimizer"] == 2:
                raise Interrupted
        return original(tensors, path)

    monkeypatch.setattr(checkpoints, "save_tensors", counting)
    with pytest.raises(KeyboardInterrupt):
        train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    assert json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["step"] == 4
    TorchEncoder.load(tmp_path / "run" / "checkpoint")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint",
        "log.jsonl",
        "plots.png",
        "training.json",
    ]


def test_runs_are_not_overwritten_or_mixed(table, tmp_path):
    config = TrainingConfig(steps=4, batch_size=24, checkpoint_every=2)
    train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    with pytest.raises(DataError, match="already contains a training run"):
        train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    model = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="already finished"):
        train(new_encoder(table), table, tmp_path / "run", config, resume=True, progress=False)
    fewer = PairTable.from_dataset(load_facts("evaluation").only_languages(["de", "en"]))
    with pytest.raises(DataError, match=r"different settings \(data\)"):
        train(new_encoder(table), fewer, tmp_path / "run", config, resume=True, progress=False)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == model
    other = TrainingConfig(steps=4, batch_size=24, checkpoint_every=2, temperature=0.1)
    with pytest.raises(DataError, match=r"different settings \(temperature\)"):
        train(new_encoder(table), table, tmp_path / "run", other, resume=True, progress=False)


@pytest.mark.parametrize("file", ["state.json", "optimizer.safetensors", "parameters.safetensors"])
def test_a_damaged_checkpoint(file, table, tmp_path, monkeypatch):
    config = TrainingConfig(steps=4, batch_size=24, checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    path = tmp_path / "run" / "checkpoint" / file
    good = path.read_bytes()
    middle = len(good) // 2
    for damaged in (
        good[:middle],
        good[:middle] + bytes(b ^ 1 for b in good[middle : middle + 64]) + good[middle + 64 :],
        b"\xff" + good[1:],
        b"",
        None,
    ):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"checkpoint/{file}: .*; delete .* to start again"):
            train(new_encoder(table), table, tmp_path / "run", config, resume=True, progress=False)
    path.write_bytes(good)
    train(new_encoder(table), table, tmp_path / "run", config, resume=True, progress=False)


def test_a_checkpoint_of_version_0_1(table, tmp_path, monkeypatch):
    """Without checksums; it is not called damaged."""
    config = TrainingConfig(steps=4, batch_size=24, checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    state = tmp_path / "run" / "checkpoint" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({name: content[name] for name in ("step", "losses", "log")}))
    with pytest.raises(DataError, match=r"written by hybridret 0\.1, without checksums: finish"):
        train(new_encoder(table), table, tmp_path / "run", config, resume=True, progress=False)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]", b"[" * 100_000, b'{"config": 1}'])
def test_a_damaged_training_json(content, table, tmp_path):
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(DataError, match=r"training\.json: damaged"):
        train(new_encoder(table), table, tmp_path, TrainingConfig(), resume=True, progress=False)


def test_a_finished_run_can_be_extended(table, tmp_path):
    config = TrainingConfig(steps=4, batch_size=24, checkpoint_every=3)
    train(new_encoder(table), table, tmp_path / "run", config, progress=False)
    longer = replace(config, steps=9)
    result = train(new_encoder(table), table, tmp_path / "run", longer, resume=True, progress=False)
    assert result.steps == 9
    log = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [0, 3, 8]
    state = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (state["step"], state["config"]["steps"]) == (9, 9)


def test_a_folder_in_use(table, tmp_path):
    """A second run of the same folder stops; the first goes on."""
    with (
        locked(tmp_path / "run"),
        pytest.raises(DataError, match="run: another training run writes there"),
    ):
        train(new_encoder(table), table, tmp_path / "run", TrainingConfig(), progress=False)
    config = TrainingConfig(steps=1, batch_size=24)
    train(new_encoder(table), table, tmp_path / "run", config, progress=False)


FULL_DISK = """
import resource, sys
from hybridret.cli import main
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # as a full disk, for larger files
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("size", [20_000, 200_000])  # the tokenizer does not fit, the weights
def test_a_full_disk_while_training(size, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            FULL_DISK,
            str(size),
            "train",
            "--data",
            "facts-evaluation",
            "--output",
            "run",
            "--steps",
            "2",
            "--batch-size",
            "8",
            "--vocabulary-size",
            "600",
            "--checkpoint-every",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "hybridret: run/checkpoint: File too large\n"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["log.jsonl", "training.json"]


def test_a_full_disk_while_exporting(bert_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "20000", "export", bert_folder, "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "hybridret: out: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_nan_loss_stops_the_run(table, tmp_path):
    encoder = new_encoder(table)
    with torch.no_grad():
        encoder.model.backbone.embedding.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="the loss became nan at step 0"):
        train(
            encoder, table, tmp_path / "run", TrainingConfig(steps=3, batch_size=24), progress=False
        )
    assert not (tmp_path / "run" / "model").exists()


def test_bad_settings(table, tmp_path):
    for bad in (
        {"steps": -1},
        {"temperature": 0.0},
        {"learning_rate": -1.0},
        {"seed": -1},
        {"seed": 10**30},
        {"log_every": 0},
        {"steps": 1.5},
        {"warmup": float("nan")},
        {"learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"sampler": "bilingual"},
    ):
        with pytest.raises(DataError):
            TrainingConfig(**bad)
    with pytest.raises(DataError, match="translation groups"):
        train(new_encoder(table), table, tmp_path / "run", TrainingConfig(batch_size=10_000))
    assert not (tmp_path / "run").exists()


def test_zero_steps_leave_the_encoder_untrained(table, tmp_path):
    encoder = new_encoder(table)
    before = encoder.encode_queries(["Paris"])
    result = train(encoder, table, tmp_path / "run", TrainingConfig(steps=0), progress=False)
    np.testing.assert_array_equal(TorchEncoder.load(result.model).encode_queries(["Paris"]), before)


def test_hard_negatives_are_columns_of_the_loss(tmp_path):
    """A copy of each positive is masked for its own query, and counts twice for the others."""
    base = load_facts("evaluation").only_languages(["en"])
    copies = [replace(d, document_id=f"copy {d.document_id}") for d in base.documents]
    negatives = {q: [f"copy {d}" for d in judged] for q, judged in base.qrels.items()}
    data = Dataset("copies", base.queries, [*base.documents, *copies], base.qrels, negatives)
    table, plain = PairTable.from_dataset(data), PairTable.from_dataset(base)
    config = TrainingConfig(sampler="monolingual", steps=1, batch_size=16, learning_rate=1e-9)
    encoder = new_encoder(plain)
    result = train(encoder, table, tmp_path / "run", config, progress=False)
    batch = next(make_sampler("monolingual", plain, 16).epoch(0))
    q = encoder.encode_queries(batch.query_texts(plain))
    d = encoder.encode_documents(batch.document_texts(plain))
    logits = (q @ d.T) / config.temperature
    own = np.diag(logits)[:, None]
    others = np.exp(logits - own)[~np.eye(16, dtype=bool)].reshape(16, 15).sum(1)
    assert result.final_loss == pytest.approx(np.log1p(2 * others).mean(), rel=1e-5)
