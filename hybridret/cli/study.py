"""``hybridret study``: whole comparisons, with equal budgets, seeds and intervals."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridret.cli import run_file
from hybridret.cli.common import TORCH_MODEL_HELP, add_command, interactive, torch_encoder
from hybridret.errors import DataError

if TYPE_CHECKING:
    from hybridret.studies.preparation import StudyData
    from hybridret.studies.protocol import Budget
    from hybridret.studies.results import Study


@dataclass(frozen=True)
class Start:
    """Where training starts from, and the defaults of its options."""

    what: str
    model: str
    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    temperatures: tuple[float, ...]
    seeds: tuple[int, ...]
    max_length: int
    hold_out: float


STARTS = {
    "real": Start(
        "a pretrained encoder",
        "intfloat/multilingual-e5-small",
        80,
        32,
        (1e-5, 3e-5),
        (0.02,),
        (0, 1, 2),
        128,
        0.15,
    ),
    "static": Start(
        "a static encoder distilled from it, which trains in a minute: every question",
        "intfloat/multilingual-e5-small",
        300,
        100,
        (0.001, 0.003),
        (0.05,),
        (0, 1, 2, 3, 4),
        128,
        0.15,
    ),
    "recipe": Start(
        "the paper's encoder and settings: batches of 100, learning rate 3e-5, early stopping, "
        "data sets by their size",
        "xlm-roberta-base",
        20_000,
        100,
        (3e-5,),
        (0.05,),
        (0,),
        256,
        0.005,
    ),
}


def add(commands: Any) -> None:
    from hybridret.data import DATA_HELP
    from hybridret.studies.paper import LANGUAGES
    from hybridret.studies.preparation import LEAKS

    p = add_command(
        commands,
        "study",
        run,
        "run a whole study: arms on equal budgets, several seeds, intervals, one page",
        "Writes OUTPUT/report.html and OUTPUT/results.json. After an interruption the same command "
        "goes on.",
    )
    p.epilog = "studies:\n  paper  hybrid batches against the others (arXiv 2408.10536)\n"
    p.add_argument("study", choices=("paper",), help="which one")
    p.add_argument(
        "--start",
        choices=STARTS,
        default="real",
        help="; ".join(f"{name}: {start.what}" for name, start in STARTS.items()),
    )
    p.add_argument(
        "--model",
        help=TORCH_MODEL_HELP
        + " (default: "
        + ", ".join(f"{s.model} for {name}" for name, s in STARTS.items())
        + ")",
    )
    p.add_argument(
        "--data",
        nargs="+",
        action="append",
        required=True,
        metavar=("PATH", "name=VALUE"),
        help=f"what to train on: {DATA_HELP}. Give it again for another data set. With --start "
        "recipe, weight=W is its share of the batches relative to the others (default: its rows, "
        "of the paper's data sets as many as the paper has)",
    )
    p.add_argument(
        "--evaluate",
        nargs="+",
        required=True,
        metavar="PATH",
        help="data sets to judge on, or NAME=PATH; those named xquad-r, mlqa-r and miracl-dev have "
        "the paper's values beside ours",
    )
    p.add_argument("--output", type=Path, required=True, help="folder of the study")
    p.add_argument(
        "--languages",
        nargs="+",
        default=list(LANGUAGES),
        metavar="LANGUAGE",
        help="languages to train on; rows that lack one of them are left out",
    )
    p.add_argument("--steps", type=int, help=_by_start("steps", "training steps of every run"))
    p.add_argument("--batch-size", type=int, help=_by_start("batch_size", "pairs in a batch"))
    p.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        metavar="RATE",
        help=_by_start("learning_rates", "tried by every arm"),
    )
    p.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        metavar="T",
        help=_by_start("temperatures", "tried by every arm, with every learning rate"),
    )
    p.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help=_by_start("seeds", "the first is that of the trials"),
    )
    p.add_argument(
        "--max-length", type=int, metavar="TOKENS", help=_by_start("max_length", "of a text")
    )
    p.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help=_by_start(
            "hold_out", "share of the documents that settings are chosen on, and not trained on"
        ),
    )
    p.add_argument(
        "--stop-on",
        metavar="PATH",
        help="recipe: data set, such as SQuADShifts, whose loss ends a training when it rises",
    )
    p.add_argument(
        "--leaks",
        choices=LEAKS,
        default="refuse",
        help="if training and evaluation share texts: refuse to run, remove their groups from the "
        "training data, or allow it",
    )
    p.add_argument("--keep-models", action="store_true", help="keep every trained encoder")
    p.add_argument(
        "--dry-run", action="store_true", help="print what it would cost; no model is loaded"
    )
    p.add_argument("--json", action="store_true", help="print the results as JSON")


def _by_start(name: str, what: str) -> str:
    found = []
    for start, defaults in STARTS.items():
        value = getattr(defaults, name)
        shown = " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:,}"
        found.append(f"{start} {shown}")
    return f"{what} (default: {'; '.join(found)})"


def run(o: argparse.Namespace) -> None:
    torch_encoder()  # or say what is missing
    from hybridret.studies import paper, preparation
    from hybridret.studies.protocol import Budget, check_batches, check_same_rows

    start = STARTS[o.start]
    for name in vars(start).keys() - {"what"}:
        if getattr(o, name) is None:
            setattr(o, name, getattr(start, name))
    if o.stop_on and o.start != "recipe":
        raise DataError(
            f"--stop-on is for --start recipe: with --start {o.start} all arms get equal steps"
        )
    budget = Budget(
        o.steps,
        o.batch_size,
        tuple(o.learning_rates),
        tuple(o.temperatures),
        tuple(o.seeds),
    )
    recipe = o.start == "recipe"
    training, given = _named(o.data)
    if given and not recipe:
        raise DataError(
            f"weight= is for --start recipe: with --start {o.start} all data sets get equal shares"
        )
    data = preparation.read(
        training,
        o.evaluate,
        languages=o.languages,
        share=o.hold_out,
        leaks=o.leaks,
        stop_on=o.stop_on,
        complete=not recipe,
        progress=interactive(),
    )
    study = paper.study(list(training), start=o.start)
    weights = None
    if recipe:
        weights = paper.weights({name: len(table) for name, table in data.tables.items()}, given)
        check_batches(data.tables, study.arms, budget, weights)
    else:
        check_same_rows(data.tables, study.arms, budget)
    said = _said(study, data) + (_given(weights) if weights else "")
    if o.dry_run:
        found = _cost(o, study, data, budget, weights)
        print(json.dumps(found.to_dict()) if o.json else f"{said}\n{found.text()}")
        return
    _conduct(o, study, data, budget, weights, said)


def _named(given: list[list[str]]) -> tuple[dict[str, str], dict[str, float]]:
    """Paths and weights by name."""
    found: dict[str, str] = {}
    weights: dict[str, float] = {}
    for item in given:
        fields = run_file.data_fields(item, {"name": str, "weight": float})
        name = fields.get("name", Path(fields["path"]).name.partition(".")[0])
        if name in found:
            raise DataError(f"two data sets are named {name!r}; give name=NAME")
        found[name] = fields["path"]
        if "weight" in fields:
            weights[name] = fields["weight"]
    return found, weights


def _cost(
    o: argparse.Namespace,
    study: Study,
    data: StudyData,
    budget: Budget,
    weights: dict[str, float] | None,
) -> Any:
    from transformers import AutoConfig

    from hybridret.studies.cost import cost, layer_parameters

    layers = 0 if o.start == "static" else layer_parameters(AutoConfig.from_pretrained(o.model))
    return cost(
        study.arms,
        budget,
        data,
        layers=layers,
        max_length=o.max_length,
        folder=o.output,
        weights=weights,
    )


def _said(study: Study, data: StudyData) -> str:
    lines = [study.title, f"arms: {', '.join(arm.name for arm in study.arms)}"]
    lines += [
        f"training on {name}: {len(table):,} rows in {' '.join(table.languages)}"
        for name, table in data.tables.items()
    ]
    lines += [
        f"judged on {name}: {len(found.queries):,} queries, {len(found.documents):,} documents in "
        f"{' '.join(found.languages)}"
        for name, found in data.judged.items()
    ]
    lines.append(
        f"texts in both: {data.leaks.count}"
        + (", their groups removed" if data.leaks and data.leaks_were == "remove" else "")
    )
    return "\n".join(lines)


def _given(weights: dict[str, float]) -> str:
    """What of the paper's data is there, and how much is drawn of each data set."""
    from hybridret.studies.paper import DATA

    lines = ["", "of the paper's data, by name:"]
    lines += [
        f"  {name}: {'given' if name in weights else 'not given'} ({rows:,} rows {what})"
        for name, (rows, what) in DATA.items()
    ]
    total = sum(weights.values())
    shares = ", ".join(f"{name} {weight / total:.1%}" for name, weight in weights.items())
    return "\n".join([*lines, f"shares of the batches: {shares}"])


