"""Search by words: BM25 (Robertson and Zaragoza 2009) on the encoder's own subwords, in SQLite.

The subwords of one tokenizer are the words of every language that it knows, those without spaces
between words among them. A term of the index is the script of the text and the number of the
subword, such as ``latin4021``: a text in another script has no term in common, so nothing is found
by a name or a numeral alone. A query without letters, such as an order number, is looked for in
texts of every script.

FTS5 holds the terms without the texts; to take a document out it wants what was put in, so that is
kept, compressed.
"""

from __future__ import annotations

import sqlite3
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Literal

import numpy as np

from hybridret._scripts import script
from hybridret._types import Floats, Ints
from hybridret.encoder.tokenization import Tokenizer

Mode = Literal["dense", "words", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "words", "hybrid")
POSTINGS = 10_000
"""Documents of its terms that a query looks at, the rarest term first; a term that has more is
looked at whole. Terms that are left out are looked for where nothing else was found. At 100,000
documents all terms of a question have 16,000: leaving out the rest cost no reciprocal rank and
saved a third of the time."""
DEPTH = 100
"""Documents of each ranking that are fused."""
FUSION = 60
"""Added to a rank in reciprocal rank fusion, as in Cormack, Clarke and Buettcher 2009."""
_SHARE = 0.25  # of the letters, from which a text is in a script
_SAMPLE = 4000  # characters that a long text's script is told by
_TOGETHER = 64  # texts that are made terms at a time: their subwords are in memory
_GROWTH = 0.1  # share by which a table may grow before terms are counted again
_COUNTS = 100_000  # terms whose counts are kept
_CHUNK = 500


