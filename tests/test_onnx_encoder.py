"""An exported encoder in a service: memory, threads, devices, texts that are too long."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from hybridret.encoder.base import BATCH_TOKENS
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError


@pytest.fixture(scope="module")
def folder(exported_bert) -> Path:
    return exported_bert


class Watched(OnnxEncoder):
    """Notes the shape of every batch, and how many run at the same time."""

    def __init__(self, folder: Path, **settings) -> None:
        super().__init__(folder, **settings)
        self.shapes: list[tuple[int, int]] = []
        session, lock = self.session, threading.Lock()
        self.running = self.most = 0

        class Session:
            def run(_, *arguments):
                with lock:
                    self.running += 1
                    self.most = max(self.most, self.running)
                found = session.run(*arguments)
                with lock:
                    self.running -= 1
                return found

        self.session = Session()

    def embed_tokens(self, input_ids, attention_mask):
        self.shapes.append(input_ids.shape)
        return super().embed_tokens(input_ids, attention_mask)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100_000])
def test_a_batch_is_bounded_by_its_tokens(batch_size, folder):
    encoder = Watched(folder)
    encoder.batch_tokens = 150
    rng = np.random.default_rng(0)
    texts = ["", *("word " * n for n in rng.integers(1, 90, 200)), *TEXTS]
    vectors = encoder.encode_documents(texts, batch_size=batch_size)
    assert all(rows * width <= 150 or rows == 1 for rows, width in encoder.shapes)
    assert max(rows for rows, _ in encoder.shapes) <= batch_size
    assert sum(rows for rows, _ in encoder.shapes) == len(texts)
    alone = np.concatenate([encoder.encode_documents([text]) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert OnnxEncoder(folder).batch_tokens == BATCH_TOKENS


def test_sixty_four_threads(folder):
    encoder = Watched(folder, threads=1, permits=3)
    texts = [f"{text} {n}" for n, text in enumerate(TEXTS * 8)]
    expected = encoder.encode_documents(texts)
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda text: encoder.encode_documents([text])[0], texts))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
    assert 1 <= encoder.most <= 3


def test_permits_fill_the_cores(folder, monkeypatch):
    monkeypatch.setattr("hybridret._native.default_threads", lambda: 16)
    assert OnnxEncoder(folder, threads=1).permits == 16
    assert OnnxEncoder(folder, threads=4).permits == 4
    assert OnnxEncoder(folder).permits == 2  # a call takes all cores
    assert OnnxEncoder(folder, threads=1, permits=5).permits == 5


def test_texts_that_are_longer_than_the_model_reads(folder, monkeypatch):
    encoder = OnnxEncoder(folder)
    limit = encoder.config.max_length
    long = "Paris " * (2 * limit)
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("hybridret"), "warning", lambda m, *a: said.append(m % a))
    encoder.encode_documents([*TEXTS[:3], long])
    assert said == [f"1 of 4 documents have more than {limit} tokens: what follows is not embedded"]
    encoder.encode_queries([long, long])
    assert len(said) == 1  # counted always
    assert encoder.cut == 3


def test_a_text_of_exactly_the_length_is_whole(bert_folder):
    encoder = TorchEncoder.load(bert_folder)
    ids = encoder.tokenizer.ids(["Paris"])[0]
    encoder = TorchEncoder.load(bert_folder, max_length=len(ids))
    encoder.encode_documents(["Paris"])
    assert encoder.cut == 0
    encoder.encode_documents(["Paris Paris"])
    assert encoder.cut == 1


def test_devices(folder, monkeypatch):
    assert OnnxEncoder(folder, device="cpu").device == "cpu"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ModelError, match="this onnxruntime is for processors alone"):
            OnnxEncoder(folder, device="cuda")
    with pytest.raises(ModelError, match="unknown device 'tpu'; expected auto, cpu or cuda"):
        OnnxEncoder(folder, device="tpu")
    for settings in ({"threads": -1}, {"permits": -2}):
        with pytest.raises(ModelError, match=r"must be at least 0, got -\d"):
            OnnxEncoder(folder, **settings)


def test_a_gpu_that_is_asked_for_and_does_not_work(folder, monkeypatch):
    """onnxruntime goes on without it and only logs that."""
    import onnxruntime

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers, **_: session(model, options, providers=providers[-1:]),
    )
    assert OnnxEncoder(folder).device == "cpu"
    with pytest.raises(ModelError, match="onnxruntime finds no GPU that it can use"):
        OnnxEncoder(folder, device="cuda")
