"""The paper, answered: hybrid batches of arXiv 2408.10536 against the others, with intervals.

Its claims are those of its sections 4 and 5; its cells stand beside ours. The alpha sweep, the
language directions before and after the training, and the languages mixed in a batch (MTD, arXiv
2405.00977) are questions that it leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridret.studies.claims import Claim, System
from hybridret.studies.protocol import Arm
from hybridret.studies.results import PLAIN, UNTRAINED, WITHOUT, Study
from hybridret.studies.scores import RANK_DISTANCE

TITLE = "Hybrid batches for multilingual retrieval (arXiv 2408.10536)"
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")
"""Those that the paper trains on: of XQuAD-R's languages el and vi are unseen, of MLQA-R's vi."""
BATCHES = ("monolingual", "cross-lingual", "mixed", "hybrid")
ALPHAS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
SETTINGS = ("AP mono", "AP cross", "AP multi")
MIRACL = ("nDCG@10 mono", "recall@100 mono")

_NINE = "in nine languages"
DATA = {
    "mmarco": (39_780_811, "in en ar zh de es ru hi: unicamp-dl/mmarco"),
    "entityquestions": (9 * 176_975, _NINE),
    "yahoo-qa": (9 * 135_557, _NINE),
    "natural-questions": (9 * 113_535, _NINE),
    "newsqa": (9 * 59_496, _NINE),
    "duorc": (9 * 33_298, _NINE),
    "wikiqa": (9 * 1_469, _NINE),
    "mfaq": (3_567_659, "in English: clips/mfaq"),
    "mrtydi": (3_547, "in English: castorini/mr-tydi"),
}
"""What the paper trains on: rows, and where they are from. Its translations into nine languages are
not published."""


def weights(rows: Mapping[str, int], given: Mapping[str, float]) -> dict[str, float]:
    """What a batch of the recipe is drawn from, in proportion to sizes, as in the paper.

    Args:
        rows: of each data set; those of :data:`DATA` have their size in the paper, which counts
            triples of a query, a passage and a negative.
        given: weights instead.
    """
    return {
        name: given.get(name, float(DATA[name][0] if name in DATA else count))
        for name, count in rows.items()
    }


_COLUMNS = (*SETTINGS, RANK_DISTANCE)
_CELLS = {
    "XLM-R": {
        "monolingual": ((0.7918, 0.6737, 0.5479, 410.2), (0.6475, 0.5843, 0.4731, 287.5)),
        "cross-lingual": ((0.7554, 0.6997, 0.5934, 295.4), (0.6256, 0.6200, 0.5076, 226.7)),
        "hybrid": ((0.7977, 0.7053, 0.5927, 286.6), (0.6481, 0.6234, 0.5121, 227.1)),
    },
    "LaBSE": {
        "monolingual": ((0.8083, 0.7519, 0.6517, 261.5), (0.6807, 0.6561, 0.5504, 225.3)),
        "cross-lingual": ((0.8008, 0.7618, 0.6791, 225.2), (0.6710, 0.6767, 0.5755, 198.3)),
        "hybrid": ((0.8167, 0.7672, 0.6817, 221.1), (0.6864, 0.6811, 0.5785, 195.0)),
    },
}
_MIRACL = {  # means over 15 languages of the development set: nDCG@10, recall@100
    "XLM-R": {
        "monolingual": (0.4148, 0.7683),
        "cross-lingual": (0.3993, 0.7487),
        "hybrid": (0.4054, 0.7628),
    },
    "LaBSE": {
        "monolingual": (0.4551, 0.8120),
        "cross-lingual": (0.4184, 0.7768),
        "hybrid": (0.4411, 0.7954),
    },
}
REPORTED = {
    f"paper, {encoder}": {
        arm: {
            dataset: dict(zip(_COLUMNS, cells, strict=True))
            for dataset, cells in zip(("xquad-r", "mlqa-r"), both, strict=True)
        }
        | {"miracl-dev": dict(zip(MIRACL, _MIRACL[encoder][arm], strict=True))}
        for arm, both in arms.items()
    }
    for encoder, arms in _CELLS.items()
}
"""The tables of the paper, by the names that data sets to judge on have."""


def study(data: Sequence[str], *, start: str) -> Study:
    """The study on these data sets.

    Args:
        start: with ``static`` every question is asked; with ``real`` only the four kinds of batches
            are compared, with ``recipe`` the three of the paper.
    """
    every, full = tuple(data), start == "static"
    kinds = [kind for kind in BATCHES if start != "recipe" or kind != "mixed"]
    arms = [Arm(kind, kind, every) for kind in kinds]
    if full:
        if len(every) > 1:
            arms += [Arm(f"{kind}, {x}", kind, (x,)) for x in every for kind in BATCHES]
        arms.append(Arm("any-pair", "any-pair", every))
        arms += [
            Arm(_alpha(alpha), "hybrid", every, alpha=alpha)
            for alpha in ALPHAS
            if alpha not in (0, 0.5, 1)
        ]
        arms += [
            Arm(f"{kind}, directions out before", kind, every, before=True)
            for kind in ("monolingual", "hybrid")
        ]
    claims = [*_batches(kinds), *_directions()]
    if full:
        if len(every) > 1:
            claims += [
                c for x in every for c in _batches(kinds, f", {x}", f" (trained on {x} alone)")
            ]
        claims += [*_sweep(), *_before(), *_mixing()]
    return Study(
        "paper",
        TITLE,
        arms,
        claims,
        REPORTED,
        {alpha: _alpha(alpha) for alpha in ALPHAS} if full else {},
        (("hybrid", "monolingual"), ("hybrid", "cross-lingual")),
        (
            "The paper's cells are of other encoders, trained on other and far more data: look at "
            "the order of its rows, not at its height.",
        ),
    )


def _alpha(alpha: float) -> str:
    """The arm of an alpha: the ends are the monolingual and the cross-lingual batches."""
    known = {0.0: "cross-lingual", 0.5: "hybrid", 1.0: "monolingual"}
    return known.get(alpha, f"hybrid, alpha {alpha:g}")


def _plain(*names: str) -> list[System]:
    return [(name, PLAIN) for name in names]


def _batches(kinds: Sequence[str], suffix: str = "", where: str = "") -> list[Claim]:
    systems = {kind: (f"{kind}{suffix}", PLAIN) for kind in kinds}
    hybrid, others = systems["hybrid"], [systems[x] for x in kinds if x != "hybrid"]
    cross = systems["cross-lingual"]
    return [
        Claim(
            f"Is hybrid the best, or level, in each setting?{where}",
            f"Hybrid batches are best or level with the best in mono, cross and multi.{where}",
            "level",
            [(hybrid, other) for other in others],
            SETTINGS,
        ),
        Claim(
            f"How much language bias does each kind of batch leave?{where}",
            "Hybrid batches leave a smaller rank distance than batches without pairs of "
            f"languages.{where}",
            "better",
            [(hybrid, other) for other in others if other != cross],
            (RANK_DISTANCE,),
        ),
        Claim(
            f"How much language bias does each kind of batch leave?{where}",
            f"Hybrid batches leave no larger a rank distance than cross-lingual ones.{where}",
            "level",
            [(hybrid, cross)],
            (RANK_DISTANCE,),
        ),
    ]


def _sweep() -> list[Claim]:
    low, middle, high = _plain(*map(_alpha, (0.4, 0.5, 0.6)))
    outside = _plain(*(_alpha(a) for a in ALPHAS if not 0.4 <= a <= 0.6))
    question = "Where in alpha?"
    return [
        Claim(
            question,
            "Alpha .5 is best or level with 0, .25, .75 and 1.",
            "level",
            [(middle, other) for other in outside],
            SETTINGS,
        ),
        Claim(
            question,
            "From .4 to .6 the scores are stable.",
            "level",
            [(middle, low), (low, middle), (middle, high), (high, middle)],
            SETTINGS,
        ),
    ]


def _directions() -> list[Claim]:
    question = "Does it still matter once the language directions are out?"
    return [
        Claim(
            question,
            "With the directions out after the training, hybrid batches are still better in multi "
            "than monolingual ones.",
            "better",
            [(("hybrid", WITHOUT), ("monolingual", WITHOUT))],
            ("AP multi",),
        ),
        Claim(
            question,
            "Taking the directions out after hybrid training still gains in multi.",
            "better",
            [(("hybrid", WITHOUT), ("hybrid", PLAIN))],
            ("AP multi",),
        ),
        Claim(
            question,
            "Hybrid training gains in multi over the untrained encoder without its directions.",
            "better",
            [(("hybrid", WITHOUT), (UNTRAINED, WITHOUT))],
            ("AP multi",),
        ),
    ]


def _before() -> list[Claim]:
    before = "hybrid, directions out before"
    return [
        Claim(
            "Directions before, after, or both?",
            "Taken out before the training, the directions need not be taken out after it.",
            "level",
            [((before, PLAIN), ("hybrid", WITHOUT)), ((before, PLAIN), (before, WITHOUT))],
            ("AP multi",),
        ),
        Claim(
            "Directions before, after, or both?",
            "With the directions out before the training, hybrid batches are still better in "
            "multi than monolingual ones.",
            "better",
            [((before, PLAIN), ("monolingual, directions out before", PLAIN))],
            ("AP multi",),
        ),
    ]


def _mixing() -> list[Claim]:
    anything, hybrid = _plain("any-pair", "hybrid")
    return [
        Claim(
            "Does it matter how the languages of a batch are mixed (MTD)?",
            "Any languages in a row are level with hybrid batches, and these with them.",
            "level",
            [(anything, hybrid), (hybrid, anything)],
            SETTINGS,
        )
    ]
