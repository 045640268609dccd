"""``hybridret evaluate``: encoders, embeddings, baselines and TREC runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridret.cli.common import (
    DATA_HELP,
    MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    load_encoder,
)
from hybridret.errors import DataError

if TYPE_CHECKING:
    from hybridret.data import Dataset
    from hybridret.evaluation import Report
    from hybridret.ranking import Pool, Ranks


def add_evaluate(commands: Any) -> None:
    from hybridret.baselines import BASELINES
    from hybridret.metrics import CONVENTIONS, DEFAULT_METRICS

    p = add_command(
        commands, "evaluate", _evaluate,
        "judge encoders in the monolingual, cross-lingual and multilingual settings",
        "Ranks are exact. Of several models the others are compared with the first, by a paired "
        "test over questions. With --qrels and --run it scores a TREC run instead.",
    )  # fmt: skip
    p.add_argument("models", nargs="*", metavar="MODEL", help=MODEL_HELP)
    p.add_argument("--data", help=DATA_HELP)
    p.add_argument("--query-embeddings", type=Path, metavar="NPY",
                   help="instead of a model: float array [queries, dimension], rows in the order "
                   "of load_dataset(DATA).queries")  # fmt: skip
    p.add_argument("--document-embeddings", type=Path, metavar="NPY",
                   help="with it: [documents, dimension], in the order of .documents")  # fmt: skip
    p.add_argument("--keep-embeddings", type=Path, metavar="FOLDER",
                   help="write the model's as queries.npy and documents.npy, and read them from "
                   "there: a corpus larger than memory needs it")  # fmt: skip
    p.add_argument("--metrics", nargs="+", default=list(DEFAULT_METRICS), metavar="METRIC",
                   help="AP, AP@k, RR, RR@k, nDCG@k, recall@k, P@k, success@k, Rprec, "
                   "bpref")  # fmt: skip
    p.add_argument("--baselines", nargs="*", choices=BASELINES, default=[],
                   help="judge these beside the models")  # fmt: skip
    p.add_argument("--seeds", action="store_true",
                   help="the models are seeds of one system: print mean and deviation")  # fmt: skip
    p.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="use only these")
    p.add_argument("--candidates", choices=("sentence", "sentence-with-context"),
                   default="sentence", help="documents of sets that have sentences")  # fmt: skip
    p.add_argument("--similarity", choices=("cosine", "dot"),
                   help="of embeddings (default cosine); a model has its own")  # fmt: skip
    p.add_argument("--batch-size", type=int, default=64, help="texts embedded at a time")
    g = p.add_argument_group("conventions")
    g.add_argument("--convention", choices=tuple(CONVENTIONS), default="trec_eval",
                   help="of ties, divisors and gains, by the name of the tool")  # fmt: skip
    g.add_argument("--ties", choices=("by-id", "optimistic", "pessimistic"), default="by-id",
                   help="documents of exactly equal scores: by id, relevant ones first, or "
                   "last")  # fmt: skip
    g.add_argument("--unanswerable", choices=("drop", "zero"),
                   help="a query without a relevant document in the pool is left out (default; the "
                   "paper's protocol) or scores 0 (default of a TREC run)")  # fmt: skip
    g.add_argument("--mix-at", type=int, default=10, metavar="K",
                   help="how many of the best documents the language mix looks at")  # fmt: skip
    g = p.add_argument_group("TREC files")
    g.add_argument("--qrels", type=Path, metavar="FILE", help="judgements: qid 0 docid grade")
    g.add_argument("--run", dest="trec_run", type=Path, metavar="FILE",
                   help="a run to score by them: qid Q0 docid rank score tag")  # fmt: skip
    g.add_argument("--missing", choices=("drop", "zero"), default="drop",
                   help="a judged query that the run lacks is left out, or scores 0")  # fmt: skip
    g.add_argument("--score-type", choices=("double", "float"), default="double",
                   help="of the scores: double as trec_eval 10, float as trec_eval 9")  # fmt: skip
    g.add_argument("--write-run", type=Path, metavar="FILE",
                   help="write the first system's best documents of all languages")  # fmt: skip
    g.add_argument("--depth", type=int, default=1000, metavar="K", help="documents a query in it")
    g.add_argument("--write-qrels", type=Path, metavar="FILE",
                   help="write the judgements, those of translations included")  # fmt: skip
    g = p.add_argument_group("output")
    g.add_argument("--json", metavar="FILE", help="write all scores as JSON; - prints them")
    g.add_argument("--per-query", action="store_true", help="with the score of every query")
    g.add_argument("--html", type=Path, metavar="FILE",
                   help="write a page with tables, heat maps and the language bias")  # fmt: skip
    add_model_options(p, "the model's own")


def _evaluate(o: argparse.Namespace) -> None:
    from hybridret.metrics import parse_metrics

    metrics = [str(metric) for metric in parse_metrics(o.metrics)]
    _check(o)
    for path in (o.html, o.write_run, o.write_qrels, None if o.json in (None, "-") else o.json):
        if path is not None:  # found out before the work, not after it
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if o.trec_run is not None:
        _evaluate_run(o, metrics)
    else:
        _evaluate_systems(o, metrics)


def _check(o: argparse.Namespace) -> None:
    if (o.qrels is None) != (o.trec_run is None):
        raise DataError("--qrels and --run go together")
    systems = bool(o.models or o.query_embeddings or o.baselines)
    if o.trec_run is not None:
        useless = ("data", "html", "write_run", "write_qrels", "languages", "similarity", "seeds",
                   "per_query", "keep_embeddings")  # fmt: skip
        given = [name for name in useless if getattr(o, name)]
        if systems or given or o.ties != "by-id":
            what = given[0] if given else "ties" if not systems else "models"
            raise DataError(f"a TREC run is scored alone: --run does not go with {_flag(what)}")
        return
    if o.missing != "drop" or o.score_type != "double":
        raise DataError("--missing and --score-type are for a TREC run: they need --run")
    if o.data is None:
        raise DataError("say what to judge on: --data, or --qrels and --run")
    if (o.query_embeddings is None) != (o.document_embeddings is None):
        raise DataError("--query-embeddings and --document-embeddings go together")
    if o.models and o.query_embeddings is not None:
        raise DataError("give models or embeddings, not both")
    if not systems:
        raise DataError("nothing to judge: give a model, embeddings or --baselines")
    if o.keep_embeddings is not None and len(o.models) != 1:
        raise DataError(f"--keep-embeddings is for one model, got {len(o.models)}")
    if o.seeds and len(o.models) < 2:
        raise DataError(f"--seeds needs at least two models, got {len(o.models)}")
    if o.similarity is not None and o.query_embeddings is None:
        raise DataError("--similarity is for embeddings; a model has its own")
    if o.write_run is not None and not (o.models or o.query_embeddings):
        raise DataError("--write-run needs a model or embeddings: baselines give no list")
    if o.baselines and (o.ties != "by-id" or o.convention == "beir"):
        raise DataError(
            "baselines break ties by id and keep identical ids: they go neither with --ties nor "
            "with --convention beir"
        )
    for name in ("mix_at", "depth", "batch_size"):
        if getattr(o, name) < 1:
            raise DataError(f"{_flag(name)} must be at least 1, got {getattr(o, name)}")


def _flag(name: str) -> str:
    return "models" if name == "models" else "--" + name.replace("_", "-")


def _evaluate_run(o: argparse.Namespace, metrics: list[str]) -> None:
    from hybridret.report import text_table
    from hybridret.trec import evaluate_run, read_qrels, read_run

    report = evaluate_run(
        read_qrels(o.qrels), read_run(o.trec_run), metrics=metrics, tool=o.convention,
        missing=o.missing, unanswerable=o.unanswerable, score_type=o.score_type,
        name=o.trec_run.name,
    )  # fmt: skip
    if o.json == "-":
        print(json.dumps(report.to_dict()))
        return
    if o.json:
        report.save_json(o.json)
    print(f"{report.name}: {report.n:,} queries; judged but not in the run {report.missing:,}, "
          f"without a relevant document {report.unanswerable:,}, not judged "
          f"{report.unjudged:,}")  # fmt: skip
    print(text_table(["", "mean"], [[m, f"{v:.4f}"] for m, v in report.metrics.items()]))


def _evaluate_systems(o: argparse.Namespace, metrics: list[str]) -> None:
    from hybridret.data import load_dataset
    from hybridret.evaluation import pool_for
    from hybridret.report import comparison_text, seeds_text, summary_text, write_html
    from hybridret.significance import compare, over_seeds
    from hybridret.trec import write_qrels

    dataset = load_dataset(o.data, candidates=o.candidates, languages=o.languages)
    pool = pool_for(dataset, metrics, o.convention)
    if o.write_qrels:
        write_qrels(o.write_qrels, pool.qrels())
    reports = _reports(o, dataset, pool, metrics)
    seeds = reports[: len(o.models)] if o.seeds else reports[:1]
    others = reports[len(seeds) :]
    comparisons = [compare(other, seeds, metrics[0]) for other in others]
    first = reports[0]
    if seeds[1:]:
        first.details["seeds"] = {
            kind: {metric: dict(vars(spread)) for metric, spread in figures.items()}
            for kind, figures in over_seeds(seeds).items()
        }
        first.details["seed_reports"] = [r.to_dict(per_query=o.per_query) for r in seeds[1:]]
    if others:
        first.details["others"] = [r.to_dict(per_query=o.per_query) for r in others]
        first.details["significance"] = [c.to_dict() for c in comparisons]
    if o.html:
        write_html(o.html, reports, f"{first.name} on {dataset.name}", comparisons)
    if o.json == "-":
        print(json.dumps(first.to_dict(per_query=o.per_query)))
        return
    if o.json:
        first.save_json(o.json, per_query=o.per_query)
    print(f"{dataset.name}: {len(dataset.queries):,} queries, {len(dataset.documents):,} "
          f"documents, {len(dataset.languages)} languages")  # fmt: skip
    print(summary_text(reports, metrics))
    if seeds[1:]:
        print(f"\n{seeds_text(over_seeds(seeds))}")
    if comparisons:
        print(f"\n{comparison_text(comparisons)}")


def _reports(
    o: argparse.Namespace, dataset: Dataset, pool: Pool, metrics: list[str]
) -> list[Report]:
    """Of every model or the embeddings, then of the baselines."""
    from hybridret.baselines import baseline_ranks
    from hybridret.evaluation import embed, score

    def report(ranks: Ranks, name: str) -> Report:
        return score(
            pool, ranks, metrics, name, convention=o.convention,
            unanswerable=o.unanswerable or "drop", mix_at=o.mix_at,
        )  # fmt: skip

    found: list[Report] = []
    names = _system_names(o.models)
    for model, name in zip(o.models, names, strict=True):
        encoder = load_encoder(model, o)
        queries, documents = embed(
            encoder, dataset, batch_size=o.batch_size, progress=interactive(),
            folder=o.keep_embeddings,
        )  # fmt: skip
        ranks = _rank(o, pool, queries, documents, encoder.config.similarity, first=not found)
        found.append(report(ranks, name))
    if o.query_embeddings is not None:
        arrays = _load_array(o.query_embeddings), _load_array(o.document_embeddings)
        ranks = _rank(o, pool, *arrays, o.similarity or "cosine", first=True)
        found.append(report(ranks, "embeddings"))
    for baseline in o.baselines:
        ranks = baseline_ranks(baseline, pool, progress=interactive())
        found.append(report(ranks, baseline))
    return found


def _rank(
    o: argparse.Namespace, pool: Pool, queries: Any, documents: Any, similarity: Any, *, first: bool
) -> Ranks:
    from hybridret.metrics import convention
    from hybridret.ranking import rank_embeddings
    from hybridret.trec import write_run

    writes = first and o.write_run is not None
    ranks = rank_embeddings(
        pool, queries, documents, similarity=similarity, ties=o.ties,
        best=max(o.mix_at, o.depth) if writes else o.mix_at,
        ignore_identical_ids=convention(o.convention).ignore_identical_ids,
    )  # fmt: skip
    if writes:
        write_run(o.write_run, pool, ranks, depth=o.depth)
    return ranks


def _system_names(models: Sequence[str]) -> list[str]:
    """The last part of a path that says something: RUN of RUN/model; whole where two are alike."""
    names = []
    for model in models:
        path = Path(model).resolve()
        names.append(path.parent.name if path.name == "model" else path.name)
    return [m if names.count(n) > 1 else n for m, n in zip(models, names, strict=True)]


def _load_array(path: Path) -> Any:
    import numpy as np

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        # numpy's own words advise unpickling, which is never done here.
        raise DataError(f"{path}: not a whole .npy file of numbers") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array (.npy), got {type(array).__name__}")
    return array
