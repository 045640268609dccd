"""The examples run, and show what they are meant to show."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT


def example(name: str, *arguments: object) -> str:
    command = [sys.executable, ROOT / "examples" / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_own_loop():
    pytest.importorskip("torch")
    text = example("own_loop.py", "--steps", 60)
    (mono,) = re.findall(r"^mono: AP ([\d.]+)$", text, re.MULTILINE)
    assert float(mono) > 0.85  # untrained 0.76


@pytest.mark.parametrize(
    ("name", "steps"),
    [("sentence_transformers_loss", 20), ("sentence_transformers_batches", 400)],
)
def test_sentence_transformers(name, steps):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("datasets")
    text = example(f"{name}.py", "--steps", steps)
    first, last = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", text)[0])
    assert last < first


def test_judge_embeddings():
    text = example("judge_embeddings.py")
    chance, better = (float(x) for x in re.findall(r"AP mono ([\d.]+)", text))
    assert better > 2 * chance
    assert text.count(" p 0.0001") == 3
