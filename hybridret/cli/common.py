"""What the commands have in common: help, model options, loading."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any

from hybridret.errors import DataError

DATA_HELP = (
    "a folder of <language>.json files (XQuAD-R, MLQA-R, SQuAD), a BEIR, MIRACL, NTREX or Tatoeba "
    "folder, a .jsonl file of pairs, or an embedded set: facts-train, facts-evaluation, "
    "facts-paraphrase; or of the hub: miracl/miracl, BeIR/NAME, a repository of such files"
)
TORCH_MODEL_HELP = "a sentence-transformers or Hugging Face model, by folder or hub name"
MODEL_HELP = "a folder written by 'hybridret export', or " + TORCH_MODEL_HELP


class Parser(argparse.ArgumentParser):
    """Refuses an option that is given twice, and names the option that was meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in (None, "store"):
            self.register("action", name, StoreOnce)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._command(getattr(found, "command", None))
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser._hint(unknown[0])}")
        return found

    def _command(self, name: str | None) -> Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                return action.choices[name]  # type: ignore[no-any-return]
        return self

    def _hint(self, given: str) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(given.partition("=")[0], options, n=1)
        return f" (did you mean {near[0]}?)" if near else ""


class StoreOnce(argparse.Action):
    """argparse's ``store``, where a second value would silently take the place of the first."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        given = vars(namespace).setdefault("given", set())
        if option_string and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; it takes one value")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or not action.option_strings:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)


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
    group = parser.add_argument_group("text and pooling (a torch model's own unless given)")
    group.add_argument(
        "--query-prompt", metavar="TEXT", help=f"before every query; {prompt_default}"
    )
    group.add_argument("--document-prompt", metavar="TEXT", help="before every document")
    group.add_argument("--pooling", choices=("mean", "cls", "max", "lasttoken"), help="of tokens")
    group.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scale vectors to length one",
    )
    group.add_argument("--max-length", type=int, metavar="TOKENS", help="longer texts are cut")


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
        raise DataError(f"{source} is exported: {flags} had to be given to 'hybridret export'")
    return torch_encoder().load(source, **given)


def torch_encoder() -> Any:
    from hybridret._extras import require

    require("torch", "train", "loading a torch model")
    from hybridret.encoder.torch_encoder import TorchEncoder

    return TorchEncoder


def interactive() -> bool:
    return sys.stderr.isatty()
