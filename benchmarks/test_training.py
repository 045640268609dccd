"""A training step: ours and sentence-transformers' on the same pairs.

Transformers: the shape of multilingual-e5-small (12 layers, 384 wide, 250,037 tokens) and of
MiniLM-L6, random weights, dropout 0, AdamW; static encoders: 256 wide, 30,522 and 250,037 tokens.
Lengths in tokens are those of questions and passages: log-normal, of medians 20 and 150, truncated
at 256. sentence-transformers with its own padding and attention; losses must agree. Peak memory is
that of a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STEPS = 4  # the first is left out
LENGTH = 256  # tokens
SHAPES = {"e5-small": (12, 384, 250_037), "MiniLM-L6": (6, 384, 30_522)}
STATIC = {"static, 30,522 tokens": 30_522, "static, 250,037 tokens": 250_037}
PEERS = ("sentence-transformers fp32", "hybridret fp32", "sentence-transformers bf16")
PEERS += ("hybridret bf16", "hybridret bf16, table frozen")


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory) -> tuple[str, Path]:
    """A sentence-transformers folder."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    layers, width, words = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("model")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(words),
        model_max_length=LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder / "hf")
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.set_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "hf")
    transformer = modules.Transformer(str(folder / "hf"), max_seq_length=LENGTH)
    pooling = modules.Pooling(width, pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, modules.Normalize()], device="cpu").save(
        str(folder / "st")
    )
    return request.param, folder / "st"


