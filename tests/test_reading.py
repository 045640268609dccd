"""Files below the level of a format: lines, JSON, fields; and damaged copies for every reader."""

from __future__ import annotations

import copy
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridret.data import load_dataset, read_documents
from hybridret.data.qrels import read_qrels
from hybridret.data.reading import Record, parse_json, read_lines, read_object, read_records
from hybridret.errors import DataError
from hybridret.evaluation.trec import read_run


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    file = tmp_path / "lines"
    file.write_bytes("\ufeffone\r\ntwo\rtwo\u2028\x0b\x1c\u0085two\n\nlast".encode())
    expected = ["one", "two\rtwo\u2028\x0b\x1c\u0085two", "", "last"]
    assert list(read_lines(file)) == [(f"{file}:{n}", t) for n, t in enumerate(expected, 1)]
    packed = tmp_path / "lines.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert [line for _, line in read_lines(packed)] == expected


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "d.jsonl").write_bytes(mark + b'{"text": "a"}\n')
    assert [d.text for d in read_documents(tmp_path / "d.jsonl")] == ["a"]
    (tmp_path / "en.json").write_bytes(mark + b'{"data": []}')
    assert read_object(tmp_path / "en.json").fields == {"data": []}
    (tmp_path / "qrels").write_bytes(mark + b"q 0 d 1\n")
    assert read_qrels(tmp_path / "qrels") == {"q": {"d": 1}}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"\xe9", ":1: not UTF-8: byte 0xe9 at position 1 of the line"),
        (b"\xef\xbb\xbfab\xff", ":1: not UTF-8: byte 0xff at position 3 of the line"),
        (b"one\ntw\xc3\n", ":2: not UTF-8: byte 0xc3 at position 3 of the line"),
        # Far behind the first block that is read.
        (
            b"12345678\n" * 99_999 + b"x\xed\xa0\x80\n",
            ":100000: not UTF-8: byte 0xed at position 2",
        ),
    ],
)
def test_what_is_not_utf_8_is_named_by_line_and_byte(tmp_path, content, place):
    for name, data in (("x", content), ("x.gz", gzip.compress(content, 1))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name + place):
            list(read_lines(tmp_path / name))
        with pytest.raises(DataError, match=name + place):
            read_object(tmp_path / name)


GOOD = gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"text": "a"}\n',
        GOOD[:4],
        GOOD[:-20],
        GOOD + b"\nmore",
        GOOD[:-8] + bytes(8),  # checksum and length
        GOOD[:12] + b"\xff" + GOOD[13:],
        GOOD[:20] + b"\xff\xff\xff\xff" + GOOD[24:],
    ],
)
def test_damaged_gzip_files(tmp_path, damaged):
    (tmp_path / "d.jsonl.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"d\.jsonl\.gz: gzip file damaged or cut short: "):
        list(read_documents(tmp_path / "d.jsonl.gz"))


def test_a_pipe_is_read_as_a_file(tmp_path):
    """As of a shell's ``--run <(zcat run.gz)``."""
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("q Q0 d 1 .5 tag\n",))
    thread.start()
    assert read_run(tmp_path / "pipe") == {"q": {"d": 0.5}}
    thread.join()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (
            f'{{"a": {"9" * 5000}}}',
            r"Exceeds the limit \(4300 digits\) for integer string .*digits",
        ),
        ('{"a": 1', "Expecting ',' delimiter at column 8"),
        ('{\n"a": 1,\n}', ".* at line [23], column [19]"),  # Python 3.13 names the comma
        ('{"a": 1}{"b": 2}', "Extra data at column 9"),
        ('{"a": "\t"}', "Invalid control character at"),
        ("", "Expecting value at column 1"),
    ],
)
def test_json_that_cannot_be_read(text, reason):
    with pytest.raises(DataError, match=f"^place: not JSON that can be read: {reason}"):
        parse_json(text, "place")


def test_nan_of_a_field_that_is_not_read_is_no_error():
    """As json.dumps writes it."""
    record = Record("f:1", parse_json('{"query": "q", "score": NaN, "text": -Infinity}', "f:1"))
    assert record.text("query") == "q"
    with pytest.raises(DataError, match="field 'text' must be a text, got -Infinity"):
        record.text("text")


