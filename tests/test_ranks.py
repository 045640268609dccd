"""Several processes train as one does: the same batches, gradients and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

SCRIPT = Path(__file__).parent / "ranks.py"
ROWS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pairs in two languages; some rows have one or two hard negatives."""
    rows = []
    for n in range(ROWS):
        for language in ("de", "en"):
            row = {
                "query": f"{language} question {n} about thing {n % 7}",
                "positive": f"{language} answer {n} is that of thing {n % 5} and {n}",
                "language": language,
                "group": f"{n}",
            }
            if n % 3:
                row["negatives"] = [f"{language} no answer {n} {i}" for i in range(n % 3)]
            rows.append(row)
    file = tmp_path_factory.mktemp("ranks") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command(processes: int, *arguments: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    prefix = launcher if processes > 1 else []
    return [sys.executable, *map(str, (*prefix, SCRIPT, *arguments))]


def run(processes: int, data: Path, model: object, output: Path, **settings: object) -> None:
    done = subprocess.run(
        command(processes, data, model, output, json.dumps(settings)),
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def log(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("in_batch_negatives", [True, False])
@pytest.mark.parametrize("model", ["static", "bert_folder"])
def test_the_gradient_is_that_of_one_process(model, in_batch_negatives, request, data, tmp_path):
    """With hard negatives, of which every process has another number."""
    folder = model if model == "static" else request.getfixturevalue(model)
    settings = {
        "batch_size": 24,
        "steps": 3,
        "log_every": 1,
        "in_batch_negatives": in_batch_negatives,
        "learning_rate": 1e-4,
        "precision": "fp32",
    }
    for processes in (1, 2, 3):
        run(processes, data, folder, tmp_path / f"{processes}", **settings)
    one = torch.load(tmp_path / "1" / "gradient.pt", weights_only=True)
    scale = max(float(g.norm()) for g in one.values())
    for processes in (2, 3):
        several = torch.load(tmp_path / f"{processes}" / "gradient.pt", weights_only=True)
        assert several.keys() == one.keys()
        limit = 1e-6 if model == "static" else 1e-5
        for name, gradient in one.items():
            assert float((several[name] - gradient).norm()) <= limit * scale, name
        for a, b in zip(log(tmp_path / "1"), log(tmp_path / f"{processes}"), strict=True):
            assert a["kind"] == b["kind"]
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert {p: x["rows"] for p, x in a["pairs"].items()} == {
                p: x["rows"] for p, x in b["pairs"].items()
            }
            for pair, found in a["pairs"].items():
                assert found["loss"] == pytest.approx(b["pairs"][pair]["loss"], rel=1e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed(processes, request, data, tmp_path):
    """kill -9 of the launcher alone: no process outlives it, and the run goes on bitwise."""
    folder = request.getfixturevalue("bert_folder")
    settings = {"batch_size": 12, "steps": 40, "checkpoint_every": 4, "log_every": 1}
    run(processes, data, folder, tmp_path / "whole", **settings)
    arguments = command(processes, data, folder, tmp_path / "parts", json.dumps(settings))
    started = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    state = tmp_path / "parts" / "checkpoint" / "state.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    time.sleep(1.0)
    assert not (tmp_path / "parts" / "model").exists(), "it was not killed in time"
    before = state.stat().st_mtime_ns
    time.sleep(1.0)
    assert state.stat().st_mtime_ns == before, "a process outlived its launcher"
    run(processes, data, folder, tmp_path / "parts", **settings, resume=True)
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]


def test_one_process_that_dies_ends_the_others(data, tmp_path):
    settings = json.dumps({"batch_size": 12, "steps": 100_000})
    started = subprocess.Popen(
        command(2, data, "static", tmp_path / "run", settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    children: list[int] = []
    while time.monotonic() < deadline and len(children) < 2:
        time.sleep(0.1)
        found = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        ranks = [int(pid) for pid in found if b"ranks.py" in _command_line(int(pid))]
        children = ranks if (tmp_path / "run" / "training.json").exists() else []
    os.kill(children[1], signal.SIGKILL)
    _, errors = started.communicate(timeout=120)
    assert started.returncode != 0
    assert "SIGKILL" in errors or "exitcode" in errors
    assert not Path(f"/proc/{children[0]}").exists()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_batch_that_cannot_be_divided(data, tmp_path):
    done = subprocess.run(
        command(3, data, "static", tmp_path / "run", json.dumps({"batch_size": 20, "steps": 1})),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "batch_size is 20, all processes together, and cannot be divided among 3" in done.stderr
    assert not (tmp_path / "run").exists()


def test_all_processes_begin_with_the_weights_of_the_first(data, tmp_path):
    """A pooler that the files lack, say, is random in every process."""
    settings = {"batch_size": 12, "steps": 1, "checkpoint_every": 0, "learning_rate": 1e-4}
    run(1, data, "static", tmp_path / "1", **settings)
    run(2, data, "static", tmp_path / "2", **settings, other_weights=True)
    one, two = (torch.load(tmp_path / n / "gradient.pt", weights_only=True) for n in "12")
    for name, gradient in one.items():
        assert float((two[name] - gradient).norm()) <= 1e-6 * float(gradient.norm())
