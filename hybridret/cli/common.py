"""Shared by the commands: the parser, help texts, model options, loading of models."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from hybridret.errors import DataError, did_you_mean

TORCH_MODEL_HELP = "a sentence-transformers or Hugging Face model (folder or hub name)"
MODEL_HELP = "a folder written by 'hybridret export', or " + TORCH_MODEL_HELP


class Parser(argparse.ArgumentParser):
    """Rejects an option that is given twice, and suggests the nearest option for an unknown one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in (None, "store"):
            self.register("action", name, StoreOnce)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        parser = self._command(getattr(found, "command", None))
        if unknown:
            options = [option for action in parser._actions for option in action.option_strings]
            hint = did_you_mean(unknown[0].partition("=")[0], options)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            message += did_you_mean(wrong[1], re.findall(r"[\w.@-]+", wrong[2]))
        super().error(message)

    def _command(self, name: str | None) -> Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                return action.choices[name]  # type: ignore[no-any-return]
        return self


class StoreOnce(argparse.Action):
    """argparse's ``store``, but a second value is an error instead of replacing the first."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        given = vars(namespace).setdefault("given", set())
        if option_string and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; it takes one value")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option only if it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or not action.option_strings:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Lines as they are, if there are several."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


def add_command(commands: Any, name: str, run: Any, summary: str, more: str = "") -> Any:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_model_options(parser: Any, prompt_default: str) -> None:
    group = parser.add_argument_group(
        "text and pooling (for torch models; default: the model's own settings)"
    )
    group.add_argument(
        "--query-prompt",
        metavar="TEXT",
        help=f"text put before every query (default: {prompt_default})",
    )
    group.add_argument(
        "--document-prompt",
        metavar="TEXT",
        help="text put before every document (default: see --query-prompt)",
    )
    group.add_argument(
        "--pooling",
        choices=("mean", "cls", "max", "lasttoken"),
        help="how token vectors become one vector",
    )
    group.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="normalise vectors to length 1",
    )
    group.add_argument(
        "--max-length", type=int, metavar="TOKENS", help="texts are truncated to this length"
    )


def model_options(o: argparse.Namespace) -> dict[str, Any]:
    names = ("query_prompt", "document_prompt", "pooling", "normalize", "max_length")
    return {name: getattr(o, name) for name in names if getattr(o, name) is not None}


def load_encoder(source: str, o: argparse.Namespace) -> Any:
    from hybridret.encoder.loading import load_encoder
    from hybridret.encoder.manifest import is_exported

    given = model_options(o)
    if not given:
        return load_encoder(source)
    if is_exported(source):
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise DataError(
            f"{source} is an exported encoder: {flags} must be given to 'hybridret export' instead"
        )
    return torch_encoder().load(source, **given)


def torch_encoder() -> Any:
    from hybridret._extras import require

    require("torch", "train", "loading a torch model")
    from hybridret.encoder.torch_encoder import TorchEncoder

    return TorchEncoder


def interactive() -> bool:
    return sys.stderr.isatty()
