"""How every reader gets at its files: bytes to lines, lines to JSON, JSON to checked fields.

All that can be wrong with a file below the level of a format is found here, and is a
:class:`DataError` that names the file, the line and, of JSON, the field. Text is UTF-8, with or
without a byte order mark. A line ends at ``\\n``, a ``\\r`` before it is dropped, and nothing else
ends one: data sets aligned by line hold other line separators inside their sentences.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # spreadsheets put one in front


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``file:line``, the line without its end) of every line; gzipped if the name ends in ``.gz``.

    Raises:
        DataError: no such file, a damaged gzip file, or a line that is not UTF-8.
    """
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            text = _decode(line, path, number)
            yield f"{path}:{number}", text.removesuffix("\n").removesuffix("\r")


def read_object(path: Path) -> Record:
    """The JSON object that a file holds.

    Raises:
        DataError: as :func:`read_lines` and :func:`parse_json`, or something else than an object.
    """
    with _open(path) as file:
        text = _decode(file.read().removeprefix(_BYTE_ORDER_MARK), path, 1)
    return Record(str(path), parse_json(text, str(path)))


def read_records(path: Path) -> Iterator[Record]:
    """The JSON objects of a file, one a line; blank lines are passed over, an empty file raises."""
    empty = True
    for where, line in read_lines(path):
        if line.strip():
            empty = False
            yield Record(where, parse_json(line, where))
    if empty:
        raise DataError(f"{path}: the file is empty")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; NaN and Infinity are read as Python's ``json`` writes them.

    Raises:
        DataError: not JSON, or more than Python takes: nested too deeply, an integer too long.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        reason = f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error).partition(";")[0]
    raise DataError(f"{where}: not JSON that can be read: {reason}")


class Record:
    """A JSON object whose fields are asked for by name and checked.

    Attributes:
        where: file, or ``file:line``.
        fields: the fields as they are.
        path: place of a nested object in that of ``where``, such as ``data[0].paragraphs[2]``.

    Raises:
        DataError: the value is not an object.
    """

    __slots__ = ("fields", "path", "where")

    def __init__(self, where: str, value: Any, path: str = "") -> None:
        self.where = where
        self.path = path
        if not isinstance(value, dict):
            raise self.error(f"expected a JSON object, got {_shown(value)}")
        self.fields: dict[str, Any] = value

    def error(self, message: str) -> DataError:
        """An error that begins with the place of this record."""
        return DataError(f"{self.where}: {self.path}{': ' if self.path else ''}{message}")

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of ``names`` that is there; integers are read as text.

        Args:
            default: the value of a field that is null or missing; without one the field must be
                there and not empty.

        Raises:
            DataError: not a text, one that UTF-8 cannot hold, or no such field. A missing field
                with a default is an error, too, if the record has a field of nearly that name: a
                misspelt ``language`` would be lost silently.
        """
        for name in names:
            if name in self.fields and not (default is not None and self.fields[name] is None):
                value = self.fields[name]
                if type(value) is int:
                    return str(value)
                if default is None and isinstance(value, str) and not value.strip():
                    raise self.error(f"field {name!r} must be a text, got an empty text")
                return self._checked(value, name)
        there = tuple(self.fields)
        if default is None:
            expected = " or ".join(repr(name) for name in names)
            raise self.error(f"no field {expected}; it has {_listed(there)}")
        if misspelt := _misspelt(names, there):
            raise self.error(
                f"unknown field {misspelt[0]!r}; did you mean {misspelt[1]!r}? (if not, give "
                f"{misspelt[1]!r} as well: null will do)"
            )
        return default

    def string(self, name: str) -> str:
        """A text and nothing else; it may be empty."""
        return self._checked(self._required(name), name)

    def strings(self, name: str) -> list[str]:
        """A list of texts."""
        return [self._checked(v, f"{name}[{i}]") for i, v in enumerate(self.values(name))]

    def integer(self, name: str) -> int:
        """A whole number that is not negative, or the text of one: ``"171"``."""
        value = self._required(name)
        if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
            return int(value)
        if type(value) is not int or value < 0:
            raise self.error(f"field {name!r} must be a whole number from 0, got {_shown(value)}")
        return value

    def values(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self._required(name)
        if not isinstance(value, list):
            raise self.error(f"field {name!r} must be a list, got {_shown(value)}")
        return value

    def records(self, name: str) -> Iterator[Record]:
        """A list of objects."""
        prefix = f"{self.path}.{name}" if self.path else name
        for i, value in enumerate(self.values(name)):
            yield Record(self.where, value, f"{prefix}[{i}]")

    def language(self, *names: str) -> str:
        """A normalised language tag; ``und`` where none of ``names`` is there."""
        tag = self.text(*names, default=UNDETERMINED)
        try:
            return normalize_language(tag)
        except DataError as error:
            raise self.error(str(error)) from None

    def _required(self, name: str) -> Any:
        if name not in self.fields:
            raise self.error(f"no field {name!r}; it has {_listed(tuple(self.fields))}")
        return self.fields[name]

    def _checked(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise self.error(f"field {name!r} must be a text, got {_shown(value)}")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                surrogate = ascii(value[error.start])
                raise self.error(
                    f"field {name!r} holds the lone surrogate {surrogate}, which is no character"
                ) from None
        return value


@lru_cache(maxsize=1024)
def _misspelt(names: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, str] | None:
    """(a field that is there, the one of ``names`` it is nearly) where none of ``names`` is."""
    if any(name in there for name in names):
        return None  # null
    for name in names:
        # Shorter names are near too many others.
        near = get_close_matches(name, there, 1, cutoff=0.8) if len(name) >= 4 else []
        if near:
            return near[0], name
    return None


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names[:20]) or "none"


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)[:60]


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a file")
    try:
        with path.open("rb") if path.suffix != ".gz" else _unzipped(path) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: gzip file damaged or cut short: {error}") from None


def _unzipped(path: Path) -> BinaryIO:
    # GzipFile's own readline is Python code, the buffer's is not.
    return cast(BinaryIO, io.BufferedReader(gzip.open(path), 1 << 16))


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line += before.count(b"\n")
        column = error.start - before.rfind(b"\n")
        raise DataError(
            f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02x} at position {column} of the "
            f"line"
        ) from None
