"""What does taking the language directions out of an encoder gain, and what does it cost?

One command judges the directions of :mod:`hybridret.encoder.debias` on data they were not estimated
from, beside other methods, and writes the tables and the picture of ``docs/debias.md``::

    python -m hybridret.studies.debias --encoder e5=FOLDER --ntrex NTREX --xquad-r XQUAD-R \\
        --mlqa-r MLQA-R --native PAIRS.jsonl --output RUNS

Directions come from the built-in facts, and from sentences of one half of NTREX's articles; the
other half is a pool of 29 languages. ``--native`` are questions and passages that nobody
translated, such as ARCD, CMRC 2018, DRCD, iapp, JaQuAD and FaQuAD together. ``--rule`` instead
compares the choices that are fixed in :mod:`hybridret.encoder.debias`, on parallel sentences alone.
Everything is embedded once; after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._files import atomic_file, write_json, write_text
from hybridret._types import Floats, Vectors
from hybridret.data import load_dataset
from hybridret.data.table import Dataset, Document, Query, languages_of_groups
from hybridret.debiasing import (
    DebiasResult,
    choose_strength,
    part_to_measure_on,
    refusal,
    texts_to_estimate_on,
)
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.debias import LanguageDirections, language_components, language_directions
from hybridret.encoder.loading import load_encoder
from hybridret.evaluation.judging import (
    EMBEDDING_FILES,
    embed,
    evaluate_embeddings,
    load_embeddings,
)
from hybridret.evaluation.report import KINDS, Report
from hybridret.evaluation.significance import compare
from hybridret.evaluation.trade_off import METRICS, STRENGTHS, TradeOff, trade_off

SENTENCES = 160
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 1000  # of the bootstrap
Change = Callable[["Embedded"], tuple[Vectors, Vectors]]


@dataclass
class Embedded:
    """A data set and an encoder's vectors of it."""

    dataset: Dataset
    queries: Vectors
    documents: Vectors

    def only(self, languages: Sequence[str]) -> Embedded:
        kept = self.dataset.only_languages(languages)
        queries = [q.language in languages for q in self.dataset.queries]
        documents = [language in languages for language in self.dataset.document_languages]
        return Embedded(kept, self.queries[queries], self.documents[documents])

    def first(self, groups: int) -> Embedded:
        """The first translation groups of documents."""
        names = set(list(languages_of_groups(self.dataset.documents))[:groups])
        return self._where([d.group_id in names for d in self.dataset.documents])

    def untranslated(self) -> Embedded:
        """Each translation group in one language, which take turns."""
        languages = self.dataset.languages
        turn = {
            name: languages[n % len(languages)]
            for n, name in enumerate(languages_of_groups(self.dataset.documents))
        }
        return self._where([d.language == turn[d.group_id] for d in self.dataset.documents])

    def _where(self, keep: list[bool]) -> Embedded:
        documents = [d for d, kept in zip(self.dataset.documents, keep, strict=True) if kept]
        return Embedded(Dataset("", [], documents, {}), self.queries[:0], self.documents[keep])

    def directions(self, method: Any = "parallel") -> LanguageDirections:
        groups = [d.group_id for d in self.dataset.documents]
        return language_directions(
            self.documents, self.dataset.document_languages, groups=groups, method=method
        )


def data_sets(o: argparse.Namespace) -> dict[str, Dataset]:
    facts = texts_to_estimate_on(load_dataset("facts-train"))
    sentences, articles = halves_of_ntrex(load_dataset(o.ntrex))
    return {
        "facts": Dataset("facts", [], facts, {}),
        "ntrex-sentences": sentences,
        "ntrex-articles": articles,
        "xquad-r": load_dataset(o.xquad_r),
        "mlqa-r": load_dataset(o.mlqa_r),
        "native": load_dataset(o.native),
    }


