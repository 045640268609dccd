"""What has to agree: versions, stubs, instruction sets."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import hybridret
from hybridret import _native


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hybridret.__version__ == _native.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_stub_names_what_the_module_has():
    tree = ast.parse((ROOT / "hybridret" / "_native.pyi").read_text())
    stub = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    stub |= {n.target.id: n for n in tree.body if isinstance(n, ast.AnnAssign)}
    real = {n for n in dir(_native) if not n.startswith("__")} | {"__version__"}
    assert stub.keys() == real
    for name in ("HnswIndex", "InfoNCE"):
        methods = {n.name for n in stub[name].body if isinstance(n, ast.FunctionDef)}
        assert methods - {"__init__"} == {
            n for n in dir(getattr(_native, name)) if not n.startswith("_")
        }


def test_everything_public_is_there_and_documented():
    for name in hybridret.__all__:
        thing = getattr(hybridret, name)
        if name != "__version__":
            assert inspect.getdoc(thing), name


def test_no_module_hides_a_public_name():
    """Importing a submodule binds its name to the package, where a function may stand."""
    modules = {path.stem for path in (ROOT / "hybridret").iterdir()}
    assert not modules & set(hybridret.__all__)


def test_importing_needs_numpy_alone():
    heavy = "{'torch', 'transformers', 'onnxruntime', 'tokenizers', 'tqdm', 'onnx', 'bm25s'}"
    code = f"import sys, hybridret.cli; hybridret.infonce; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_instruction_set_is_named():
    code = "import hybridret._native as n; n.isa()"
    environment = os.environ | {"HYBRIDRET_ISA": "mmx"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "HYBRIDRET_ISA is 'mmx', but this machine and build can run only: " in done.stderr


@pytest.mark.parametrize("isa", [i for i in _native.usable_isas() if i != _native.isa()])
def test_every_other_instruction_set_passes_the_kernel_tests(isa):
    tests = [Path(__file__).parent / f"test_{name}.py" for name in ("losses", "ranking")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)],
        env=os.environ | {"HYBRIDRET_ISA": isa}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
