"""A smaller encoder goes out with what it loses in each language, and not if that is too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS
from test_cli import fails, run

from hybridret.data import Dataset, Document, Query
from hybridret.encoder.base import EncoderConfig, TextEncoder
from hybridret.errors import ModelError
from hybridret.evaluation.gate import RetrievalGate

LANGUAGES = ("de", "en")


def dataset(only: str | None = None) -> Dataset:
    """Question n in a language is answered by text n in that language, or in language ``only``."""
    queries, documents, qrels = [], [], {}
    for language in LANGUAGES:
        for n in range(20):
            queries.append(Query(f"{language}{n}", f"{language} {n}", language, f"g{n}"))
            if only in (None, language):
                documents.append(Document(f"{language}{n}", f"{language} {n}", language, f"g{n}"))
            qrels[f"{language}{n}"] = {f"{only or language}{n}": 1}
    return Dataset("numbers", queries, documents, qrels)


class Numbers(TextEncoder):
    """Text ``de 7`` is unit vector 7; of ``wrong`` texts in German it is another one."""

    def __init__(self, wrong: int = 0, what: str = "documents") -> None:
        self.wrong, self.config, self.dimension = wrong, EncoderConfig(), 21
        self.what = what

    def _encode(self, texts, prompt, batch_size, progress, what, out=None):
        vectors = np.zeros((len(list(texts := list(texts))), 21), dtype=np.float32)
        for row, text in enumerate(texts):
            language, number = text.split()
            lost = what == self.what and language == "de" and int(number) < self.wrong
            vectors[row, 20 if lost else int(number)] = 1
        if out is not None:
            out[:] = vectors
        return vectors

    def embed_tokens(self, input_ids, attention_mask):
        raise NotImplementedError


def test_what_is_lost_in_each_language():
    found = RetrievalGate(dataset(), largest_loss=0.2)(Numbers(), Numbers(wrong=2))
    english = {"setting": "mono", "queries": 20, "before": 1.0, "after": 1.0}
    assert found["languages"]["en"] == english
    german = found["languages"]["de"]
    assert german["before"] == 1
    assert 0.8 < german["after"] <= 0.95
    assert found["worst"] == {"language": "de", "loss": pytest.approx(1 - german["after"])}
    json.dumps(found)


def test_the_worst_language_decides():
    with pytest.raises(ModelError, match=r"loses 0\.\d+ of nDCG@10 in de \(1\.0000 to .*20 quer"):
        RetrievalGate(dataset(), largest_loss=0.04)(Numbers(), Numbers(wrong=2))
    measured = RetrievalGate(dataset(), largest_loss=0.04, refuse=False)
    assert measured(Numbers(), Numbers(wrong=2))["worst"]["loss"] > 0.04
    # A gain is no loss.
    assert RetrievalGate(dataset())(Numbers(wrong=2), Numbers())["worst"]["loss"] == 0


def test_data_in_which_answers_are_in_another_language():
    gate = RetrievalGate(dataset(only="en"), largest_loss=0.2)
    found = gate(Numbers(), Numbers(2, "queries"))
    assert found["languages"]["de"]["setting"] == "cross"
    assert found["languages"]["en"]["setting"] == "mono"
    assert found["worst"]["language"] == "de"
    assert found["worst"]["loss"] > 0.04
    with pytest.raises(ModelError, match=r"nDCG@10 in de \("):
        gate(Numbers(), Numbers(20, "queries"))


def write(path: Path) -> Path:
    data = dataset()
    lines = [
        {"query": q.text, "positive": d.text, "language": q.language, "group": q.group_id}
        for q, d in zip(data.queries, data.documents, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_export_of_a_smaller_encoder(bert_folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxscript")
    data = write(tmp_path / "data.jsonl")
    message = fails(capsys, "export", bert_folder, tmp_path / "a", "--precision", "int8")
    assert "give data to measure it on (--evaluate DATA" in message
    assert not (tmp_path / "a").exists()

    status, text, _ = run(
        capsys, "export", bert_folder, tmp_path / "a", "--precision", "int8", "--trim",
        "--evaluate", data, "--largest-loss", 1,
    )  # fmt: skip
    assert status == 0
    assert "nDCG@10 on" in text
    assert "of 400 tokens" in text
    assert "(mono, 20 queries)" in text
    manifest = json.loads((tmp_path / "a" / "hybridret.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["quality"]["languages"].keys() == {"de", "en"}
    assert manifest["fused"] == {"Attention": 2, "BiasGelu": 2}

    gate = RetrievalGate.__call__
    monkeypatch.setattr(
        RetrievalGate, "__call__", lambda self, a, b: gate(self, Numbers(), Numbers(wrong=2))
    )
    arguments = ("export", bert_folder, tmp_path / "b", "--precision", "int8", "--evaluate", data)
    status, text, message = run(capsys, *arguments)
    assert status == 1
    assert "more than 0.01; nothing was written" in message
    assert "  en         1.0000  1.0000  +0.0000  (mono, 20 queries)" in text
    assert not (tmp_path / "b").exists()
    assert run(capsys, *arguments, "--force")[0] == 0
    quality = json.loads((tmp_path / "b" / "hybridret.json").read_text())["quality"]
    assert quality["worst"]["language"] == "de"

    status, text, _ = run(
        capsys, "export", bert_folder, tmp_path / "c", "--precision", "float16", "--force", "--json"
    )
    assert (status, json.loads(text)["quality"]) == (0, {})
    assert json.loads((tmp_path / "c" / "hybridret.json").read_text())["quality"] == "not measured"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--trim"], "--trim needs --evaluate"),
        (["--languages", "de"], "--languages needs --evaluate"),
        (["--evaluate", "x"], "--evaluate measures a smaller encoder: give --precision or --trim"),
        (["--precision", "int8", "--largest-loss", "2"], "--largest-loss must be from 0 to 1"),
    ],
)
def test_options_that_do_not_go_together(given, message, capsys, tmp_path):
    assert message in fails(capsys, "export", "model", tmp_path / "out", *given)


def test_a_graph_that_cannot_be_fused_is_exported_all_the_same(bert_folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from hybridret.encoder import exporting, onnx_graph

    def broken(*_):
        raise IndexError("no such pattern")

    monkeypatch.setattr(onnx_graph, "_mask_tokens", broken)
    result = exporting.export(bert_folder, tmp_path / "out")
    assert result.fused == {}
    assert result.not_fused == "this graph cannot be fused: no such pattern"
    assert result.parity < 1e-5
    vectors = exporting.OnnxEncoder(result.folder).encode_documents(TEXTS[:2])
    assert vectors.shape == (2, 32)