def halves_of_ntrex(ntrex: Dataset) -> tuple[Dataset, Dataset]:
    """Sentences of one half of the articles; of each of the others, one sentence and the rest.

    Its zh-CN is the zh of the other data sets.
    """
    ntrex = Dataset(
        ntrex.name,
        [replace(q, language=q.language.partition("-")[0]) for q in ntrex.queries],
        [replace(d, language=d.language.partition("-")[0]) for d in ntrex.documents],
        ntrex.qrels,
    )
    article = {d.document_id: d.group_id for d in ntrex.documents}
    article = {q: article[next(iter(found))] for q, found in ntrex.qrels.items()}
    names = sorted(set(article.values()), key=_hash)
    held = set(names[: len(names) // 2])
    lines: dict[str, list[Document]] = {}
    heads: dict[tuple[str, str], Query] = {}
    for q in ntrex.queries:
        if article[q.query_id] in held:
            heads.setdefault((article[q.query_id], q.language), q)
        else:
            sentence = Document(q.query_id, q.text, q.language, q.group_id)
            lines.setdefault(q.group_id, []).append(sentence)
    chosen = sorted(lines, key=_hash)[: 3 * SENTENCES]
    sentences = Dataset("ntrex-sentences", [], [d for name in chosen for d in lines[name]], {})
    queries = {q.query_id for q in heads.values()}
    qrels = {q: ntrex.qrels[q] for q in queries}
    answers = {d for judged in qrels.values() for d in judged}
    return sentences, Dataset(
        "ntrex-articles",
        [q for q in ntrex.queries if q.query_id in queries],
        [d for d in ntrex.documents if d.document_id in answers],
        qrels,
    )


def embedded(encoder: TextEncoder, dataset: Dataset, folder: Path) -> Embedded:
    files = [folder / name for name in EMBEDDING_FILES]
    if all(file.is_file() for file in files):
        return Embedded(dataset, *(load_embeddings(file) for file in files))
    print(f"embedding {dataset.name}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    return Embedded(dataset, *embed(encoder, dataset, folder=folder, progress=True))


class Study:
    """All tables of one encoder, as Markdown and as values."""

    def __init__(self, name: str, sets: dict[str, Embedded]) -> None:
        self.sets = sets
        self.pages = [f"## {name}"]
        self.values: dict[str, Any] = {}
        for title, tables in (
            ("Retrieval before and after", self.retrieval),
            ("The trade-off", self.trade_offs),
            ("Mixed pools", self.mixed_pools),
            ("A language left out of the estimate", self.left_out),
            ("Languages outside of the estimate", self.outside),
            ("Native questions and passages", self.native),
        ):
            print(f"{name}: {title}", flush=True)
            self.pages.append(f"### {title}")
            tables()

    def say(self, text: str) -> None:
        self.pages.append(text)
        print(text, flush=True)

    def table(self, key: str, header: list[str], rows: list[list[str]]) -> None:
        self.values[key] = [dict(zip(header, row, strict=True)) for row in rows]
        lines = [header, ["---"] * len(header), *rows]
        self.say("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def facts(self, languages: Sequence[str]) -> LanguageDirections:
        """From the facts, in the languages they share with a pool."""
        facts = self.sets["facts"]
        return facts.only([x for x in languages if x in facts.dataset.languages]).directions()

    def sentences(self, languages: Sequence[str]) -> Embedded:
        found = self.sets["ntrex-sentences"]
        return found.only([x for x in languages if x in found.dataset.languages])

    # --------------------------------------------------------------- the settings of the paper

    def retrieval(self) -> None:
        for name in ("xquad-r", "mlqa-r"):
            judged = self.sets[name]
            before = report(judged, None)
            rows = [_row("as it comes", before, before)]
            for arm, change in self.arms(judged.dataset.languages):
                rows.append(_row(arm, report(judged, change), before))
            self.say(
                f"{name}: AP, rank distance, and the difference from the encoder as it comes, with "
                f"95 % intervals over questions."
            )
            self.table(name, ["", *KINDS, "rank distance", "mono, change", "multi, change"], rows)

    def arms(self, languages: Sequence[str]) -> list[tuple[str, Change]]:
        sentences = self.sentences(languages)
        some = sentences.first(SENTENCES)
        alone = sentences.untranslated()
        each = len(alone.dataset.documents) // len(languages)
        spoken = some.dataset.document_languages
        lir = language_components(some.documents, spoken)
        means = {x: some.only([x]).documents.mean(0) for x in languages}

        def without_components(e: Embedded) -> tuple[Vectors, Vectors]:
            asked = [q.language for q in e.dataset.queries]
            found = e.dataset.document_languages
            return lir.remove(e.queries, asked), lir.remove(e.documents, found)

        def without_means(e: Embedded) -> tuple[Vectors, Vectors]:
            asked = np.stack([means[q.language] for q in e.dataset.queries])
            found = np.stack([means[x] for x in e.dataset.document_languages])
            return e.queries - asked, e.documents - found

        facts = self.facts(languages)
        return [
            ("built-in facts", removal(facts)),
            ("built-in facts, strength .5", removal(facts, 0.5)),
            (f"NTREX, {SENTENCES} sentences", removal(some.directions())),
            (f"NTREX, {SENTENCES} sentences, strength .5", removal(some.directions(), 0.5)),
            ("NTREX, 40 sentences", removal(sentences.first(40).directions())),
            ("NTREX, 10 sentences", removal(sentences.first(10).directions())),
            (
                f"NTREX, {each} a language, no translations: means",
                removal(alone.directions("means")),
            ),
            ("the same: LSAR", removal(alone.directions("lsar"))),
            (f"LIR, {SENTENCES} sentences (needs the tag)", without_components),
            (f"mean subtracted, {SENTENCES} sentences (needs the tag)", without_means),
        ]

    # --------------------------------------------------------------- own against other answers

    def trade_offs(self) -> None:
        for name in ("xquad-r", "mlqa-r"):
            judged = self.sets[name]
            directions = self.sentences(judged.dataset.languages).first(SENTENCES).directions()
            scores = costs(judged, directions)
            rows = []
            for at, strength in enumerate(STRENGTHS):
                multi = report(judged, removal(directions, strength)).summary["multi"]["AP"]
                cells = [
                    f"{s.mean(m)[at]:.3f}" for s in (scores.own, scores.other) for m in METRICS
                ]
                pays = f"{scores.break_even('RR', at):.0%}" if at else ""
                rows.append([f"{strength:g}", *cells, f"{multi:.3f}", pays])
            self.say(
                f"{name}, directions of {SENTENCES} NTREX sentences, each answer in one random "
                f"language ({len(scores.own):,} own, {len(scores.other):,} other queries in three "
                f"draws); it pays by RR up to the share of own-language queries in the last column."
            )
            sides = [f"{side} {m}" for side in ("own", "other") for m in METRICS]
            self.table(f"{name} trade-off", ["strength", *sides, "AP multi", "pays to"], rows)
            self.say(f"{name} by language of the query, strength .5 and 1, largest loss first.")
            self.table(
                f"{name} trade-off by language",
                [
                    "",
                    *(
                        f"{x}{s}"
                        for s in (".5", "1")
                        for x in ("own RR, change at ", "other RR, change at ", "pays to, at ")
                    ),
                ],
                by_language(scores),
            )

    def mixed_pools(self) -> None:
        judged = self.sets["xquad-r"]
        languages = judged.dataset.languages
        directions = self.sentences(languages).first(SENTENCES).directions()
        english = {x: 0.9 if x == "en" else 0.1 / (len(languages) - 1) for x in languages}
        for pool, weights in (("even", None), ("90 % English", english)):
            scores = costs(judged, directions, weights)
            for metric in METRICS:
                rows = []
                for share in SHARES:
                    row = [f"{share:.0%}", f"{_mixed(scores, metric, share)[0]:.3f}"]
                    for at in (STRENGTHS.index(0.5), STRENGTHS.index(1.0)):
                        low, high = interval(scores, metric, share, at)
                        value = _mixed(scores, metric, share)[at]
                        change = value - _mixed(scores, metric, share)[0]
                        row.append(f"{value:.3f} ({change:+.3f} [{low:+.3f}, {high:+.3f}])")
                    rows.append(row)
                self.say(
                    f"xquad-r, {pool} pool: mean {metric} by the share of queries with their only "
                    f"answer in their own language."
                )
                header = ["own", "as it comes", "strength .5", "strength 1"]
                self.table(f"mixed {pool} {metric}", header, rows)

    # --------------------------------------------------------------- languages without texts

    def left_out(self) -> None:
        judged = self.sets["xquad-r"]
        languages = judged.dataset.languages
        some = self.sentences(languages).first(SENTENCES)
        before, full = (report(judged, x) for x in (None, removal(some.directions())))
        found = []
        for left in languages:
            rest = some.only([x for x in languages if x != left]).directions()
            after = report(judged, removal(rest))
            found.append((left, [_of_language(r, left) for r in (before, after, full)]))
        found.sort(key=lambda row: _order(row[1][0], row[1][1:2]))
        rows = []
        for left, (was, without, all_of_them) in found:
            cells = [f"{x[kind]:.3f}" for kind in KINDS for x in (was, without, all_of_them)]
            rows.append([left, *cells, _worse(was, without)])
        self.say(
            "xquad-r, queries in the language: AP as it comes / left out of the estimate / in it; "
            "those first that end worse, then the smallest gain."
        )
        header = [
            "",
            *(f"{k}, {x}" for k in KINDS for x in ("as is", "left out", "in it")),
            "worse",
        ]
        self.table("left out", header, rows)

    def outside(self) -> None:
        articles = self.sets["ntrex-articles"]
        known = self.sets["facts"].dataset.languages
        pool = articles.only([x for x in articles.dataset.languages if x not in known])
        languages = pool.dataset.languages
        arms: list[tuple[str, Change | None]] = [
            ("as is", None),
            ("facts", removal(self.facts(known))),
            ("NTREX, others", removal(self.sentences(known).first(SENTENCES).directions())),
            ("NTREX, own", removal(self.sentences(languages).first(SENTENCES).directions())),
        ]
        reports = [report(pool, change) for _, change in arms]
        found = [(x, [_of_language(r, x) for r in reports]) for x in languages]
        found.sort(key=lambda row: _order(row[1][0], row[1][1:]))
        rows = [
            [
                x,
                *(f"{scores[kind]:.3f}" for kind in ("mono", "multi") for scores in by_arm),
                " ".join(_worse(by_arm[0], scores) for scores in by_arm[1:]).strip(),
            ]
            for x, by_arm in found
        ]
        totals = [f"{r.summary[kind]['AP']:.3f}" for kind in ("mono", "multi") for r in reports]
        rows.append(["mean", *totals, ""])
        distances = ", ".join(
            f"{name} {r.summary['rank_distance']:.0f}"
            for (name, _), r in zip(arms, reports, strict=True)
        )
        self.say(
            f"Sentence to the rest of its article, NTREX in {len(languages)} languages that are "
            f"not among the {len(known)} of the facts: AP by language of the query, those first "
            f"that end worse anywhere, then the smallest gain. Rank distance: {distances}."
        )
        names = [name for name, _ in arms]
        header = ["", *(f"{k}, {x}" for k in ("mono", "multi") for x in names), "worse"]
        self.table("outside", header, rows)

    def native(self) -> None:
        native = self.sets["native"]
        languages = native.dataset.languages
        part = part_to_measure_on(native.dataset, 0.5)
        assert part is not None
        held = {d.document_id for d in part.documents}
        own = native._where([d.document_id not in held for d in native.dataset.documents])
        asked = {q.query_id for q in part.queries}
        measured = Embedded(
            part,
            native.queries[[q.query_id in asked for q in native.dataset.queries]],
            native.documents[[d.document_id in held for d in native.dataset.documents]],
        )
        for name, directions, judged in (
            ("the facts", self.facts(languages), native),
            ("NTREX", self.sentences(languages).first(SENTENCES).directions(), native),
            ("the other half of the passages, means", own.directions("means"), measured),
        ):
            scores = costs(judged, directions)
            chosen = choose_strength(scores)
            reason = refusal(DebiasResult(directions, chosen, scores, []))
            self.say(
                f"{len(judged.dataset.queries):,} questions, {len(judged.dataset.documents):,} "
                f"passages; directions from {name} ({' '.join(directions.languages)}): recall@10 "
                f"of own-language answers by strength. "
                + (f"Refused: {reason}." if reason else f"Accepted at strength {chosen:g}.")
            )
            rows = [
                [x, *(f"{value:.3f}" for value in scores.own.mean("recall@10", x))]
                for x in sorted(languages, key=lambda x: -scores.lost("recall@10", -1, x))
            ]
            self.table(f"native {name}", ["", *(f"{s:g}" for s in STRENGTHS)], rows)


def removal(directions: LanguageDirections, strength: float = 1.0) -> Change:
    return lambda e: (
        directions.remove(e.queries, strength),
        directions.remove(e.documents, strength),
    )


def report(judged: Embedded, change: Change | None) -> Report:
    vectors = (judged.queries, judged.documents) if change is None else change(judged)
    return evaluate_embeddings(*vectors, judged.dataset, metrics=["AP"])


def costs(
    judged: Embedded, directions: LanguageDirections, weights: dict[str, float] | None = None
) -> TradeOff:
    return trade_off(judged.queries, judged.documents, judged.dataset, directions, weights=weights)


def by_language(scores: TradeOff) -> list[list[str]]:
    rows = []
    for x in sorted(scores.languages, key=lambda x: -scores.lost("RR", -1, x)):
        row = [x]
        for at in (STRENGTHS.index(0.5), STRENGTHS.index(1.0)):
            row += [
                f"{-scores.lost('RR', at, x):+.3f}",
                f"{scores.gained('RR', at, x):+.3f}",
                f"{scores.break_even('RR', at, x):.0%}",
            ]
        rows.append(row)
    return rows


def _mixed(scores: TradeOff, metric: str, share: float) -> Floats:
    return share * scores.own.mean(metric) + (1 - share) * scores.other.mean(metric)


def interval(scores: TradeOff, metric: str, share: float, at: int) -> tuple[float, float]:
    """95 % interval of the change from strength 0, questions with all translations resampled."""
    count = 1 + max(side.cluster.max() for side in (scores.own, scores.other))
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    means = []
    for side in (scores.own, scores.other):
        change = side.values[metric][:, at] - side.values[metric][:, 0]
        sums = np.bincount(side.cluster, change, minlength=count)
        means.append((times @ sums) / (times @ np.bincount(side.cluster, minlength=count)))
    low, high = np.quantile(share * means[0] + (1 - share) * means[1], [0.025, 0.975])
    return float(low), float(high)


def _row(name: str, after: Report, before: Report) -> list[str]:
    row = [name, *(f"{after.summary[kind]['AP']:.4f}" for kind in KINDS)]
    row.append(f"{after.summary['rank_distance']:,.0f}")
    if after is before:
        return [*row, "", ""]
    found = {d.setting: d for d in compare(after, before, "AP", draws=DRAWS).means}
    for kind in ("mono", "multi"):
        d = found[kind]
        row.append(f"{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]")
    return row


def _of_language(scores: Report, language: str) -> dict[str, float]:
    return {
        kind: float(
            np.mean(
                [
                    s.metrics["AP"]
                    for s in scores.settings
                    if s.setting == kind and s.query_language == language
                ]
            )
        )
        for kind in KINDS
    }


def _order(before: dict[str, float], after: list[dict[str, float]]) -> tuple[bool, float]:
    """Languages that end worse first, then by the smallest gain."""
    worse = any(_worse(before, scores) for scores in after)
    return not worse, min(scores["multi"] - before["multi"] for scores in after)


def _worse(before: dict[str, float], after: dict[str, float]) -> str:
    """The settings that end worse than untreated, by more than .005."""
    return " ".join(kind for kind in KINDS if after[kind] < before[kind] - 0.005)


def rule(sentences: Embedded, name: str) -> list[str]:
    """AP of a sentence's translations among all sentences, by how directions are estimated.

    One half of the sentences is estimated from, the other searched. Each sentence is left out of
    its own pool.
    """
    groups = list(languages_of_groups(sentences.dataset.documents))
    held = set(groups[1::2])
    rest = sentences._where([d.group_id not in held for d in sentences.dataset.documents])
    judged = sentences._where([d.group_id in held for d in sentences.dataset.documents])
    most = len(sentences.dataset.languages) - 1
    spoken, group = (
        judged.dataset.document_languages,
        [d.group_id for d in judged.dataset.documents],
    )
    lines = []

    def line(what: str, vectors: Vectors) -> None:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        ap, distance = _translations_found(unit, np.array(group), np.array(spoken))
        lines.append(f"| {name}, {most + 1} languages | {what} | {ap:.4f} | {distance:.1f} |")
        print(lines[-1], flush=True)

    line("as it comes", judged.documents)
    for count in (10, 40, len(groups) // 2):
        some = rest.first(count)
        languages, of = (
            some.dataset.document_languages,
            [d.group_id for d in some.dataset.documents],
        )
        for number in sorted({1, 2, 3, 5, 8, 10, 15, 20, 25, most}):
            if number <= most:
                found = language_directions(some.documents, languages, groups=of, directions=number)
                line(f"{count} sentences, {number} directions", found.remove(judged.documents))
    return lines


def _translations_found(unit: Vectors, group: Any, language: Any) -> tuple[float, float]:
    ap, distance = [], []
    for row in range(len(unit)):
        score = unit @ unit[row]
        order = np.argsort(-score, kind="stable")
        ranks = np.flatnonzero(group[order[order != row]] == group[row]) + 1
        ap.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
        distance.append(float(ranks[-1] - ranks[0]))
    return float(np.mean(ap)), float(np.mean(distance))


def picture(sentences: Embedded, directions: LanguageDirections, file: Path) -> None:
    """Sentences and language means before and after, along the two widest axes of each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "hybridret"
    from matplotlib import pyplot

    some = sentences.first(50)
    language = np.array(some.dataset.document_languages)
    names = np.unique(language)
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.2))
    colors = pyplot.get_cmap("tab20")
    for panel, title, strength in zip(panels, ("Before", "After"), (0.0, 1.0), strict=True):
        x = directions.remove(some.documents, strength).astype(np.float64)
        x -= x.mean(0)
        flat = x @ np.linalg.svd(x, full_matrices=False)[2][:2].T
        for n, name in enumerate(names):
            own = flat[language == name]
            panel.scatter(*own.T, s=7, alpha=0.5, linewidths=0, color=colors(n))
            panel.scatter(*own.mean(0), s=50, color=colors(n), edgecolors="black", zorder=3)
            if not strength:
                panel.annotate(name, own.mean(0), (6, 3), textcoords="offset points", zorder=4)
        if strength:
            label = f"the means of all {len(names)} languages"
            panel.annotate(
                label, (0, 0), (0, 14), textcoords="offset points", ha="center", zorder=4
            )
        panel.set_title(f"{title} taking the language directions out")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_aspect("equal", "datalim")
    figure.tight_layout()
    with atomic_file(file) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _hash(name: str) -> bytes:
    return sha256(name.encode()).digest()


def main() -> None:
    assert __doc__ is not None
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--encoder", required=True, nargs="+", metavar="NAME=FOLDER")
    p.add_argument("--ntrex", type=Path)
    p.add_argument("--xquad-r", type=Path)
    p.add_argument("--mlqa-r", type=Path)
    p.add_argument("--native", type=Path, help="JSON Lines of query/positive pairs")
    p.add_argument("--rule", type=Path, nargs="+", help="JSON Lines of texts with groups")
    p.add_argument("--picture", type=Path, help="SVG file to write, of the first encoder")
    p.add_argument("--output", type=Path, required=True)
    o = p.parse_args()
    pages, values = [], {}
    for number, entry in enumerate(o.encoder):
        name, _, source = entry.partition("=")
        encoder = load_encoder(source)
        folder = o.output / name
        if o.rule:
            for path in o.rule:
                dataset = load_dataset(path)
                chosen = texts_to_estimate_on(dataset)
                part = Dataset(path.stem, [], chosen, {})
                found = embedded(encoder, part, folder / f"rule-{path.stem}")
                pages += [*rule(found, path.stem)]
            continue
        sets = {n: embedded(encoder, d, folder / n) for n, d in data_sets(o).items()}
        study = Study(name, sets)
        pages += study.pages
        values[name] = study.values
        if o.picture and number == 0:
            some = study.sentences(sets["facts"].dataset.languages)
            picture(some, some.directions(), o.picture)
    if o.rule:
        head = ["| sentences | directions | AP | rank distance |", "| --- | --- | --- | --- |"]
        write_text(o.output / "rule.md", "\n".join([*head, *pages]) + "\n")
    else:
        write_text(o.output / "report.md", "\n\n".join(pages) + "\n")
        write_json(o.output / "results.json", json.loads(json.dumps(values)))


if __name__ == "__main__":
    main()