def _conduct(
    o: argparse.Namespace,
    study: Study,
    data: StudyData,
    budget: Budget,
    weights: dict[str, float] | None,
    said: str,
) -> None:
    from hybridret._files import write_json
    from hybridret.studies.page import write_page
    from hybridret.studies.protocol import size
    from hybridret.studies.results import conduct
    from hybridret.studies.runs import Runs, begin, start_encoder

    what = {
        "study": study.name,
        "start": o.start,
        "model": o.model,
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "max_length": o.max_length,
        "hold_out": o.hold_out,
        "leaks": o.leaks,
        "stop_on": o.stop_on,
        "data": data.to_dict(),
    }
    if weights:
        what["weights"] = weights
    begin(o.output, what)
    print(said, flush=True)
    runs = Runs(
        folder=o.output,
        start=start_encoder(o.output, o.start, o.model, o.max_length, interactive()),
        data=data,
        budget=budget,
        max_length=o.max_length,
        weights=weights,
        progress=interactive(),
        keep_models=o.keep_models,
    )
    results = conduct(study, runs, lambda line: print(line, flush=True))
    found = _cost(o, study, data, budget, weights)
    results.about = {
        **what,
        "languages": o.languages,
        "seeds": o.seeds,
        "learning_rates": o.learning_rates,
        "temperatures": o.temperatures,
        "precision": runs.precision,
        "leakage": data.leaks.to_dict(),
        "sizes": {
            arm.name: vars(
                size(data.tables, arm, replace(budget, steps=results.steps[arm.name][0]), weights)
            )
            for arm in study.arms
        },
        "cost": found.to_dict(),
        "command": shlex.join(["hybridret", *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {n: version(n) for n in ("hybridret", "torch", "transformers", "numpy")},
    }
    values = results.to_dict()
    write_json(o.output / "results.json", values)
    write_page(o.output / "report.html", results)
    if o.json:
        print(json.dumps(values))
    else:
        print(o.output / "report.html")


def _commit() -> str | None:
    """Of the working copy that the package is imported from, if it is one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = None
    for command in (["ls-files", "--error-unmatch", Path(__file__).name], ["rev-parse", "HEAD"]):
        try:
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=False)
        except OSError:  # no git
            return None
        if done.returncode:
            return None
        found = done.stdout.strip()[:12]
    return found
