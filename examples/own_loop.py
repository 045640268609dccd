"""Your own training loop: hybridret's sampler and loss, everything else in plain torch.

python examples/own_loop.py
"""

from __future__ import annotations

import argparse

import torch

import hybridret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    dataset = hybridret.load_dataset("facts-train")
    table = hybridret.PairTable.from_dataset(dataset)
    sampler = hybridret.make_sampler("hybrid", table, batch_size=128, alpha=0.5, seed=0)
    encoder = hybridret.TorchEncoder.new_static(table.query_texts + table.document_texts)
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=2e-2)

    def embed(texts: list[str]) -> torch.Tensor:
        ids, mask = encoder.tokenizer(texts)
        return encoder.model(torch.from_numpy(ids), torch.from_numpy(mask))

    encoder.model.train()
    for step, batch in sampler.steps(steps):
        groups = torch.from_numpy(batch.groups(table))
        loss, metrics = hybridret.infonce(
            embed(batch.query_texts(table)),
            embed(batch.document_texts(table)),
            temperature=0.05,
            query_groups=groups[: len(batch.rows)],  # a translation of the positive is no negative
            document_groups=groups,
            unit_norm=True,  # the model already normalises its vectors
            return_stats=True,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(
                f"step {step}: loss {loss.item():.3f}, in-batch accuracy "
                f"{metrics.accuracy.item():.2f}, {batch.kind}"
            )

    report = hybridret.evaluate(encoder, hybridret.load_dataset("facts-evaluation"))
    for setting in ("mono", "cross", "multi"):
        print(f"{setting}: AP {report.summary[setting]['AP']:.3f}")


if __name__ == "__main__":
    main()
