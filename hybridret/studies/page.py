"""The results of a study as one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybridret._files import write_text
from hybridret.evaluation.elements import difference_map, document, table
from hybridret.studies.claims import LESS_IS_BETTER, Answer, Comparison, System, margin
from hybridret.studies.pictures import Line, curve, dots, signed, value
from hybridret.studies.protocol import related
from hybridret.studies.results import (
    MEASURES,
    PLAIN,
    SWITCHED,
    UNTRAINED,
    WITHOUT,
    Results,
)
from hybridret.studies.scores import PREFERENCE, RANK_DISTANCE

_INK = {
    "supported": "#2a7",
    "not supported": "#c43",
    "underpowered": "#a80",
    "not measured": "#888",
}


def write_page(path: Path, results: Results) -> None:
    """Claims and verdicts first; then every arm, the data, the budget and the command."""
    study, about = results.study, results.about
    parts = [
        f"<h1>{html.escape(study.title)}</h1>",
        f"<p>{_opening(results)}</p>",
        "<h2>Claims</h2>",
        _claims(results.answers),
        f"<p class='note'>{_reading(results)}</p>",
    ]
    for dataset in results.datasets:
        parts += _dataset(results, dataset)
    parts += ["<h2>Every comparison</h2>", *map(_comparisons, results.answers)]
    parts += ["<h2>Data, budget and settings</h2>", *_background(results)]
    parts.append(f"<p>Command: <code>{html.escape(about['command'])}</code></p>")
    write_text(path, document(study.title, parts))


def _opening(results: Results) -> str:
    about = results.about
    seeds, tuned = len(about["seeds"]), len(about["learning_rates"]) * len(about["temperatures"])
    made = {
        "static": f"A static encoder distilled from {about['model']}",
        "real": f"{about['model']}, a pretrained encoder (e5 has seen questions and passages of "
        "SQuAD in English)",
        "recipe": f"{about['model']} by the paper's recipe",
    }[about["start"]]
    return html.escape(
        f"{made}, trained in {about['precision']}. Every arm: at most {about['steps']:,} steps of "
        f"{about['batch_size']} pairs; arms of the same data draw the same rows in the same order; "
        f"{tuned} trials of settings "
        f"on held-out groups, {seeds} seed{'s' * (seeds > 1)}."
        if about["start"] != "recipe"
        else f"{made}, trained in {about['precision']}. Every arm: up to {about['steps']:,} steps "
        f"of {about['batch_size']} pairs, {seeds} seed{'s' * (seeds > 1)}; arms draw what their "
        f"kind of batches can hold."
    )


def _reading(results: Results) -> str:
    notes = [
        "A difference is the first less the second; a smaller rank distance is a better one. "
        "Intervals are 95 %: questions are drawn with all their translations, and what other seeds "
        "would give is drawn from Student's t of these. A better claim is supported if every "
        "difference is surely above 0, and not supported if one is surely below a margin; a level "
        "claim is supported if every difference is surely above minus the margin, and not "
        "supported if one "
        f"is surely below it (AP {margin('AP multi'):g}, rank distance {margin(RANK_DISTANCE):g}; "
        "sure: one-sided 2.5 %, after Holm's correction over the claim). Otherwise the data "
        "cannot tell: underpowered.",
        *map(html.escape, results.study.notes),
    ]
    if len(results.about["seeds"]) < 2:
        notes.append("One seed: intervals are of the questions alone, and nothing is claimed.")
    return " ".join(notes)


def _claims(answers: Sequence[Answer]) -> str:
    parts, before = [], None
    for found in answers:
        if found.claim.question != before:
            before = found.claim.question
            parts.append(f"<h3>{html.escape(before)}</h3>")
        worst = min(found.comparisons, key=_severity, default=None)
        shown = _short(worst) if worst else "No data set to judge on has these measures."
        parts.append(
            f"<p>{html.escape(found.claim.text)} <b style='color:{_INK[found.verdict]}'>"
            f"{found.verdict}</b><br><span class='note'>{shown}</span></p>"
        )
    return "".join(parts)


def _severity(c: Comparison) -> tuple[int, float]:
    order = ("not supported", "underpowered", "supported")
    return order.index(c.verdict), c.difference / margin(c.measure)


def _short(c: Comparison) -> str:
    """The difference of a comparison, as the measure itself has it."""
    ends = sorted(x * (-1 if c.measure in LESS_IS_BETTER else 1) for x in (c.low, c.high))
    return (
        f"{html.escape(c.dataset)}, {html.escape(c.measure)}: {_name(c.system)} minus "
        f"{_name(c.reference)} "
        f"{signed(c.measure, float(np.mean(c.values) - np.mean(c.reference_values)))} "
        f"[{signed(c.measure, ends[0])}, {signed(c.measure, ends[1])}]"
    )


def _name(system: System) -> str:
    name, variant = system
    return html.escape(name if variant == PLAIN else f"{name}, {variant}")


# ------------------------------------------------------------------------------- of a data set


def _dataset(results: Results, dataset: str) -> list[str]:
    parts = [f"<h2>{html.escape(dataset)}</h2>", _arms(results, dataset)]
    n = _counts(results, dataset)
    parts.append(f"<p class='note'>Mean over seeds ± their standard deviation. {n}</p>")
    for measure in MEASURES:
        if _shown(results, dataset, measure):
            rows = [_line(results, name, dataset, measure) for name in results.systems]
            parts += [f"<h3>{html.escape(measure)}</h3>", dots(rows, measure)]
    if results.study.curve:
        parts += ["<h3>Share of monolingual batches (alpha)</h3>", _curves(results, dataset)]
    parts += _variants(results, dataset)
    parts += _seen(results, dataset)
    for first, second in results.study.maps:
        parts += [
            f"<h3>AP of {html.escape(first)} minus {html.escape(second)}, by languages</h3>",
            "<p class='note'>Rows: language of the queries. Columns: language of the documents; "
            "the last column is the pool of all languages. Point at a cell for n and the ceiling."
            "</p>",
            _map(results, dataset, first, second),
        ]
    return parts


def _line(results: Results, name: str, dataset: str, measure: str) -> Line:
    system = name, PLAIN
    return Line(
        name,
        results.values(system, dataset, measure),
        results.draws.interval(system, dataset, measure),
    )


def _curves(results: Results, dataset: str) -> str:
    """The first measures by alpha."""
    pictures = []
    for measure in MEASURES[:4]:
        if _shown(results, dataset, measure):
            points = {
                alpha: _line(results, name, dataset, measure)
                for alpha, name in results.study.curve.items()
            }
            pictures.append(curve(points, measure))
    return f"<div class='pictures'>{''.join(pictures)}</div>"


def _counts(results: Results, dataset: str) -> str:
    first = results.scores[UNTRAINED, PLAIN][dataset][0]
    found = [
        f"{m} {first.n(m):,}"
        + (f" (ceiling {top:.3f})" if (top := first.ceiling(m)) is not None else "")
        for m in MEASURES
        if m in first.measures
    ]
    return f"n: {'; '.join(found)}."


def _shown(results: Results, dataset: str, measure: str) -> bool:
    return measure in results.scores[UNTRAINED, PLAIN][dataset][0].measures


def _arms(results: Results, dataset: str) -> str:
    tables = results.study.reported.values()
    reported = [m for arms in tables for arm in arms.values() for m in arm.get(dataset, {})]
    known = dict.fromkeys((*MEASURES, *reported))
    measures = [m for m in known if _shown(results, dataset, m)]
    labels = [
        label
        for label, arms in results.study.reported.items()
        if any(dataset in cells for cells in arms.values())
    ]
    head = ["arm", *map(html.escape, measures)]
    for label in labels:
        head += [f"{html.escape(label)}<br>{html.escape(m)}" for m in measures if m != PREFERENCE]
        if _is_of(label, results.about["model"]):
            head += [f"ours − paper<br>{html.escape(m)}" for m in measures if m != PREFERENCE]
    rows = []
    for name in results.systems:
        row = [html.escape(name)]
        row += [_spread(results.values((name, PLAIN), dataset, m), m) for m in measures]
        for label in labels:
            cells = results.study.reported[label].get(name, {}).get(dataset, {})
            wanted = [m for m in measures if m != PREFERENCE]
            row += [value(m, cells.get(m)) for m in wanted]
            if _is_of(label, results.about["model"]):
                row += [_gap(results, name, dataset, m, cells.get(m)) for m in wanted]
        rows.append(row)
    return table(head, rows)


def _is_of(label: str, model: str) -> bool:
    """Whether cells are of the encoder that was trained."""
    plain = model.lower().replace("-", "")
    return ("XLM-R" in label and ("xlmr" in plain or "xlmroberta" in plain)) or (
        "LaBSE" in label and "labse" in plain
    )


def _gap(results: Results, name: str, dataset: str, measure: str, cell: float | None) -> str:
    values = results.values((name, PLAIN), dataset, measure)
    if cell is None or not values:
        return ""
    return signed(measure, float(np.mean(values)) - cell)


def _variants(results: Results, dataset: str) -> list[str]:
    head = ["arm", "AP mono", "AP multi", RANK_DISTANCE]
    head += [f"{m}<br>{WITHOUT}" for m in ("AP mono", "AP multi", RANK_DISTANCE)]
    switched = any(results.scores.get((n, SWITCHED), {}).get(dataset) for n in results.systems)
    if switched:
        head.append(f"AP multi<br>{SWITCHED}")
    rows = []
    for name in results.systems:
        row = [html.escape(name)]
        for variant in (PLAIN, WITHOUT):
            for m in ("AP mono", "AP multi", RANK_DISTANCE):
                row.append(_spread(results.values((name, variant), dataset, m), m))
        if switched:
            row.append(_spread(results.values((name, SWITCHED), dataset, "AP multi"), "AP multi"))
        rows.append(row)
    return [
        "<h3>Without the language directions; with queries that change the language</h3>",
        "<p class='note'>The directions are estimated from held-out texts and taken out after the "
        "training. A code-switched query has the first half of its words in its language and the "
        "second in English.</p>",
        table(head, rows),
    ]


def _seen(results: Results, dataset: str) -> list[str]:
    """Languages that were trained on and others."""
    first = results.scores[UNTRAINED, PLAIN][dataset][0]
    spoken = sorted({asked for _, asked, _ in first.columns})
    seen = [x for x in spoken if any(related(x, y) for y in results.about["languages"])]
    unseen = [x for x in spoken if x not in seen]
    if not unseen or not seen:
        return []
    head = ["arm"]
    for which in (seen, unseen):
        head += [f"{m}<br>{' '.join(which)}" for m in ("AP mono", "AP multi")]
    rows = []
    for name in results.systems:
        row = [html.escape(name)]
        for which in (seen, unseen):
            for m in ("AP mono", "AP multi"):
                runs = results.scores[name, PLAIN][dataset]
                row.append(_spread([run.mean(m, which) for run in runs], m))
        rows.append(row)
    return [
        "<h3>Languages of the queries that were trained on, and others</h3>",
        table(head, rows),
    ]


def _map(results: Results, dataset: str, first: str, second: str) -> str:
    ours, theirs = (results.scores[name, PLAIN][dataset] for name in (first, second))
    languages = sorted({asked for _, asked, _ in ours[0].columns})
    means = [
        np.mean([run.matrix("AP", languages)[0] for run in runs], axis=0) for runs in (ours, theirs)
    ]
    _, counts = ours[0].matrix("AP", languages)
    ceilings = ours[0].ceiling_matrix("AP", languages)
    place = {language: n for n, language in enumerate(languages)}

    def note(query: str, told: str | None) -> str:
        at = place[query], len(languages) if told is None else place[told]
        return f"n = {counts[at]}, ceiling {ceilings[at]:.3f}" if counts[at] else "n = 0"

    return difference_map(languages, means[0] - means[1], note)


# --------------------------------------------------------------------------------- background


def _comparisons(found: Answer) -> str:
    rows = [
        [
            html.escape(c.dataset),
            html.escape(c.measure),
            _name(c.system),
            _name(c.reference),
            signed(c.measure, c.difference),
            f"{signed(c.measure, c.low)} to {signed(c.measure, c.high)}",
            f"{c.p:.4f}",
            f"{c.p_holm:.4f}",
            f"<span style='color:{_INK[c.verdict]}'>{c.verdict}</span>",
        ]
        for c in found.comparisons
    ]
    head = ["data set", "measure", "system", "against", "better by", "95 % interval", "p", "Holm"]
    return (
        f"<details><summary>{html.escape(found.claim.text)} <b style='color:"
        f"{_INK[found.verdict]}'>{found.verdict}</b></summary>"
        f"{table([*head, 'alone'], rows)}</details>"
    )


def _background(results: Results) -> list[str]:
    about, data = results.about, results.about["data"]
    rows = [
        [html.escape(name), "training", f"{found['rows']:,} rows", " ".join(found["languages"])]
        for name, found in data["training"].items()
    ]
    rows += [
        [
            html.escape(name),
            "held out",
            f"{f['queries']:,} queries, {f['documents']:,} documents",
            "",
        ]
        for name, f in data["held out"].items()
    ]
    rows += [
        [
            html.escape(name),
            "judged on",
            f"{f['queries']:,} queries, {f['documents']:,} documents",
            " ".join(f["languages"]),
        ]
        for name, f in data["judged on"].items()
    ]
    parts = [table(["data set", "for", "size", "languages"], rows), f"<p>{_leaks(results)}</p>"]
    arms = []
    for arm in results.study.arms:
        size, best = about["sizes"][arm.name], results.chosen[arm.name]
        tried = results.development[arm.name]
        arms.append(
            [
                html.escape(arm.name),
                f"{size['groups']:,}",
                f"{size['distinct']:,}",
                f"{size['seen']:,}",
                f"{size['pairs']:,}",
                f"{best.learning_rate:g}",
                f"{best.temperature:g}",
                f"{max(tried.values()):.4f}",
                "diverged" if min(tried.values()) == -math.inf else f"{min(tried.values()):.4f}",
            ]
        )
    head = [
        "arm",
        "groups",
        "distinct rows",
        "of them seen",
        "pairs in a run",
        "learning rate",
        "temperature",
    ]
    head += ["held-out score,<br>best trial", "worst trial"]
    cost = about["cost"]
    parts += [
        table(head, arms),
        "<p class='note'>A row is distinct by its group, the language of its query and that of "
        "its document. A run ends before a data set has no distinct monolingual row left. The "
        "held-out score is the mean AP of mono, cross and multi.</p>",
        f"<p>Cost: {cost['runs']} trainings of {cost['pairs']:,} pairs in all, "
        f"{cost['trials']} of them trials of settings; {cost['judged']:,} texts embedded to judge; "
        f"about {cost['flops']:.1e} operations of the encoder's layers; "
        f"{cost['seconds'] / 3600:.1f} hours. Versions: "
        f"{html.escape(', '.join(f'{n} {v}' for n, v in about['versions'].items()))}; commit "
        f"{about['commit'] or 'unknown'}.</p>",
    ]
    return parts


def _leaks(results: Results) -> str:
    found = results.about["leakage"]
    total = sum(f["equal"] + f["near"] for f in found.values())
    compared = sum(f["judged"] for f in found.values())
    text = (
        f"Leakage: {total:,} of {compared:,} judged texts are equal to a training text or a near "
        f"duplicate of one"
    )
    short = sum(f["short"] for f in found.values())
    text += f" ({short:,} are too short to be told as near duplicates)" if short else ""
    if not total:
        return f"{text}."
    by = ", ".join(
        f"{f['equal'] + f['near']} in {x}" for x, f in found.items() if f["equal"] + f["near"]
    )
    done = "taken out of" if results.about["leaks"] == "remove" else "left in"
    return f"{text} ({html.escape(by)}); their groups were {done} the training data."


def _spread(values: Sequence[float], measure: str) -> str:
    if not values:
        return "–"
    text = value(measure, float(np.mean(values)))
    if len(values) > 1:
        text += f" <span class='note'>± {value(measure, float(np.std(values, ddof=1)))}</span>"
    return text
