"""How fast is it to judge a retriever? All settings of a data set of XQuAD-R's shape.

1,190 questions in 11 languages, 1,183 candidates a language, 768 dimensions, mono, cross and multi:
11 + 110 + 11 settings. The vectors are a topic's plus a language's plus noise, so that AP and rank
distance come out like a trained encoder's. Every peer is given the same embeddings. Those that
would take minutes do a share of the work (every n-th query) and are scaled; the table says so. What
a peer leaves out stands in its name.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PeakMemory

from hybridret.data.table import Dataset, Document, Query
from hybridret.evaluation.judging import Evaluation, evaluate_embeddings
from hybridret.evaluation.ranking import rank_embeddings

torch = pytest.importorskip("torch")

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
QUESTIONS, CANDIDATES, DIMENSION = 1190, 1183, 768
NOISE = 2.4
METRICS = ("AP", "nDCG@10", "recall@10", "recall@100", "RR")


class Work:
    """The pool, its embeddings, and what the peers want of it as Python objects."""

    def __init__(self) -> None:
        queries = [Query(f"{x}{i}", "?", x, f"g{i}") for x in LANGUAGES for i in range(QUESTIONS)]
        documents = [
            Document(f"{x}-{i}", "!", x, f"{x}{i}") for x in LANGUAGES for i in range(CANDIDATES)
        ]
        qrels = {
            f"{x}{i}": {f"{x}-{i % CANDIDATES}": 1} for x in LANGUAGES for i in range(QUESTIONS)
        }
        self.dataset = Dataset("XQuAD-R's shape", queries, documents, qrels)
        self.evaluation = Evaluation(self.dataset, metrics=METRICS)
        self.pool = self.evaluation.pool
        rng = np.random.default_rng(0)
        topics = rng.standard_normal((QUESTIONS, DIMENSION), dtype=np.float32)
        own = rng.standard_normal((len(LANGUAGES), 1, DIMENSION), dtype=np.float32)

        def vectors(count: int, spread: float) -> np.ndarray:
            noise = rng.standard_normal((len(LANGUAGES), count, DIMENSION), dtype=np.float32)
            mixed = (topics[:count] + 0.5 * own + spread * noise).reshape(-1, DIMENSION)
            return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

        self.q, self.d = vectors(QUESTIONS, NOISE), vectors(CANDIDATES, NOISE)
        self.targets = self.pool.targets.reshape(len(queries), -1)  # a column a language

    def share(self, n: int) -> np.ndarray:
        return np.arange(0, len(self.q), n)


@pytest.fixture(scope="module")
def work() -> Work:
    return Work()


def ours(work: Work, screening: str) -> None:
    ranks = rank_embeddings(work.pool, work.q, work.d, screening=screening)
    work.evaluation.judge(ranks, "ours")


def hybridret(work: Work, rows: np.ndarray) -> None:
    ours(work, "auto")


def hybridret_float32(work: Work, rows: np.ndarray) -> None:
    ours(work, "float32")


def hybridret_whole_report(work: Work, rows: np.ndarray) -> None:
    """With the language bias and the best ten documents of every query."""
    evaluate_embeddings(work.q, work.d, work.dataset, metrics=METRICS)


def matmul_alone(work: Work, rows: np.ndarray) -> None:
    """torch's sgemm, nothing done to the scores; into the same memory again and again."""
    q, d = torch.from_numpy(work.q), torch.from_numpy(work.d)
    out = torch.empty(1024, len(d))
    for block in q.split(1024):
        torch.mm(block, d.T, out=out[: len(block)])


