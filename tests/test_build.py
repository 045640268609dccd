"""What the build decides: CUDA or not and for which GPUs, hnswlib from where, no index by name."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cmake_probe import Probe
from conftest import ROOT
from test_native import tool

# They only answer questions.
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release 13.0, V13.0.88";;
  --list-gpu-code) printf "sm_80\\nsm_86\\nsm_90\\nsm_100\\nsm_120\\n";;
esac
"""
NVIDIA_SMI = """#!/bin/sh
printf "$GPUS"
test "$DRIVER" != broken
"""


# ---- CUDA ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cuda(tmp_path_factory) -> Callable[..., str]:
    """What a build is for, on a machine with these GPUs: architectures, none, or an error.

    The same build folder is configured again and again, as an editable install's is.
    """
    toolkit = tmp_path_factory.mktemp("toolkit")
    for name, text in {"nvcc": NVCC, "nvidia-smi": NVIDIA_SMI}.items():
        (toolkit / "bin").mkdir(exist_ok=True)
        (toolkit / "bin" / name).write_text(text)
        (toolkit / "bin" / name).chmod(0o755)
    probe = Probe(tmp_path_factory.mktemp("cuda"), "cuda", python="false")
    path = f"{toolkit}/bin{os.pathsep}{os.environ['PATH']}"

    def configure(*options: str, gpus: str = "", **environment: str) -> str:
        tools = {"PATH": path, "CUDACXX": f"{toolkit}/bin/nvcc", "GPUS": gpus}
        done, said = probe.configure(*options, **tools, **environment)
        if not done:
            return said.partition("(message): ")[2].partition(" Call Stack")[0]
        _, built, architectures = said.partition("will build for ")
        return architectures.split(" ")[0] if built else "none"

    return configure


ALL = "80;90a;100;120"


@pytest.mark.parametrize(
    ("setting", "gpus", "expected"),
    [
        ("off", "9.0", "none"),
        ("OFF", "9.0", "none"),
        ("off", "", "none"),
        ("on", "", ALL),
        ("on", "9.0", ALL),
        ("auto", "", "none"),
        ("auto", "9.0", "90a"),
        ("auto", "9.0\n9.0\n8.6\n", "86;90a"),
        ("auto", "7.5", "none"),
        ("auto", "7.5\n12.0", "120"),
        ("auto", "13.7", "80"),  # which this nvcc does not know: it takes the PTX of 80
        ("auto", "9.0\n13.7", "80;90a"),
        ("", "8.0", "80"),
        ("", "", "none"),
    ],
)
def test_which_kernels_are_built(cuda, setting, gpus, expected):
    assert cuda(gpus=gpus, HYBRIDRET_CUDA=setting) == expected


def test_a_driver_that_does_not_answer_is_no_gpu(cuda):
    assert cuda(gpus="NVIDIA-SMI 9.0 has failed", DRIVER="broken") == "none"


def test_named_architectures_need_no_gpu(cuda):
    for setting in ("auto", "on"):
        found = cuda(HYBRIDRET_CUDA=setting, HYBRIDRET_CUDA_ARCHITECTURES="90a;100")
        assert found == "90a;100"


def test_a_wrong_word_is_refused(cuda):
    for wrong in ("yes", "false", "0"):
        found = cuda(gpus="9.0", HYBRIDRET_CUDA=wrong)
        assert found == f"HYBRIDRET_CUDA is '{wrong}'; expected auto, on or off"


def test_the_environment_of_one_build_is_not_that_of_the_next(cuda):
    assert cuda(HYBRIDRET_CUDA="on") == ALL
    assert cuda() == "none"
    # What is given to CMake itself stays, and goes first.
    assert cuda("-DHYBRIDRET_CUDA=on", HYBRIDRET_CUDA="off") == ALL
    assert cuda(HYBRIDRET_CUDA="off") == ALL
    assert cuda("-UHYBRIDRET_CUDA", gpus="9.0") == "90a"


def test_without_nvcc(cuda):
    none = "-DHYBRIDRET_NVCC="
    assert cuda(none, gpus="9.0", HYBRIDRET_CUDA="auto") == "none"
    found = cuda(none, HYBRIDRET_CUDA="on")
    assert found.startswith("HYBRIDRET_CUDA is on, but no nvcc was found: put it on PATH")


