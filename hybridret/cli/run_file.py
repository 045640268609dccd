"""A run in a TOML file: every field is an option of the command, and the other way round."""

from __future__ import annotations

import argparse
import math
import tomllib
from pathlib import Path
from typing import Any

from hybridret.errors import DataError, did_you_mean


def apply(path: Path, options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Puts a file's fields where the command line gave no option.

    Raises:
        DataError: not TOML, an unknown field, or a value that the option does not take.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not TOML: {error}") from None
    actions = {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "config", "json", "dry_run")
    }
    for name, value in fields.items():
        if name not in actions:
            raise DataError(f"{path}: unknown field {name!r}{did_you_mean(name, list(actions))}")
        if name in options.given or getattr(options, name) != actions[name].default:
            continue  # given on the command line
        table = name == "data" or (name == "language_weights" and isinstance(value, dict))
        converted = value if table else _converted(path, name, value, actions[name])
        setattr(options, name, converted)
        options.given.add(name)


def data_fields(given: list[str] | dict[str, Any], types: dict[str, type]) -> dict[str, Any]:
    """The fields of one data set: from ``PATH name=value ...`` or a table of the file.

    Raises:
        DataError: an unknown field, or a value of another type.
    """
    if isinstance(given, dict):
        found = dict(given)
    else:
        found = {"path": given[0]}
        for item in given[1:]:
            name, sign, text = item.partition("=")
            if not sign:
                raise DataError(
                    f"--data takes one path and then name=value, got {item!r}; give --data again "
                    f"for another data set"
                )
            found[name] = text
    known = {"path": str, **types}
    for name, value in found.items():
        if name not in known:
            raise DataError(f"data set: unknown field {name!r}{did_you_mean(name, list(known))}")
        found[name] = _value(name, value, known[name])
    if "path" not in found:
        raise DataError("data set: no path")
    return found


def weights(given: list[str] | dict[str, Any] | None) -> dict[str, float] | None:
    """Weights by language: from ``language=weight ...`` or a table of the file.

    Raises:
        DataError: a weight that is no number, or below 0.
    """
    if given is None:
        return None
    items = given.items() if isinstance(given, dict) else [x.partition("=")[::2] for x in given]
    found = {}
    for language, weight in items:
        try:
            found[language] = float(weight)
        except (TypeError, ValueError):
            found[language] = math.nan
        if not 0 <= found[language] < math.inf:
            raise DataError(f"language_weights: expected a number for {language!r}, got {weight!r}")
    return found


def _value(name: str, value: Any, kind: type) -> Any:
    """A value of a type; texts of the command line are read."""
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is list and isinstance(value, str):
        return value.split(",")
    if kind in (int, float) and isinstance(value, (str, int, float)) and type(value) is not bool:
        try:
            return kind(value)
        except ValueError:
            pass
    elif isinstance(value, kind):
        return value
    raise DataError(f"data set: {name} must be of type {kind.__name__}, got {value!r}")


def _converted(path: Path, name: str, value: Any, action: argparse.Action) -> Any:
    many = action.nargs == "+"
    if many != isinstance(value, list):
        raise DataError(
            f"{path}: {name} must be {'a list' if many else 'one value'}, got {value!r}"
        )
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if type(value) is not bool:
            raise DataError(f"{path}: {name} must be true or false, got {value!r}")
        return value
    kind: Any = action.type or str
    found = []
    for item in value if many else [value]:
        wrong = type(item) is bool or (kind is str and not isinstance(item, str))
        try:
            found.append(item if wrong else kind(item))
        except (TypeError, ValueError):
            wrong = True
        wrong = wrong or (kind is int and not isinstance(item, int))
        if wrong or (action.choices is not None and found[-1] not in action.choices):
            expected = (
                ", ".join(map(str, action.choices))
                if action.choices is not None
                else f"a value of type {kind.__name__}"
            )
            raise DataError(f"{path}: {name}: expected {expected}, got {item!r}")
    return found if many else found[0]
