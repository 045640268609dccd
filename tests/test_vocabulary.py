"""A trimmed vocabulary gives texts in the scripts that are kept the tokens they had."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from hybridret.data import load_facts  # noqa: E402
from hybridret.encoder import vocabulary  # noqa: E402
from hybridret.encoder.base import EncoderConfig  # noqa: E402
from hybridret.encoder.model import EncoderModel  # noqa: E402
from hybridret.encoder.tokenization import Tokenizer  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.encoder.vocabulary import scripts_of, trim_vocabulary  # noqa: E402
from hybridret.errors import ModelError  # noqa: E402

MANY = [
    *TEXTS,
    "Η πρωτεύουσα της Γαλλίας είναι το Παρίσι.",
    "フランスの首都はパリです。カタカナとひらがな。",
    "ฝรั่งเศสมีเมืองหลวงชื่อปารีส",
    "naïve Straße, 5 µm, α-helix, 10 €, déjà vu 😀",
    *(d.full_text for d in load_facts("evaluation").documents[::2]),
]
KINDS = ["unigram", "bpe", "prefix bpe", "byte bpe", "wordpiece"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LATIN = "ºªµÅabcdefghijklmnopqrstuvwxyzäöüßéèñçABCÄÖÜÉ 0123456789.,!?-€ "


def make(kind: str) -> TorchEncoder:
    """An encoder with a tokenizer of a kind, trained on many scripts."""
    models, trainers = tokenizers.models, tokenizers.trainers
    settings = {"vocab_size": 2000, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "unigram":
        backend = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(**settings, unk_token="<unk>")
    elif kind == "wordpiece":
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer = trainers.WordPieceTrainer(**settings)
    else:
        prefix = {"continuing_subword_prefix": "##"} if kind == "prefix bpe" else {}
        unknown = None if kind == "byte bpe" else "<unk>"
        backend = tokenizers.Tokenizer(models.BPE(unk_token=unknown, **prefix))
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet() if kind == "byte bpe" else []
        trainer = trainers.BpeTrainer(**settings, initial_alphabet=alphabet, **prefix)
    backend.pre_tokenizer = {
        "unigram": tokenizers.pre_tokenizers.Metaspace(),
        "bpe": tokenizers.pre_tokenizers.Metaspace(),
        "prefix bpe": tokenizers.pre_tokenizers.Metaspace(),
        "byte bpe": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        "wordpiece": tokenizers.pre_tokenizers.BertPreTokenizer(),
    }[kind]
    backend.train_from_iterator(MANY, trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, backend.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    backend.add_special_tokens(["<mask>"])  # after all others, as in XLM-R
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=backend.get_vocab_size() + 5,  # rows without a token
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        pad_token_id=1,
        type_vocab_size=1,
    )
    model = EncoderModel(
        transformers.XLMRobertaModel(config).eval(), pooling="mean", normalize=True, width=32
    )
    return TorchEncoder(model, Tokenizer(backend, max_length=128, pad_id=1), EncoderConfig())


ENCODERS: dict[str, tuple[TorchEncoder, TorchEncoder]] = {}


def pair(kind: str) -> tuple[TorchEncoder, TorchEncoder]:
    """An encoder, and the same with what texts in Latin letters need."""
    if kind not in ENCODERS:
        whole = make(kind)
        ENCODERS[kind] = whole, trim_vocabulary(whole, ["Only letters like these, äöüß"])
    return ENCODERS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_left_out_and_vectors_stay(kind):
    whole, trimmed = pair(kind)
    before, after = (e.tokenizer.backend.get_vocab() for e in (whole, trimmed))
    assert 0.2 * len(before) < len(after) < 0.9 * len(before)
    assert after.keys() < before.keys()
    assert sorted(after.values()) == list(range(len(after)))
    assert trimmed.model.table.num_embeddings == len(after)
    assert trimmed.model.backbone.config.vocab_size == len(after)
    texts = [text for text in MANY if scripts_of([text]) == {"latin"}]
    assert len(set(texts)) >= 3
    for texts_of_one in (texts, texts[:1]):
        np.testing.assert_array_equal(
            trimmed.encode_documents(texts_of_one), whole.encode_documents(texts_of_one)
        )
    assert trimmed.tokenizer.pad_id == 1
    # Nothing of the encoder that was given has changed.
    assert whole.model.table.num_embeddings == len(before) + 5
    assert whole.tokenizer.backend.get_vocab() == before


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(LATIN, max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_tokens_of_any_text_in_the_scripts_that_are_kept(kind, text):
    whole, trimmed = (e.tokenizer.backend for e in pair(kind))
    assert whole.encode(text).tokens == trimmed.encode(text).tokens


@pytest.mark.parametrize("kind", KINDS)
def test_another_script_is_cut_finer(kind):
    whole, trimmed = pair(kind)
    text = "Столица"
    unknown = trimmed.tokenizer.backend.token_to_id("<unk>")
    ids = trimmed.tokenizer.backend.encode(text).ids
    if kind != "wordpiece":  # which has the whole word or nothing
        assert unknown not in ids
    assert len(ids) >= len(whole.tokenizer.backend.encode(text).ids)


def test_a_trimmed_encoder_is_saved_and_loaded(tmp_path):
    trimmed = pair("unigram")[1]
    (tmp_path / "model").mkdir()
    trimmed.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["vocab_size"] == trimmed.model.table.num_embeddings
    loaded = TorchEncoder.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.encode_documents(TEXTS[:2]), trimmed.encode_documents(TEXTS[:2]), atol=1e-6
    )


def test_a_static_encoder_is_trimmed():
    whole = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    trimmed = trim_vocabulary(whole, ["Die Hauptstadt"])
    assert trimmed.model.table.num_embeddings < whole.model.table.num_embeddings
    np.testing.assert_array_equal(
        trimmed.encode_documents(TEXTS[:2]), whole.encode_documents(TEXTS[:2])
    )


def test_prompts_are_before_every_text():
    whole = TorchEncoder(pair("unigram")[0].model, pair("unigram")[0].tokenizer, EncoderConfig())
    whole.config = replace(whole.config, query_prompt="query: ", document_prompt="passage: ")
    greek = [text for text in MANY if scripts_of([text]) == {"greek"}][:3]
    trimmed = trim_vocabulary(whole, greek)
    assert trimmed.untrimmed is whole
    np.testing.assert_array_equal(trimmed.encode_queries(greek), whole.encode_queries(greek))


def test_scripts_are_those_of_each_language():
    """A few texts in one language beside very many in another."""
    many = {"en": ["Paris is large. " * 3000], "el": ["Παρίσι"]}
    assert scripts_of([*many["en"], *many["el"]]) == {"latin"}
    whole = pair("unigram")[0]
    both = trim_vocabulary(whole, many).tokenizer.backend.encode("Παρίσι").tokens
    assert both == whole.tokenizer.backend.encode("Παρίσι").tokens


def test_bytes_and_what_is_unknown_stay():
    """Of a vocabulary without Latin letters: these tokens have some in their names."""
    kept = vocabulary._kept(
        {
            "model": {
                "type": "BPE",
                "vocab": {"<unk>": 0, "<0xE4>": 1, "the": 2, "ก": 3, "!</w>": 4},
                "unk_token": "<unk>",
                "end_of_word_suffix": "</w>",
            },
            "post_processor": {"type": "RobertaProcessing", "sep": ["a", 2], "cls": ["b", 0]},
        },
        {"thai"},
        5,
        -1,
    )
    assert kept == {0, 1, 2, 3, 4}
    unigram = {"type": "Unigram", "vocab": [["the", -1.0], ["ก", -2.0], ["low", -9.0]]}
    assert vocabulary._kept({"model": unigram | {"unk_id": None}}, {"thai"}, 3, -1) == {1, 2}


def test_token_vectors_that_are_more_than_a_table():
    """As Gemma's, which are multiplied by a number: a plain table in its place is not the same."""

    class Scaled(torch.nn.Embedding):
        pass

    whole = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    whole.model.backbone.embedding = Scaled(300, 24)
    with pytest.raises(ModelError, match="token vectors of the kind Scaled cannot be trimmed"):
        trim_vocabulary(whole, ["Paris"])


def test_scripts_of_texts():
    assert scripts_of(["Wien und Paris"]) == {"latin"}
    assert scripts_of(["東京とパリ"]) == {"cjk"}
    assert scripts_of(["Париж " * 400 + "x"]) == {"cyrillic"}  # one letter in 2,000
    with pytest.raises(ModelError, match="no letter in the texts"):
        trim_vocabulary(pair("bpe")[0], ["123", "?!"])


def test_a_tokenizer_of_another_kind():
    with pytest.raises(ModelError, match="a Strange tokenizer cannot be trimmed"):
        vocabulary._tokens({"type": "Strange", "vocab": {"a": 0}})
