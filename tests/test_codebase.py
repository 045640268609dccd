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
    for name in ("Graph", "InfoNCE", "Table"):
        methods = {n.name for n in stub[name].body if isinstance(n, ast.FunctionDef)}
        assert methods - {"__init__"} == {
            n for n in dir(getattr(_native, name)) if not n.startswith("_")
        }


def test_everything_public_is_there_and_documented():
    for name in hybridret.__all__:
        thing = getattr(hybridret, name)
        if name != "__version__":
            assert inspect.getdoc(thing), name


def test_no_module_has_the_name_of_a_public_function():
    """Importing a submodule binds its name to the package, where a function may stand."""
    modules = {path.stem for path in (ROOT / "hybridret").iterdir()}
    assert not modules & set(hybridret.__all__)


def test_former_names_say_what_they_are_now():
    with pytest.warns(DeprecationWarning, match=r"hybridret.InfoNCEStats is now hybridret.InBatch"):
        assert hybridret.InfoNCEStats is hybridret.InBatchMetrics
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hybridret.nothing


def test_importing_needs_numpy_alone():
    heavy = "{'torch', 'transformers', 'onnxruntime', 'tokenizers', 'tqdm', 'onnx', 'bm25s'}"
    code = f"import sys, hybridret.cli; hybridret.infonce; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# What each package may import from; those after the first line are for a user's whole job.
LAYERS: dict[str, set[str]] = {
    "data": set(),
    "losses": set(),
    "encoder": set(),
    "serving": {"data", "encoder"},
    "evaluation": {"data", "encoder", "serving"},
    "training": {"data", "encoder", "losses"},
    "studies": {"data", "encoder", "evaluation", "losses", "training"},
}
# Of packages that have both: the modules that run torch. All others work where it is not installed.
TORCH = {
    "losses": {"_cuda", "_ops", "gathering", "sentence_transformers"},
    "encoder": {
        "distillation",
        "exporting",
        "model",
        "model_folder",
        "onnx_graph",
        "torch_encoder",
        "vocabulary",
        "weights",
    },
    "training": {
        "bags",
        "checkpoints",
        "dropout",
        "features",
        "loop",
        "objective",
        "optimizer",
        "packing",
        "processes",
        "recomputing",
        "run",
        "sentence_transformers",
    },
    "studies": {"runs"},
}


def modules() -> dict[str, Path]:
    files = (ROOT / "hybridret").rglob("*.py")
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


def imports(file: Path) -> set[str]:
    """What a module imports from this package, wherever in it, but not for type checkers alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hybridret"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(whole & modules().keys() or {str(node.module)})
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.startswith("hybridret."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found & modules().keys()


def test_packages_import_in_one_direction():
    for name, file in modules().items():
        package = name.split(".")[1]
        if package in LAYERS:
            used = {other.split(".")[1] for other in imports(file)} & LAYERS.keys()
            assert used <= LAYERS[package] | {package}, name


def test_there_are_no_import_cycles():
    graph = {name: imports(file) for name, file in modules().items()}
    while ends := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in ends:
            del graph[name]
    assert not graph


@pytest.mark.parametrize("package", [*LAYERS, "cli"])
def test_only_listed_modules_import_torch(package):
    """Every module outside of TORCH is imported where torch and transformers cannot be."""
    free = [
        name
        for name in modules()
        if name.split(".")[1] == package
        and name.split(".")[-1] not in TORCH.get(package, ())
        and not name.endswith(("__main__", "generate"))
    ]
    assert free
    code = (
        "import importlib, sys; sys.modules |= {'torch': None, 'transformers': None}; "
        f"[importlib.import_module(name) for name in {free}]"
    )
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
    tests = [Path(__file__).parent / f"test_{name}.py" for name in ("losses", "ranking", "graph")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)],
        env=os.environ | {"HYBRIDRET_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
