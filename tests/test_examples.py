"""The examples run, and show what they are meant to show."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, TEXTS


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


def test_rerank(tmp_path, xlmr_folder):
    """A small cross-encoder with random weights: the hits come in the order of its scores."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnxscript")
    import hybridret

    config = transformers.AutoConfig.from_pretrained(xlmr_folder, num_labels=1)
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(model.classifier.out_proj.weight)  # scores that can be told apart

    class Logits(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return model(input_ids=input_ids, attention_mask=attention_mask).logits

    model_folder = tmp_path / "cross" / "onnx"
    model_folder.mkdir(parents=True)
    tokens = torch.ones(2, 7, dtype=torch.long)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    program = torch.onnx.export(
        Logits().eval(),
        (tokens, tokens.clone()),  # one tensor twice would be one input
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    program.save(str(model_folder / "model.onnx"))
    (tmp_path / "cross" / "tokenizer.json").write_bytes(
        (xlmr_folder / "tokenizer.json").read_bytes()
    )
    encoder = hybridret.TorchEncoder.new_static(TEXTS, dimension=16, vocabulary_size=300)
    hybridret.export(encoder, tmp_path / "encoder")
    retriever = hybridret.Retriever.create(tmp_path / "encoder")
    retriever.add([hybridret.Document(f"d{n}", text) for n, text in enumerate(TEXTS[:6])])
    said = example("rerank.py", tmp_path / "encoder", tmp_path / "cross", "Paris")
    scores = [float(line.split()[0]) for line in said.splitlines()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(xlmr_folder)
    best = TEXTS[int(said.split()[2][1:])]
    with torch.no_grad():
        inputs = tokenizer("Paris", best, return_tensors="pt")
        own = model(inputs["input_ids"], inputs["attention_mask"]).logits.item()
    assert own == pytest.approx(scores[0], abs=1e-3)
