"""The engine's own C++ tests, for this processor and, under emulators, for others."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

CSRC = ROOT / "csrc"
X86 = platform.machine() in ("x86_64", "AMD64")


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def build(folder: Path, *options: str) -> Path:
    cmake = tool("cmake")
    settings = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DHYBRIDRET_PYTHON=OFF",
        "-DHYBRIDRET_NATIVE_TESTS=ON",
        "-DSKBUILD_PROJECT_VERSION=0",
        *options,
    ]
    run(cmake, "-S", ROOT, "-B", folder, *settings)
    run(cmake, "--build", folder, "--parallel", "2")
    return folder / "native_tests"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def native_tests(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("native"))


def test_every_kernel_of_this_processor(native_tests):
    assert ": 0 failed" in run(native_tests)


def test_kernel_files_give_the_linker_nothing_to_merge(native_tests):
    """Of two copies of an inline function it keeps one, which may need AVX-512."""
    files = sorted(native_tests.parent.rglob("kernel_*.o"))
    assert len(files) == (5 if X86 else 1)
    for file in files:
        symbols = [line.split() for line in run(tool("nm"), "-C", file).splitlines()]
        shared = [s[-1] for s in symbols if s[-2].isupper() and s[-2] != "U"]
        assert [name.startswith("hybridret::similarity::k") for name in shared] == [True], shared


def test_only_kernel_files_compile_the_kernel_source():
    """The engine knows the loss and the scorer by what their epilogues' sources bring, no more."""
    included = {
        (str(file.relative_to(CSRC)), name)
        for file in sorted(CSRC.rglob("*"))
        if file.suffix in (".h", ".cpp")
        for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE)
    }
    sources = {name for _, name in included if name.endswith("_source.h")}
    assert {"infonce/epilogue_source.h", "ranking/epilogue_source.h"} <= sources
    for file, name in included:
        if name in sources:
            assert re.search(r"_source\.h$|^similarity/kernel_\w+\.cpp$", file), (file, name)
        if file.startswith("similarity/") and not name.startswith("similarity/"):
            assert (file, name in sources) == ("similarity/kernel_source.h", True), name


@pytest.mark.skipif(not X86, reason="the baseline of x86-64")
def test_x86_without_avx(native_tests):
    """A wheel that reaches for an instruction the processor lacks dies here."""
    assert "active baseline" in run(tool("qemu-x86_64"), "-cpu", "Nehalem", native_tests)


@pytest.mark.skipif(not X86, reason="the kernels of x86-64")
def test_x86_with_avx2_alone(native_tests):
    assert "active avx2" in run(tool("qemu-x86_64"), "-cpu", "Haswell", native_tests)


def test_clang(tmp_path):
    compiler = tool("clang++")
    assert ": 0 failed" in run(build(tmp_path, f"-DCMAKE_CXX_COMPILER={compiler}"))


def test_arm64(tmp_path):
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64")
    program = build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    assert ": 0 failed" in run(emulator, program)
