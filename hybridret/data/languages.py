"""Language tags as sources write them -> BCP-47 as this library writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hybridret.errors import DataError

UNDETERMINED = "und"
"""BCP-47 for a text whose language nobody stated."""

# ISO 639-3 and 639-2/B codes met in retrieval data -> ISO 639-1.
_TWO_LETTERS = {
    three: two
    for two, threes in {
        "af": "afr",
        "am": "amh",
        "ar": "ara arb",
        "az": "aze azj",
        "bg": "bul",
        "bn": "ben",
        "ca": "cat",
        "cs": "ces cze",
        "da": "dan",
        "de": "deu ger",
        "el": "ell gre",
        "en": "eng",
        "es": "spa",
        "et": "est ekk",
        "eu": "eus baq",
        "fa": "fas per pes",
        "fi": "fin",
        "fr": "fra fre",
        "gu": "guj",
        "ha": "hau",
        "he": "heb",
        "hi": "hin",
        "hr": "hrv",
        "hu": "hun",
        "hy": "hye arm",
        "id": "ind",
        "ig": "ibo",
        "is": "isl ice",
        "it": "ita",
        "ja": "jpn",
        "jv": "jav",
        "ka": "kat geo",
        "kk": "kaz",
        "km": "khm",
        "kn": "kan",
        "ko": "kor",
        "lo": "lao",
        "lt": "lit",
        "lv": "lav lvs",
        "mk": "mkd mac",
        "ml": "mal",
        "mn": "mon khk",
        "mr": "mar",
        "ms": "msa may zsm",
        "my": "mya bur",
        "nb": "nob",
        "ne": "nep npi",
        "nl": "nld dut",
        "no": "nor",
        "pa": "pan",
        "pl": "pol",
        "pt": "por",
        "ro": "ron rum",
        "ru": "rus",
        "rw": "kin",
        "si": "sin",
        "sk": "slk slo",
        "sl": "slv",
        "sn": "sna",
        "so": "som",
        "sq": "sqi alb als",
        "sr": "srp",
        "sv": "swe",
        "sw": "swa swh",
        "ta": "tam",
        "te": "tel",
        "tg": "tgk",
        "th": "tha",
        "tl": "tgl",
        "tr": "tur",
        "uk": "ukr",
        "ur": "urd",
        "uz": "uzb uzn",
        "vi": "vie",
        "wo": "wol",
        "xh": "xho",
        "yo": "yor",
        "zh": "zho chi cmn",
        "zu": "zul",
    }.items()
    for three in threes.split()
}
# Languages written in more than one script: there the script is part of the name.
_SEVERAL_SCRIPTS = {"az", "pa", "sr", "uz", "zh"}


_TAG = re.compile("[A-Za-z]{2,3}(-([A-Za-z]{2}|[A-Za-z]{4}|[0-9]+))*")


def normalize_language(tag: str) -> str:
    """``deu_Latn`` -> ``de``, ``zho-CN`` -> ``zh-CN``, ``zh_cn`` -> ``zh-CN``, ``arb`` -> ``ar``.

    A script is kept only where the language is written in several.

    Raises:
        DataError: ``tag`` is not of the form language[-Script][-REGION].
    """
    if not is_language(tag):
        raise DataError(
            f"{tag[:40]!r} is not a language tag; expected one such as 'de' or 'zh-Hans'"
        )
    language, *rest = _parts(tag)
    language = _TWO_LETTERS.get(language.lower(), language.lower())
    script = [p.title() for p in rest if len(p) == 4 and p.isalpha()]
    region = [p.upper() for p in rest if len(p) == 2 or p.isdigit()]
    return "-".join([language, *(script if language in _SEVERAL_SCRIPTS else []), *region])


def is_language(tag: str) -> bool:
    """Whether a text has the form of a language tag."""
    return _TAG.fullmatch("-".join(_parts(tag))) is not None


def matches_language(tag: str, asked: str) -> bool:
    """Whether a tag is the asked one or a variety of it, as zh-CN of zh (RFC 4647, 3.3.1)."""
    return tag == asked or tag.startswith(f"{asked}-")


def _parts(tag: str) -> list[str]:
    return tag.strip().replace("_", "-").split("-")


def files_by_language(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The files of a data set that has one a language, from (tag as the file name has it, file).

    Raises:
        DataError: a tag that is none, or two files of one language; the files are named.
    """
    found: dict[str, Path] = {}
    for tag, file in files:
        try:
            language = normalize_language(tag)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        if language in found:
            raise DataError(f"{file}: duplicate of {found[language]}: both are {language!r}")
        found[language] = file
    return found
