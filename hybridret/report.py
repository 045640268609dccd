"""Reports for people: a plain table, and one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from hybridret._files import write_text
from hybridret.evaluation import RANK_DISTANCE, Report

SETTINGS = {"mono": "monolingual", "cross": "cross-lingual", "multi": "multilingual"}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { max-width: 44rem; } .note { opacity: .75; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
.heat td, .heat th { border: 1px solid var(--soft); padding: .2rem .45rem; font-size: .85rem; }
.heat th { font-weight: 600; }
.own { outline: 2px solid #000a; outline-offset: -2px; }
"""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(len(row[c]) for row in (header, *rows)) for c in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def summary_rows(reports: Sequence[Report], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one metric in the three settings, with rank distance, system by system."""
    header = ["system", *(f"{metric} {name}" for name in SETTINGS), "rank distance"]
    rows = [
        [
            report.name,
            *(_score(report.summary[setting].get(metric)) for setting in SETTINGS),
            _distance(report.summary[RANK_DISTANCE]),
        ]
        for report in reports
    ]
    return header, rows


def summary_text(reports: Sequence[Report], metrics: Sequence[str]) -> str:
    """One table of all metrics and settings for one system; of the first metric for several."""
    summary = reports[0].summary
    if len(reports) > 1:
        header, rows = summary_rows(reports, metrics[0])
        counts = (summary["n"][key] for key in (*SETTINGS, RANK_DISTANCE))
        return text_table(header, [*rows, ["n", *(f"{n:,}" for n in counts)]])
    rows = [
        [metric, *(_score(summary[setting].get(metric)) for setting in SETTINGS)]
        for metric in metrics
    ]
    rows.append(["n", *(f"{summary['n'][setting]:,}" for setting in SETTINGS)])
    table = text_table(["", *SETTINGS.values()], rows)
    return f"{table}\nrank distance {_distance(summary[RANK_DISTANCE])}"


def write_html(path: str | Path, reports: Sequence[Report], title: str) -> None:
    """One page that needs nothing else: a table for all systems, and heat maps for each.

    The systems must have been judged on the same data set with the same metrics.
    """
    metrics = list(reports[0].summary["mono"] or reports[0].summary["multi"])
    first = reports[0]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Data set <b>{html.escape(first.dataset)}</b>, {len(first.languages)} languages: "
        f"{html.escape(' '.join(first.languages))}.</p>",
        "<h2>Three settings</h2>",
        _summary_table(reports, metrics),
        f"<p class='note'>{_explanation(first)}</p>",
    ]
    for report in reports:
        parts += [
            f"<h2>{html.escape(report.name)}: {metrics[0]} of every pair of languages</h2>",
            "<p class='note'>Rows: language of the queries. Columns: language of the documents; "
            "last, the pool of all languages.</p>",
            _heat_map(report, metrics[0]),
        ]
    write_text(
        path,
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(parts)}</body></html>\n",
    )


def _explanation(report: Report) -> str:
    n = report.summary["n"]
    return (
        f"Queries behind the means: monolingual {n['mono']:,}, cross-lingual {n['cross']:,}, "
        f"multilingual {n['multi']:,}, rank distance {n[RANK_DISTANCE]:,}. Means are over "
        "languages. In the monolingual and cross-lingual settings a query without an answer in the "
        "pool is left out. Rank distance is the worst minus the best rank of a query's parallel "
        "answers in the pool of all languages: lower is less biased."
    )


def _summary_table(reports: Sequence[Report], metrics: Sequence[str]) -> str:
    # Rank distance right after the first metric: these four columns are what most people look for.
    columns = [(metric, setting) for metric in metrics for setting in SETTINGS]
    head = [f"<th>{html.escape(metric)}<br>{setting}</th>" for metric, setting in columns]
    head.insert(len(SETTINGS), "<th>rank<br>distance</th>")
    body = []
    for report in reports:
        cells = [f"<td>{_score(report.summary[s].get(metric))}</td>" for metric, s in columns]
        cells.insert(len(SETTINGS), f"<td>{_distance(report.summary[RANK_DISTANCE])}</td>")
        body.append(f"<tr><td>{html.escape(report.name)}</td>{''.join(cells)}</tr>")
    return (
        f"<div class='scroll'><table><thead><tr><th>system</th>{''.join(head)}"
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _heat_map(report: Report, metric: str) -> str:
    values = report.matrix(metric)
    pooled = {s.query_language: s for s in report.settings if s.setting == "multi"}
    counts = {(s.query_language, s.document_language): s.n for s in report.settings}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*report.languages, "all"))
    body = []
    for i, query in enumerate(report.languages):
        cells = []
        for j, document in enumerate(report.languages):
            n = counts.get((query, document), 0)
            own = " own" if i == j else ""
            cells.append(_cell(float(values[i, j]), f"{query} → {document}, n = {n}", own))
        multi = pooled.get(query)
        value = multi.metrics[metric] if multi else math.nan
        cells.append(_cell(value, f"{query} → all, n = {multi.n if multi else 0}", ""))
        body.append(f"<tr><th>{html.escape(query)}</th>{''.join(cells)}</tr>")
    return (
        f"<div class='scroll'><table class='heat'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: float, title: str, css: str) -> str:
    if math.isnan(value):
        return f"<td class='{css}' title='{html.escape(title)}'>–</td>"
    # From pale to deep blue; the text turns white where the ground is dark.
    ground = f"hsl(212 {40 + 45 * value:.0f}% {96 - 62 * value:.0f}%)"
    ink = "#fff" if value > 0.7 else "#111"
    return (
        f"<td class='{css}' style='background:{ground};color:{ink}' "
        f"title='{html.escape(title)}'>{_score(value)}</td>"
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _distance(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
