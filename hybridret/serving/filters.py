"""Which documents a search may return: by language, and by what their metadata say.

``where`` names fields and what they have to be; all of them have to hold::

    {"product": "x", "year": {"gte": 2024, "lt": 2026}, "tag": {"in": ["new", "old"]}}

A value alone means ``eq``. The others are ``ne``, ``in``, ``gt``, ``gte``, ``lt``, ``lte`` (numbers
with numbers, strings with strings) and ``exists`` (true or false). Of a list any element counts;
``a.b`` is field ``b`` of the object ``a``. A document without the field passes ``ne`` and
``{"exists": false}`` alone.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret.errors import DataError, did_you_mean
from hybridret.serving.arrays import Growing

Admitted = NDArray[np.bool_]
Scalar = str | int | float | bool | None

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPERATORS = ("eq", "ne", "in", *_ORDERS, "exists")


_DEPTH = 64  # objects and lists in each other


def check_metadata(metadata: Any, where: str) -> dict[str, Any] | None:
    """Metadata as JSON gives them back, or None without any.

    Raises:
        DataError: not an object of JSON, or one that is nested too deeply; ``where`` begins the
            sentence.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise DataError(
            f"{where}: metadata must be an object with names, got {type(metadata).__name__}"
        )
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        text.encode()
        found: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: metadata that JSON cannot hold: {error}") from None
    level: list[Any] = [found]
    for _ in range(_DEPTH):
        inner = [x for v in level for x in (v.values() if isinstance(v, dict) else v)]
        level = [x for x in inner if isinstance(x, dict | list)]
        if not level:
            return found
    raise DataError(f"{where}: metadata are nested more than {_DEPTH} deep")


def parsed(where: Any) -> list[tuple[str, str, Any]]:
    """Field, operator and operand of each condition, in a fixed order.

    Raises:
        DataError: not an object, an unknown operator, or an operand of another type.
    """
    if not isinstance(where, Mapping):
        raise DataError(
            f'where must be an object such as {{"year": {{"gte": 2024}}}}, got {where!r}'
        )
    found: list[tuple[str, str, Any]] = []
    for name, condition in where.items():
        if not isinstance(name, str):
            raise DataError(f"where: a field must be a string, got {name!r}")
        given = condition if isinstance(condition, Mapping) else {"eq": condition}
        if not given:
            raise DataError(f"where: {name} has no condition")
        for test, operand in given.items():
            found.append((name, test, _operand(name, test, operand)))
    return sorted(found, key=lambda item: (item[0], item[1], json.dumps(item[2])))


def _operand(name: str, test: Any, operand: Any) -> Any:
    if test not in _OPERATORS:
        raise DataError(
            f"where: {name}: unknown operator {test!r}{did_you_mean(str(test), _OPERATORS)}"
        )
    if test == "exists":
        if not isinstance(operand, bool):
            raise DataError(f"where: {name}: exists takes true or false, got {operand!r}")
        return operand
    if test == "in":
        if isinstance(operand, str | bytes | Mapping) or not isinstance(operand, Sequence):
            raise DataError(f"where: {name}: in takes a list of values, got {operand!r}")
        return [_scalar(name, test, value) for value in operand]
    value = _scalar(name, test, operand)
    if test in _ORDERS and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise DataError(f"where: {name}: {test} takes a number or a string, got {value!r}")
    return value


def _scalar(name: str, test: str, value: Any) -> Scalar:
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, str | int | float | bool):
        raise DataError(
            f"where: {name}: {test} takes a string, number, true, false or null, "
            f"got {type(value).__name__}"
        )
    if isinstance(value, int) and abs(value) >= 2**1023:
        raise DataError(f"where: {name}: the number is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"where: {name}: {value} is not a number of JSON")
    return value


class Columns:
    """Values of the metadata of documents by place, for conditions over many of them."""

    def __init__(self) -> None:
        self.size = 0
        self._fields: dict[str, _Column] = {}

    @property
    def fields(self) -> list[str]:
        """Those that a document has."""
        return sorted(self._fields)

    def extend(self, metadata: Sequence[Mapping[str, Any] | None]) -> None:
        """Adds the metadata of the documents at the next places."""
        for place, values in enumerate(metadata, self.size):
            if values:
                for name, value in _flat(values):
                    self._fields.setdefault(name, _Column()).add(place, value)
        self.size += len(metadata)

    def admitted(self, conditions: Sequence[tuple[str, str, Any]], start: int = 0) -> Admitted:
        """bool [size - start]: the places from ``start`` for which all conditions of :func:`parsed`
        hold.

        Raises:
            DataError: a field that no document has.
        """
        admitted = np.ones(self.size - start, dtype=bool)
        for name, test, operand in conditions:
            column = self._fields.get(name)
            if column is None:
                known = ", ".join(self.fields) or "none"
                raise DataError(
                    f"where: no document has a field {name!r}"
                    f"{did_you_mean(name, self.fields)}; there are {known}"
                )
            admitted &= column.matches(test, operand, start, self.size)
        return admitted


class _Column:
    """The values of one field: each distinct one once, and who has it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bool, Scalar], int] = {}  # bools are apart: True == 1
        self._values: list[Scalar] = []
        self._places: Growing[np.int64] = Growing(np.int64)  # of each entry, ascending
        self._codes: Growing[np.int64] = Growing(np.int64)
        self._new: list[tuple[int, int]] = []  # entries that are not in the arrays yet

    def add(self, place: int, value: Scalar) -> None:
        key = isinstance(value, bool), value
        number = self._numbers.setdefault(key, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        self._new.append((place, number))

    def matches(self, test: str, operand: Any, start: int, size: int) -> Admitted:
        """bool [size - start]"""
        if test == "exists":
            there = self._having(np.ones(len(self._values), dtype=bool), start, size)
            return there if operand else ~there
        if test == "ne":
            return ~self.matches("eq", operand, start, size)
        if test in ("eq", "in"):
            accepted = np.zeros(len(self._values), dtype=bool)
            for value in operand if test == "in" else [operand]:
                number = self._numbers.get((isinstance(value, bool), value))
                if number is not None:
                    accepted[number] = True
            return self._having(accepted, start, size)
        holds = _ORDERS[test]
        comparable = str if isinstance(operand, str) else int | float
        accepted = np.fromiter(
            (
                isinstance(value, comparable)
                and value is not True
                and value is not False
                and holds(value, operand)
                for value in self._values
            ),
            dtype=bool,
            count=len(self._values),
        )
        return self._having(accepted, start, size)

    def _having(self, accepted: Admitted, start: int, size: int) -> Admitted:
        """The places from ``start`` that have an accepted value."""
        if self._new:
            new = np.array(self._new, dtype=np.int64)
            self._places.extend(new[:, 0])
            self._codes.extend(new[:, 1])
            self._new = []
        first = int(np.searchsorted(self._places.values, start))
        places, codes = self._places.values[first:], self._codes.values[first:]
        found = np.zeros(size - start, dtype=bool)
        found[places[accepted[codes]] - start] = True
        return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Names and values, of lists each element; objects in objects by ``a.b``."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            for element in value:
                if isinstance(element, Mapping):
                    yield from _flat(element, f"{name}.")
                elif not isinstance(element, list | tuple):
                    yield name, element
        else:
            yield name, value