def test_fields_of_a_wrong_type():
    record = Record(
        "f:1", {"a": 1, "t": True, "f": 1.5, "n": None, "e": " ", "l": ["x", 2], "o": {}}
    )
    assert record.text("a") == "1"
    assert record.text("n", "none", default="-") == "-"
    for name, got in {
        "t": "true",
        "f": "1.5",
        "n": "null",
        "l": "a list",
        "o": "an object",
    }.items():
        with pytest.raises(DataError, match=f"^f:1: field '{name}' must be a text, got {got}$"):
            record.text(name)
        with pytest.raises(DataError, match=f"^f:1: field '{name}' must be a whole number from 0"):
            record.integer(name)
    with pytest.raises(DataError, match="field 'e' must be a text, got an empty text"):
        record.text("e")
    with pytest.raises(DataError, match="field 'a' must be a text, got 1"):
        record.string("a")
    with pytest.raises(DataError, match=r"^f:1: field 'l\[1\]' must be a text, got 2$"):
        record.strings("l")
    with pytest.raises(DataError, match=r"^f:1: l\[0\]: expected a JSON object, got \"x\"$"):
        list(record.records("l"))
    with pytest.raises(DataError, match="field 'o' must be a list, got an object"):
        record.values("o")
    with pytest.raises(DataError, match="no field 'x' or 'y'; it has 'a', 't'"):
        record.text("x", "y")


@pytest.mark.parametrize("number", ["-1", "1.0", "²", "٣", "0x1", "1_0", " 1", "", "9" * 19])
def test_texts_that_are_no_number(number):
    with pytest.raises(DataError, match="field 'n' must be a whole number from 0"):
        Record("f", {"n": number}).integer("n")
    assert Record("f", {"n": "171"}).integer("n") == Record("f", {"n": 171}).integer("n") == 171


@pytest.mark.parametrize("ask", [Record.text, Record.string])
def test_lone_surrogates_are_refused(ask):
    """UTF-8 cannot hold them: the text could be neither written nor tokenized."""
    whole = Record("f:1", parse_json(r'{"t": "\ud83d\ude00"}', "f:1"))
    assert ask(whole, "t") == "😀"
    half = Record("f:1", parse_json(r'{"t": "x\ud83d"}', "f:1"))
    with pytest.raises(DataError, match=r"^f:1: field 't' holds the lone surrogate '\\ud83d'"):
        ask(half, "t")


def test_a_field_of_nearly_the_name_of_one_that_is_missing():
    record = Record("f:1", {"langauge": "de", "Title": "T", "url": "u"})
    with pytest.raises(DataError, match="unknown field 'langauge'; did you mean 'language'"):
        record.language("language", "lang")
    with pytest.raises(DataError, match="unknown field 'Title'; did you mean 'title'"):
        record.text("title", default="")
    assert record.text("group", "id", default="g") == "g"
    # With the field itself, even null, the other one is something else.
    both = Record("f:1", {"languages": ["de"], "language": None})
    assert both.language("language", "lang") == "und"


# Damaged copies of a good file, for every reader.


@dataclass
class Case:
    """A small data set and how it is read; ``name`` is that of the data set in errors."""

    files: dict[str, bytes]
    read: Callable[[Path], Any]
    name: str = "-"


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def squad(text: str, sentences: bool) -> bytes:
    paragraph: dict[str, Any] = {
        "context": f"{text}. Zwei.",
        "qas": [
            {
                "id": "a",
                "question": "wo?",
                "answers": [{"text": "Z", "answer_start": len(text) + 2}],
            },
            {"id": 7, "question": "wer?", "answers": [{"text": "x", "answer_start": "0"}]},
            {"id": "none", "question": "?", "answers": []},
        ],
    }
    if sentences:
        end = len(text) + 1
        paragraph |= {"sentences": [f"{text}.", "Zwei."], "sentence_breaks": [[0, end], [end, 99]]}
    return json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}).encode()


def read_all(folder: Path) -> Any:
    dataset = load_dataset(folder)
    return dataset, list(dataset.documents)


