"""Texts that are in two data sets, and queries that change the language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridret.data import load_dataset
from hybridret.data.code_switching import code_switched
from hybridret.data.leakage import leakage
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError

LONG = "George was appalled by what he saw as their loose morals, and his brothers were not."


def made(name: str, *texts: tuple[str, str]) -> Dataset:
    """Each text is a query of its own group, answered by 'answer'."""
    queries = [Query(f"q{n}", text, language, f"{n}") for n, (language, text) in enumerate(texts)]
    documents = [Document(f"d{n}", f"answer {name} {n}", "en", f"{n}") for n in range(len(texts))]
    return Dataset(name, queries, documents, {f"q{n}": {f"d{n}": 1} for n in range(len(texts))})


def test_equal_texts_are_found_whatever_case_and_punctuation():
    found = leakage([made("a", ("en", "Who, then?"))], [made("b", ("en", "who  THEN"))])
    assert found.count == 1
    assert found.languages["en"].equal == 1
    assert found.languages["en"].examples == [("who  THEN", "Who, then?", 1.0)]


def test_a_sentence_is_found_in_its_passage():
    passage = f"It began in 1770. {LONG} That was all that is known of it, and of the others."
    for own, other in ((LONG, passage), (passage, LONG)):
        found = leakage([made("a", ("en", own))], [made("b", ("en", other))]).languages["en"]
        assert (found.equal, found.near) == (0, 1)
    changed = LONG.replace("appalled", "amused").replace("morals", "customs")
    assert not leakage([made("a", ("en", changed))], [made("b", ("en", passage))])


def test_chinese_questions_have_enough_pieces():
    """Of 23 characters, the last of which differs; too short ones are counted."""
    own = "马达加斯加独立之后使用的是什么货币由谁来发行呢"
    other = own.replace("来发行呢", "来发行的")
    found = leakage([made("a", ("zh", own))], [made("b", ("zh", other), ("zh", "谁呢"))])
    assert (found.languages["zh"].near, found.languages["zh"].short) == (1, 1)
    assert not leakage([made("a", ("ko", own))], [made("b", ("ko", other))])


def test_hard_negatives_stay_but_for_those_that_are_judged():
    trained = made("a", ("en", "one question"), ("en", LONG), ("en", "another"))
    trained.documents += [Document(n, f"{n} text", "en", n) for n in ("kept", "judged", "of q1")]
    trained.negatives = {"q0": ["kept", "judged"], "q1": ["of q1"]}
    other = made("b", ("en", LONG))
    other.documents.append(Document("x", "judged text", "en", "x"))
    left = leakage([trained], [other]).without(trained)
    assert left.negatives == {"q0": ["kept"]}
    assert [d.document_id for d in left.documents] == ["d0", "d2", "kept"]


def test_languages_are_compared_apart():
    assert not leakage([made("a", ("de", LONG))], [made("b", ("en", LONG))])
    found = leakage(
        [made("a", ("zh-CN", "马达加斯加使用什么货币"))],
        [made("b", ("zh", "马达加斯加使用什么货币?"))],
    )
    assert found.languages["zh"].equal == 1


def test_without_drops_whole_groups():
    trained = made("a", ("en", "one question"), ("en", LONG), ("en", "another"))
    trained.queries.append(Query("q3", "eine Übersetzung", "de", "1"))
    trained.qrels["q3"] = {"d1": 1}
    found = leakage([trained], [made("b", ("en", LONG.upper()))])
    left = found.without(trained)
    assert [q.query_id for q in left.queries] == ["q0", "q2"]
    assert [d.document_id for d in left.documents] == ["d0", "d2"]
    assert not leakage([left], [made("b", ("en", LONG.upper()))])
    documents = made("c", ("en", "answer a 2"))
    assert [q.query_id for q in leakage([trained], [documents]).without(trained).queries] == [
        "q0", "q1", "q3",
    ]  # fmt: skip


def test_every_copy_is_removed():
    texts = ("Who, then?", "who then", f"It began. {LONG}", f"{LONG} It ended.", LONG, "another")
    trained = made("a", *(("en", text) for text in texts))
    judged = [made("b", ("en", "WHO THEN"), ("en", LONG))]
    found = leakage([trained], judged)
    assert (found.count, found.languages["en"].equal) == (2, 2)
    left = found.without(trained)
    assert [q.text for q in left.queries] == ["another"]
    assert not leakage([left], judged)


def test_marks_of_vowels_are_part_of_a_word():
    assert not leakage([made("a", ("hi", "दिन"))], [made("b", ("hi", "दान"))])


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text(own, other):
    found = leakage([made("a", ("en", own))], [made("b", ("en", other))])
    if own == other and any(c.isalnum() for c in own):
        assert found.count == 1


def test_real_data_sets_share_what_is_known(real_data):
    """Sentences of a Wikipedia article that PUD and MLQA have both taken."""
    judged = load_dataset(real_data / "mlqa-r", languages=["en"])
    texts = (real_data / "train/parallel/pud/pud.en.tsv").read_text(encoding="utf-8").splitlines()
    trained = made("pud", *(("en", line.split("\t")[1]) for line in texts if "\t" in line))
    found = leakage([trained], [judged])
    assert found.count == 3
    assert all("George" in text or "Henry" in text for text, _, _ in found.languages["en"].examples)


def test_code_switched_queries():
    texts = {
        "de": "Wie entsteht der Regen hier?",
        "en": "How is rain made there?",
        "th": "ฝนเกิดขึ้นได้อย่างไร",
    }
    queries = [Query(x, text, x, "g") for x, text in texts.items()]
    alone = Query("alone", "Warum?", "de", "h")
    documents = [Document("d", "text", "en", "g"), Document("e", "text", "de", "h")]
    dataset = Dataset("x", [*queries, alone], documents, {"de": {"d": 1}, "alone": {"e": 1}})
    found = {q.language: q.text for q in code_switched(dataset).queries}
    assert found == {
        "de": "Wie entsteht der made there?",
        "en": "How is rain " + texts["th"][10:],
        "th": texts["th"][:10] + " made there?",
    }
    assert [q.query_id for q in code_switched(dataset).queries] == ["de", "en", "th"]
    with pytest.raises(DataError, match="no query has a translation"):
        code_switched(Dataset("x", [alone], documents, {"alone": {"e": 1}}))
