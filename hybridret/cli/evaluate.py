"""``hybridret evaluate``: encoders, embeddings, baselines and TREC runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridret.cli.common import (
    MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    load_encoder,
    torch_encoder,
)
from hybridret.errors import DataError

if TYPE_CHECKING:
    from hybridret.evaluation.judging import Evaluation
    from hybridret.evaluation.report import Report


def add(commands: Any) -> None:
    from hybridret.data import DATA_HELP
    from hybridret.evaluation.baselines import BASELINES
    from hybridret.evaluation.metrics import CONVENTIONS, DEFAULT_METRICS, measures_in_words

    p = add_command(
        commands,
        "evaluate",
        run,
        "evaluate encoders in the monolingual, cross-lingual and multilingual settings",
        "Ranks are exact. With several models, each is compared with the first by a paired "
        "significance test over questions. With --qrels and --run, a TREC run is evaluated "
        "instead.",
    )
    p.add_argument("models", nargs="*", metavar="MODEL", help=MODEL_HELP)
    p.add_argument("--data", help=DATA_HELP)
    p.add_argument(
        "--query-embeddings",
        type=Path,
        metavar="NPY",
        help="instead of a model: a float array [queries, dimension], in the order of "
        "load_dataset(DATA).queries",
    )
    p.add_argument(
        "--document-embeddings",
        type=Path,
        metavar="NPY",
        help="required with --query-embeddings: a float array [documents, dimension], in the order "
        "of load_dataset(DATA).documents",
    )
    p.add_argument(
        "--keep-embeddings",
        type=Path,
        metavar="FOLDER",
        help="write the model's embeddings to FOLDER/queries.npy and FOLDER/documents.npy and "
        "memory-map them; needed for a corpus larger than memory",
    )
    p.add_argument(
        "--metrics",
        nargs="+",
        default=list(DEFAULT_METRICS),
        metavar="METRIC",
        help=measures_in_words(summaries=True),
    )
    p.add_argument(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=[],
        help="evaluate these as well",
    )
    p.add_argument(
        "--modes",
        nargs="+",
        choices=("words", "hybrid"),
        default=[],
        help="evaluate a search by words, too (BM25 on the models' subwords), or by words and "
        "vectors (hybrid), as 'hybridret search --mode' has them",
    )
    p.add_argument(
        "--seeds",
        action="store_true",
        help="the models are the same system trained with different seeds: print mean and standard "
        "deviation",
    )
    p.add_argument(
        "--languages",
        nargs="+",
        metavar="LANGUAGE",
        help="use only queries and documents in these languages",
    )
    p.add_argument(
        "--candidates",
        choices=("sentence", "sentence-with-context"),
        default="sentence",
        help="what a document is, in data sets that are divided into sentences",
    )
    p.add_argument(
        "--similarity",
        choices=("cosine", "dot"),
        help="similarity of the embeddings given (default: cosine); a model has its own",
    )
    p.add_argument("--batch-size", type=int, default=64, help="texts in a batch of the encoder")
    g = p.add_argument_group("conventions")
    g.add_argument(
        "--convention",
        choices=tuple(CONVENTIONS),
        default="trec_eval",
        help="tool whose definitions the metrics follow where tools differ: order of ties, "
        "denominator of AP@k, gain of nDCG, identical ids",
    )
    g.add_argument(
        "--ties",
        choices=("by-id", "optimistic", "pessimistic"),
        default="by-id",
        help="order of documents with exactly equal scores: by id, relevant first (optimistic) or "
        "relevant last (pessimistic)",
    )
    g.add_argument(
        "--unanswerable",
        choices=("drop", "zero"),
        help="a query without a relevant document in the pool is excluded from the mean (default; "
        "as in arXiv 2408.10536) or scores 0 (default for a TREC run)",
    )
    g.add_argument(
        "--mix-at",
        type=int,
        default=10,
        metavar="K",
        help="number of top-ranked documents whose languages are counted",
    )
    g = p.add_argument_group("TREC files")
    g.add_argument(
        "--qrels",
        type=Path,
        metavar="FILE",
        help="relevance judgements, lines of: query-id 0 document-id grade",
    )
    g.add_argument(
        "--run",
        dest="trec_run",
        type=Path,
        metavar="FILE",
        help="the run to evaluate, lines of: query-id Q0 document-id rank score tag",
    )
    g.add_argument(
        "--missing",
        choices=("drop", "zero"),
        default="drop",
        help="a judged query that is not in the run is excluded from the mean, or scores 0",
    )
    g.add_argument(
        "--score-type",
        choices=("double", "float"),
        default="double",
        help="precision in which scores are compared: double as in trec_eval 10, float as in "
        "trec_eval 9",
    )
    g.add_argument(
        "--write-run",
        type=Path,
        metavar="FILE",
        help="write the first system's ranking of the documents of all languages as a TREC run",
    )
    g.add_argument(
        "--depth",
        type=int,
        default=1000,
        metavar="K",
        help="documents per query in the file of --write-run",
    )
    g.add_argument(
        "--write-qrels",
        type=Path,
        metavar="FILE",
        help="write the relevance judgements, including those that come from translations",
    )
    g = p.add_argument_group("output")
    g.add_argument(
        "--json", metavar="FILE", help="write all scores as JSON; - writes to standard output"
    )
    g.add_argument(
        "--per-query",
        action="store_true",
        help="add the scores of every query to the JSON (always there for a TREC run)",
    )
    g.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a web page with tables, heat maps and the language bias",
    )
    add_model_options(p, "the model's own")


def run(o: argparse.Namespace) -> None:
    from hybridret.evaluation.metrics import parse_metrics

    # Mistakes are reported before the work starts, not at its end.
    parse_metrics(o.metrics)
    _check(o)
    for name in ("html", "write_run", "write_qrels", "json"):
        path = getattr(o, name)
        if path not in (None, "-"):
            if Path(path).is_dir():
                raise DataError(f"{_flag(name)}: {path} is a folder, not a file to write")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if o.trec_run is not None:
        _evaluate_run(o)
    else:
        _evaluate_systems(o)


def _check(o: argparse.Namespace) -> None:
    if (o.qrels is None) != (o.trec_run is None):
        raise DataError("--qrels and --run must be given together")
    systems = bool(o.models or o.query_embeddings or o.baselines)
    if o.trec_run is not None:
        used = {
            "metrics",
            "convention",
            "unanswerable",
            "qrels",
            "trec_run",
            "missing",
            "score_type",
            "json",
            "models",
        }
        given = sorted(o.given - used) + ["seeds"] * o.seeds
        if systems or given:
            what = given[0] if given else "models"
            raise DataError(f"--run (evaluate a TREC run) cannot be combined with {_flag(what)}")
        _check_per_query(o)
        return
    if o.missing != "drop" or o.score_type != "double":
        raise DataError("--missing and --score-type apply to TREC runs: they need --run")
    _check_per_query(o)
    if o.data is None:
        raise DataError("no data to evaluate on: give --data, or --qrels and --run")
    if (o.query_embeddings is None) != (o.document_embeddings is None):
        raise DataError("--query-embeddings and --document-embeddings must be given together")
    if o.models and o.query_embeddings is not None:
        raise DataError("give models or embeddings, not both")
    if not systems:
        raise DataError("nothing to evaluate: give a model, embeddings or --baselines")
    if o.keep_embeddings is not None and len(o.models) != 1:
        raise DataError(f"--keep-embeddings needs exactly one model, got {len(o.models)}")
    if o.seeds and len(o.models) < 2:
        raise DataError(f"--seeds needs at least two models, got {len(o.models)}")
    if o.similarity is not None and o.query_embeddings is None:
        raise DataError("--similarity applies to embeddings; a model has its own")
    if o.write_run is not None and not (o.models or o.query_embeddings):
        raise DataError(
            "--write-run needs a model or embeddings: for baselines only ranks are computed"
        )
    if o.modes and not o.models:
        raise DataError("--modes needs a model, whose subwords are the words")
    if (o.baselines or o.modes) and (o.ties != "by-id" or o.convention == "beir"):
        raise DataError(
            "--baselines and --modes cannot be combined with --ties or --convention beir: they "
            "always break ties by id and keep documents with the query's id"
        )
    for name in ("mix_at", "depth", "batch_size"):
        if getattr(o, name) < 1:
            raise DataError(f"{_flag(name)} must be at least 1, got {getattr(o, name)}")


def _check_per_query(o: argparse.Namespace) -> None:
    if o.per_query and not o.json:
        raise DataError("--per-query adds to the JSON: it needs --json")


def _flag(name: str) -> str:
    return "models" if name == "models" else "--" + name.replace("_", "-")


def _evaluate_run(o: argparse.Namespace) -> None:
    from hybridret.evaluation.text import text_table
    from hybridret.evaluation.trec import evaluate_run, read_qrels, read_run

    report = evaluate_run(
        read_qrels(o.qrels),
        read_run(o.trec_run),
        metrics=o.metrics,
        convention=o.convention,
        missing=o.missing,
        unanswerable=o.unanswerable,
        score_type=o.score_type,
        name=o.trec_run.name,
    )
    if o.json == "-":
        print(json.dumps(report.to_dict()))
        return
    if o.json:
        report.save_json(o.json)
    print(
        f"{report.name}: {report.n:,} queries; judged but not in the run: {report.missing:,}, "
        f"without a relevant document: {report.unanswerable:,}, without judgements: "
        f"{report.unjudged:,}"
    )
    print(text_table(["", "mean"], [[m, f"{v:.4f}"] for m, v in report.metrics.items()]))


def _evaluate_systems(o: argparse.Namespace) -> None:
    from hybridret.data import load_dataset
    from hybridret.evaluation.judging import Evaluation
    from hybridret.evaluation.page import write_html
    from hybridret.evaluation.significance import compare, over_seeds
    from hybridret.evaluation.text import comparison_text, seeds_text, summary_text
    from hybridret.evaluation.trec import write_qrels

    dataset = load_dataset(o.data, candidates=o.candidates, languages=o.languages)
    evaluation = Evaluation(
        dataset,
        metrics=o.metrics,
        convention=o.convention,
        unanswerable=o.unanswerable or "drop",
        ties=o.ties,
        mix_at=o.mix_at,
    )
    metrics = [str(metric) for metric in evaluation.metrics]
    if o.write_qrels:
        write_qrels(o.write_qrels, evaluation.pool.qrels())
    reports = _reports(o, evaluation)
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
    print(
        f"{dataset.name}: {len(dataset.queries):,} queries, {len(dataset.documents):,} documents, "
        f"{len(dataset.languages)} languages"
    )
    print(summary_text(reports, metrics))
    if seeds[1:]:
        print(f"\n{seeds_text(over_seeds(seeds))}")
    if comparisons:
        print(f"\n{comparison_text(comparisons)}")


def _reports(o: argparse.Namespace, evaluation: Evaluation) -> list[Report]:
    """Reports of every model (or of the embeddings), then of the baselines."""
    from hybridret.evaluation.baselines import baseline_ranks
    from hybridret.evaluation.judging import embed, load_embeddings
    from hybridret.evaluation.trec import write_run

    _check_systems(o)
    found: list[Report] = []
    modes: list[Report] = []

    def judge(queries: Any, documents: Any, similarity: Any, name: str) -> None:
        writes = o.write_run is not None and not found
        best = max(o.mix_at, o.depth) if writes else o.mix_at
        ranks = evaluation.rank(queries, documents, similarity, best=best)
        if writes:
            write_run(o.write_run, evaluation.pool, ranks, depth=o.depth)
        found.append(evaluation.judge(ranks, name))

    for model, name in zip(o.models, _system_names(o.models), strict=True):
        encoder = load_encoder(model, o)
        vectors = embed(
            encoder,
            evaluation.dataset,
            batch_size=o.batch_size,
            progress=interactive(),
            folder=o.keep_embeddings,
        )
        judge(*vectors, encoder.config.similarity, name)
        for mode in o.modes:
            ranks = evaluation.rank_mode(mode, encoder, *vectors, progress=interactive())
            modes.append(evaluation.judge(ranks, f"{name} {mode}"))
    found += modes
    if o.query_embeddings is not None:
        vectors = load_embeddings(o.query_embeddings), load_embeddings(o.document_embeddings)
        judge(*vectors, o.similarity or "cosine", "embeddings")
    for baseline in o.baselines:
        ranks = baseline_ranks(baseline, evaluation.pool, progress=interactive())
        found.append(evaluation.judge(ranks, baseline))
    return found


def _check_systems(o: argparse.Namespace) -> None:
    """Mistakes in the last system are reported before the first one is embedded."""
    from hybridret._extras import require
    from hybridret.encoder.manifest import is_exported

    for model in o.models:
        if not is_exported(model):
            torch_encoder()
            from hybridret.encoder.model_folder import local_folder

            local_folder(model)
    if "bm25" in o.baselines:
        require("bm25s", "bm25", "the BM25 baseline")


def _system_names(models: Sequence[str]) -> list[str]:
    """Short names: the folder's name, RUN for RUN/model; the full path where two are the same."""
    names = []
    for model in models:
        path = Path(model).resolve()
        names.append(path.parent.name if path.name == "model" else path.name)
    return [m if names.count(n) > 1 else n for m, n in zip(models, names, strict=True)]
