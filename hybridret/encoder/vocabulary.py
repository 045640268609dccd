"""A smaller vocabulary: the tokens that texts in some scripts can have.

Two thirds and more of a multilingual encoder are the vectors of tokens that texts in a few
languages never have. A token is left out if it has letters, all of them in scripts that are not
kept. Texts in the scripts that are kept have the same tokens as before, and so the same vectors:
Unigram, WordPiece and BPE make the tokens of a text out of parts of it alone. Single characters
stay, so that a word in another script is cut finer instead of becoming unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from hybridret._scripts import script
from hybridret.encoder.model import EncoderModel, StaticEmbeddings
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError

_SHARE = 0.001  # of the letters of the texts, from which they are written in a script
_MARKS = ("\u2581", "\u0120", "##")  # before a subword: of spaces, or of their absence


def scripts_of(texts: Iterable[str]) -> set[str]:
    """The scripts of at least a thousandth of the letters of texts, such as ``latin``, ``cjk``."""
    letters = Counter(script(c) for text in texts for c in text if c.isalpha())
    least = _SHARE * letters.total()
    return {name for name, count in letters.items() if name and count >= least}


def trim_vocabulary(encoder: TorchEncoder, texts: Iterable[str]) -> TorchEncoder:
    """An encoder without the tokens that no text in the scripts of ``texts`` has.

    The vectors of such texts stay the same. The encoder that is given is not changed.

    Raises:
        ModelError: the texts have no letters, or the tokenizer is of an unknown kind.
    """
    kept = scripts_of(texts)
    if not kept:
        raise ModelError("there is no letter in the texts whose scripts would be kept")
    size = encoder.model.table.num_embeddings
    description = json.loads(encoder.tokenizer.backend.to_str())
    keep = _kept(description, kept, size, _counted_from(encoder.model.backbone))
    numbers = {old: new for new, old in enumerate(keep)}
    backend = type(encoder.tokenizer.backend).from_str(json.dumps(_renumber(description, numbers)))
    tokenizer = Tokenizer(
        backend,
        max_length=encoder.tokenizer.max_length,
        pad_id=numbers[encoder.tokenizer.pad_id],
        special_tokens=encoder.tokenizer.special_tokens,
    )
    model = deepcopy(encoder.model)
    _keep_rows(model, keep, numbers)
    return TorchEncoder(model, tokenizer, encoder.config)


def _counted_from(backbone: nn.Module) -> int:
    """The number of the padding token in models that count positions from it, as RoBERTa does;
    in others -1."""
    positions = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return -1 if padding is None else int(padding)


def _kept(description: dict[str, Any], scripts: set[str], size: int, fixed: int) -> list[int]:
    """Numbers of the tokens that stay, ascending; all up to number ``fixed`` do."""
    special = {token["id"] for token in description.get("added_tokens", ())}
    by_bytes = _is_byte_level(description)
    keep = set(range(fixed + 1)) | special
    for token, number in _tokens(description["model"]):
        text = _of_bytes(token) if by_bytes else token
        if text is None or _stays(text, scripts):
            keep.add(number)
    return sorted(number for number in keep if number < size)


def _stays(token: str, scripts: set[str]) -> bool:
    for mark in _MARKS:
        token = token.removeprefix(mark)
    if len(token) <= 1:
        return True
    written = {script(c) for c in token if c.isalpha()} - {""}
    return not written or bool(written & scripts)


def _tokens(model: dict[str, Any]) -> Iterable[tuple[str, int]]:
    vocabulary = model.get("vocab")
    if model.get("type") == "Unigram" and isinstance(vocabulary, list):
        return ((piece, number) for number, (piece, _) in enumerate(vocabulary))
    if model.get("type") in ("BPE", "WordPiece", "WordLevel") and isinstance(vocabulary, dict):
        return iter(vocabulary.items())
    raise ModelError(f"the vocabulary of a {model.get('type')} tokenizer cannot be trimmed")


def _renumber(description: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    """The description of the tokenizer (``tokenizer.json``) with the tokens that stay."""
    model = description["model"]
    if model["type"] == "Unigram":
        # Tokens without a piece, which are added after them, have the numbers that follow.
        pieces = [p for number, p in enumerate(model["vocab"]) if number in numbers]
        model["vocab"] = pieces
        if model.get("unk_id") is not None:
            model["unk_id"] = numbers[model["unk_id"]]
    else:
        model["vocab"] = {t: numbers[n] for t, n in model["vocab"].items() if n in numbers}
    if "merges" in model:
        kept = model["vocab"]
        model["merges"] = [
            merge
            for merge in model["merges"]
            for first, second in [merge if isinstance(merge, list) else merge.split(" ")]
            if first in kept and second in kept and first + second in kept
        ]
    added = [token for token in description.get("added_tokens", ()) if token["id"] in numbers]
    description["added_tokens"] = [token | {"id": numbers[token["id"]]} for token in added]
    if description.get("post_processor"):
        _renumber_around(description["post_processor"], numbers)
    return description


def _renumber_around(processor: dict[str, Any], numbers: dict[int, int]) -> None:
    """The tokens that are put around a text."""
    for inner in processor.get("processors", ()):
        _renumber_around(inner, numbers)
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = numbers[processor[name][1]]
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [numbers[number] for number in token["ids"]]


def _keep_rows(model: EncoderModel, keep: list[int], numbers: dict[int, int]) -> None:
    table, backbone = model.table, model.backbone
    made = nn.Embedding(len(keep), table.embedding_dim, padding_idx=table.padding_idx)
    with torch.no_grad():
        made.weight.copy_(table.weight[torch.tensor(keep)])
    if isinstance(backbone, StaticEmbeddings):
        backbone.embedding = made
        return
    backbone.set_input_embeddings(made)  # type: ignore[operator]
    config: Any = backbone.config
    config.vocab_size = len(keep)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        number = getattr(config, name, None)
        if isinstance(number, int):
            setattr(config, name, numbers.get(number))


def _is_byte_level(description: dict[str, Any]) -> bool:
    parts = [description.get("pre_tokenizer") or {}, description.get("decoder") or {}]
    parts += [p for part in parts for p in part.get("pretokenizers", part.get("decoders", ()))]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _of_bytes(token: str) -> str | None:
    """The text of a token that is written as bytes; None if they are a part of a character."""
    letters = _byte_letters()
    try:
        return bytes(letters[c] for c in token).decode()
    except (KeyError, UnicodeDecodeError):
        return None


@lru_cache(1)
def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: itself if it is visible, else one from 256 upwards."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(others)}
