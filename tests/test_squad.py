"""SQuAD JSON: which sentence an answer is in, and one sentence for every field of a wrong type."""

from __future__ import annotations

import json

import pytest
from test_data import write

from hybridret.data import load_dataset
from hybridret.errors import DataError


def test_squad_without_sentences_takes_paragraphs(tmp_path):
    data = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": "Ab cd.",
                        "qas": [
                            {
                                "id": 1,
                                "question": "?",
                                "answers": [{"text": "cd", "answer_start": "3"}],
                            },
                            {"id": 2, "question": "impossible", "answers": []},
                        ],
                    }
                ]
            }
        ]
    }
    write(tmp_path / "en.json", data)
    dataset = load_dataset(tmp_path)
    assert [d.text for d in dataset.documents] == ["Ab cd."]
    assert [q.query_id for q in dataset.queries] == ["en-1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"data": [{"paragraphs": [',
            "en.json: not JSON that can be read: .* at line 2, column 1",
        ),
        ('{"rows": []}', "en.json: no field 'data'; it has 'rows'"),
        ('[{"context": "c"}]', "en.json: expected a JSON object, got a list"),
        (
            '{"data": [{"paragraphs": [{"qas": []}]}]}',
            r"en.json: data\[0\].paragraphs\[0\]: no field 'context'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "7"}]}]}]}',
            r"data\[0\].paragraphs\[0\].qas\[0\]: no field 'answers'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "7", "question": "?", '
            '"answers": [{"answer_start": 99}]}]}]}]}',
            r"qas\[0\].answers\[0\]: the answer starts at 99, which no",
        ),
        ('{"data": []}', "no question in it"),
    ],
)
def test_malformed_squad(tmp_path, content, message):
    write(tmp_path / "en.json", content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


CONTEXT = {"context": "Ab. Cd.", "qas": []}
QUESTION = {"id": "7", "question": "?", "answers": [{"text": "C", "answer_start": 4}]}
SENTENCES = {"sentences": ["Ab. ", "Cd."], "sentence_breaks": [[0, 4], [4, 7]]}


def squad(**fields: object) -> dict[str, object]:
    """SQuAD of one paragraph of two sentences and one question, with other ``fields`` in it.

    The fields of the question, and of its answer, go where those belong.
    """
    answer = QUESTION["answers"][0] | {k: v for k, v in fields.items() if k == "answer_start"}
    question = QUESTION | {"answers": [answer]} | {k: fields[k] for k in QUESTION if k in fields}
    paragraph = CONTEXT | SENTENCES | {"qas": [question]}
    paragraph |= {k: fields[k] for k in paragraph if k in fields}
    return {"data": fields.get("data", [{"paragraphs": fields.get("paragraphs", [paragraph])}])}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", {"0": {}}, "field 'data' must be a list, got an object"),
        ("data", [None], r"data\[0\]: expected a JSON object, got null"),
        ("paragraphs", "x", r"data\[0\]: field 'paragraphs' must be a list, got \"x\""),
        ("paragraphs", [[]], r"data\[0\].paragraphs\[0\]: expected a JSON object, got a list"),
        ("context", 3, "field 'context' must be a text, got 3"),
        ("sentences", None, "field 'sentences' must be a list, got null"),
        ("sentences", "Ab. Cd.", "field 'sentences' must be a list, got \"Ab. Cd.\""),
        ("sentences", ["Ab. ", None], r"field 'sentences\[1\]' must be a text, got null"),
        ("sentences", ["Ab. "], "1 sentences but 2 breaks"),
        ("sentence_breaks", {"0": 4}, "field 'sentence_breaks' must be a list, got an object"),
        ("sentence_breaks", [[0, 4], 7], r"field 'sentence_breaks\[1\]' must be \[start, end\]"),
        ("sentence_breaks", [[0, 4], [4]], r"field 'sentence_breaks\[1\]' must be"),
        ("sentence_breaks", [["0", 4], [4, 7]], r"field 'sentence_breaks\[0\]' must be"),
        ("sentence_breaks", [[False, 4], [4, 7]], r"field 'sentence_breaks\[0\]' must be"),
        ("sentence_breaks", [[0, 4.0], [4, 7]], r"field 'sentence_breaks\[0\]' must be"),
        ("sentence_breaks", [[4, 0], [4, 7]], r"field 'sentence_breaks\[0\]' must be"),
        ("qas", None, "field 'qas' must be a list, got null"),
        ("id", None, r"qas\[0\]: field 'id' must be a text, got null"),
        ("id", True, "field 'id' must be a text, got true"),
        ("question", None, "field 'question' must be a text, got null"),
        ("question", r"\ud800", "field 'question' holds the lone surrogate"),
        ("answers", "4", "field 'answers' must be a list, got \"4\""),
        ("answers", {"answer_start": [4]}, "field 'answers' must be a list, got an object"),
        ("answers", [4], r"answers\[0\]: expected a JSON object, got 4"),
        ("answers", [{"text": "C"}], r"answers\[0\]: no field 'answer_start'; it has 'text'"),
        ("answer_start", None, "field 'answer_start' must be a whole number from 0, got null"),
        ("answer_start", True, "'answer_start' must be a whole number from 0, got true"),
        ("answer_start", 4.0, "'answer_start' must be a whole number from 0, got 4.0"),
        ("answer_start", -1, "'answer_start' must be a whole number from 0, got -1"),
        ("answer_start", "-1", "'answer_start' must be a whole number from 0, got \"-1\""),
        ("answer_start", "²", "'answer_start' must be a whole number from 0"),
        ("answer_start", 10**30, "the answer starts at 10000000000000000000, which no sentence"),
    ],
)
def test_squad_of_wrong_types(tmp_path, field, value, message):
    text = json.dumps(squad(**{field: value})).replace(r"\\ud", r"\ud")
    with pytest.raises(DataError, match=rf"^{tmp_path}/en.json: .*{message}"):
        load_dataset(write(tmp_path / "en.json", text))


@pytest.mark.parametrize("start", [4, "4"])
def test_the_sentence_of_an_answer(tmp_path, start):
    dataset = load_dataset(
        write(tmp_path / "en.json", squad(answer_start=start, id=7, question=""))
    )
    assert [d.text for d in dataset.documents] == ["Ab. ", "Cd."]
    assert dataset.qrels == {"en-7": {"en-000001": 1}}
