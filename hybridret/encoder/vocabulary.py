"""A smaller vocabulary: the tokens that texts in some scripts can have.

Two thirds and more of a multilingual encoder are token vectors, of many tokens that texts in a few
languages never have. A token is left out if it has letters, all of them in scripts that are not
kept. Texts in the scripts that are kept have the same tokens as before, and so the same vectors:
Unigram, WordPiece and BPE make the tokens of a text out of parts of it alone. Single characters
stay, so that a word in another script is cut finer instead of becoming unknown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
_MARKS = ("\u2581", "\u0120", " ")  # before a subword that begins a word
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # what a character without a token is written with


def scripts_of(texts: Iterable[str]) -> set[str]:
    """The scripts of at least a thousandth of the letters of texts, such as ``latin``, ``cjk``."""
    letters = Counter(name for text in texts for name in _written(text))
    least = _SHARE * letters.total()
    return {name for name, count in letters.items() if count >= least}


def trim_vocabulary(
    encoder: TorchEncoder, texts: Iterable[str] | Mapping[str, Iterable[str]]
) -> TorchEncoder:
    """An encoder without the tokens that no text in the scripts of ``texts`` has.

    The vectors of such texts stay the same. The encoder that is given is not changed; it is kept as
    ``untrimmed`` of the new one, for :func:`hybridret.export` to compare with.

    Args:
        texts: whose scripts are kept: those of at least a thousandth of their letters; if they
            are given by language, of those of any language.

    Raises:
        ModelError: the texts have no letters, or the tokenizer or the table of token vectors is of
            an unknown kind.
    """
    groups = texts.values() if isinstance(texts, Mapping) else [texts]
    kept = set().union(*(scripts_of(group) for group in groups))
    if not kept:
        raise ModelError("there is no letter in the texts whose scripts would be kept")
    prompts = encoder.config.query_prompt + encoder.config.document_prompt
    kept |= set(_written(prompts))  # before every text
    if type(encoder.model.table) is not nn.Embedding:
        kind = type(encoder.model.table).__name__
        raise ModelError(f"token vectors of the kind {kind} cannot be trimmed")
    size = encoder.model.table.num_embeddings
    description = json.loads(encoder.tokenizer.backend.to_str())
    needed = _kept(description, kept, size, _counted_from(encoder.model.backbone))
    keep = sorted({*needed, encoder.tokenizer.pad_id})
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
    trimmed = TorchEncoder(model, tokenizer, encoder.config)
    trimmed.untrimmed = encoder
    return trimmed


def _written(text: str) -> Iterator[str]:
    """The script of each letter, as normalisers make it: ``\u00ba`` is a Latin o."""
    for letter in unicodedata.normalize("NFKC", text):
        if letter.isalpha() and (name := script(letter)):
            yield name


def _counted_from(backbone: nn.Module) -> int:
    """The number of the padding token in models that count positions from it, as RoBERTa does;
    in others -1."""
    positions = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return -1 if padding is None else int(padding)


def _kept(description: dict[str, Any], scripts: set[str], size: int, fixed: int) -> set[int]:
    """Numbers of the tokens that stay; all up to number ``fixed`` do."""
    model = description["model"]
    tokens = dict(_tokens(model))
    by_bytes = _is_byte_level(description)
    keep = set(range(fixed + 1)) | _needed(description, tokens)
    ends = [model.get(n) or "" for n in ("continuing_subword_prefix", "end_of_word_suffix")]
    for token, number in tokens.items():
        text = _of_bytes(token) if by_bytes else token
        if text is None or _stays(text.removeprefix(ends[0]).removesuffix(ends[1]), scripts):
            keep.add(number)
    return {number for number in keep if number < size}


def _needed(description: dict[str, Any], tokens: dict[str, int]) -> set[int]:
    """Tokens that are more than a part of a text, and those of single bytes."""
    model = description["model"]
    needed = {token["id"] for token in description.get("added_tokens", ())}
    needed |= {number for token, number in tokens.items() if _BYTE.fullmatch(token)}
    needed |= {tokens[model["unk_token"]]} if model.get("unk_token") in tokens else set()
    if model.get("type") == "Unigram":
        if model.get("unk_id") is not None:
            needed.add(model["unk_id"])
        # What an unknown character costs is counted from the lowest score.
        scores = [score for _, score in model["vocab"]]
        needed.add(scores.index(min(scores)))
    return needed | _around(description.get("post_processor") or {})


def _around(processor: dict[str, Any]) -> set[int]:
    """The tokens that a post-processor puts around a text."""
    found = {processor[name][1] for name in ("sep", "cls") if name in processor}
    for token in (processor.get("special_tokens") or {}).values():
        found |= set(token["ids"])
    return found.union(*(_around(inner) for inner in processor.get("processors", ())))


def _stays(token: str, scripts: set[str]) -> bool:
    for mark in _MARKS:
        token = token.removeprefix(mark)
    if len(token) <= 1:
        return True
    written = set(_written(token))
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
        kept, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            merge
            for merge in model["merges"]
            for first, second in [merge if isinstance(merge, list) else merge.split(" ")]
            if first in kept and second in kept and first + second.removeprefix(prefix) in kept
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
    rows = table.weight.detach()[torch.tensor(keep, device=table.weight.device)]
    table.weight = nn.Parameter(rows.clone(), requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(keep)
    if table.padding_idx is not None:
        table.padding_idx = numbers.get(table.padding_idx)
    if isinstance(backbone, StaticEmbeddings):
        return
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
