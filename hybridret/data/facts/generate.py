"""Writes ``facts.json.xz`` from the Unicode CLDR through Babel: development only.

    python -m hybridret.data.facts.generate

The file holds the names of every entity and answer in all languages, and the facts as codes.
A name that is missing in one language takes its facts out of the set, so that every fact can be
told in every language. Passages are made from the templates at load time.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hybridret.data.facts.m49 import SUBREGION
from hybridret.data.facts.templates import ANSWER_KIND, ENTITY_KIND, LANGUAGES
from hybridret.errors import MissingExtraError

try:
    import babel
    from babel.core import Locale, get_cldr_version, get_global
    from babel.languages import get_territory_language_info
    from babel.localedata import locale_identifiers
    from babel.numbers import get_territory_currencies
except ImportError as error:
    raise MissingExtraError(
        "generating the embedded facts needs Babel 2.18 or newer: pip install babel"
    ) from error

Names = dict[str, list[str]]
"""Names of each key, in the order of ``LANGUAGES``."""

FILE = Path(__file__).with_name("facts.json.xz")

_LOCALES = [Locale.parse(language) for language in LANGUAGES]

# Groups of countries, pseudo-locales and "unknown": not territories.
_NOT_A_TERRITORY = {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"}
_NOT_A_LANGUAGE = {"mul", "und", "zxx"}

# The CLDR calls French official in DZ and TN, which their constitutions do not; it has no name for
# Montenegrin, the official language of ME.
_OFFICIAL_LANGUAGE_LEFT_OUT = {"DZ", "ME", "TN"}

# Languages which leave out the name of a city where the last part of the zone's id says the same.
_CITY_FALLBACK = {"de", "en", "es", "tr", "vi"}


def main() -> None:
    """Generates the file next to this module and prints its size."""
    FILE.write_bytes(compress(generate()))
    print(f"{FILE}: {FILE.stat().st_size} bytes")


def generate() -> bytes:
    """The facts as UTF-8 JSON.

    Returns:
        An object with ``source`` (versions of Babel and the CLDR), ``languages``, ``names``
        (kind -> key -> names in the order of ``languages``) and ``facts`` (relation -> key of the
        entity -> keys of its answers). The same versions give the same bytes.
    """
    names = _all_names()
    entities = {kind: _unambiguous(names[kind]) for kind in set(ENTITY_KIND.values())}
    facts: dict[str, dict[str, list[str]]] = {}
    for relation, answers_of in _RELATIONS.items():
        answers = names[ANSWER_KIND[relation]]
        found = {key: answers_of(key) for key in entities[ENTITY_KIND[relation]]}
        facts[relation] = {
            key: codes for key, codes in found.items() if codes and all(c in answers for c in codes)
        }
    document = {
        "source": {"babel": babel.__version__, "cldr": get_cldr_version()},
        "languages": LANGUAGES,
        "names": _used(names, facts),
        "facts": facts,
    }
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def compress(payload: bytes) -> bytes:
    """``payload`` as an xz file with fixed settings."""
    return lzma.compress(payload, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)


def _all_names() -> dict[str, Names]:
    territories = _complete([locale.territories for locale in _LOCALES])
    languages = _complete([locale.languages for locale in _LOCALES])
    return {
        "territory": {
            k: v for k, v in territories.items() if k.isalpha() and k not in _NOT_A_TERRITORY
        },
        "subregion": {code: territories[code] for code in sorted(set(SUBREGION.values()))},
        "language": {
            k: v for k, v in languages.items() if "_" not in k and k not in _NOT_A_LANGUAGE
        },
        "currency": _complete([locale.currencies for locale in _LOCALES]),
        "script": _complete([locale.scripts for locale in _LOCALES]),
        "weekday": _complete([_weekdays(locale) for locale in _LOCALES]),
        "place": _complete([_places(locale) for locale in _LOCALES]),
        "time_zone": _time_zones(),
    }


def _complete(tables: list[Mapping[str, str]]) -> Names:
    """Keys which every table names, with their names."""
    shared = set(tables[0]).intersection(*tables[1:])
    return {key: [table[key] for table in tables] for key in sorted(shared)}


def _unambiguous(names: Names) -> list[str]:
    """Keys whose name belongs to no other key in any language."""
    counts = Counter((i, n.casefold()) for row in names.values() for i, n in enumerate(row))
    return [
        key
        for key, row in names.items()
        if all(counts[i, name.casefold()] == 1 for i, name in enumerate(row))
    ]


def _used(names: dict[str, Names], facts: dict[str, dict[str, list[str]]]) -> dict[str, Names]:
    keys: dict[str, set[str]] = defaultdict(set)
    for relation, answers in facts.items():
        keys[ENTITY_KIND[relation]].update(answers)
        keys[ANSWER_KIND[relation]].update(code for codes in answers.values() for code in codes)
    return {kind: {key: names[kind][key] for key in sorted(keys[kind])} for kind in sorted(keys)}


def _weekdays(locale: Locale) -> dict[str, str]:
    return {str(i): name for i, name in locale.days["stand-alone"]["wide"].items()}


def _zone_ids() -> dict[str, list[str]]:
    """Older ids of each canonical zone; the CLDR keeps its names under one or the other."""
    older: dict[str, list[str]] = {zone: [] for zone in get_global("zone_territories")}
    for alias, zone in sorted(get_global("zone_aliases").items()):
        if zone in older:
            older[zone].append(alias)
    return {zone: ids for zone, ids in older.items() if not zone.startswith("Etc/")}


def _places(locale: Locale) -> dict[str, str]:
    """Name of the city or island that stands for each zone."""
    places = {}
    for zone, older in _zone_ids().items():
        cities = [locale.time_zones.get(i, {}).get("city") for i in (zone, *older)]
        found = next((city for city in cities if city), None)
        if found is None and locale.language in _CITY_FALLBACK:
            found = _cldr_id(zone, older).rpartition("/")[2].replace("_", " ")
        if found is not None:
            places[zone] = found
    return places


def _cldr_id(zone: str, older: Iterable[str]) -> str:
    # The CLDR's own id is the one under which a language that never falls back has the name.
    reference = Locale.parse("ru").time_zones
    return next((i for i in older if "city" in reference.get(i, {})), zone)


def _time_zones() -> Names:
    """Long name of each metazone: the generic one ("Eastern Time") if every language has it."""
    names: Names = {}
    for metazone in sorted(set(get_global("meta_zones").values())):
        long = [locale.meta_zones.get(metazone, {}).get("long", {}) for locale in _LOCALES]
        for form in ("generic", "standard"):
            if metazone not in names and all(table.get(form) for table in long):
                names[metazone] = [table[form] for table in long]
    return names


def _currency(territory: str) -> list[str]:
    return list(get_territory_currencies(territory))


def _official_language(territory: str) -> list[str]:
    """Languages that are official in the whole territory, else those that are so de facto."""
    if territory in _OFFICIAL_LANGUAGE_LEFT_OUT:
        return []
    status: dict[str, list[str]] = defaultdict(list)
    for tag, info in get_territory_language_info(territory).items():
        language = tag.partition("_")[0]  # sr and sr_Latn are one language
        if language not in status[str(info["official_status"])]:
            status[str(info["official_status"])].append(language)
    official = status["official"] or status["de_facto_official"]
    # Norwegian stands beside its two written standards.
    return [language for language in official if language != "no" or "nb" not in official]


def _subregion(territory: str) -> list[str]:
    return [SUBREGION[territory]] if territory in SUBREGION else []


def _weekday_table() -> dict[str, str]:
    """First day of the week by territory, of those on which all locales agree.

    Babel has it by locale only, and its locales of pt inherit Portugal's where they should have the
    world's: they are not asked.
    """
    days: dict[str, set[int]] = defaultdict(set)
    for identifier in locale_identifiers():
        if get_global("parent_exceptions").get(identifier) != "pt_PT":
            locale = Locale.parse(identifier)
            if locale.territory:
                days[locale.territory].add(locale.first_week_day)
    return {territory: str(min(found)) for territory, found in days.items() if len(found) == 1}


_FIRST_WEEKDAY = _weekday_table()


def _first_weekday(territory: str) -> list[str]:
    return [_FIRST_WEEKDAY[territory]] if territory in _FIRST_WEEKDAY else []


def _country(zone: str) -> list[str]:
    territory = str(get_global("zone_territories")[zone])
    return [] if territory == "AQ" else [territory]  # stations belong to no state


def _time_zone(zone: str) -> list[str]:
    table: Mapping[str, Any] = get_global("meta_zones")
    found = [str(table[i]) for i in (zone, *_zone_ids()[zone]) if i in table]
    return found[:1]


def _script(language: str) -> list[str]:
    script = _likely(language)[1]
    # "Simplified" and "Traditional" name no script on their own.
    return [] if not script else ["Hani" if script in ("Hans", "Hant") else script]


def _main_country(language: str) -> list[str]:
    territory = _likely(language)[2]
    return [territory] if territory else []


def _likely(language: str) -> tuple[str, str, str]:
    tag = str(get_global("likely_subtags").get(language, f"{language}__"))
    _, script, territory = tag.split("_")
    return language, script, territory


_RELATIONS: dict[str, Callable[[str], list[str]]] = {
    "currency": _currency,
    "official_language": _official_language,
    "subregion": _subregion,
    "first_weekday": _first_weekday,
    "country": _country,
    "time_zone": _time_zone,
    "script": _script,
    "main_country": _main_country,
}


if __name__ == "__main__":
    main()
