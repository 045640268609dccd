"""The embedded facts: counts, splits, wordings, and that the file is what the generator writes."""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter, defaultdict
from importlib.resources import files

import pytest

from hybridret.data.facts import LANGUAGES, Fact, Split, facts, load_facts, read_table
from hybridret.data.facts.m49 import SUBREGION
from hybridret.data.facts.templates import ANSWER_KIND, ENTITY_KIND, WORDINGS, Wording
from hybridret.data.table import Dataset
from hybridret.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "evaluation", "paraphrase")

FACTS_PER_RELATION = {
    "country": 407,
    "currency": 251,
    "first_weekday": 247,
    "main_country": 520,
    "official_language": 243,
    "script": 518,
    "subregion": 247,
    "time_zone": 396,
}

EACH_WORDING = pytest.mark.parametrize(
    ("relation", "language"), [(r, x) for r in WORDINGS for x in LANGUAGES]
)


@pytest.fixture(scope="module")
def train() -> Dataset:
    return load_facts("train")


@pytest.fixture(scope="module")
def evaluation() -> Dataset:
    return load_facts("evaluation")


@pytest.fixture(scope="module")
def paraphrase() -> Dataset:
    return load_facts("paraphrase")


@pytest.fixture(scope="module")
def every_fact() -> dict[str, Fact]:
    return {fact.group_id: fact for split in SPLITS for fact in facts(split)}


def entities(dataset: Dataset) -> set[str]:
    return {query.group_id.rpartition("/")[0] for query in dataset.queries}


def test_counts(train: Dataset, evaluation: Dataset) -> None:
    assert {r: len(answers) for r, answers in read_table()["facts"].items()} == FACTS_PER_RELATION
    for dataset, groups, count in ((train, 2262, 957), (evaluation, 567, 239)):
        assert len({query.group_id for query in dataset.queries}) == groups
        assert len(dataset.queries) == len(dataset.documents) == 11 * groups
        assert len(entities(dataset)) == count
    assert (train.name, evaluation.name) == ("facts-train", "facts-evaluation")


def test_every_group_has_every_language(train: Dataset, evaluation: Dataset) -> None:
    for dataset in (train, evaluation):
        for rows in (dataset.queries, dataset.documents):
            languages = defaultdict(list)
            for row in rows:
                languages[row.group_id].append(row.language)
            assert all(found == list(LANGUAGES) for found in languages.values())


def test_the_answers_of_a_group_are_its_documents_in_every_language(evaluation: Dataset) -> None:
    by_group = defaultdict(set)
    for document in evaluation.documents:
        by_group[document.group_id].add(document.document_id)
    relevant = evaluation.relevant_by_group()
    assert relevant.keys() == by_group.keys()
    for group, answers in relevant.items():
        assert answers == dict.fromkeys(by_group[group], 1)
        assert len(answers) == len(LANGUAGES)


def test_no_text_is_a_duplicate_in_its_language(train: Dataset, evaluation: Dataset) -> None:
    passages = [(d.language, d.text) for s in (train, evaluation) for d in s.documents]
    questions = [(q.language, q.text) for s in (train, evaluation) for q in s.queries]
    assert len(set(passages)) == len(passages)
    assert len(set(questions)) == len(questions)


def test_texts_name_their_entity_and_answer(
    train: Dataset, evaluation: Dataset, every_fact: dict[str, Fact]
) -> None:
    for dataset in (train, evaluation):
        for query in dataset.queries:
            names = every_fact[query.group_id].names
            assert names[LANGUAGES.index(query.language)] in query.text
        for document in dataset.documents:
            fact = every_fact[document.group_id]
            i = LANGUAGES.index(document.language)
            assert fact.names[i] in document.text
            assert fact.answers[i] in document.text


def test_known_facts(every_fact: dict[str, Fact]) -> None:
    def answer(group: str, language: str = "en") -> str:
        return every_fact[group].answers[LANGUAGES.index(language)]

    assert answer("territory/JP/currency") == "Japanese Yen"
    assert answer("territory/BE/official_language") == "Dutch, French, German"
    assert answer("territory/BE/official_language", "zh") == "荷兰语、法语、德语"
    assert answer("territory/AO/first_weekday") == "Monday"  # not Portugal's Sunday
    assert answer("territory/PT/first_weekday") == "Sunday"
    assert answer("place/Asia/Kolkata/country", "de") == "Indien"
    assert answer("place/Europe/Paris/time_zone") == "Central European Time"
    assert answer("language/el/script") == "Greek"
    assert answer("language/sw/main_country") == "Tanzania"


def test_splits_share_no_entity(train: Dataset, evaluation: Dataset) -> None:
    assert not entities(train) & entities(evaluation)


def test_a_fifth_of_each_kind_is_held_out(train: Dataset, evaluation: Dataset) -> None:
    held_out = Counter(entity.partition("/")[0] for entity in entities(evaluation))
    kept = Counter(entity.partition("/")[0] for entity in entities(train))
    assert set(held_out) == set(kept) == {"territory", "place", "language"}
    for kind, count in held_out.items():
        assert count == round(0.2 * (count + kept[kind]))


def test_loading_twice_gives_equal_data_sets(train: Dataset) -> None:
    assert load_facts() == train


def test_data_sets_share_no_mutable_state(train: Dataset) -> None:
    spoilt = load_facts()
    spoilt.qrels[spoilt.queries[0].query_id].clear()
    assert load_facts() == train


