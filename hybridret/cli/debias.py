"""``hybridret debias``: take the language directions out of an encoder."""

from __future__ import annotations

import argparse
import json
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
        "those in the query's own language a little less often; both are measured and printed.",
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
        "in the query's language no more than 0.02 RR, and 0.5 on texts too easy to show it",
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
    dataset = load_dataset(o.texts, languages=o.languages)
    encoder = encoder_class.load(o.model, **model_options(o))
    result = debias(
        encoder,
        dataset,
        method=o.method,
        directions=o.directions,
        strength=o.strength,
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
    """Own-language and other answers by strength, and where it stops paying."""
    from hybridret.debiasing import is_easy
    from hybridret.evaluation.text import text_table

    scores = result.trade_off
    rows = []
    for number, strength in enumerate(scores.strengths):
        if strength in SHOWN or strength == result.strength:
            cells = [
                f"{side[metric][number]:.3f}"
                for side in (scores.own, scores.other)
                for metric in ("recall@10", "RR")
            ]
            mark = "*" if strength == result.strength else ""
            rows.append([f"{strength:g}{mark}", *cells])
    head = ["strength", "own recall@10", "own RR", "other recall@10", "other RR"]
    lost = {
        language: found["RR"][0] - found["RR"][-1]
        for language, found in scores.own_by_language.items()
    }
    worst = max(lost, key=lambda language: lost[language])
    easy = ""
    if is_easy(scores):
        easy = (
            "\nThese texts are too easy to show what answers in the query's language lose (on "
            "XQuAD-R 0.04 RR\nat strength 1, 0.015 at 0.5): give --texts with questions like yours "
            "to measure it."
        )
    return (
        f"{text_table(head, rows)}\n"
        f"own: the answer is in the query's language ({scores.n_own:,} queries), other: in another "
        f"one ({scores.n_other:,}); every document in one language.\n"
        f"At strength 1 it pays by RR up to {scores.break_even('RR'):.0%} of queries with their "
        f"answer in their own language, by recall@10 up to {scores.break_even('recall@10'):.0%}; "
        f"own-language RR falls most in {worst}, by {lost[worst]:.3f}.{easy}"
    )


def _card(o: argparse.Namespace, result: DebiasResult) -> str:
    return (
        f"# {o.output.name}\n\n"
        f"`{o.model}` without its language directions (strength {result.strength:g}, method "
        f"{result.directions.method}, {len(result.directions.basis)} directions), estimated from "
        f"`{o.texts}` in {' '.join(result.directions.languages)}.\n\n"
        f"Measured on texts that the directions were not estimated from:\n\n"
        f"```text\n{_table(result)}\n```\n"
    )
