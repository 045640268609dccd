"""Data sets: one table (:mod:`hybridret.data.table`) and a reader for each format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from hybridret.data import hub
from hybridret.data.beir import CORPUS_FILE, read_beir
from hybridret.data.facts import Split, load_facts
from hybridret.data.jsonl import read_documents, read_pairs
from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.data.miracl import TOPICS, read_miracl
from hybridret.data.ntrex import ARTICLES_FILE, read_ntrex
from hybridret.data.squad import Candidates, read_squad
from hybridret.data.table import Dataset, Document, Qrels, Query, StreamedDocuments
from hybridret.data.tatoeba import PAIR_FILES, read_tatoeba
from hybridret.errors import DataError

__all__ = [
    "UNDETERMINED",
    "Candidates",
    "Dataset",
    "Document",
    "Qrels",
    "Query",
    "StreamedDocuments",
    "load_dataset",
    "load_facts",
    "normalize_language",
    "read_beir",
    "read_documents",
    "read_miracl",
    "read_ntrex",
    "read_pairs",
    "read_squad",
    "read_tatoeba",
]


def load_dataset(
    source: str | Path,
    *,
    candidates: Candidates = "sentence",
    languages: Sequence[str] | None = None,
) -> Dataset:
    """A data set by name or path; the format is told by what is there.

    ``facts-train``, ``facts-evaluation`` and ``facts-paraphrase`` are embedded. A folder with
    ``DOCUMENT_IDS.tsv`` is NTREX, one with ``corpus.jsonl`` BEIR, one with MIRACL's topics MIRACL,
    one with ``tatoeba.<language>-eng.eng`` Tatoeba, one with ``<language>.json`` files SQuAD
    (XQuAD-R, MLQA-R); a ``.jsonl`` file holds query/positive pairs. ``owner/name`` that is no path
    is downloaded from the hub, see :mod:`hybridret.data.hub`.

    Args:
        candidates: text of a document of a set that has sentences, see :func:`read_squad`.
        languages: only these; of a set that lies on the hub by language only these are fetched.

    Raises:
        DataError: nothing there, no format fits, the content is malformed, or a language is not in
            it.
        MissingExtraError: the hub is asked for and its client is not installed.
    """
    found = _load(source, candidates, languages)
    return found.only_languages(languages) if languages else found


def _load(source: str | Path, candidates: Candidates, languages: Sequence[str] | None) -> Dataset:
    name, _, split = str(source).partition("-")
    if name == "facts" and split in get_args(Split):
        return load_facts(cast(Split, split))
    path, *others = [Path(source)]
    if not path.exists():
        if not hub.is_hub_name(str(source)):
            raise DataError(
                f"{source}: no such file or folder (embedded: "
                f"{', '.join(f'facts-{s}' for s in get_args(Split))}; of the hub: owner/name)"
            )
        path, *others = hub.download(str(source), languages)
    if path.is_file() and ".jsonl" in path.suffixes:
        return read_pairs(path)
    if (path / ARTICLES_FILE).is_file():
        return read_ntrex(path)
    if any(path.glob(CORPUS_FILE)):
        return read_beir(path, qrels=others[0] if others else None)
    if path.is_dir() and any(path.glob(PAIR_FILES)):
        return read_tatoeba(path)
    if path.is_dir() and any(path.rglob(TOPICS)):
        return read_miracl(path, corpus=others[0] if others else None, languages=languages)
    if path.suffix == ".json" or (path.is_dir() and any(path.glob("*.json"))):
        return read_squad(path, candidates)
    raise DataError(
        f"{source}: no known data set; expected a .jsonl file of pairs, a folder of "
        f"<language>.json files (XQuAD-R, MLQA-R), a BEIR folder (corpus.jsonl), MIRACL, NTREX or "
        f"Tatoeba"
    )
