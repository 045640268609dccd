"""The commands as a user types them: output, JSON, and one clear sentence for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hybridret.cli import main
from hybridret.data import load_facts

COMMANDS = ("quickstart", "train", "debias", "evaluate", "export", "index", "search", "info")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command writes."""
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("hybridret: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "None" not in text
    assert "False" not in text


def test_info(capsys):
    status, out, _ = run(capsys, "info", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["isa"] in found["usable_isas"]
    assert found["threads"] >= 1
    assert found["cuda"].keys() == {"compiled", "architectures", "available", "reason"}
    assert run(capsys, "info")[1].startswith(f"hybridret {found['version']}")


def test_export_index_and_search(capsys, bert_folder, tmp_path):
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    status, text, _ = run(capsys, "export", bert_folder, out, "--pooling", "cls", "--json")
    assert status == 0
    assert json.loads(text)["parity"] < 1e-5
    documents = tmp_path / "docs.jsonl"
    lines = [
        {"id": "a", "text": "The capital of France is Paris.", "language": "en"},
        {"id": "b", "text": "法国的首都是巴黎。", "language": "zho"},
    ]
    documents.write_text("\n".join(map(json.dumps, lines)))
    assert (
        "2 documents added; 2 in the index (en 1, zh 1)" in run(capsys, "index", out, documents)[1]
    )
    status, text, _ = run(
        capsys, "search", out, "The capital of France is Paris.", "-k", 1, "--json"
    )
    (hit,) = json.loads(text)
    assert (hit["document_id"], hit["language"]) == ("a", "en")
    assert run(capsys, "search", out, "Paris", "--languages", "zh")[1].split()[1:3] == ["zh", "b"]
    again = run(capsys, "index", out, documents)[1]
    assert "0 documents added, 2 were there already; 2 in the index (en 1, zh 1)" in again
    lines[1] |= {"text": "巴黎。", "year": 2024}
    documents.write_text("\n".join(map(json.dumps, [lines[1], lines[0] | {"id": "c"}])))
    message = fails(capsys, "index", out, documents)
    assert "document 'b' is in the index with another content; upsert it to replace it" in message
    _, text, _ = run(capsys, "index", out, documents, "--upsert", "--json")
    assert json.loads(text) == {
        "added": 2, "known": 0, "replaced": 1, "deleted": 0, "documents": 3,
        "languages": {"en": 2, "zh": 1},
    }  # fmt: skip
    found = run(capsys, "search", out, "Paris", "--where", '{"year": {"gte": 2020}}')[1]
    assert len(found.splitlines()) == 1
    assert "--where: not JSON" in fails(capsys, "search", out, "Paris", "--where", "year")
    _, text, _ = run(capsys, "index", out, documents, "--overwrite")
    assert "2 documents added, 2 of them replaced, 1 deleted; 2 in the index" in text
    os.mkfifo(tmp_path / "pipe")  # read several times all the same
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(documents.read_text(),))
    writer.start()
    _, text, _ = run(capsys, "index", out, tmp_path / "pipe")
    writer.join()
    assert "0 documents added, 2 were there already" in text
    assert "1 deleted, 1 in the index" in run(capsys, "delete", out, "c")[1]
    assert "no document 'c' in the index" in fails(capsys, "delete", out, "c")
    assert "bytes before" in run(capsys, "compact", out)[1]
    assert "whole, 1 documents" in run(capsys, "verify", out)[1]
    assert json.loads(run(capsys, "stats", out, "--json")[1])["fields"] == ["year"]
    assert "languages        zh 1" in run(capsys, "stats", out)[1]
    assert "no document in language 'tr'" in fails(capsys, "search", out, "x", "--languages", "tr")
    assert "already exists" in fails(capsys, "export", bert_folder, out)
    assert "must be given to 'hybridret export' instead" in fails(
        capsys, "evaluate", out, "--data", "facts-evaluation", "--pooling", "cls"
    )


def test_train_then_evaluate(capsys, tmp_path):
    pytest.importorskip("torch")
    run_folder, scores = tmp_path / "run", tmp_path / "scores.json"
    arguments = (
        "train",
        "--data",
        "facts-evaluation",
        "--languages",
        "de",
        "en",
        "--steps",
        20,
        "--batch-size",
        32,
        "--dimension",
        16,
        "--vocabulary-size",
        600,
        "--hold-out",
        0.2,
        "--output",
        run_folder,
    )
    status, text, _ = run(capsys, *arguments, "--json")
    assert status == 0
    summary = json.loads(text)
    assert summary["development"]["n"]["mono"] > 0
    assert (
        json.loads((run_folder / "training.json").read_text())["development"]
        == summary["development"]
    )
    assert "already contains a training run" in fails(capsys, *arguments)
    page = tmp_path / "page.html"
    status, text, _ = run(
        capsys,
        "evaluate",
        run_folder / "model",
        "--data",
        "facts-evaluation",
        "--languages",
        "de",
        "en",
        "--baselines",
        "random",
        "bm25",
        "--metrics",
        "ap",
        "NDCG@10",
        "--json",
        scores,
        "--html",
        page,
    )
    assert status == 0
    assert [line.split()[0] for line in text.splitlines()[3:7]] == ["run", "random", "bm25", "n"]
    assert "AP minus that of run" in text
    report = json.loads(scores.read_text())
    assert report["schema"] == 1
    assert [s["setting"] for s in report["settings"]] == ["mono"] * 2 + ["cross"] * 2 + [
        "multi"
    ] * 2
    assert report["settings"][0].keys() == {
        "setting",
        "query_language",
        "document_language",
        "n",
        "metrics",
    }
    assert report["settings"][-1]["document_language"] is None
    assert report["summary"]["mono"].keys() == {"AP", "nDCG@10"}
    assert [other["name"] for other in report["others"]] == ["random", "bm25"]
    assert [c["system"] for c in report["significance"]] == ["random", "bm25"]
    assert report["bias"]["rank_distance"]["mean"] == report["summary"]["rank_distance"]
    assert "<table" in page.read_text()


def test_train_a_hugging_face_encoder(capsys, xlmr_folder, tmp_path):
    """A model that names no prompts gets the paper's; what is given on the line counts."""
    arguments = (
        "train",
        "--data",
        "facts-evaluation",
        "--languages",
        "deu",
        "en",
        "--steps",
        2,
        "--batch-size",
        8,
        "--model",
        xlmr_folder,
        "--pooling",
        "cls",
    )
    for name, more, query in (
        ("a", (), "Query: "),
        ("b", ("--query-prompt", ""), ""),
        ("c", ("--no-normalize", "--max-length", 16), "Query: "),
    ):
        assert run(capsys, *arguments, "--output", tmp_path / name, *more)[0] == 0
        model = tmp_path / name / "model"
        settings = json.loads((model / "config_sentence_transformers.json").read_text())
        assert settings["prompts"] == {"query": query, "document": "Passage: "}
        modules = json.loads((model / "modules.json").read_text())
        assert (len(modules) == 3) == (name != "c")
        assert json.loads((model / "1_Pooling" / "config.json").read_text())[
            "pooling_mode_cls_token"
        ]
        # Trained once more, it keeps its own prompts.
    again = (*arguments[:-3], tmp_path / "b" / "model", "--output", tmp_path / "d")
    assert run(capsys, *again)[0] == 0
    settings = json.loads((tmp_path / "d/model/config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"query": "", "document": "Passage: "}


def test_evaluate_embeddings_of_xquad_r(capsys, real_data, tmp_path):
    """11 languages give 11 + 110 + 11 rows; random vectors are chance."""
    rng = np.random.default_rng(0)
    for name, rows in (("q", 13_090), ("d", 13_014)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((rows, 16), dtype=np.float32))
    arguments = [
        "evaluate",
        "--data",
        real_data / "xquad-r",
        "--query-embeddings",
        tmp_path / "q.npy",
        "--document-embeddings",
        tmp_path / "d.npy",
    ]
    status, _, _ = run(
        capsys,
        *arguments,
        "--metrics",
        "AP",
        "nDCG@10",
        "recall@100",
        "--json",
        tmp_path / "out.json",
    )
    assert status == 0
    settings = json.loads((tmp_path / "out.json").read_text())["settings"]
    assert [s["setting"] for s in settings] == ["mono"] * 11 + ["cross"] * 110 + ["multi"] * 11
    assert {s["n"] for s in settings} == {1190}
    assert all(s["metrics"]["AP"] < 0.03 for s in settings)
    np.save(tmp_path / "q.npy", np.zeros((3, 16), np.float32))
    assert "shape [3, 16]; expected [13090, dimension]" in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--data", "facts-evaluation"], "nothing to evaluate"),
        (["evaluate", "--data", "nowhere", "--baselines", "random"], "nowhere: no such file"),
        (
            [
                "evaluate",
                "--data",
                "facts-evaluation",
                "--languages",
                "fr",
                "--baselines",
                "random",
            ],
            "has no language fr",
        ),
        (
            ["evaluate", "--data", "facts-evaluation", "--baselines", "random", "--metrics", "f1"],
            "unknown metric 'f1'",
        ),
        (["evaluate", "./nowhere", "--data", "facts-evaluation"], "no such model folder"),
        (
            ["evaluate", "--data", "facts-evaluation", "--query-embeddings", "q.npy"],
            "must be given together",
        ),
        (["evaluate"], "no data to evaluate on"),
        (
            ["evaluate", "--qrels", "q", "--data", "facts-evaluation"],
            "--run must be given together",
        ),
        (
            ["evaluate", "--qrels", "q", "--run", "r", "--html", "x"],
            "cannot be combined with --html",
        ),
        (["evaluate", "--qrels", "q", "--run", "r"], "q: no such file"),
        (
            ["evaluate", "--data", "facts-evaluation", "--baselines", "random", "--write-run", "r"],
            "--write-run needs a model or embeddings",
        ),
        (
            [
                "evaluate",
                "--data",
                "facts-evaluation",
                "--baselines",
                "random",
                "--missing",
                "zero",
            ],
            "they need --run",
        ),
        (
            [
                "evaluate",
                "--data",
                "facts-evaluation",
                "--baselines",
                "random",
                "--ties",
                "optimistic",
            ],
            "they always break ties by id",
        ),
        (["evaluate", "m", "--data", "facts-evaluation", "--seeds"], "needs at least two models"),
        (
            ["evaluate", "m", "--data", "facts-evaluation", "--similarity", "dot"],
            "--similarity applies to embeddings",
        ),
        (["evaluate", "m", "--data", "facts-evaluation", "--batch-size", "0"], "at least 1, got 0"),
        (
            [
                "evaluate",
                "--data",
                "facts-evaluation",
                "--baselines",
                "random",
                "--metrics",
                "AP@99999999999999999999",
            ],
            "the cut-off is too large",
        ),
        (["evaluate", "--qrels", "q", "--run", "r", "--seeds"], "cannot be combined with --seeds"),
        (
            ["evaluate", "--qrels", "q", "--run", "r", "--depth", "5"],
            "cannot be combined with --depth",
        ),
        (["evaluate", "--qrels", "q", "--run", "r", "--per-query"], "it needs --json"),
        (
            ["evaluate", "--data", "facts-evaluation", "--baselines", "random", "--per-query"],
            "it needs --json",
        ),
        (
            ["evaluate", "--data", "facts-evaluation", "--baselines", "random", "--json", "."],
            "--json: . is a folder, not a file to write",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "run", "--seed", str(10**30)],
            "seed must be at least 0 and below 2^63",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "run", "--dimension", str(10**13)],
            "a dimension of at least 1",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "r", "--max-length", str(10**20)],
            "max_length must be at least 1 and below 2^31",
        ),
        (
            ["quickstart", "--seed", str(10**30), "--output", "."],
            "seed must be at least 0 and below 2^63",
        ),
        (["search", "nowhere", "question"], "nowhere: no such folder"),
        (["index", "nowhere", "docs.jsonl"], "nowhere: no such folder"),
        (
            ["train", "--data", "facts-evaluation", "--output", "r", "--query-prompt", "Q: "],
            "--query-prompt would have no effect: a new static encoder has its own",
        ),
        (
            [
                "train",
                "--data",
                "facts-evaluation",
                "--output",
                "r",
                "--model",
                "m",
                "--dimension",
                "8",
            ],
            "--dimension would have no effect: they are for a new static encoder",
        ),
        (
            [
                "train",
                "--data",
                "facts-evaluation",
                "--output",
                "r",
                "--sampler",
                "mixed",
                "--alpha",
                "1",
            ],
            "--alpha would have no effect: it is for the hybrid sampler, not mixed",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "run", "--batch-size", "100000"],
            "only 567 translation groups",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "run", "--hold-out", "2"],
            "must lie between 0 and 1",
        ),
        (
            ["train", "--data", "facts-evaluation", "--output", "run", "--dimension", "0"],
            "a dimension of at least 1",
        ),
        (
            [
                "evaluate",
                "--data",
                "facts-evaluation",
                "--baselines",
                "random",
                "--html",
                f"{__file__}/page.html",
            ],
            "test_cli.py: File exists",
        ),
        (
            [
                "train",
                "--data",
                "facts-evaluation",
                "--output",
                __file__,
                "--batch-size",
                "8",
                "--dimension",
                "2",
                "--vocabulary-size",
                "300",
            ],
            "test_cli.py: File exists",
        ),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def usage_error(capsys, *arguments: object) -> str:
    """What a command prints for unknown options: its own usage, then one line."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_unknown_and_repeated_options(capsys):
    train = ("train", "--data", "facts-train", "--output", "run")
    err = usage_error(capsys, *train, "--batchsize", 8)
    assert err.startswith("usage: hybridret train ")
    assert "unrecognized arguments: --batchsize 8 (did you mean --batch-size?)" in err
    assert "did you mean --data?" in usage_error(capsys, *train, "--dta=x")
    assert "did you mean" not in usage_error(capsys, *train, "--zzz")
    assert "--seed: given twice" in usage_error(capsys, *train, "--seed", 1, "--seed", 2)
    assert "given twice" in usage_error(capsys, *train, "--steps=1", "--steps=2")
    assert "did you mean evaluate?" in usage_error(capsys, "evalute", "x")
    assert "did you mean --version?" in usage_error(capsys, "--verson")
    assert "a COMMAND is required" in usage_error(capsys)
    assert "did you mean hybrid?" in usage_error(capsys, *train, "--sampler", "hybird")


def test_json_is_written_through_links_and_pipes(capsys, tmp_path):
    """Into a link's target, a pipe, the shell's output; none of them is replaced by a file."""
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    arguments = (
        "evaluate",
        "--data",
        "facts-evaluation",
        "--languages",
        "de",
        "--baselines",
        "random",
        "--metrics",
        "AP",
        "--json",
    )
    assert run(capsys, *arguments, link)[0] == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["schema"] == 1
    command = [sys.executable, "-m", "hybridret.cli", *arguments, "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert document["schema"] == 1
    assert "facts-evaluation: 567 queries" in done.stdout


def test_an_unknown_instruction_set(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hybridret.cli", "info"],
        capture_output=True,
        text=True,
        env=os.environ | {"HYBRIDRET_ISA": "mmx"},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hybridret: HYBRIDRET_ISA is 'mmx', but this machine")
    assert done.stderr.count("\n") == 1


def test_a_trec_run_and_seeds(capsys, tmp_path):
    """Embeddings to a run file and back; the same AP."""
    rng = np.random.default_rng(0)
    for name in ("q", "d"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((6237, 8), dtype=np.float32))
    arguments = [
        "evaluate",
        "--data",
        "facts-evaluation",
        "--languages",
        "de",
        "en",
        "--metrics",
        "recall@50",
        "--json",
    ]
    n = len(load_facts("evaluation").only_languages(["de", "en"]).queries)
    for name in ("q", "d"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((n, 8), dtype=np.float32))
    status, text, _ = run(
        capsys,
        *arguments,
        "-",
        "--query-embeddings",
        tmp_path / "q.npy",
        "--document-embeddings",
        tmp_path / "d.npy",
        "--write-run",
        tmp_path / "run",
        "--write-qrels",
        tmp_path / "qrels",
        "--depth",
        50,
        "--per-query",
    )
    assert status == 0
    report = json.loads(text)
    multi = [s for s in report["settings"] if s["setting"] == "multi"]
    expected = {q: v for s in multi for q, v in s["scores"]["recall@50"].items()}
    out = tmp_path / "out.json"
    status, text, _ = run(
        capsys,
        "evaluate",
        "--qrels",
        tmp_path / "qrels",
        "--run",
        tmp_path / "run",
        "--metrics",
        "recall@50",
        "--json",
        out,
    )
    assert status == 0
    assert f"run: {n:,} queries; judged but not in the run: 0" in text
    found = json.loads(out.read_text())["queries"]
    assert {q: v["recall@50"] for q, v in found.items()} == pytest.approx(expected)


def test_damaged_arrays(capsys, tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, np.ones((6237, 4), np.float32))
    cut = tmp_path / "cut.npy"
    cut.write_bytes(good.read_bytes()[:1000])
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    zipped = tmp_path / "zipped.npy"
    with zipped.open("wb") as file:
        np.savez(file, a=np.ones(3))
    nested = tmp_path / "nested.npy"
    nested.write_bytes(good.read_bytes()[:8] + b"\xff\xff" + b"(" * 65535)
    for bad in (cut, pickled, zipped, nested):
        message = fails(
            capsys,
            "evaluate",
            "--data",
            "facts-evaluation",
            "--query-embeddings",
            bad,
            "--document-embeddings",
            good,
        )
        assert f"{bad}: not a complete .npy file" in message
    longer = tmp_path / "longer.npy"
    longer.write_bytes(good.read_bytes() + b"more")
    assert "4 bytes after the array" in fails(
        capsys,
        "evaluate",
        "--data",
        "facts-evaluation",
        "--query-embeddings",
        longer,
        "--document-embeddings",
        good,
    )


def test_ctrl_c_during_training(tmp_path):
    """The checkpoint is complete, the message says how to continue, and continuing works."""
    pytest.importorskip("torch")
    command = [
        sys.executable,
        "-m",
        "hybridret.cli",
        "train",
        "--data",
        "facts-evaluation",
        "--output",
        "run",
        "--dimension",
        "16",
        "--vocabulary-size",
        "600",
        "--batch-size",
        "64",
        "--checkpoint-every",
        "20",
        "--steps",
    ]

    def start(*more: str) -> subprocess.Popen[str]:
        # A background job of a shell ignores the signal, and so would its children.
        return subprocess.Popen(
            [*command, "100000", *more],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    state = tmp_path / "run" / "checkpoint" / "state.json"
    deadline = time.monotonic() + 120
    with start() as process:
        try:
            while not state.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    # Where the signal came while Python ran a string (exec, in some library), Python ends by that
    # signal, whatever the program returns: to a shell it is 130, too.
    assert process.returncode in (130, -signal.SIGINT), err
    assert "--resume" in err
    assert "Traceback" not in err
    before = json.loads(state.read_text())["step"]
    with start("--resume") as resumed:
        try:
            while json.loads(read(state))["step"] == before and time.monotonic() < deadline + 120:
                time.sleep(0.05)
        finally:
            resumed.kill()
    assert json.loads(read(state))["step"] > before


def read(path: Path) -> str:
    """A file in a folder that is being replaced."""
    while True:
        try:
            return path.read_text()
        except FileNotFoundError:
            time.sleep(0.01)
