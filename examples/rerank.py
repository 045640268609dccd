"""The best hits of a search, read again by a cross-encoder on ONNX Runtime.

    python examples/rerank.py ENCODER CROSS_ENCODER "Wie entsteht Regen?"

ENCODER is an exported encoder with an index, or a store. CROSS_ENCODER is a folder with
``tokenizer.json`` and ``onnx/model.onnx``, as several multilingual ones on the Hugging Face hub
have them, such as ``cross-encoder/mmarco-mMiniLMv2-L12-H384-v1``. It reads the query and a document
together: slower than comparing vectors, and better at telling good hits from the best.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

import hybridret


class CrossEncoder:
    """Scores of a query and its hits, to give to ``Retriever.search(rerank=...)``."""

    def __init__(self, folder: Path, max_length: int = 512) -> None:
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id("<pad>") or 0)
        self.session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
        self.inputs = [i.name for i in self.session.get_inputs()]

    def __call__(self, query: str, hits: list[hybridret.Hit]) -> np.ndarray:
        texts = [f"{hit.title} {hit.text}".strip() for hit in hits]
        pairs = self.tokenizer.encode_batch([(query, text) for text in texts])
        values = {
            "input_ids": [pair.ids for pair in pairs],
            "attention_mask": [pair.attention_mask for pair in pairs],
            "token_type_ids": [pair.type_ids for pair in pairs],
        }
        feed = {name: np.array(values[name], dtype=np.int64) for name in self.inputs}
        return self.session.run(None, feed)[0][:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("encoder", type=Path)
    parser.add_argument("cross_encoder", type=Path)
    parser.add_argument("query")
    o = parser.parse_args()
    retriever = hybridret.Retriever.load(o.encoder)
    rerank = CrossEncoder(o.cross_encoder)
    for hit in retriever.search(o.query, k=5, mode="hybrid", rerank=rerank, depth=50):
        print(f"{hit.score:.3f}  {hit.language} {hit.document_id}  {hit.text[:60]}")


if __name__ == "__main__":
    main()