@pytest.fixture(scope="module", params=STATIC)
def static_model(request, tmp_path_factory) -> tuple[str, Path]:
    """A sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("static") / "st"
    torch.manual_seed(0)
    backend = tokenizer(STATIC[request.param])
    backend.enable_truncation(LENGTH)
    embedding = modules.StaticEmbedding(backend, embedding_dim=256)
    SentenceTransformer(modules=[embedding, modules.Normalize()], device="cpu").save(str(folder))
    return request.param, folder


def tokenizer(words: int) -> Any:
    """Of words w4, w5, ..."""
    import tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: n for n, token in enumerate(special)}
    vocabulary |= {f"w{n}": n for n in range(len(special), words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def pairs(count: int, words: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)

    def texts(median: float, spread: float) -> list[str]:
        lengths = np.clip(rng.lognormal(np.log(median), spread, count), 3, 400).astype(int)
        return [" ".join(f"w{n}" for n in rng.integers(4, words, length)) for length in lengths]

    return list(zip(texts(20, 0.4), texts(150, 0.6), strict=True))


@pytest.mark.parametrize("batch_size", [32, 64, 256])
def test_training_step(model, batch_size, capsys):
    shape, folder = model
    if batch_size == 256 and shape == "e5-small":
        pytest.skip("minutes a step, and more memory than most machines have")
    compare(shape, folder, batch_size, SHAPES[shape][2], PEERS, capsys)


@pytest.mark.parametrize("batch_size", [256, 2048, 8192])
def test_training_step_of_a_static_encoder(static_model, batch_size, capsys):
    shape, folder = static_model
    compare(shape, folder, batch_size, STATIC[shape], PEERS[:2], capsys, epochs=2)


def compare(
    shape: str,
    folder: Path,
    batch_size: int,
    words: int,
    peers: Sequence[str],
    capsys: Any,
    epochs: int = 1,
) -> None:
    """Prints pairs per second; in a second epoch hybridret has the tokens already."""
    found = {}
    for peer in peers:
        done = subprocess.run(
            [sys.executable, __file__, folder, str(batch_size), str(words), str(epochs), peer],
            capture_output=True,
            text=True,
            check=True,
        )
        found[peer] = json.loads(done.stdout.splitlines()[-1])
    base = found[peers[0]]
    with capsys.disabled():
        for epoch in range(epochs):
            print(f"\n{shape}, batch {batch_size}" + (f", epoch {epoch + 1}" if epochs > 1 else ""))
            steps = slice(max(1, epoch * STEPS), (epoch + 1) * STEPS)
            for peer, result in found.items():
                seconds = float(np.median(result["seconds"][steps]))
                equal = found[f"sentence-transformers {'bf16' if 'bf16' in peer else 'fp32'}"]
                faster = [float(np.median(x["seconds"][steps])) / seconds for x in (base, equal)]
                print(
                    f"  {peer:28s} {batch_size / seconds:8.2f} pairs/s  x{faster[0]:.2f}  at equal "
                    f"precision x{faster[1]:.2f}  peak {result['peak'] / 1e9:.2f} GB above the "
                    f"model (x{result['peak'] / equal['peak']:.2f})"
                )
    for peer, result in found.items():
        assert result["losses"][0] == pytest.approx(base["losses"][0], rel=0.01), peer
        if peer.endswith("fp32"):
            assert result["losses"] == pytest.approx(base["losses"], rel=1e-3), peer


def ours(folder: str, rows: list[tuple[str, str]], size: int, precision: str, frozen: bool):
    """A function that makes one step and gives its loss."""
    import torch

    import hybridret
    from hybridret.data.table import Dataset, Document, Query
    from hybridret.training.config import TrainingConfig
    from hybridret.training.features import Collator, Towers
    from hybridret.training.loop import autocast, freeze
    from hybridret.training.objective import contrastive_loss
    from hybridret.training.optimizer import RowAdamW
    from hybridret.training.pairs import Batch, PairTable, TrainingData

    queries = [Query(f"{n}", q, "en", f"{n}") for n, (q, _) in enumerate(rows)]
    documents = [Document(f"{n}", d, "en", f"{n}") for n, (_, d) in enumerate(rows)]
    table = PairTable.from_dataset(
        Dataset("made", queries, documents, {f"{n}": {f"{n}": 1} for n in range(len(rows))})
    )
    encoder = hybridret.TorchEncoder.load(folder)
    freeze(encoder, 0 if frozen else None)
    encoder.model.train()
    collate = Collator(encoder, [TrainingData("made", table)], sub_batch=8)
    towers = Towers(encoder.model)
    vectors_of_tokens = encoder.model.table
    vectors_of_tokens.sparse = True
    optimizer = RowAdamW(
        [p for p in encoder.model.parameters() if p.requires_grad],
        None if frozen else vectors_of_tokens.weight,
        lr=1e-5,
        weight_decay=1e-2,
    )
    config = TrainingConfig(temperature=0.05)

    def step(number: int) -> float:
        at = np.arange(number * size, (number + 1) * size)
        batch = Batch(at, np.zeros(size, int), np.zeros(size, int), "monolingual")
        features = collate(batch)
        optimizer.read(ids for ids, _ in features.parts)
        with autocast(precision, torch.device("cpu")):
            vectors = towers(features.parts, features.order).float()
        loss, _ = contrastive_loss(
            vectors[:size],
            vectors[size:],
            torch.from_numpy(batch.groups(table)),
            temperature=config.temperature,
            normalize=False,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def theirs(folder: str, rows: list[tuple[str, str]], size: int, precision: str):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(folder, device="cpu")
    model.train()
    loss_of = MultipleNegativesRankingLoss(model, scale=20.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(number: int) -> float:
        part = rows[number * size : (number + 1) * size]
        features = [model.preprocess([row[side] for row in part]) for side in (0, 1)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(features, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    import resource
    import time

    folder, peer = sys.argv[1], sys.argv[5]
    size, words, epochs = map(int, sys.argv[2:5])
    rows = pairs(size * STEPS, words)
    precision = "bf16" if "bf16" in peer else "fp32"
    if peer.startswith("hybridret"):
        step = ours(folder, rows, size, precision, "frozen" in peer)
    else:
        step = theirs(folder, rows, size, precision)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    seconds, losses = [], []
    for number in list(range(STEPS)) * epochs:
        began = time.perf_counter()
        losses.append(step(number))
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak}))


if __name__ == "__main__":
    main()