CASES = {
    "documents": Case(
        {"d.jsonl": lines({"id": "ä", "text": "one", "language": "deu"}, {"text": "two"})},
        lambda folder: list(read_documents(folder / "d.jsonl")),
    ),
    "documents.gz": Case(
        {"d.jsonl.gz": gzip.compress(lines({"text": "one"}, {"text": "two", "title": "T"}))},
        lambda folder: list(read_documents(folder / "d.jsonl.gz")),
    ),
    "pairs": Case(
        {
            "p.jsonl": lines(
                {"query": "q", "positive": "p", "language": "en", "group": "g"},
                {"query": "f", "passage": "ä", "query_lang": "de", "positive_lang": "zh"},
            )
        },
        lambda folder: read_all(folder / "p.jsonl"),
    ),
    "squad": Case(
        {"en.json": squad("One", True), "de.json": squad("Eins", False)}, read_all, "set"
    ),
    "beir": Case(
        {
            "corpus.jsonl": lines({"_id": "d", "text": "t", "title": "T"}, {"_id": 2, "text": ""}),
            "queries.jsonl": lines({"_id": "q", "text": "t"}, {"_id": "r", "text": "t"}),
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq\td\t1\nq\t2\t0\n",
        },
        read_all,
        "set",
    ),
    "miracl": Case(
        {
            "topics.miracl-v1.0-de-dev.tsv": "1#0\tfrüh?\n2#0\tspät?\n".encode(),
            "qrels.miracl-v1.0-de-dev.tsv": b"1#0\tQ0\t3#0\t1\n2#0\tQ0\t3#0\t0\n",
            "miracl-corpus-v1.0-de/docs-0.jsonl": lines(
                {"docid": "3#0", "title": "T", "text": "ü"}
            ),
        },
        read_all,
        "miracl-dev",
    ),
    "ntrex": Case(
        {
            "DOCUMENT_IDS.tsv": b"a\tx\na\tx\nb\tx\n",
            "newstest2019-src.eng.txt": b"one\ntwo\nthree\n",
            "newstest2019-ref.deu.txt": "eins\nzwei\nfünf\n".encode(),
        },
        read_all,
        "ntrex",
    ),
    "tatoeba": Case(
        {"tatoeba.deu-eng.eng": b"one\ntwo\n", "tatoeba.deu-eng.deu": "eins\nfünf\n".encode()},
        read_all,
        "tatoeba",
    ),
    "qrels": Case(
        {"qrels": "# judged\nq1 0 dé 1\nq1 0 d2 -1\n\nq2 0 d1 2.0\n".encode()},
        lambda folder: read_qrels(folder / "qrels"),
    ),
    "run": Case(
        {"run": "q1 Q0 dé 1 2.5e0 tag\nq1 Q0 d2 2 -1 tag\n".encode()},
        lambda folder: read_run(folder / "run"),
    ),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def write(case: Case, folder: Path) -> Path:
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_damaged(case: Case, folder: Path, name: str, content: bytes) -> bool:
    """Whether it was refused; what is read is text that can be written."""
    (folder / name).write_bytes(content)
    try:
        repr(case.read(folder)).encode()
    except DataError as error:
        message = str(error)
        # What two files say of each other is an error of the data set.
        assert Path(name).name in message or message.startswith((f"{case.name}: ", f"{folder}: "))
        assert len(message.splitlines()) == 1
        return True
    finally:
        (folder / name).write_bytes(case.files[name])
    return False


def test_every_truncation(tmp_path, case):
    folder = write(case, tmp_path / "set")
    case.read(folder)
    for name, content in case.files.items():
        refused = [read_damaged(case, folder, name, content[:n]) for n in range(len(content))]
        assert refused[0], "an empty file"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(data=st.data())
def test_every_byte_may_change(tmp_path, case, data):
    folder = tmp_path / "set"
    if not folder.exists():
        write(case, folder)
    name = data.draw(st.sampled_from(list(case.files)))
    content = bytearray(case.files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    read_damaged(case, folder, name, bytes(content))


RAW = {
    "@deep@": "[" * 100_000,
    "@long@": "9" * 5000,
    "@nan@": "NaN",
    "@minus@": "-Infinity",
    "@huge@": "1e999",
}
OTHER_VALUES = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "²",
    "٣",
    "\ud800",
    [],
    {},
    [None],
    [[]],
    [1, 2],
    {"a": 1},
    *RAW,
]


def with_other_values(value: Any) -> Iterator[Any]:
    """Copies of a JSON value in each of which one part is another, or missing."""
    yield from OTHER_VALUES
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for other in with_other_values(value[key]):
                changed = copy.copy(value)
                changed[key] = other
                yield changed
            changed = copy.copy(value)
            del changed[key]
            yield changed


def json_text(value: Any) -> bytes:
    text = json.dumps(value)
    for mark, token in RAW.items():
        text = text.replace(f'"{mark}"', token)
    return text.encode()


@pytest.mark.parametrize("case", ["documents", "pairs", "squad", "beir", "miracl"], indirect=True)
def test_every_json_value_may_be_another(tmp_path, case):
    folder = write(case, tmp_path / "set")
    for name, content in case.files.items():
        if ".json" not in name:
            continue
        rows = content.splitlines()
        refused = [
            read_damaged(
                case, folder, name, b"\n".join([*rows[:i], json_text(other), *rows[i + 1 :]])
            )
            for i, row in enumerate(rows)
            for other in with_other_values(json.loads(row))
        ]
        assert sum(refused) > len(refused) / 3


def test_blank_lines_are_passed_over(tmp_path):
    (tmp_path / "d").write_text('\n{"a": 1}\n  \n{"b": 2}\n')
    assert [row.fields for row in read_records(tmp_path / "d")] == [{"a": 1}, {"b": 2}]
