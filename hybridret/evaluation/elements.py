"""Elements of HTML pages: the page itself, tables, and maps of languages by languages."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { max-width: 44rem; } .note { opacity: .75; font-size: .9rem; margin: .3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
.heat td, .heat th { border: 1px solid var(--soft); padding: .2rem .45rem; font-size: .85rem; }
.heat th { font-weight: 600; }
.own { outline: 2px solid #000a; outline-offset: -2px; }
.mix { display: flex; height: 1.3rem; min-width: 22rem; }
.mix span { overflow: hidden; font-size: .7rem; line-height: 1.3rem; text-align: center; }
.mix span { color: #111; }
summary { cursor: pointer; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem 1rem; }
code { overflow-wrap: anywhere; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A page without external files."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(parts)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>"
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def heat(
    rows: Sequence[str], columns: Sequence[str | None], cell: Callable[[str, str | None], str]
) -> str:
    head = "".join(f"<th>{html.escape(name or 'all')}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{html.escape(row)}</th>{''.join(cell(row, column) for column in columns)}</tr>"
        for row in rows
    )
    return (
        f"<div class='scroll'><table class='heat'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def difference_map(
    languages: Sequence[str],
    values: NDArray[np.float64],
    note: Callable[[str, str | None], str],
) -> str:
    """Differences [L, L + 1] by languages of queries and documents, the last column of all; blue is
    above 0, red below.

    Args:
        values: NaN where there is none.
        note: for the title of a cell, such as its number of queries.
    """
    place = {language: n for n, language in enumerate(languages)}
    known = values[~np.isnan(values)]
    largest = float(np.abs(known).max()) if known.size else 0.0

    def one(query: str, document: str | None) -> str:
        value = float(values[place[query], -1 if document is None else place[document]])
        title = f"{query} → {document or 'all'}"
        if more := note(query, document):
            title += f", {more}"
        if math.isnan(value):
            return cell(value, "–", title, 0.0, query == document)
        shade, hue = abs(value) / (largest or 1.0), 212 if value >= 0 else 18
        return cell(value, f"{value:+.3f}", title, shade, query == document, hue=hue)

    return heat(languages, [*languages, None], one)


def cell(value: float, text: str, title: str, shade: float, own: bool, *, hue: int = 212) -> str:
    css, title = " class='own'" if own else "", html.escape(title)
    if math.isnan(value):
        return f"<td{css} title='{title}'>{text}</td>"
    # Background from pale to dark; white text on a dark background.
    shade = min(max(shade, 0.0), 1.0)
    background = f"hsl({hue} {40 + 45 * shade:.0f}% {96 - 58 * shade:.0f}%)"
    ink = "#fff" if shade > 0.7 else "#111"
    return f"<td{css} style='background:{background};color:{ink}' title='{title}'>{text}</td>"