# ---- hnswlib ------------------------------------------------------------------------------------


def fetch(target: Path, index: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "cmake/hnswlib.py", "0.8.0", sha256, target],
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def index(tmp_path) -> Path:
    """An index with an hnswlib that must not be built, since nothing it needs is there."""
    source = tmp_path / "source"
    for name, text in {
        "pyproject.toml": '[build-system]\nrequires = ["nothing-has-this-name"]\n'
        'build-backend = "setuptools.build_meta"\n',
        "setup.py": "raise SystemExit('setup.py was run')",
        "hnswlib/hnswlib.h": "// the headers\n",
        "python_bindings/other.h": "",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    folder = tmp_path / "index"
    folder.mkdir()
    with tarfile.open(folder / "hnswlib-0.8.0.tar.gz", "w:gz") as archive:
        archive.add(source, "hnswlib-0.8.0")
    return folder


def sha256(index: Path) -> str:
    return hashlib.sha256((index / "hnswlib-0.8.0.tar.gz").read_bytes()).hexdigest()


def test_headers_come_from_the_index_that_pip_is_set_up_for(tmp_path, index):
    target = tmp_path / "build" / "headers"
    done = fetch(target, index, sha256(index))
    assert done.returncode == 0, done.stderr
    assert [p.relative_to(target.parent) for p in target.parent.rglob("*.h")] == [
        Path("headers/hnswlib/hnswlib.h")
    ]
    assert list(target.parent.iterdir()) == [target]


def test_another_package_than_the_pinned_one_is_refused(tmp_path, index):
    wrong = "0" * 64
    done = fetch(tmp_path / "build" / "headers", index, wrong)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "hnswlib 0.8.0 of your package index is another file than the one this build was made "
        f"for, whose SHA-256 is {wrong}"
    )
    assert not list((tmp_path / "build").iterdir())


def test_without_an_index_the_error_says_how_to_build_offline(tmp_path):
    done = fetch(tmp_path / "headers", tmp_path, "0" * 64)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pip cannot download hnswlib 0.8.0;")
    assert "set HNSWLIB_INCLUDE_DIR" in done.stderr


@pytest.mark.parametrize("given", ["-D", "environment"])
def test_an_offline_build_takes_the_headers_that_are_there(tmp_path, given):
    (tmp_path / "there/hnswlib").mkdir(parents=True)
    (tmp_path / "there/hnswlib/hnswlib.h").touch()
    probe = Probe(tmp_path / "probe", "hnswlib", python="false")

    def configure(folder: Path) -> tuple[bool, str]:
        if given == "-D":
            return probe.configure(f"-DHNSWLIB_INCLUDE_DIR={folder}")
        return probe.configure(HNSWLIB_INCLUDE_DIR=str(folder))

    done, said = configure(tmp_path)
    assert not done
    assert f"HNSWLIB_INCLUDE_DIR is '{tmp_path}', which holds no hnswlib/hnswlib.h" in said
    done, said = configure(tmp_path / "there")
    assert done, said


# ---- indexes ------------------------------------------------------------------------------------


def test_no_file_names_a_package_index():
    """Users have their own; torch's CPU builds are the exception."""
    names = ("py" + "pi.org", "python" + "hosted.org")
    files = [ROOT / name for name in (".ci/run", "CMakeLists.txt", "Makefile")]
    files += [p for pattern in ("*.md", "*.toml", "*.txt", "cmake/*") for p in ROOT.glob(pattern)]
    for folder in ("benchmarks", "csrc", "hybridret", "tests"):
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".sh", ".h", ".md")]
    assert len(files) > 100
    named = [(str(f), name) for f in files for name in names if name in f.read_text()]
    assert named == []


def test_torch_comes_from_the_default_index_where_none_is_given():
    def install(*options: str) -> str:
        command = [tool("make"), "--dry-run", "--always-make", *options, ".venv/.torch"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        (line,) = (line for line in done.stdout.splitlines() if "torch==" in line)
        return line

    assert "--extra-index-url https://download.pytorch.org/whl/cpu " in install()
    assert "index" not in install("TORCH_INDEX=")
