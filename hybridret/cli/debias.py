"""``hybridret debias``: take the language directions out of an encoder."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridret.cli.common import (
    TORCH_MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    model_options,
    torch_encoder,
)
from hybridret.errors import DataError

if TYPE_CHECKING:
    from hybridret._types import Floats
    from hybridret.debiasing import DebiasResult

SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)


def add(commands: Any) -> None:
    from hybridret.data import DATA_HELP
    from hybridret.encoder.debias import METHODS, MOST_DIRECTIONS

    p = add_command(
        commands,
        "debias",
        run,
        "take the language out of an encoder, without training",
        "Writes a sentence-transformers folder with one more linear layer, which brings vectors of "
        "different languages closer together. Documents in other languages are found more often, "
        "those in the query's own language a little less often; both are measured and printed. "
        "Where there is nothing to gain, it refuses.",
    )
    p.add_argument("model", help=TORCH_MODEL_HELP)
    p.add_argument("output", type=Path, help="folder to write")
    p.add_argument(
        "--texts",
        default="facts-train",
        metavar="DATA",
        help="texts in the languages of your documents, not those you evaluate on: " + DATA_HELP,
    )
    p.add_argument(
        "--measure-on",
        metavar="DATA",
        help="queries and documents like yours, to measure gain and loss on; default: documents of "
        "the texts that are kept apart",
    )
    p.add_argument(
        "--languages",
        nargs="+",
        metavar="LANGUAGE",
        help="of your documents; default: of the texts",
    )
    p.add_argument("--method", choices=METHODS, help="default: parallel if there are translations")
    p.add_argument(
        "--directions",
        type=int,
        metavar="N",
        help=f"default: languages - 1, and not more than {MOST_DIRECTIONS}",
    )
    p.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="share of the directions that is taken out, 0 to 1; default: as much as costs answers "
        "in the query's language no more than 0.02 RR, and at most 0.5 where a loss or a gain "
        "cannot be seen",
    )
    p.add_argument(
        "--force",
        action="store_true",
        help="go on without texts in some of the languages, and where there is nothing to gain",
    )
    p.add_argument("--batch-size", type=int, default=32, help="texts embedded at a time")
    add_model_options(p, "the model's own")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret._files import atomic_folder, write_json, write_text
    from hybridret.data import load_dataset
    from hybridret.debiasing import debias

    if o.output.exists():
        raise DataError(f"{o.output} already exists; choose another folder")
    texts = load_dataset(o.texts)
    measure_on = None if o.measure_on is None else load_dataset(o.measure_on)
    encoder = encoder_class.load(o.model, **model_options(o))
    result = debias(
        encoder,
        texts,
        measure_on=measure_on,
        languages=o.languages,
        method=o.method,
        directions=o.directions,
        strength=o.strength,
        force=o.force,
        batch_size=o.batch_size,
        progress=interactive(),
    )
    report = result.to_dict() | {"model": o.model, "texts": o.texts}
    with atomic_folder(o.output) as folder:
        encoder.save(folder)
        write_json(folder / "debias.json", report)
        write_text(folder / "README.md", _card(o, result))
    if o.json:
        print(json.dumps(report))
        return
    print(_table(result))
    print(
        f"{o.output}: {len(result.directions.basis)} directions of "
        f"{len(result.directions.languages)} languages, strength {result.strength:g}"
    )


def _table(result: DebiasResult) -> str:
    """Own-language and other answers by strength and by language, and where it stops paying."""
    from hybridret.debiasing import is_easy
    from hybridret.evaluation.text import text_table
    from hybridret.evaluation.trade_off import METRICS

    scores = result.trade_off
    at = scores.strengths.index(result.strength)
    by_strength = [
        [
            f"{strength:g}{'*' if number == at else ''}",
            *(_score(side.mean(m)[number]) for side in (scores.own, scores.other) for m in METRICS),
            *(_share(scores.break_even(m, number)) if number else "" for m in METRICS),
        ]
        for number, strength in enumerate(scores.strengths)
        if strength in SHOWN or number == at
    ]
    worst_first = sorted(scores.languages, key=lambda name: -scores.lost("RR", at, name))
    by_language = [
        [
            language,
            *(
                _change(side.mean(m, language), at)
                for side in (scores.own, scores.other)
                for m in METRICS
            ),
            *(_share(scores.break_even(m, at, language)) for m in METRICS),
        ]
        for language in worst_first
    ]
    sides = ["own recall@10", "own RR", "other recall@10", "other RR"]
    head = [*sides, "pays to, recall@10", "pays to, RR"]
    lines = [
        text_table(["strength", *head], by_strength),
        f"{scores.dataset}, every document in one language. own: the answer is in the query's "
        f"language ({len(scores.own):,} queries),",
        f"other: in another one ({len(scores.other):,}). pays to: up to this share of queries with "
        f"their answer in their own language.",
        "",
        f"At strength {result.strength:g}, by language of the query, largest loss first:",
        text_table(["language", *head], by_language),
    ]
    if not len(scores.other):
        lines.append(
            "Every answer is in the query's language: what answers in other languages gain is not "
            "measured."
        )
    elif is_easy(scores):
        lines.append(
            "These texts are too easy to show what answers in the query's language lose (on "
            "XQuAD-R 0.04 RR\nat strength 1, 0.015 at 0.5): give --measure-on with questions like "
            "yours to see it."
        )
    if result.lacking:
        lines.append(f"No texts in {', '.join(result.lacking)}: these gain less than the others.")
    return "\n".join(lines)


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _change(values: Floats, at: int) -> str:
    return "-" if math.isnan(values[0]) else f"{values[0]:.3f} {values[at] - values[0]:+.3f}"


def _card(o: argparse.Namespace, result: DebiasResult) -> str:
    return (
        f"# {o.output.name}\n\n"
        f"`{o.model}` without its language directions (strength {result.strength:g}, method "
        f"{result.directions.method}, {len(result.directions.basis)} directions), estimated from "
        f"`{o.texts}` in {' '.join(result.directions.languages)}.\n\n"
        f"Measured on texts that the directions were not estimated from:\n\n"
        f"```text\n{_table(result)}\n```\n"
    )
