"""Data sets: one table (:mod:`hybridret.data.table`) and a reader for each format."""

from __future__ import annotations

from hybridret.data.beir import read_beir
from hybridret.data.facts import load_facts
from hybridret.data.formats import Candidates
from hybridret.data.jsonl import read_documents, read_pairs
from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.data.load import DATA_HELP, FORMATS_HELP, load_dataset
from hybridret.data.miracl import read_miracl
from hybridret.data.mmarco import read_mmarco
from hybridret.data.ntrex import read_ntrex
from hybridret.data.squad import read_squad
from hybridret.data.table import Dataset, Document, Qrels, Query, StreamedDocuments
from hybridret.data.tatoeba import read_tatoeba

__all__ = [
    "DATA_HELP",
    "FORMATS_HELP",
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
    "read_mmarco",
    "read_ntrex",
    "read_pairs",
    "read_squad",
    "read_tatoeba",
]