@cache
def available() -> bool:
    """Whether this Python's SQLite has FTS5."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


class Words:
    """Texts -> terms, for one encoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def documents(self, texts: Sequence[str]) -> list[str]:
        """The terms of each document, with spaces between them."""
        found = []
        for start in range(0, len(texts), _TOGETHER):
            some = [_normal(text) for text in texts[start : start + _TOGETHER]]
            for text, subwords in zip(some, self.tokenizer.subwords(some), strict=True):
                written = (_scripts(text) or [""])[0]
                terms = []
                for number, surface in subwords:
                    kind = _kind(surface)
                    if kind:
                        terms.append(f"{written}{number}")
                    if kind == "number" and written:
                        terms.append(str(number))
                found.append(" ".join(sorted(terms)))  # in order they take half the space
        return found

    def query(self, text: str) -> list[str]:
        """The different terms to look for."""
        text = _normal(text)
        subwords = self.tokenizer.subwords([text])[0]
        numbers = [number for number, surface in subwords if _kind(surface)]
        return list(dict.fromkeys(f"{name}{n}" for name in _scripts(text) or [""] for n in numbers))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _scripts(text: str) -> list[str]:
    """The scripts of at least a quarter of a text's letters, the most frequent first.

    Of a long text some thousand characters tell, from all of it.
    """
    sample = text[:: 1 + len(text) // _SAMPLE]
    letters = Counter(script(c) for c in sample if c.isalpha())
    least = _SHARE * letters.total()
    return [name for name, count in letters.most_common() if name and count >= least]


@lru_cache(65_536)
def _kind(surface: str) -> str:
    """Of a subword: ``letters``, ``number``, or empty if it is neither."""
    categories = {unicodedata.category(c)[0] for c in surface}
    return "letters" if categories & {"L", "M"} else "number" if "N" in categories else ""


# ---- the tables of a generation ----------------------------------------------------------------


def create(connection: sqlite3.Connection, generation: int) -> None:
    """Makes the tables of a generation."""
    connection.execute(
        f"CREATE VIRTUAL TABLE words_{generation} USING fts5(terms, content='', tokenize='ascii')"
    )
    connection.execute(
        f"CREATE VIRTUAL TABLE counts_{generation} USING fts5vocab(words_{generation}, 'row')"
    )
    connection.execute(
        f"CREATE TABLE terms_{generation} (row INTEGER PRIMARY KEY, terms BLOB NOT NULL)"
    )


def drop(connection: sqlite3.Connection, generation: int) -> None:
    for name in ("counts", "words", "terms"):
        connection.execute(f"DROP TABLE {name}_{generation}")


def add(
    connection: sqlite3.Connection, generation: int, rows: Iterable[int], terms: Sequence[str]
) -> None:
    """Documents, whose :meth:`Words.documents` are ``terms``."""
    pairs = [(int(row), text) for row, text in zip(rows, terms, strict=True)]
    connection.executemany(f"INSERT INTO words_{generation} (rowid, terms) VALUES (?, ?)", pairs)
    connection.executemany(
        f"INSERT INTO terms_{generation} VALUES (?, ?)",
        [(row, zlib.compress(text.encode())) for row, text in pairs],
    )


def remove(connection: sqlite3.Connection, generation: int, rows: Sequence[int]) -> None:
    """Takes documents out; those that are not in are passed over."""
    for start in range(0, len(rows), _CHUNK):
        some = [int(row) for row in rows[start : start + _CHUNK]]
        where = f"row IN ({', '.join('?' * len(some))})"
        found = connection.execute(f"SELECT row, terms FROM terms_{generation} WHERE {where}", some)
        connection.executemany(
            f"INSERT INTO words_{generation} (words_{generation}, rowid, terms) "
            "VALUES ('delete', ?, ?)",
            [(row, zlib.decompress(terms).decode()) for row, terms in found.fetchall()],
        )
        connection.execute(f"DELETE FROM terms_{generation} WHERE {where}", some)


def pack(connection: sqlite3.Connection, generation: int) -> None:
    """Merges the parts of the index."""
    connection.execute(f"INSERT INTO words_{generation} (words_{generation}) VALUES ('optimize')")


class Counts:
    """In how many documents a term is, of one generation; counted again when it has grown."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._documents = 0
        self._known: dict[str, int] = {}

    def of(
        self, connection: sqlite3.Connection, terms: Iterable[str], documents: int
    ) -> Counter[str]:
        """Counts of the terms that are there.

        Args:
            documents: in the table, now.
        """
        known = self._known
        if abs(documents - self._documents) > _GROWTH * self._documents or len(known) > _COUNTS:
            known = self._known = {}
            self._documents = documents
        counts: Counter[str] = Counter()
        for term in terms:
            count = known.get(term)
            if count is None:
                found = connection.execute(
                    f"SELECT doc FROM counts_{self.generation} WHERE term = ?", (term,)
                ).fetchone()
                if not found:
                    continue  # it may come
                count = known[term] = found[0]
            counts[term] = count
        return counts


def turns(counts: Counter[str], most: int = POSTINGS) -> list[list[str]]:
    """The terms, the rarest first, in turns of at most so many documents together."""
    found: list[list[str]] = []
    total = 0
    for term, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        total += count
        if not found or total > most:
            found.append([])
            total = count
        found[-1].append(term)
    return found


def ranked(
    connection: sqlite3.Connection, generation: int, terms: Sequence[str]
) -> Iterator[tuple[Ints, Floats]]:
    """Rows and BM25 of the documents that have one of the terms, best first, some at a time."""
    if not terms:
        return
    found = connection.execute(
        f"SELECT rowid, rank FROM words_{generation} WHERE words_{generation} MATCH ? "
        "ORDER BY rank",
        (" OR ".join(terms),),
    )
    while some := found.fetchmany(_CHUNK):
        rows, ranks = zip(*some, strict=True)
        yield np.array(rows, dtype=np.int64), -np.array(ranks)


def fuse(rankings: Sequence[Ints], k: int) -> tuple[Ints, Floats]:
    """Reciprocal rank fusion: the k rows with the largest sums of 1 / (60 + rank), and the sums.

    Args:
        rankings: rows, best first; each row at most once in one. Of equal sums those come first
            that are in the first ranking, in its order.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (FUSION + rank)
    best = sorted(scores, key=lambda row: -scores[row])[:k]
    return np.array(best, dtype=np.int64), np.array([scores[row] for row in best])
