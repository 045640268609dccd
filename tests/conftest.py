"""Fixtures: real data where there is some, small models made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples at every run; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("sanitize", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Where other tests run at the same time, torch's threads would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("HYBRIDRET_TEST_DATA", ROOT.parent / "shared" / "data"))

TEXTS = [
    "The capital of France is Paris.",
    "Die Hauptstadt von Frankreich ist Paris.",
    "Столица Франции — Париж.",
    "法国的首都是巴黎。",
    "عاصمة فرنسا هي باريس.",
    "Which river flows through Vienna, Budapest and Belgrade?",
] * 4


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data sets named by HYBRIDRET_TEST_DATA."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data sets not found: set HYBRIDRET_TEST_DATA (looked at {REAL_DATA})")
    return REAL_DATA


def make_tokenizer(folder: Path, special: dict[str, str], pad_id: int) -> None:
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=special["unk_token"]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokens = sorted(special.values(), key=lambda token: token != special["pad_token"])
    if pad_id:
        tokens.insert(0, tokens.pop(1))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=tokens, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    assert backend.token_to_id(special["pad_token"]) == pad_id
    begin, end = special["cls_token"], special["sep_token"]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, backend.token_to_id(begin)), (end, backend.token_to_id(end))],
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, **special
    )
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT-shaped Hugging Face folder with random weights (LaBSE's architecture)."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    make_tokenizer(
        folder,
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        pad_id=0,
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported_bert(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder, exported; to be copied by who changes it."""
    from hybridret.encoder.exporting import export

    return export(bert_folder, tmp_path_factory.mktemp("exported") / "encoder").folder


@pytest.fixture(scope="session")
def xlmr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XLM-R-shaped Hugging Face folder with random weights; its padding id is 1."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("xlmr")
    make_tokenizer(
        folder,
        {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"},
        pad_id=1,
    )
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        type_vocab_size=1,
    )
    transformers.XLMRobertaModel(config).save_pretrained(folder)
    return folder
