"""What README and docs tell readers to type works: Python blocks are run, commands are parsed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TEXTS

import hybridret
from hybridret.cli import _parser, export

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A service, which test_service.py asks; a trainer, of which examples/ has the whole.
TESTED_ELSEWHERE = ("from contextlib import", "batches = hybridret.TrainerBatches")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page:line, text) of every block in a language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.name}:{line}", match[1]))
    return found


def commands() -> list[tuple[str, str]]:
    found = []
    for where, text in blocks("console"):
        joined = re.sub(r"\\\n\s*", "", text)
        for line in joined.splitlines():
            if match := re.match(r"\$ (?:torchrun .*? -m )?hybridret (.*)", line):
                found.append((where, match[1]))
    return found


@pytest.mark.parametrize(("where", "command"), commands())
def test_commands_are_understood(where, command):
    words = shlex.split(command, comments=True)
    if not words[0].startswith("-"):
        found = _parser().parse_args(words)  # an unknown command or option exits
        if found.command == "export":
            export._check(found)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The files that the examples name."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("docs")
    encoder = hybridret.TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    (folder / "run" / "model").mkdir(parents=True)
    encoder.save(folder / "run" / "model")
    hybridret.export(encoder, folder / "encoder")
    (folder / "XQUAD-R").mkdir()
    for language, text in {"de": "Paris ist groß.", "en": "Paris is large.", "th": "ปารีส"}.items():
        asked = {"id": "1", "question": text, "answers": [{"text": "Paris", "answer_start": 0}]}
        paragraph = {
            "context": text,
            "sentences": [text],
            "sentence_breaks": [[0, len(text)]],
            "qas": [asked],
        }
        content = {"version": "1", "data": [{"title": "Paris", "paragraphs": [paragraph]}]}
        (folder / "XQUAD-R" / f"{language}.json").write_text(json.dumps(content))
    return folder


def names() -> dict[str, object]:
    """What the examples take for granted."""
    rng = np.random.default_rng(0)
    queries, documents = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4, 6))
    return {
        "hybridret": hybridret,
        "np": np,
        "queries": queries,
        "documents": documents,
        "groups": np.arange(4),
        "document_groups": np.arange(6),
        "model": SimpleNamespace(encode=lambda texts: np.ones((len(texts), 8), np.float32)),
    }


BLOCKS = [b for b in blocks("python") if not b[1].startswith(TESTED_ELSEWHERE)]


@pytest.mark.parametrize(("where", "code"), BLOCKS, ids=[where for where, _ in BLOCKS])
def test_blocks_run(where, code, made, tmp_path, monkeypatch, capsys):
    for name in ("run", "encoder", "XQUAD-R"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copytree(made / "XQUAD-R", tmp_path / "xquad-r")
    monkeypatch.chdir(tmp_path)
    if "langchain" in code:
        pytest.importorskip("langchain_core")
        hybridret.Retriever.create("encoder")
    if "hybridret.train(" in code:  # it takes what it makes itself
        for name in ("run", "encoder"):
            shutil.rmtree(name)
        code = code.replace("TrainingConfig(", "TrainingConfig(steps=3, ")
    exec(compile(code, where, "exec"), names())
