"""Configuration of Sphinx: ``make docs`` builds the pages of this folder and the reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import hybridret

HERE = Path(__file__).parent

project = "hybridret"
author = "the hybridret developers"
release = version = hybridret.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hybridret {release}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
add_module_names = False

# What was measured is beside the benchmarks; pages link to it there, and here to a copy.
shutil.copytree(HERE.parent / "benchmarks" / "results", HERE / "_results", dirs_exist_ok=True)


def _link_copies(app: Any, name: str, source: list[str]) -> None:
    up = "../" * name.count("/")
    source[0] = source[0].replace("](../benchmarks/results/", f"]({up}_results/")
    source[0] = source[0].replace("](../../docs/", "](../")


def setup(app: Any) -> None:
    app.connect("source-read", _link_copies)
