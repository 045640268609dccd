"""Readers: real counts, and one clear sentence for every malformed file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from hybridret.data import load_dataset, normalize_language, read_documents, read_miracl
from hybridret.data.table import Dataset, Document, Query, StreamedDocuments, hold_out
from hybridret.errors import DataError
from hybridret.training.pairs import PairTable

XQUAD_R = {
    "ar": 1222,
    "de": 1276,
    "el": 1234,
    "en": 1180,
    "es": 1215,
    "hi": 1244,
    "ru": 1219,
    "th": 852,
    "tr": 1167,
    "vi": 1209,
    "zh": 1196,
}
MLQA_R_QUERIES = {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504}
MLQA_R_CANDIDATES = {
    "ar": 2545,
    "de": 2362,
    "en": 6264,
    "es": 1787,
    "hi": 2426,
    "vi": 2828,
    "zh": 2322,
}


def languages(rows) -> dict[str, int]:
    return dict(Counter(row.language for row in rows))


def test_xquad_r_counts(real_data):
    dataset = load_dataset(real_data / "xquad-r")
    assert languages(dataset.documents) == XQUAD_R
    assert len(dataset.documents) == 13_014
    assert languages(dataset.queries) == dict.fromkeys(XQUAD_R, 1190)
    assert all(len(judged) == 1 for judged in dataset.qrels.values())
    relevant = dataset.relevant_by_group()
    assert len(relevant) == 1190
    position = {d.document_id: d for d in dataset.documents}
    for answers in relevant.values():
        assert sorted(position[d].language for d in answers) == sorted(XQUAD_R)
    assert len({d for judged in dataset.qrels.values() for d in judged}) == 8519
    answers = Counter(d for judged in dataset.qrels.values() for d in judged)
    assert max(answers.values()) == 12
    first = dataset.documents[0]
    assert (first.document_id, first.language) == ("ar-000000", "ar")


def test_xquad_r_texts(real_data):
    sentences = load_dataset(real_data / "xquad-r")
    contexts = load_dataset(real_data / "xquad-r", candidates="sentence-with-context")
    assert len({(d.language, d.text) for d in sentences.documents}) == 13_005
    for short, long in zip(sentences.documents, contexts.documents, strict=True):
        assert long.text.startswith(short.text)
        assert len(long.text) >= 2 * len(short.text)


def test_mlqa_r_counts(real_data):
    dataset = load_dataset(real_data / "mlqa-r")
    assert languages(dataset.queries) == MLQA_R_QUERIES
    assert languages(dataset.documents) == MLQA_R_CANDIDATES
    assert len(dataset.documents) == 20_534
    members = Counter(q.group_id for q in dataset.queries)
    assert Counter(members.values()) == {4: 820, 3: 263, 2: 65}
    english = {q.group_id for q in dataset.queries if q.language == "en"}
    assert english == set(members)
    german = {q.group_id for q in dataset.queries if q.language == "de"}
    arabic = {q.group_id for q in dataset.queries if q.language == "ar"}
    assert len(german & arabic) == 207


def test_ntrex_counts(real_data):
    dataset = load_dataset(real_data / "train" / "parallel" / "ntrex")
    assert set(languages(dataset.queries).values()) == {1997}
    assert len(dataset.languages) == 29
    assert len({d.group_id for d in dataset.documents}) == 123
    query = next(q for q in dataset.queries if q.language == "en")
    document = next(d for d in dataset.documents if d.document_id == f"{query.query_id}-rest")
    assert query.text not in document.text


def test_beir(real_data):
    dataset = load_dataset(real_data / "beir" / "pubmedqa-l")
    assert (len(dataset.queries), len(dataset.documents)) == (1000, 1000)


@pytest.mark.parametrize(
    ("tag", "normal"),
    [
        ("deu_Latn", "de"),
        ("zho-CN", "zh-CN"),
        ("zh_cn", "zh-CN"),
        ("arb", "ar"),
        ("en", "en"),
        ("EN-us", "en-US"),
        ("zho_Hans", "zh-Hans"),
        ("swh", "sw"),
        ("und", "und"),
        ("es-419", "es-419"),
        ("cmn_hans", "zh-Hans"),
        ("yue", "yue"),
    ],
)
def test_languages_are_normalised(tag, normal):
    assert normalize_language(tag) == normal


@pytest.mark.parametrize(
    "tag", ["", "english", "e", "de-", "de-Latin1", "12", "de..en", "es-²", "dé"]
)
def test_bad_language_tags(tag):
    with pytest.raises(DataError, match="not a language tag"):
        normalize_language(tag)


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_documents(tmp_path):
    file = write(
        tmp_path / "d.jsonl",
        {"id": "a", "text": "one", "language": "deu"},
        "",
        {"_id": 7, "text": "two", "title": "Title"},
        {"text": "three"},
    )
    found = list(read_documents(file))
    assert [d.document_id for d in found] == ["a", "7", "4"]
    assert [d.language for d in found] == ["de", "und", "und"]
    assert found[1].full_text == "Title two"
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert list(read_documents(packed)) == found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a"}', '{"id": "b"}'], r"d.jsonl:2: no field 'text'; it has 'id'"),
        (['{"text": ""}'], r"d.jsonl:1: field 'text' must be a text, got an empty text"),
        (['{"text": 1.5}'], r"d.jsonl:1: field 'text' must be a text, got 1.5"),
        (['{"text": "a"}', '{"text": "b'], r"d.jsonl:2: not JSON"),
        (['["a"]'], r"d.jsonl:1: expected a JSON object, got a list"),
        (['{"text": "a", "language": "klingon"}'], r"d.jsonl:1: 'klingon' is not a language tag"),
        (['{"id": "x", "text": "a"}', '{"id": "x", "text": "b"}'], ":2: duplicate document id 'x'"),
        ([], "the file is empty"),
    ],
)
def test_malformed_documents(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        list(read_documents(write(tmp_path / "d.jsonl", *lines)))


def test_damaged_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_documents(tmp_path / "none.jsonl"))
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match="cut short"):
        list(read_documents(packed))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_documents(latin))


def test_pairs_join_translations_and_equal_passages(tmp_path):
    file = write(
        tmp_path / "pairs.jsonl",
        {"query": "q1", "positive": "p", "language": "en", "group": "g"},
        {"query": "q2", "positive": "p", "language": "en", "group": "h"},
        {"query": "q1 de", "passage": "p de", "language": "de", "group": "g"},
    )
    dataset = load_dataset(file)
    assert [d.text for d in dataset.documents] == ["p", "p de"]
    assert {d.group_id for d in dataset.documents} == {"g"}
    assert dataset.languages == ["de", "en"]


def test_languages_of_queries_and_passages(tmp_path):
    rows = [
        {"query": "a", "positive": "b", "query_lang": "de", "positive_lang": "zh_cn"},
        {"query": "c", "passage": "d", "lang": "bem", "passage_lang": "en"},
        {"query": "e", "passage": "f", "language": "fr", "passage_language": "en"},
    ]
    dataset = load_dataset(write(tmp_path / "pairs.jsonl", *rows))
    assert [q.language for q in dataset.queries] == ["de", "bem", "fr"]
    assert [d.language for d in dataset.documents] == ["zh-CN", "en", "en"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("negatives", ["n", "p"], "field 'negatives': negative 2 is the positive itself"),
        ("negative", "p", "field 'negative': negative 1 is the positive itself"),
        ("negative_1", " ", "field 'negative_1': negative 1 is an empty text"),
        ("negatives", ["n", 3], r"field 'negatives\[1\]' must be a text, got 3"),
        ("negatives", {"n": 1}, "field 'negatives' must be a text"),
        ("langauge", "de", "unknown field 'langauge'; did you mean 'language'"),
        ("Group", "g", "unknown field 'Group'; did you mean 'group'"),
    ],
)
def test_what_pairs_would_lose_is_refused(tmp_path, field, value, message):
    pair = {"query": "q", "positive": "p", "source": "s", "title": "t"}
    load_dataset(write(tmp_path / "pairs.jsonl", pair))
    with pytest.raises(DataError, match=f"pairs.jsonl:2: {message}"):
        load_dataset(write(tmp_path / "pairs.jsonl", pair, pair | {field: value}))


def test_negatives(tmp_path):
    """Any number a line; a text is one document, whether positive or negative."""
    rows = [
        {"query": "a", "positive": "A", "negatives": ["N", "B", "N"], "language": "de"},
        {"query": "b", "positive": "B", "language": "de", "negative": None, "negatives": []},
        {"query": "c", "passage": "C", "negative_1": "N", "negative_2": "M", "language": "de"}
        | {"negative_language": "en"},
    ]
    dataset = load_dataset(write(tmp_path / "pairs.jsonl", *rows))
    said = {d.document_id: (d.text, d.language) for d in dataset.documents}
    found = {q: [said[d] for d in ids] for q, ids in dataset.negatives.items()}
    assert found == {"q1": [("N", "de"), ("B", "de")], "q3": [("N", "en"), ("M", "en")]}
    assert len(said) == 6
    group = {d.text: d.group_id for d in dataset.documents}
    assert len({group[text] for text in "ABCM"}) == 4
    # A subset has the negatives whose documents it keeps.
    assert dataset.only_languages(["de"]).negatives == {"q1": dataset.negatives["q1"], "q3": []}
    table = PairTable.from_dataset(dataset)
    texts = {q: [table.document_texts[d] for d in ds] for q, ds in table.negatives.items()}
    assert texts == {0: ["N", "B"], 2: ["N", "M"]}


def test_a_misspelt_positive(tmp_path):
    with pytest.raises(
        DataError, match=r":1: no field 'positive' or 'passage'; it has 'query', 'po"
    ):
        load_dataset(write(tmp_path / "pairs.jsonl", {"query": "q", "postive": "p"}))


def test_malformed_beir(tmp_path):
    write(tmp_path / "corpus.jsonl", {"_id": "d", "text": "t"})
    write(tmp_path / "queries.jsonl", {"_id": "q", "text": "t"})
    (tmp_path / "qrels").mkdir()
    with pytest.raises(DataError, match=r"test.tsv: no such file"):
        load_dataset(tmp_path)
    qrels = write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q\td")
    with pytest.raises(DataError, match=r"test.tsv:2: expected 'query-id<TAB>corpus-id<TAB>score'"):
        load_dataset(tmp_path)
    for grade in (
        "--5",
        "²",
        "٣",
        "1_0",
        "0.5",
        "1e3",
        "inf",
        "",
        "9223372036854775808",
        "9" * 5000,
    ):
        write(qrels, "query-id\tcorpus-id\tscore", f"q\td\t{grade}")
        with pytest.raises(DataError, match=r"test.tsv:2: the grade must be a whole number of 64 "):
            load_dataset(tmp_path)
    write(qrels, "query-id\tcorpus-id\tscore", "q\td\t1", "q\td\t1.0", "q\td\t2")
    with pytest.raises(DataError, match=r"tsv:4: query 'q' has two grades for document 'd': 1 and"):
        load_dataset(tmp_path)
    write(qrels, "query-id\tcorpus-id\tscore")
    with pytest.raises(DataError, match=r"test.tsv: no judgement in it"):
        load_dataset(tmp_path)
    write(qrels, "query-id\tcorpus-id\tscore", "q\tunknown\t1")
    with pytest.raises(DataError, match="unknown document 'unknown'"):
        load_dataset(tmp_path)
    write(qrels, "query-id\tcorpus-id\tscore", "nobody\td\t1")
    with pytest.raises(DataError, match="unknown query 'nobody'"):
        load_dataset(tmp_path)


def test_unknown_languages():
    dataset = Dataset("d", [Query("q", "?", "en", "g")], [Document("d", "!", "en", "g")], {})
    with pytest.raises(DataError, match="d has no language fr; it has en"):
        dataset.only_languages(["fr"])


def test_a_language_keeps_its_varieties():
    """RFC 4647, basic filtering: zh is zh-CN and zh-Hant, but not zha, and zh-CN is not zh."""
    tags = ["zh", "zh-CN", "zh-Hant", "zha"]
    documents = [Document(tag, "!", tag, tag) for tag in tags]
    dataset = Dataset("d", [], documents, {})
    assert dataset.only_languages(["zh"]).languages == ["zh", "zh-CN", "zh-Hant"]
    assert dataset.only_languages(["zh_cn"]).languages == ["zh-CN"]
    with pytest.raises(DataError, match="has no language zh-TW"):
        dataset.only_languages(["zh-TW"])


def test_texts_alone(tmp_path):
    """Documents without queries: enough to estimate language directions from."""
    rows = [{"text": f"{n}", "lang": x, "group": f"g{n}"} for n in range(2) for x in ("de", "en")]
    dataset = load_dataset(write(tmp_path / "texts.jsonl", *rows))
    assert [(d.text, d.language, d.group_id) for d in dataset.documents] == [
        ("0", "de", "g0"),
        ("0", "en", "g0"),
        ("1", "de", "g1"),
        ("1", "en", "g1"),
    ]
    assert (dataset.queries, dataset.qrels) == ([], {})


def test_ids_must_be_unique():
    twice = [Document("d", "!", "en", "g")] * 2
    with pytest.raises(DataError, match="document id 'd' is a duplicate: 2 have it"):
        Dataset("d", [], twice, {})


def test_hold_out_shares_no_document_group():
    queries = [Query(f"q{i}{x}", "?", x, f"s{i}") for i in range(40) for x in "ab"]
    documents = [Document(f"d{i}{x}", "!", x, f"article {i // 4}") for i in range(40) for x in "ab"]
    qrels = {f"q{i}{x}": {f"d{i}{x}": 1} for i in range(40) for x in "ab"}
    training, development = hold_out(Dataset("d", queries, documents, qrels), 0.3)
    assert len({d.group_id for d in development.documents}) == 3
    assert len(development.queries) == 2 * 3  # one question an article, in both languages
    assert len(training.queries) == 2 * 28
    assert not {d.group_id for d in training.documents} & {
        d.group_id for d in development.documents
    }
    for bad in (0.0, 1.0, 0.01):
        with pytest.raises(DataError):
            hold_out(Dataset("d", queries, documents, qrels), bad)
    again, larger = hold_out(Dataset("d", queries, documents, qrels), 0.3, pool=41)
    assert (again.queries, larger.queries) == (training.queries, development.queries)
    assert {d.document_id for d in development.documents} < {
        d.document_id for d in larger.documents
    }
    assert 41 <= len(larger.documents) < 41 + 8  # whole articles
    everything = hold_out(Dataset("d", queries, documents, qrels), 0.3, pool=999)[1]
    assert len(everything.documents) == 3 * 2 + 7 * 8


def test_tatoeba(tmp_path, real_data):
    dataset = load_dataset(real_data / "tatoeba")
    assert {q.language for q in dataset.queries} == {"en"}
    assert len(dataset.only_languages(["en", "th"]).documents) == 548
    assert {"de", "zh", "fa", "sw"} <= set(dataset.languages)
    first = dataset.queries[[q.query_id for q in dataset.queries].index("en-de-0000")]
    assert first.text == "Mary said she didn't know where Tom was."
    (tmp_path / "tatoeba.deu-eng.eng").write_text("a\nb\n")
    (tmp_path / "tatoeba.deu-eng.deu").write_text("a\n")
    with pytest.raises(DataError, match=r"deu: 1 lines, but .*eng has 2"):
        load_dataset(tmp_path)
    (tmp_path / "tatoeba.deu-eng.deu").unlink()
    with pytest.raises(DataError, match="no such file"):
        load_dataset(tmp_path)


def make_miracl(folder: Path, code: str, documents: int) -> None:
    """A tiny collection as the authors lay it out."""
    corpus = folder / f"miracl-corpus-v1.0-{code}"
    corpus.mkdir(parents=True)
    for part in range(2):
        with gzip.open(corpus / f"docs-{part}.jsonl.gz", "wt") as file:
            for n in range(part, documents, 2):
                row = {"docid": f"{n}#0", "title": f"T{n}", "text": f"{code} text {n}"}
                file.write(json.dumps(row) + "\n")
    (folder / f"topics.miracl-v1.0-{code}-dev.tsv").write_text('1#0\t"quoted" query\n2#0\tother\n')
    (folder / f"qrels.miracl-v1.0-{code}-dev.tsv").write_text(
        "1#0\tQ0\t3#0\t1\n1#0\tQ0\t4#0\t0\n2#0\tQ0\t0#0\t1\n"
    )


def test_miracl(tmp_path):
    make_miracl(tmp_path, "de", 6)
    dataset = load_dataset(tmp_path)
    assert [(q.query_id, q.text, q.language) for q in dataset.queries] == [
        ("1#0", '"quoted" query', "de"),
        ("2#0", "other", "de"),
    ]
    assert dataset.qrels["1#0"] == {"3#0": 1, "4#0": 0}
    assert next(d for d in dataset.documents if d.document_id == "3#0").full_text == "T3 de text 3"
    # Ids of two languages overlap.
    make_miracl(tmp_path, "zh", 5)
    both = load_dataset(tmp_path)
    assert both.languages == ["de", "zh"]
    assert both.qrels["zh-1#0"] == {"zh-3#0": 1, "zh-4#0": 0}
    # Topics without a corpus are no error while another language has one.
    (tmp_path / "topics.miracl-v1.0-th-dev.tsv").write_text("1#0\tx\n")
    assert load_dataset(tmp_path).languages == ["de", "zh"]
    with pytest.raises(DataError, match=r"no topics.miracl-v1.0-<language>-test-a.tsv"):
        read_miracl(tmp_path, "test-a")
    # A judged query without a text.
    (tmp_path / "topics.miracl-v1.0-de-dev.tsv").write_text("1#0\tx\n")
    with pytest.raises(
        DataError, match=r"qrels.*de-dev.tsv: query '2#0' is not in .*topics.*de-dev"
    ):
        load_dataset(tmp_path)
    (tmp_path / "topics.miracl-v1.0-de-dev.tsv").write_text("1#0 no tab\n")
    with pytest.raises(DataError, match=r"de-dev.tsv:1: expected 'query_id<TAB>query'"):
        load_dataset(tmp_path)


def test_streamed_corpora_are_never_held(tmp_path):
    make_miracl(tmp_path, "de", 6)
    make_miracl(tmp_path, "zh", 5)
    dataset = load_dataset(tmp_path)
    documents = dataset.documents
    assert isinstance(documents, StreamedDocuments)
    assert [d.document_id for d in documents] == documents.ids == dataset.document_ids
    assert len(documents) == 11
    assert [d.text for d in documents] == [d.text for d in documents]
    german = dataset.only_languages(["de"])
    assert isinstance(german.documents, StreamedDocuments)
    assert german.languages == ["de"]
    assert set(german.qrels) == {"de-1#0", "de-2#0"}
    # A language alone has MIRACL's own ids.
    assert set(load_dataset(tmp_path, languages=["zh"]).qrels) == {"1#0", "2#0"}
    with pytest.raises(DataError, match="no topics of sw"):
        load_dataset(tmp_path, languages=["sw"])
    # All languages of a corpus: it is not read a second time.
    assert dataset.only_languages(["de", "zh"]) is dataset
    table = PairTable.from_dataset(dataset)
    assert sorted(table.document_texts) == [
        "T0 de text 0",
        "T0 zh text 0",
        "T3 de text 3",
        "T3 zh text 3",
    ]


def test_miracl_that_is_not_whole(tmp_path, real_data):
    with pytest.raises(DataError, match=r"topics of .*de.*, but no corpus of any of them"):
        load_dataset(real_data / "miracl")
    make_miracl(tmp_path, "de", 3)
    with pytest.raises(DataError, match="query '1#0' is judged on an unknown document '3#0'"):
        load_dataset(tmp_path)
    (tmp_path / "qrels.miracl-v1.0-de-dev.tsv").unlink()
    with pytest.raises(DataError, match=r"no qrels.miracl-v1.0-de-dev.tsv"):
        load_dataset(tmp_path)
