"""What a run logs, for TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def tracked(
    accelerator: Any, folder: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that takes an entry of the log to the trackers of ``accelerator``.

    TensorBoard writes to ``folder/hybridret``; Weights & Biases to the project hybridret, with the
    folder's name for the run, unless its environment variables say otherwise.
    """
    if not accelerator.log_with:
        yield lambda entry: None
        return
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in settings.items()
    }
    accelerator.init_trackers(
        "hybridret", plain, {"wandb": {"name": folder.name, "dir": str(folder)}}
    )
    try:
        yield lambda entry: accelerator.log(_numbers(entry), step=entry["step"])
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """``loss``, ``accuracy/de-en``, ``evaluation/multi AP``, ..."""
    found = {
        name: float(entry[name]) for name in ("loss", "accuracy", "learning_rate") if name in entry
    }
    if "data_set" in entry:
        found[f"loss/{entry['data_set']}"] = entry["loss"]
    for pair, values in entry.get("pairs", {}).items():
        found |= {f"{name}/{pair}": values[name] for name in ("accuracy", "loss") if name in values}
    for name, value in entry.get("evaluation", {}).items():
        found[f"evaluation/{name}"] = value
    return found
