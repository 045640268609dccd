"""Which batches train the better multilingual retriever?

One command trains an encoder with each sampler on the same rows and judges it on another data set,
beside random vectors, the untrained encoder and BM25::

    python -m hybridret.studies.samplers --train NTREX --evaluate XQUAD-R --output RUNS

What makes the comparison say something: all samplers draw the same rows and differ only in the
languages; learning rate and temperature are chosen for each sampler on held-out documents of the
training set, with equal trials; the evaluation data take no part in any choice. Every step is a
``hybridret`` command. Interrupted, the same line goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from hybridret.evaluation.text import text_table
from hybridret.training.batches import SAMPLERS

SETTINGS = ("mono", "cross", "multi")


def hybridret(*arguments: object) -> None:
    """Runs one command, shown as a user would type it."""
    line = ["hybridret", *map(str, arguments)]
    print("$", *line, flush=True)
    subprocess.run([sys.executable, "-m", "hybridret.cli", *line[1:]], check=True)


def train(o: argparse.Namespace, sampler: str, rate: float, temperature: float, seed: int) -> Path:
    run: Path = o.output / f"{sampler}-lr{rate:g}-t{temperature:g}-s{seed}"
    if not is_finished(run):
        shutil.rmtree(run, ignore_errors=True)  # a run of a minute is made again, not resumed
        hybridret(
            "train",
            "--data",
            o.train,
            "--output",
            run,
            "--sampler",
            sampler,
            "--seed",
            seed,
            "--hold-out",
            o.hold_out,
            "--steps",
            o.steps,
            "--batch-size",
            o.batch_size,
            "--learning-rate",
            rate,
            "--temperature",
            temperature,
            "--checkpoint-every",
            0,
            *o.model_options,
        )
    return run


def is_finished(run: Path) -> bool:
    """Trained, and judged on the documents held out, which is the last thing written."""
    state = run / "training.json"
    return state.is_file() and "development" in json.loads(state.read_text(encoding="utf-8"))


def development_score(run: Path) -> float:
    """What settings are chosen by: AP, mean of the three settings."""
    scores = json.loads((run / "training.json").read_text(encoding="utf-8"))["development"]
    return statistics.fmean(scores[setting]["AP"] for setting in SETTINGS)


def judge(o: argparse.Namespace, model: Path | None, name: str) -> dict[str, Any]:
    out = o.output / f"{name}.json"
    if not out.is_file():
        what = [model] if model else ["--baselines", name]
        hybridret("evaluate", *what, "--data", o.evaluate, "--json", out)
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    summary: dict[str, Any] = report["summary"]
    return summary


def row(name: str, choice: str, summaries: list[dict[str, Any]]) -> list[str]:
    values = [[s[setting]["AP"] for s in summaries] for setting in SETTINGS]
    values.append([s["rank_distance"] for s in summaries])
    cells = []
    for column, digits in zip(values, (4, 4, 4, 1), strict=True):
        cell = f"{statistics.mean(column):.{digits}f}"
        if len(column) > 1:
            cell += f" ±{statistics.stdev(column):.{digits}f}"
        cells.append(cell)
    return [name, choice, *cells]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--train", required=True, help="data to train on, as for hybridret train")
    p.add_argument("--evaluate", required=True, help="data to judge on, as for hybridret evaluate")
    p.add_argument("--output", type=Path, required=True)
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--batch-size", type=int, default=256)
    p.add_argument("--hold-out", type=float, default=0.2)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--learning-rates", type=float, nargs="+", default=[0.01, 0.03])
    p.add_argument("--temperatures", type=float, nargs="+", default=[0.03, 0.05, 0.1])
    p.add_argument(
        "--model-options",
        nargs=argparse.REMAINDER,
        default=["--vocabulary-size", "32768", "--max-length", "128"],
        help="further options of hybridret train, last on the line",
    )
    o = p.parse_args()
    o.output.mkdir(parents=True, exist_ok=True)

    untrained = o.output / "untrained"
    if not is_finished(untrained):
        shutil.rmtree(untrained, ignore_errors=True)
        hybridret(
            "train",
            "--data",
            o.train,
            "--output",
            untrained,
            "--steps",
            0,
            "--hold-out",
            o.hold_out,
            *o.model_options,
        )
    rows = [
        row("random", "", [judge(o, None, "random")]),
        row("untrained", "", [judge(o, untrained / "model", "untrained-scores")]),
        row("BM25", "", [judge(o, None, "bm25")]),
    ]
    grid = list(itertools.product(o.learning_rates, o.temperatures))
    for sampler in SAMPLERS:
        trials = {c: development_score(train(o, sampler, *c, seed=o.seeds[0])) for c in grid}
        best = max(trials, key=trials.__getitem__)
        summaries = []
        for seed in o.seeds:
            run = train(o, sampler, *best, seed=seed)
            summaries.append(judge(o, run / "model", f"{sampler}-s{seed}"))
        rows.append(row(sampler, f"lr {best[0]:g}, t {best[1]:g}", summaries))
    header = ["system", "chosen", *(f"AP {s}" for s in SETTINGS), "rank distance"]
    table = text_table(header, rows)
    print(table)
    (o.output / "table.txt").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
