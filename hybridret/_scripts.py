"""The script of a letter, from its name in Unicode."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache


@lru_cache(65_536)
def script(letter: str) -> str:
    """The first word of a letter's name, such as ``latin``; ``cjk`` of Chinese and Japanese ones.

    Empty for signs that go with several scripts.
    """
    if unicodedata.category(letter) == "Lm":
        return ""
    name = re.match("[A-Z]*", unicodedata.name(letter, ""))
    found = name[0].lower() if name else ""
    return "cjk" if found in ("hiragana", "katakana") else found or "other"
