"""``load_dataset``: the format it chooses, the hub, and its messages where nothing matches."""

from __future__ import annotations

import gzip
import json

import pytest
from test_data import make_miracl, write

from hybridret.data import DATA_HELP, FORMATS_HELP, load, load_dataset
from hybridret.data.formats import Format
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's client over local folders; what was asked for."""
    client = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, *, repo_type, allow_patterns):
        assert repo_type == "dataset"
        asked.append((name, allow_patterns))
        if not (tmp_path / name).is_dir():
            raise OSError(f"404: no {name}\nsecond line")
        return str(tmp_path / name)

    monkeypatch.setattr(client, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path.parent)
    return asked


def test_miracl_of_the_hub(tmp_path, hub):
    make_miracl(tmp_path / "miracl" / "made", "sw", 6)
    made = tmp_path / "miracl" / "made"
    corpus = tmp_path / "miracl" / "miracl-corpus"
    corpus.mkdir()
    (made / "miracl-corpus-v1.0-sw").rename(corpus / "miracl-corpus-v1.0-sw")
    for kind in ("topics", "qrels"):
        folder = tmp_path / "miracl" / "miracl" / "miracl-v1.0-sw" / kind
        folder.mkdir(parents=True)
        next(made.glob(f"{kind}.*")).rename(folder / f"{kind}.miracl-v1.0-sw-dev.tsv")
    for languages, code in ((["sw"], "sw"), (None, "*")):
        dataset = load_dataset("miracl/miracl", languages=languages)
        assert (len(dataset.queries), len(dataset.documents)) == (2, 6)
        assert hub[-2:] == [
            ("miracl/miracl", [f"miracl-v1.0-{code}/*"]),
            ("miracl/miracl-corpus", [f"miracl-corpus-v1.0-{code}/*"]),
        ]


def test_beir_of_the_hub(tmp_path, hub):
    folder, qrels = tmp_path / "BeIR" / "made", tmp_path / "BeIR" / "made-qrels"
    folder.mkdir(parents=True)
    qrels.mkdir()
    for name, row in (
        ("corpus", {"_id": "d", "title": "T", "text": "t"}),
        ("queries", {"_id": "q", "text": "?"}),
    ):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps(row) + "\n")
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    dataset = load_dataset("BeIR/made")
    assert [d.full_text for d in dataset.documents] == ["T t"]
    assert dataset.qrels == {"q": {"d": 1}}
    with pytest.raises(
        DataError, match=r"BeIR/other: no such file or folder, and .* hub: 404: no BeIR/other$"
    ):
        load_dataset("BeIR/other")
    with pytest.raises(DataError, match="no sentences; take the folder xquad-r"):
        load_dataset("google-research-datasets/xquad_r")
    with pytest.raises(DataError, match=r"./BeIR/other: no such file or folder"):
        load_dataset("./BeIR/other")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("GatedRepoError", "its authors must first grant access to your account"),
        ("RepositoryNotFoundError", "the hub has no repository of this name, or it is private"),
        ("LocalEntryNotFoundError", "the hub cannot be reached, and there is no downloaded copy"),
    ],
)
def test_what_the_hub_does_not_give(hub, monkeypatch, kind, reason):
    import huggingface_hub

    error = getattr(huggingface_hub.errors, kind)

    def refuse(*args, **kwargs):
        raise error.__new__(error, "Got: ConnectError")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError) as caught:
        load_dataset("owner/name")
    expected = f"owner/name: no such file or folder, and not to be had from the hub: {reason}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "path", ["data/pairs.jsonl", "data/en.json", "d/p.jsonl.gz", "../x", "~/x"]
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path, hub, path):
    with pytest.raises(
        DataError, match=f"^{path}: no such file or folder, and neither an embedded"
    ):
        load_dataset(path)
    assert not hub


@pytest.mark.parametrize("name", ["facts-dev", "facts", "facts-"])
def test_embedded_sets_are_named(name):
    with pytest.raises(DataError, match=f"no embedded set '{name}'; there are facts-train, facts-"):
        load_dataset(name)


def test_no_name_is_not_this_folder(tmp_path, monkeypatch):
    make_miracl(tmp_path, "de", 6)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="the name of the data set is empty; expected one of: JSON"):
        load_dataset("")
    assert len(load_dataset(".").queries) == 2


def test_what_no_format_matches(tmp_path):
    rows = [{"query": "q", "positive": "p"}]
    found = {
        write(tmp_path / "pairs.json", *rows): "a .json file",
        write(tmp_path / "pairs.tsv", "q\tp"): "a .tsv file",
        write(tmp_path / "v1.pairs.csv", "q,p"): "a .csv file",
        write(tmp_path / "en.json.gz", "x"): "a .json.gz file",
        write(tmp_path / "pairs", *rows): "a file without a suffix",
        tmp_path / "empty": "an empty folder",
        tmp_path / "other": "a folder of no known format",
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "config.json", {})
    for path, kind in found.items():
        with pytest.raises(DataError) as caught:
            load_dataset(path)
        assert str(caught.value) == f"{path}: {kind}; expected one of: {FORMATS_HELP}"
    # A .json file can be SQuAD, and pairs are a .jsonl file.
    assert "JSON Lines (a .jsonl or .jsonl.gz file of query/positive pairs, or" in FORMATS_HELP
    assert "SQuAD (<language>.json or a folder of such files: XQuAD-R, MLQA-R)" in FORMATS_HELP


def test_a_format_is_one_line_of_the_table(tmp_path, monkeypatch):
    """What a new reader takes: the table finds it, errors and help name the others."""
    made = Dataset("made", [Query("q", "?", "en", "g")], [Document("d", "!", "en", "g")], {})
    new = Format("MKQA", "a .mkqa file", lambda path: path.suffix == ".mkqa", lambda source: made)
    monkeypatch.setattr(load, "FORMATS", (*load.FORMATS, new))
    assert load_dataset(write(tmp_path / "x.mkqa", "x")) is made
    for format in load.FORMATS[:-1]:
        assert f"{format.name} ({format.layout})" in FORMATS_HELP
    for name in (FORMATS_HELP, "facts-train", "facts-paraphrase", "miracl/miracl", "BeIR/NAME"):
        assert name in DATA_HELP


def test_candidates_of_another_name(tmp_path):
    write(tmp_path / "en.json", {"data": []})
    with pytest.raises(
        DataError, match="candidates must be one of sentence, sentence-with-context"
    ):
        load_dataset(tmp_path, candidates="paragraph")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["en.json", "config.json"], "config.json: 'config' is not a language tag"),
        (["de.json", "deu.json"], "deu.json: duplicate of .*/de.json: both are 'de'"),
        (
            ["DOCUMENT_IDS.tsv", "newstest2019-ref.deu.txt", "newstest2019-ref.deu.txt.gz"],
            "deu.txt.gz: duplicate of .*deu.txt: both are 'de'",
        ),
        (["DOCUMENT_IDS.tsv", "newstest2019-ref.german.txt"], "german.txt: 'german' is not a"),
        (["tatoeba.x1-eng.eng"], "tatoeba.x1-eng.eng: 'x1' is not a language tag"),
        (["topics.miracl-v1.0-english-dev.tsv"], "english-dev.tsv: 'english' is not a language"),
    ],
)
def test_languages_in_file_names(tmp_path, names: list[str], message):
    for name in names:
        write(tmp_path / name, "x")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)
