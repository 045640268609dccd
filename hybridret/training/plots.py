"""The plots of a run: loss, in-batch accuracy of pairs of languages, evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._extras import require
from hybridret._files import atomic_file

_PAIRS = 8  # lines of the plot of accuracies
_STYLES = {"mono AP": "-", "cross AP": "--", "multi AP": ":"}
_POINTS = 40  # of a line: entries of the log are put together


def write_plots(path: Path, log: Sequence[dict[str, Any]], title: str) -> None:
    """Writes a PNG with what a run has logged.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "train", "a plot")
    steps = [entry for entry in log if "loss" in entry]
    judged = [entry for entry in log if "evaluation" in entry]
    curves = _curves(judged)
    rows = 1 if not curves else 2
    figure = figure_module.Figure(figsize=(11, 4.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    _loss(axes[0], steps)
    _accuracy(axes[1], steps)
    for axis, (name, lines) in zip(axes[2:], curves.items(), strict=False):
        data_sets = list(dict.fromkeys(data_set for data_set, _ in lines))
        for (data_set, measure), points in lines.items():
            style = _STYLES.get(measure, "-")
            colour = f"C{data_sets.index(data_set)}"
            label = f"{data_set}: {measure}" if data_set else measure
            axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", label=label)
        axis.set_title(name)
        axis.legend(fontsize=8)
    for axis in axes[2 + len(curves) :]:
        axis.set_axis_off()
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    figure.suptitle(title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _loss(axis: Any, steps: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(f"{e['data_set']}, {e['kind']}" for e in steps))
    for name in names:
        found = [(e["step"], e["loss"]) for e in steps if f"{e['data_set']}, {e['kind']}" == name]
        (line,) = axis.plot(*zip(*found, strict=True), "o", markersize=3, alpha=0.35)
        axis.plot(*_smooth(found, np.ones(len(found))), color=line.get_color(), label=name)
    axis.set_title("loss of a batch")
    axis.set_ylim(bottom=0)
    if names:
        axis.legend(fontsize=8)


def _accuracy(axis: Any, steps: Sequence[dict[str, Any]]) -> None:
    found: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for entry in steps:
        for pair, values in entry["pairs"].items():
            found[pair].append((entry["step"], values["accuracy"], values["rows"]))
    most = sorted(found, key=lambda pair: -sum(rows for _, _, rows in found[pair]))
    shown: dict[str, list[tuple[int, float, int]]] = {pair: found[pair] for pair in most[:_PAIRS]}
    if len(most) > _PAIRS:
        others = sorted(point for pair in most[_PAIRS:] for point in found[pair])
        shown[f"{len(most) - _PAIRS} other pairs"] = others
    for number, (pair, points) in enumerate(shown.items()):
        style = "k--" if number == _PAIRS else f"C{number}-"
        rows = np.array([rows for _, _, rows in points], dtype=float)
        axis.plot(*_smooth([(s, a) for s, a, _ in points], rows), style, label=pair)
    axis.set_title("in-batch accuracy, query-document")
    axis.set_ylim(0, 1.02)
    if shown:
        axis.legend(fontsize=8, ncols=2)


def _smooth(
    points: Sequence[tuple[int, float]], weights: np.ndarray[Any, np.dtype[np.float64]]
) -> tuple[list[float], list[float]]:
    """Weighted means of neighbouring points."""
    groups = np.array_split(np.arange(len(points)), min(_POINTS, len(points)))
    at = np.array(points, dtype=float)
    return (
        [float(np.average(at[g, 0], weights=weights[g])) for g in groups],
        [float(np.average(at[g, 1], weights=weights[g])) for g in groups],
    )


def _curves(
    judged: Sequence[dict[str, Any]],
) -> dict[str, dict[tuple[str, str], list[tuple[int, float]]]]:
    """By plot, then by data set and measure: AP in the three settings, and the rank distance."""
    found: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = {}
    for entry in judged:
        for name, value in entry["evaluation"].items():
            data_set, _, measure = name.rpartition(": ")
            if measure in _STYLES:
                plot = "evaluation: AP"
            elif measure == "rank distance":
                plot = "evaluation: rank distance"
            else:
                continue
            line = found.setdefault(plot, {}).setdefault((data_set, measure), [])
            line.append((entry["step"], value))
    return found
