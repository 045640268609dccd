"""The examples run, and show what they are meant to show."""

from __future__ import annotations

import json
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


def test_data_of_the_paper_study(tmp_path):
    (tmp_path / "sib" / "zho_Hans").mkdir(parents=True)
    (tmp_path / "sib" / "zho_Hans" / "dev.tsv").write_text(
        'index_id\tcategory\ttext\n7\ttravel\t"一 句\n8\ttravel\t\n', encoding="utf-8"
    )
    (tmp_path / "de_pud-ud-test.conllu").write_text(
        "# sent_id = n1\n# text = Hallo Welt.\n1\tHallo\n\n# sent_id = n2\n# text = Zwei.\n",
        encoding="utf-8",
    )
    (tmp_path / "pud.fr.tsv").write_text("sent_id\ttext\nn2\tDeux.\n", encoding="utf-8")
    example("paper/data.py", tmp_path / "sib", tmp_path, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["language"], row["group"], row["query"]) for row in found] == [
        ("zho", "sib200 7", '"一 句'),
        ("de", "pud n1", "Hallo Welt."),
        ("de", "pud n2", "Zwei."),
        ("fr", "pud n2", "Deux."),
    ]


def test_judge_embeddings():
    text = example("judge_embeddings.py")
    chance, better = (float(x) for x in re.findall(r"AP mono ([\d.]+)", text))
    assert better > 2 * chance
    assert text.count(" p 0.0001") == 3
