"""A part of the build as a CMake project of its own: no pybind11, no Python module."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import ROOT
from test_native import tool

PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES CXX)
set(Python_EXECUTABLE "{python}")
include("{root}/cmake/{part}.cmake")
if(TARGET hybridret_cuda)
  message(STATUS "will build for ${{architectures}}")
endif()
"""
SETTINGS = ("HYBRIDRET_CUDA", "HYBRIDRET_CUDA_ARCHITECTURES", "HNSWLIB_INCLUDE_DIR")


class Probe:
    """cmake/``part``.cmake, configured in ``folder`` as often as one likes."""

    def __init__(self, folder: Path, part: str, *, python: str) -> None:
        self.build_folder = folder / "build"
        self.source = folder / "source"
        self.source.mkdir(parents=True)
        text = PROJECT.format(python=python, root=ROOT, part=part)
        (self.source / "CMakeLists.txt").write_text(text)

    def configure(self, *options: str, **environment: str) -> tuple[bool, str]:
        """Whether it succeeded, and all that it printed as one line."""
        command = [tool("cmake"), "-S", self.source, "-B", self.build_folder, *options]
        others = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        done = subprocess.run(
            command, env=others | environment, capture_output=True, text=True, check=False
        )
        return done.returncode == 0, " ".join((done.stdout + done.stderr).split())

    def install(self) -> tuple[Path, str]:
        """The folder that things are built and installed to, and what the compilers printed."""
        target, cmake = self.build_folder.parent / "installed", tool("cmake")
        said = ""
        for command in (
            [cmake, "--build", self.build_folder, "--parallel", str(os.cpu_count())],
            [cmake, "--install", self.build_folder, "--prefix", target],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said += done.stdout + done.stderr
            assert done.returncode == 0, said
        return target, said
