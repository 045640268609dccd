"""Reports as plain text: tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridret.evaluation.report import KINDS, RANK_DISTANCE, Report
from hybridret.evaluation.significance import Comparison, Spread

SETTINGS = {"mono": "monolingual", "cross": "cross-lingual", "multi": "multilingual"}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(len(row[c]) for row in (header, *rows)) for c in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def summary_text(reports: Sequence[Report], metrics: Sequence[str]) -> str:
    """One table of all metrics for one system; a table by metric for several."""
    summary = reports[0].summary
    counts = [f"{summary['n'][kind]:,}" for kind in SETTINGS]
    distance = distance_text(summary[RANK_DISTANCE])
    if len(reports) == 1:
        rows = [[m, *(score_text(summary[kind].get(m)) for kind in KINDS)] for m in metrics]
        table = text_table(["", *SETTINGS.values()], [*rows, ["n", *counts]])
        return f"{table}\nrank distance {distance}"
    tables = []
    for metric in metrics:
        rows = [
            [r.name, *(score_text(r.summary[kind].get(metric)) for kind in KINDS)] for r in reports
        ]
        header = ["system", *(f"{metric} {kind}" for kind in KINDS)]
        last = ["n", *counts]
        if metric == metrics[0]:
            header.append("rank distance")
            for row, report in zip(rows, reports, strict=True):
                row.append(distance_text(report.summary[RANK_DISTANCE]))
            last.append(f"{summary['n'][RANK_DISTANCE]:,}")
        tables.append(text_table(header, [*rows, last]))
    return "\n\n".join(tables)


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Differences from the first system, with their intervals."""
    first = comparisons[0]
    rows = []
    for c in comparisons:
        rows += [
            [f"{c.system}, {SETTINGS[d.setting]}", f"{d.difference:+.3f}",
             f"[{d.low:+.3f}, {d.high:+.3f}]", p_text(d.p)]
            for d in c.means
        ]  # fmt: skip
    header = [f"{first.metric} minus that of {first.reference}", "difference",
              f"{first.level:.0%} interval", "p"]  # fmt: skip
    return f"{text_table(header, rows)}\nPaired over {first.clusters:,} questions."


def seeds_text(figures: Mapping[str, Mapping[str, Spread]]) -> str:
    """Mean and standard deviation over seeds."""
    metrics = list(next(iter(figures.values())))
    rows = [
        [metric, *(_spread(figures[kind][metric]) if kind in figures else "–" for kind in KINDS)]
        for metric in metrics
    ]
    count = len(next(iter(figures.values()))[metrics[0]].values)
    return text_table([f"mean ± deviation of {count} seeds", *SETTINGS.values()], rows)


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f} ± {spread.deviation or 0.0:.3f}"


def score_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def distance_text(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def p_text(value: float) -> str:
    return f"{value:.4f}"
