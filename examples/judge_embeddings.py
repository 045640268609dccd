"""Judging embeddings that were made elsewhere: every setting, the language bias, significance.

    python examples/judge_embeddings.py

Here random vectors stand for two systems; yours come from any model, in the order of
``dataset.queries`` and ``dataset.documents``.
"""

from __future__ import annotations

import numpy as np

import hybridret


def main() -> None:
    dataset = hybridret.load_dataset("facts-evaluation", languages=["de", "en", "zh"])
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((len(dataset.queries), 64), dtype=np.float32)
    documents = rng.standard_normal((len(dataset.documents), 64), dtype=np.float32)

    chance = hybridret.evaluate_embeddings(queries, documents, dataset, name="chance")

    # A system that knows the answers a little: each document leans towards its group's queries.
    row = {d.group_id: i for i, d in enumerate(dataset.documents)}
    for i, query in enumerate(dataset.queries):
        queries[i] += 0.3 * documents[row[query.group_id]]
    better = hybridret.evaluate_embeddings(queries, documents, dataset, name="better")

    for report in (chance, better):
        mono, cross, multi = (report.summary[kind]["AP"] for kind in ("mono", "cross", "multi"))
        print(
            f"{report.name}: AP mono {mono:.3f}, cross {cross:.3f}, multi {multi:.3f}, "
            f"rank distance {report.summary['rank_distance']:,.0f}"
        )
    for difference in hybridret.compare(better, chance, "AP").means:
        print(
            f"{difference.setting}: {difference.difference:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}], p {difference.p:.4f}"
        )


if __name__ == "__main__":
    main()
