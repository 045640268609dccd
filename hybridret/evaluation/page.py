"""Reports as one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridret._files import write_text
from hybridret.evaluation import elements
from hybridret.evaluation.bias import ByLanguage
from hybridret.evaluation.report import KINDS, RANK_DISTANCE, Report
from hybridret.evaluation.significance import Comparison
from hybridret.evaluation.text import SETTINGS, distance_text, p_text, score_text


def write_html(
    path: str | Path, reports: Sequence[Report], title: str, comparisons: Sequence[Comparison] = ()
) -> None:
    """One page without external files: tables for all systems, heat maps and language bias of each.

    The systems must have been evaluated on the same data set with the same metrics.
    """
    metrics = list(reports[0].settings[0].metrics)
    first = reports[0]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Data set <b>{html.escape(first.dataset)}</b>, {len(first.languages)} languages: "
        f"{html.escape(' '.join(first.languages))}.</p>",
        "<h2>Three settings</h2>",
        _summary_table(reports, metrics),
        f"<p class='note'>{_explanation(first)}</p>",
    ]
    if comparisons:
        parts += ["<h2>Significance of the differences</h2>", _comparison_table(comparisons)]
    for report in reports:
        parts += _system(report, metrics, None if report is first else first)
    write_text(path, elements.document(title, parts))


def _explanation(report: Report) -> str:
    n = report.summary["n"]
    return (
        f"Number of queries: monolingual {n['mono']:,}, cross-lingual {n['cross']:,}, "
        f"multilingual {n['multi']:,}, rank distance {n[RANK_DISTANCE]:,}. Means are over "
        "languages. Rank distance is the worst minus the best rank of a query's relevant documents "
        "in the pool of all languages: lower is less biased. The ceiling is the score of the best "
        "possible ranking."
    )


def _summary_table(reports: Sequence[Report], metrics: Sequence[str]) -> str:
    # Rank distance follows the first metric: most readers look for these four columns.
    columns = [(metric, kind) for metric in metrics for kind in KINDS]
    head = [f"{html.escape(metric)}<br>{kind}" for metric, kind in columns]
    head.insert(len(KINDS), "rank<br>distance")
    body = []
    for report in reports:
        cells = [score_text(report.summary[kind].get(metric)) for metric, kind in columns]
        cells.insert(len(KINDS), distance_text(report.summary[RANK_DISTANCE]))
        body.append([html.escape(report.name), *cells])
    ceilings = reports[0].ceilings
    cells = [score_text(ceilings[kind].get(metric)) for metric, kind in columns]
    cells.insert(len(KINDS), "")
    return elements.table(["system", *head], [*body, ["<i>ceiling</i>", *cells]])


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    first = comparisons[0]
    rows = []
    for c in comparisons:
        significant = [d.difference for d in c.settings if d.p_holm is not None and d.p_holm < 0.05]
        better, worse = sum(x > 0 for x in significant), sum(x < 0 for x in significant)
        for d in c.means:
            of_kind = f"{better} better, {worse} worse" if d is c.means[0] else ""
            rows.append(
                [
                    html.escape(c.system),
                    SETTINGS[d.setting],
                    f"{d.difference:+.3f}",
                    f"{d.low:+.3f} to {d.high:+.3f}",
                    p_text(d.p),
                    of_kind,
                ]
            )
    metric, reference = html.escape(first.metric), html.escape(first.reference)
    head = [
        "system",
        "setting",
        f"{metric} minus<br>{reference}",
        f"{first.level:.0%} interval",
        "p",
        f"of {len(first.settings)} settings,<br>at 5 % (Holm)",
    ]
    note = (
        f"Paired over {first.clusters:,} questions, each with all its translations. p is from a "
        "randomisation test, the interval from a bootstrap."
    )
    return f"{elements.table(head, rows)}<p class='note'>{note}</p>"


def _system(report: Report, metrics: Sequence[str], reference: Report | None) -> list[str]:
    metric, name = metrics[0], html.escape(report.name)
    parts = [
        f"<h2>{name}</h2>",
        f"<h3>{html.escape(metric)} of every pair of languages</h3>",
        "<p class='note'>Rows: language of the queries. Columns: language of the documents; the "
        "last column is the pool of all languages.</p>",
        _metric_map(report, metric),
    ]
    if reference is not None:
        parts += [
            f"<h3>{html.escape(metric)} minus that of {html.escape(reference.name)}</h3>",
            _difference_map(report, reference, metric),
        ]
    return [*parts, *_bias(report), _all_settings(report, metrics)]


def _metric_map(report: Report, metric: str) -> str:
    found = {(s.query_language, s.document_language): s for s in report.settings}

    def cell(query: str, document: str | None) -> str:
        s = found.get((query, document))
        title = f"{query} → {document or 'all'}, n = {s.n if s else 0}"
        if s is None:
            return elements.cell(math.nan, "–", title, 0.0, query == document)
        title += f", ceiling {s.ceilings[metric]:.3f}"
        value = s.metrics[metric]
        return elements.cell(value, score_text(value), title, value, query == document)

    return elements.heat(report.languages, [*report.languages, None], cell)


def _difference_map(report: Report, reference: Report, metric: str) -> str:
    theirs = {(s.query_language, s.document_language): s for s in reference.settings}
    ours = {(s.query_language, s.document_language): s for s in report.settings}
    place = {language: n for n, language in enumerate(report.languages)}
    gaps = np.full((len(place), len(place) + 1), np.nan)
    for query, document in ours.keys() & theirs.keys():
        column = len(place) if document is None else place[document]
        gap = ours[query, document].metrics[metric] - theirs[query, document].metrics[metric]
        gaps[place[query], column] = gap

    def note(query: str, document: str | None) -> str:
        found = ours.get((query, document))
        return f"n = {found.n}" if found else ""

    return elements.difference_map(report.languages, gaps, note)


def _bias(report: Report) -> list[str]:
    b, size = report.bias, report.languages
    figures = [
        ("rank distance", b.rank_distance, distance_text),
        ("rank distance,<br>share of the pool", b.normalized_rank_distance, _percent),
        ("worst rank of an answer", b.max_rank, distance_text),
        ("best answer is in<br>the query's language", b.preference_rate, _percent),
        ("top document is in<br>the query's language", b.same_language_first, _percent),
    ]
    shown = [(name, figure, form) for name, figure, form in figures if figure is not None]
    rows = [
        [html.escape(language), *(_of(figure, i, form) for _, figure, form in shown)]
        for i, language in enumerate(size)
    ]
    rows.append(["<b>mean</b>", *(f"<b>{form(figure.mean)}</b>" for _, figure, form in shown)])
    rows.append(["n", *(f"{figure.n:,}" for _, figure, _ in shown)])
    parts = [
        "<h3>Language bias in the pool of all languages</h3>",
        elements.table(["language of<br>the queries", *(name for name, _, _ in shown)], rows),
        "<h3>Mean rank of the answers</h3>",
        "<p class='note'>Rows: language of the queries. Columns: language of the answers. Without "
        "bias a row has one colour.</p>",
        _rank_map(report),
    ]
    if b.mix is not None:
        parts += [f"<h3>Languages of the first {b.mix_at} documents</h3>", _mix(report, b.mix)]
    if b.outranks is not None:
        parts += [_outranks(report, b.outranks)]
    return parts


def _of(figure: ByLanguage, i: int, form: Callable[[float | None], str]) -> str:
    return form(float(figure.values[i])) if figure.counts[i] else "–"


def _rank_map(report: Report) -> str:
    ranks = report.bias.mean_rank
    known = ranks[~np.isnan(ranks)]
    low, high = (math.log(known.min()), math.log(known.max())) if len(known) else (0.0, 1.0)
    return _language_map(
        report.languages,
        ranks,
        "query in {row}, answer in {column}",
        ",.0f",
        lambda value: (math.log(value) - low) / ((high - low) or 1.0),
    )


def _language_map(
    languages: Sequence[str],
    values: NDArray[np.float64],
    title: str,
    form: str,
    shade: Callable[[float], float],
) -> str:
    """A heat map of languages by languages; ``shade`` gives the colour, 0 to 1, of a value."""
    place = {language: i for i, language in enumerate(languages)}

    def cell(row: str, column: str | None) -> str:
        value = float(values[place[row], place[column or row]])
        known = not math.isnan(value)
        return elements.cell(
            value,
            format(value, form) if known else "–",
            title.format(row=row, column=column),
            shade(value) if known else 0.0,
            row == column,
            hue=18,
        )

    return elements.heat(languages, list(languages), cell)


def _mix(report: Report, mix: NDArray[np.float64]) -> str:
    rows = []
    for name, share in zip(report.languages, mix, strict=True):
        if not np.isnan(share).any():
            rows.append([html.escape(name), _bar(report.languages, share)])
    rows.append(["<i>pool</i>", _bar(report.languages, report.bias.pool_share)])
    return elements.table(["language of<br>the queries", "share of each language"], rows)


def _bar(languages: Sequence[str], shares: NDArray[np.float64]) -> str:
    spans = []
    for i, (language, share) in enumerate(zip(languages, shares.tolist(), strict=True)):
        hue = 360 * i / len(languages)
        label = html.escape(language) if share > 0.05 else ""
        spans.append(
            f"<span style='width:{100 * share:.2f}%;background:hsl({hue:.0f} 55% 72%)' "
            f"title='{html.escape(language)} {share:.1%}'>{label}</span>"
        )
    return f"<div class='mix'>{''.join(spans)}</div>"


def _outranks(report: Report, outranks: NDArray[np.float64]) -> str:
    """Documents ranked before the answers, mean over query languages (the JSON has each)."""
    with np.errstate(invalid="ignore"):
        present = ~np.isnan(outranks)
        counts = present.sum(0)
        sums = np.where(present, outranks, 0.0).sum(0)
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    largest = float(np.nanmax(means)) or 1.0
    title = "documents in {column} before the answer in {row}"
    shown = _language_map(report.languages, means, title, ",.1f", lambda value: value / largest)
    return (
        "<h3>Documents ranked before the answers</h3><p class='note'>Mean number of documents of "
        "each language (column) before the answer in a language (row), mean over the languages of "
        f"the queries.</p>{shown}"
    )


def _all_settings(report: Report, metrics: Sequence[str]) -> str:
    rows = [
        [
            html.escape(f"{s.setting} {s.query_language} → {s.document_language or 'all'}"),
            f"{s.n:,}",
            *(
                f"{s.metrics[m]:.3f} <span class='note'>/ {s.ceilings[m]:.3f}</span>"
                for m in metrics
            ),
        ]
        for s in report.settings
    ]
    table = elements.table(["setting", "n", *map(html.escape, metrics)], rows)
    return f"<details><summary>All {len(rows)} settings, score / ceiling</summary>{table}</details>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
