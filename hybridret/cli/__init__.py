"""The command line, ``hybridret COMMAND``: one file for each command, with ``add`` and ``run``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hybridret import _native
from hybridret.cli import (
    debias,
    distill,
    evaluate,
    export,
    index,
    info,
    quickstart,
    search,
    serve,
    store,
    study,
    train,
)
from hybridret.cli.common import Parser
from hybridret.errors import DataError, HybridretError

COMMANDS = (
    quickstart,
    train,
    distill,
    debias,
    evaluate,
    study,
    export,
    index,
    search,
    serve,
    store,
    info,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 on an error, 130 on ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("a COMMAND is required, such as quickstart")
    try:
        _check_isa()
        options.run(options)
    except HybridretError as error:
        print(f"hybridret: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"hybridret: stopped{_resume_hint(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `hybridret search ... | head`
        sys.stderr.close()
        return 1
    except OSError as error:  # a path that cannot be created, read or written; a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"hybridret: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _check_isa() -> None:
    try:
        _native.isa()
    except RuntimeError as error:  # HYBRIDRET_ISA names one that this machine cannot run
        raise DataError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hybridret",
        description="Train, evaluate and serve multilingual dense retrievers.",
        epilog="Start with: hybridret quickstart. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"hybridret {_native.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _resume_hint(o: argparse.Namespace) -> str:
    if o.command == "study":
        return "; to go on, run the same command again"
    if o.command != "train":
        return ""
    if (o.output / "checkpoint").is_dir():
        return f"; to continue from {o.output}/checkpoint, run the same command with --resume"
    return " before the first checkpoint"