def test_the_paraphrase_split_asks_the_evaluation_facts_in_wordings_never_trained(
    train: Dataset, evaluation: Dataset, paraphrase: Dataset, every_fact: dict[str, Fact]
) -> None:
    used = defaultdict(set)
    for dataset in (train, evaluation, paraphrase):
        for query in dataset.queries:
            fact = every_fact[query.group_id]
            wording = WORDINGS[fact.relation][query.language]
            name = fact.names[LANGUAGES.index(query.language)]
            asked = [f for f in _questions(wording) if f.format(entity=name) == query.text]
            used[dataset.name, fact.relation, query.language].update(asked)
    assert paraphrase.documents == evaluation.documents
    for relation, languages in WORDINGS.items():
        for language, wording in languages.items():
            trained = {wording.question_1, wording.question_2}
            assert used["facts-train", relation, language] == trained
            assert used["facts-evaluation", relation, language] <= trained
            assert used["facts-paraphrase", relation, language] == {wording.paraphrase}


@EACH_WORDING
def test_wordings_hold_exactly_their_placeholders(relation: str, language: str) -> None:
    wording = WORDINGS[relation][language]
    for question in _questions(wording):
        assert re.findall(r"\{.*?\}", question) == ["{entity}"]
    assert sorted(re.findall(r"\{.*?\}", wording.passage)) == ["{answer}", "{entity}"]
    for text in (*_questions(wording), wording.passage):
        assert text == text.strip()
        assert "  " not in text


@EACH_WORDING
def test_the_paraphrase_is_another_wording(relation: str, language: str) -> None:
    wording = WORDINGS[relation][language]
    assert len({*_questions(wording), wording.passage}) == 4
    for trained in (wording.question_1, wording.question_2):
        assert _similarity(wording.paraphrase, trained) < 0.5


def test_every_language_words_every_relation() -> None:
    assert set(WORDINGS) == set(ENTITY_KIND) == set(ANSWER_KIND)
    assert all(tuple(languages) == LANGUAGES for languages in WORDINGS.values())


def test_no_word_is_doubled_between_a_template_and_a_name(every_fact: dict[str, Fact]) -> None:
    doubled = []
    for fact in every_fact.values():
        for language, name, answer in zip(LANGUAGES, fact.names, fact.answers, strict=True):
            wording = WORDINGS[fact.relation][language]
            texts = [(question, "{entity}", name) for question in _questions(wording)]
            texts += [(wording.passage, "{entity}", name), (wording.passage, "{answer}", answer)]
            doubled += [(t, v) for t, hole, v in texts if _doubles(t.split(hole), v, language)]
    assert doubled == []


def _questions(wording: Wording) -> tuple[str, str, str]:
    return wording.question_1, wording.question_2, wording.paraphrase


def _similarity(a: str, b: str) -> float:
    """Share of character trigrams in common (Jaccard)."""
    x, y = ({t[i : i + 3] for i in range(len(t) - 2)} for t in (a.casefold(), b.casefold()))
    return len(x & y) / len(x | y)


def _doubles(around: list[str], name: str, language: str) -> bool:
    """Whether a name's first or last word stands next to it in the template as well."""
    before, after = around
    if language in ("th", "zh"):  # no spaces between words: compare stretches of characters
        least = 2 if language == "zh" else 3
        head, middle, tail = ("".join(_words(t)) for t in (before, name, after))
        sizes = range(least, len(middle) + 1)
        return any(head.endswith(middle[:k]) or tail.startswith(middle[-k:]) for k in sizes)
    head_words, words, tail_words = _words(before), _words(name), _words(after)
    return head_words[-1:] == words[:1] or tail_words[:1] == words[-1:]


def _words(text: str) -> list[str]:
    kept = (re.sub(r"[\s“”„«»\"'.,:;?!()،؟।：，。、？（）{}-]", "", w) for w in text.split())
    return [word.casefold() for word in kept if word]


@pytest.mark.parametrize(
    ("territory", "code"),
    [
        ("AQ", None),
        ("AZ", "145"),
        ("CY", "145"),
        ("DE", "155"),
        ("EH", "015"),
        ("GL", "021"),
        ("IR", "034"),
        ("KZ", "143"),
        ("LT", "154"),
        ("MX", "013"),
        ("NZ", "053"),
        ("RU", "151"),
        ("SD", "015"),
        ("SI", "039"),
        ("TL", "035"),
        ("TW", None),
        ("XK", None),
        ("ZW", "014"),
    ],
)
def test_m49_subregions(territory: str, code: str | None) -> None:
    assert SUBREGION.get(territory) == code


def test_m49_table_is_complete_and_named() -> None:
    assert len(SUBREGION) == 247
    assert Counter(SUBREGION.values())["155"] == 9
    names = read_table()["names"]["subregion"]
    assert set(names) == set(SUBREGION.values())
    assert len(names) == 22
    for i in range(len(LANGUAGES)):
        assert len({row[i] for row in names.values()} - {""}) == 22


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        load_facts("test")  # type: ignore[arg-type]


def test_the_file_is_what_the_generator_writes() -> None:
    source = read_table()["source"]
    pytest.importorskip("babel", reason="generating the facts needs Babel")
    import babel

    if babel.__version__ != source["babel"]:
        pytest.skip(f"the file comes from Babel {source['babel']}, not {babel.__version__}")
    from hybridret.data.facts import generate

    payload = generate.generate()
    shipped = files("hybridret.data.facts").joinpath("facts.json.xz").read_bytes()
    # Unpacked: the packed bytes may change with the version of liblzma.
    assert lzma.decompress(shipped) == payload
    assert generate.compress(payload) == generate.compress(payload)
    assert json.loads(payload)["languages"] == list(LANGUAGES)
