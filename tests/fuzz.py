"""Looks for files that a reader answers with anything but one of our errors.

``python tests/fuzz.py --minutes 5`` divides the time among all targets, ``--target NAME`` takes
one. What is found is written to ``build/fuzz``; a test belongs to its mending. Atheris guides the
search by the lines of Python that an input reaches.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["hybridret", "json"]):
    import numpy as np
    from test_reading import CASES, Case

    import hybridret.evaluation.judging
    from hybridret import _native
    from hybridret.data.load import load_dataset
    from hybridret.encoder.manifest import read_manifest
    from hybridret.errors import HybridretError
    from hybridret.studies.scores import Scores

HERE = Path(__file__).parent
FOUND = HERE.parent / "build" / "fuzz"
RELEASE = sorted((HERE / "data").glob("release-*"))[-1]


def mmarco() -> Case:
    return Case(
        {
            "collections/english_collection.tsv": b"0\tone\n1\ttwo\n2\tthree\n",
            "queries/train/english_queries.train.tsv": "7\twhät?\n".encode(),
            "triples.train.ids.small.tsv": b"7\t0\t1\n7\t0\t2\n",
        },
        load_dataset,
    )


def manifest() -> Case:
    files = {"hybridret.json": (RELEASE / "encoder" / "hybridret.json").read_bytes()}
    return Case(files, lambda folder: read_manifest(folder, check=False))


def embeddings() -> Case:
    with tempfile.TemporaryFile() as file:
        np.save(file, np.ones((3, 4), dtype=np.float32))
        file.seek(0)
        files = {"e.npy": file.read()}
    return Case(
        files, lambda folder: hybridret.evaluation.judging.load_embeddings(folder / "e.npy")
    )


def scores() -> Case:
    with tempfile.TemporaryDirectory() as folder:
        made = Scores([("AP mono", "de", "de")], np.ones((3, 1)), np.ones((3, 1), np.int64), [1.0])
        made.save(Path(folder) / "s.npz")
        files = {"s.npz": (Path(folder) / "s.npz").read_bytes()}
    return Case(files, lambda folder: Scores.load(folder / "s.npz"))


VECTORS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def new_graph() -> Any:
    table = _native.Table(8)
    table.extend(VECTORS)
    return _native.Graph(table, M=4, ef_construction=20, seed=0)


def graph() -> Case:
    """The store compares a checksum before: here whatever passes is searched."""
    with tempfile.TemporaryDirectory() as folder:
        good = new_graph()
        good.build(40)
        good.save(f"{folder}/graph")
        files = {"graph": (Path(folder) / "graph").read_bytes()}

    loaded = new_graph()  # read into again and again: a graph is slow to make

    def read(folder: Path) -> None:
        try:
            loaded.load(str(folder / "graph"), 40)
        except RuntimeError:
            return
        loaded.search(VECTORS[:3], 5, ef=20)

    return Case(files, read)


TARGETS: dict[str, Callable[[], Case]] = {name: (lambda c=c: c) for name, c in CASES.items()}
TARGETS |= {
    "mmarco": mmarco,
    "manifest": manifest,
    "embeddings": embeddings,
    "scores": scores,
    "graph": graph,
}


def fuzz(name: str, seconds: int) -> None:
    """Runs one target in this process; a finding ends it with a status other than 0."""
    case = TARGETS[name]()
    order = sorted(case.files)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    seeds, corpus = folder / "seeds", folder / "corpus"
    seeds.mkdir()
    corpus.mkdir()
    data = folder / "set"
    for number, file in enumerate(order):
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / file).write_bytes(case.files[file])
        (seeds / str(number)).write_bytes(bytes([number]) + case.files[file])

    def one(content: bytes) -> None:
        # The first byte says which file it is; the others are good.
        file = order[content[0] % len(order)] if content else order[0]
        (data / file).write_bytes(content[1:])
        try:
            case.read(data)
        except HybridretError as error:
            if "\n" in str(error):
                raise ValueError("more than one line") from error
        finally:
            (data / file).write_bytes(case.files[file])

    FOUND.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={FOUND / name}-",
        "-max_len=4096",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds)], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of all targets together")
    parser.add_argument("--target", choices=TARGETS, help="this one alone")
    parser.add_argument("--seconds", type=int, help="of the one target")
    o = parser.parse_args()
    if o.target is not None:
        fuzz(o.target, o.seconds or int(o.minutes * 60))
        return
    seconds, failed = max(1, int(o.minutes * 60 / len(TARGETS))), []
    for name in TARGETS:
        command = [sys.executable, __file__, "--target", name, "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = [x.split()[-1] for x in done.stderr.splitlines() if "number_of_executed_units" in x]
        said = "" if done.returncode == 0 else f"  FOUND, see {FOUND}"
        print(f"{name:16}{int((runs or ['0'])[0]):>12,} inputs{said}", flush=True)
        if done.returncode or not runs:
            failed.append(name)
            print(done.stderr[-3000:])
    sys.exit(f"findings in {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
