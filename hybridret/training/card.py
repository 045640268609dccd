"""The model card of a trained encoder: what it was made from, and what was measured."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from hybridret._files import read_json, write_text
from hybridret.errors import DataError


def write_card(folder: Path, measured: str) -> None:
    """Writes ``model/README.md`` from the ``training.json`` of a run's folder.

    Args:
        measured: tables of evaluations as text; may be empty.
    """
    state = read_json(folder / "training.json", DataError)
    write_text(folder / "model" / "README.md", _card(folder.resolve().name, state, measured))


def _card(name: str, state: dict[str, Any], measured: str) -> str:
    config = state["config"]
    sampler, model = config["sampler"], state.get("model")
    kind = f"{sampler} (alpha {config['alpha']:g})" if sampler == "hybrid" else sampler
    start = f"`{model}`" if model not in (None, "static") else "A static encoder"
    languages = state["languages"]
    front = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity"]
    front += ["tags:", "- sentence-transformers", "- feature-extraction", "- hybridret"]
    front += ["language:", *(f"- {json.dumps(language)}" for language in languages)]
    if model and "/" in model and not Path(model).exists():
        front.append(f"base_model: {json.dumps(model)}")
    rows = "\n".join(f"| {n} | {count:,} |" for n, count in state["rows_by_data_set"].items())
    settings = {
        "batches": f"{state['step']:,} of {config['batch_size']:,} pairs, {kind}",
        "languages": " ".join(languages),
        "learning rate": f"{config['learning_rate']:g}, weight decay {config['weight_decay']:g}",
        "temperature": f"{config['temperature']:g}",
        "precision": config["precision"],
        "seed": config["seed"],
        "data": f"fingerprint `{state['data']}`",
    }
    if state.get("best"):
        best = dict(state["best"])
        settings["kept"] = f"step {best.pop('step')}, by {next(iter(best))}"
    if state.get("versions"):
        settings["versions"] = ", ".join(f"{n} {v}" for n, v in state["versions"].items())
    if state.get("command"):
        settings["command"] = f"`{shlex.join(map(str, state['command']))}`"
    text = "\n".join(f"| {n} | {value} |" for n, value in settings.items())
    results = f"## Measured\n\n```text\n{measured}\n```\n\n" if measured else ""
    return (
        "---\n" + "\n".join(front) + "\n---\n\n"
        f"# {name}\n\n{start}, trained for multilingual retrieval with hybridret.\n\n"
        f"{results}"
        f"## Training\n\n| | |\n|---|---|\n{text}\n\n"
        f"| data set | rows |\n|---|---|\n{rows}\n\n"
        "## Use\n\n```python\n"
        "from sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{name}")\n'
        'queries = model.encode_query(["..."])\n'
        'documents = model.encode_document(["..."])\n'
        "print(model.similarity(queries, documents))\n```\n"
    )
