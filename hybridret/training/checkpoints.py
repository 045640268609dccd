"""Checkpoints: a complete encoder folder with the state of optimizer, random numbers and run.

::

    checkpoint/state.json                step, losses, log, and checksums of all other files
    checkpoint/parameters.safetensors    the model's parameters in the training dtype
    checkpoint/optimizer.safetensors     the optimizer's tensors by parameter, torch's random state
    checkpoint/...                       the encoder in the sentence-transformers layout
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridret._files import atomic_folder, check_files, checksums, read_json, write_json
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.encoder.weights import load_tensors, save_tensors
from hybridret.errors import DataError, ModelError

STATE_FILE = "state.json"
PARAMETERS_FILE = "parameters.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
_RANDOM_STATE = "random state"


@dataclass
class RunState:
    """The state of a run apart from its tensors: steps done, loss of each step, log entries."""

    step: int
    losses: list[float]
    log: list[dict[str, Any]]


def save(
    folder: Path,
    encoder: TorchEncoder,
    optimizer: torch.optim.Optimizer,
    run: RunState,
    random_states: Sequence[Tensor],
) -> None:
    """Writes a checkpoint; it replaces the previous one in one step, when it is complete.

    Args:
        random_states: of every process, see :func:`random_state`.

    Raises:
        OSError: it could not be written (e.g. the disk is full).
    """
    with atomic_folder(folder) as temporary:
        encoder.save(temporary)
        save_tensors(encoder.model.state_dict(), temporary / PARAMETERS_FILE)
        tensors = {f"{_RANDOM_STATE} {n}": state for n, state in enumerate(random_states)}
        for name, parameter in encoder.model.named_parameters():
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}|{key}"] = value
        save_tensors(tensors, temporary / OPTIMIZER_FILE)
        content = vars(run) | {"files": checksums(temporary)}
        write_json(temporary / STATE_FILE, {"sha256": _digest(content), **content})


def check(folder: Path) -> RunState:
    """The state of a checkpoint, after comparing all files with their checksums.

    Raises:
        DataError: a file is missing or damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise DataError(f"{path}: missing")
    content = read_json(path, DataError)
    written = content.pop("sha256", None) if isinstance(content, dict) else None
    if written is None and isinstance(content, dict) and "step" in content:
        raise DataError(
            f"{path}: written by hybridret 0.1, without checksums: finish the run with 0.1, or "
            f"start it again in another folder"
        )
    if written != _digest(content):
        raise DataError(f"{path}: damaged: the content does not match its checksum")
    check_files(folder, content["files"], DataError)
    return RunState(content["step"], content["losses"], content["log"])


def load(
    folder: Path, encoder: TorchEncoder, optimizer: torch.optim.Optimizer, process: int = 0
) -> RunState:
    """Restores parameters, optimizer state and this process's random state.

    With more processes than saved it, the further ones keep the random state that they have.

    Raises:
        DataError: see :func:`check`; or the checkpoint is from another model.
    """
    state = check(folder)
    try:
        encoder.model.load_state_dict(load_tensors(folder / PARAMETERS_FILE))
        saved = load_tensors(folder / OPTIMIZER_FILE)
    except (ModelError, RuntimeError) as error:
        raise DataError(f"{folder}: from another model: {error}") from None
    for name, parameter in encoder.model.named_parameters():
        prefix = f"{name}|"  # no entries for a parameter without a gradient: BERT's unused pooler
        kept = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        if kept:
            optimizer.state[parameter] = kept
    if (numbers := saved.get(f"{_RANDOM_STATE} {process}")) is not None:
        size = len(torch.get_rng_state())
        torch.set_rng_state(numbers[:size])
        if len(numbers) > size and torch.cuda.is_available():
            torch.cuda.set_rng_state(numbers[size:])
    return state


def random_state() -> Tensor:
    """uint8, of torch's generators: the CPU's, and that of the GPU in use if there is one."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def _digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