def matmul_and_argsort(work: Work, rows: np.ndarray) -> None:
    """Full sorts of every pool, metrics on arrays: what one writes without a library."""
    d = torch.from_numpy(work.d)
    pools = [slice(0, len(d)), *(slice(i, i + CANDIDATES) for i in range(0, len(d), CANDIDATES))]
    for block in np.array_split(rows, max(1, len(rows) // 512)):
        scores = torch.from_numpy(work.q[block]) @ d.T
        for number, pool in enumerate(pools):
            order = scores[:, pool].argsort(dim=1, descending=True)
            place = torch.empty_like(order)
            place.scatter_(1, order, torch.arange(1, order.shape[1] + 1).expand_as(order))
            targets = work.targets[block] if number == 0 else work.targets[block, number - 1, None]
            ranks = place.gather(1, torch.from_numpy(targets - pool.start)).sort(1).values.numpy()
            relevant = np.arange(1, ranks.shape[1] + 1)
            (relevant / ranks).mean(1)
            (1 / ranks[:, 0]).mean()
            (1 / np.log2(ranks + 1) * (ranks <= 10)).sum(1)
            (ranks <= 10).mean(1), (ranks <= 100).mean(1)


def top(work: Work, rows: np.ndarray, depth: int):
    """(ids of the queries, run as dictionaries, qrels) of every pool, from torch.topk."""
    d = torch.from_numpy(work.d)
    ids = [x.document_id for x in work.dataset.documents]
    names = [q.query_id for q in work.dataset.queries]
    scores = torch.from_numpy(work.q[rows]) @ d.T
    for number in range(len(LANGUAGES) + 1):
        first = 0 if number == 0 else (number - 1) * CANDIDATES
        count = len(d) if number == 0 else CANDIDATES
        found = scores[:, first : first + count].topk(min(depth, count))
        run = {
            names[r]: {ids[first + j]: s for j, s in zip(js, ss, strict=True)}
            for r, js, ss in zip(rows, found.indices.tolist(), found.values.tolist(), strict=True)
        }
        targets = work.targets[rows] if number == 0 else work.targets[rows, number - 1, None]
        qrels = {
            names[r]: {ids[j]: 1 for j in js} for r, js in zip(rows, targets.tolist(), strict=True)
        }
        yield run, qrels


def sentence_transformers(work: Work, rows: np.ndarray, depth: int = 100) -> None:
    """InformationRetrievalEvaluator a pool, MAP@depth."""
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    class Encoded(InformationRetrievalEvaluator):
        def embed_inputs(self, *_: object, **__: object):
            return torch.from_numpy(work.q[rows])

    documents = [x.document_id for x in work.dataset.documents]
    names = [work.dataset.queries[r].query_id for r in rows]
    d = torch.from_numpy(work.d)
    for number in range(len(LANGUAGES) + 1):
        first = 0 if number == 0 else (number - 1) * CANDIDATES
        count = len(d) if number == 0 else CANDIDATES
        targets = work.targets[rows] if number == 0 else work.targets[rows, number - 1, None]
        pool = slice(first, first + count)
        k = min(depth, count)
        evaluator = Encoded(
            dict.fromkeys(names, "?"),
            dict.fromkeys(documents[pool], "!"),
            {n: {documents[j] for j in js} for n, js in zip(names, targets.tolist(), strict=True)},
            map_at_k=[k],
            precision_recall_at_k=[10, min(100, k)],
            ndcg_at_k=[10],
            mrr_at_k=[k],
            accuracy_at_k=[1],
            write_csv=False,
            score_functions={"dot": lambda a, b: a @ b.T},
        )
        evaluator.compute_metrices(None, corpus_embeddings=d[pool])


def sentence_transformers_full(work: Work, rows: np.ndarray) -> None:
    sentence_transformers(work, rows, depth=len(work.d))


def pytrec_eval(work: Work, rows: np.ndarray) -> None:
    import pytrec_eval as peer

    for run, qrels in top(work, rows, 1000):
        peer.RelevanceEvaluator(
            qrels, {"map", "ndcg_cut.10", "recall.10,100", "recip_rank"}
        ).evaluate(run)


def ranx(work: Work, rows: np.ndarray) -> None:
    import ranx as peer

    names = ["map", "ndcg@10", "recall@10", "recall@100", "mrr"]
    for run, qrels in top(work, rows, 1000):
        peer.evaluate(peer.Qrels(qrels), peer.Run(run), names)


def ir_measures(work: Work, rows: np.ndarray) -> None:
    import ir_measures as peer

    wanted = [peer.AP, peer.nDCG @ 10, peer.R @ 10, peer.R @ 100, peer.RR]
    for run, qrels in top(work, rows, 1000):
        peer.calc_aggregate(wanted, qrels, run)


def mteb(work: Work, rows: np.ndarray) -> None:
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    for run, qrels in top(work, rows, 1000):
        calculate_retrieval_scores(run, qrels, [1, 10, 100, 1000])


def faiss(work: Work, rows: np.ndarray) -> None:
    """IndexFlatIP, the best 1,000 of every pool, no metrics."""
    import faiss as peer

    peer.omp_set_num_threads(torch.get_num_threads())
    for number in range(len(LANGUAGES) + 1):
        first = 0 if number == 0 else (number - 1) * CANDIDATES
        count = len(work.d) if number == 0 else CANDIDATES
        index = peer.IndexFlatIP(DIMENSION)
        index.add(work.d[first : first + count])
        index.search(work.q[rows], 1000)


# (name, what runs, one part of so many, modules it needs)
PEERS = {
    "hybridret": (hybridret, 1, ()),
    "hybridret, float32": (hybridret_float32, 1, ()),
    "hybridret, whole report": (hybridret_whole_report, 1, ()),
    "torch matmul alone": (matmul_alone, 1, ()),
    "torch matmul + argsort": (matmul_and_argsort, 5, ()),
    "faiss flat, top 1000": (faiss, 10, ("faiss",)),
    "ST evaluator, MAP@100": (sentence_transformers, 10, ("sentence_transformers",)),
    "ST evaluator, full depth": (sentence_transformers_full, 70, ("sentence_transformers",)),
    "pytrec_eval, top 1000": (pytrec_eval, 70, ("pytrec_eval",)),
    "ir_measures, top 1000": (ir_measures, 70, ("ir_measures",)),
    "ranx, top 1000": (ranx, 70, ("ranx",)),
    "mteb, top 1000": (mteb, 70, ("mteb",)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS)
def test_all_settings(benchmark, work, peaks, peer):
    run, share, modules = PEERS[peer]
    for module in modules:
        pytest.importorskip(module)
    pairs = len(work.q) * len(work.d)
    benchmark.group = (
        f"132 settings: {len(work.q):,} queries x {len(work.d):,} documents x {DIMENSION}"
    )
    rows = work.share(share)
    benchmark.pedantic(lambda: run(work, rows), rounds=5 if share == 1 else 1, warmup_rounds=1)
    with PeakMemory() as memory:
        run(work, rows)
    scale = len(work.q) / len(rows)
    rate = 2 * pairs * DIMENSION / benchmark.stats.stats.median / scale / 1e9
    benchmark.extra_info["GFLOP/s"] = f"{rate:.0f}"
    if "float32" in peaks and share == 1:
        benchmark.extra_info["of float32 peak"] = f"{rate / peaks['float32']:.0%}"
    benchmark.extra_info["peak MB"] = f"{memory.bytes / 1e6:.0f}"
    if share > 1:
        benchmark.extra_info["scaled from"] = f"1/{share}"
        benchmark.extra_info["scale"] = scale
