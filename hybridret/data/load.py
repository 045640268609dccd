"""``load_dataset``: the table of formats, and where a data set comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hybridret.data import beir, hub, jsonl, miracl, mmarco, ntrex, squad, tatoeba
from hybridret.data.facts import Split, load_facts
from hybridret.data.formats import Candidates, Format, Source
from hybridret.data.table import Dataset
from hybridret.errors import DataError

FORMATS: tuple[Format, ...] = (
    jsonl.FORMAT,
    ntrex.FORMAT,
    beir.FORMAT,
    tatoeba.FORMAT,
    miracl.FORMAT,
    mmarco.FORMAT,
    squad.FORMAT,  # last: any of the other folders may hold a .json file, too
)
"""A path is read as the first format that matches it. A new format is a file and a line here."""

EMBEDDED: dict[str, Split] = {f"facts-{split}": split for split in get_args(Split)}

FORMATS_HELP = ", ".join(f"{format.name} ({format.layout})" for format in FORMATS)
"""The formats in words."""

DATA_HELP = (
    f"{FORMATS_HELP}; an embedded set: {', '.join(EMBEDDED)}; or a set of the Hugging Face hub: "
    f"miracl/miracl, BeIR/NAME, or a repository that is such a folder"
)
"""All that :func:`load_dataset` takes, in words, for ``--help``."""


def load_dataset(
    source: str | Path,
    *,
    candidates: Candidates = "sentence",
    languages: Sequence[str] | None = None,
) -> Dataset:
    """A data set by name or path; the format is recognised by the names of the files.

    ``facts-train``, ``facts-evaluation`` and ``facts-paraphrase`` are embedded. A path is read by
    the first of :data:`FORMATS` that matches: a ``.jsonl`` file holds query/positive pairs, a
    folder of ``<language>.json`` files is SQuAD (XQuAD-R, MLQA-R), one with ``corpus.jsonl`` BEIR,
    one with MIRACL's topics MIRACL, one with ``DOCUMENT_IDS.tsv`` NTREX, one with
    ``tatoeba.<language>-eng.eng`` Tatoeba. ``owner/name`` that is no path is downloaded from the
    hub, see :mod:`hybridret.data.hub`.

    Args:
        candidates: text of a document of a set that has sentences, see :func:`read_squad`.
        languages: only these; of a set that lies on the hub by language only these are fetched.

    Raises:
        DataError: nothing there, no format fits, the content is malformed, or a language is not in
            it.
        MissingExtraError: the hub is asked for and its client is not installed.
    """
    if str(source) in EMBEDDED:
        found = load_facts(EMBEDDED[str(source)])
    else:
        at = _find(source, candidates, languages)
        format = next((f for f in FORMATS if f.matches(at.path)), None)
        if format is None:
            raise DataError(f"{source}: {_kind(at.path)}; expected one of: {FORMATS_HELP}")
        found = format.read(at)
    return found.only_languages(languages) if languages else found


def _find(source: str | Path, candidates: Candidates, languages: Sequence[str] | None) -> Source:
    name = str(source)
    if not name:
        raise DataError(f"the name of the data set is empty; expected one of: {DATA_HELP}")
    if Path(source).exists():
        return Source(Path(source), None, candidates, languages)
    if name.startswith("facts"):
        raise DataError(f"there is no embedded set {name!r}; there are {', '.join(EMBEDDED)}")
    if not hub.is_hub_name(name):
        raise DataError(
            f"{name}: no such file or folder, and neither an embedded set ({', '.join(EMBEDDED)}) "
            f"nor the name of a set of the hub (OWNER/NAME)"
        )
    return Source(*hub.download(name, languages), candidates, languages)


def _kind(path: Path) -> str:
    if not path.is_dir():
        suffix = "".join(path.suffixes[-2 if path.suffix == ".gz" else -1 :])
        return f"a {suffix} file" if suffix else "a file without a suffix"
    return "a folder of no known format" if any(path.iterdir()) else "an empty folder"
