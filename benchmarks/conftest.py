"""All peers of a question are timed in one run: quote ratios, not seconds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import dataset, exported, questions  # noqa: F401  # fixtures of two files

from hybridret import _native


@pytest.fixture(scope="session")
def unit_vectors():
    """float32 [rows, dimension] of length one."""

    def make(rows: int, dimension: int, seed: int) -> np.ndarray:
        vectors = np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return make


@pytest.fixture(scope="session")
def peaks(tmp_path_factory) -> dict[str, float]:
    """GFLOP/s of this machine's multiply-adds on registers alone, all threads, by format."""
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        return {}
    program = tmp_path_factory.mktemp("peak") / "peak"
    source = Path(__file__).with_name("peak.cpp")
    flags = ["-O3", "-march=native", "-std=c++17", "-pthread"]
    subprocess.run([compiler, *flags, source, "-o", program], check=True)
    threads = str(_native.default_threads())
    lines = subprocess.run([program, threads], check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in map(str.split, lines.splitlines())}


class PeakMemory:
    """Bytes that stood at the worst moment above what stood before, of this process (Linux)."""

    def __enter__(self) -> PeakMemory:
        _native.release_scratch()
        with contextlib.suppress(AttributeError, OSError):  # what the last peer freed goes back
            ctypes.CDLL(None).malloc_trim(0)
        self.before = self._read("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = self._read("VmHWM") - self.before

    @staticmethod
    def _read(name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise OSError(f"/proc/self/status names no {name}")


def pytest_terminal_summary(terminalreporter, config) -> None:
    """One table a group: every peer beside ours."""
    groups: dict[str, list] = {}
    session = getattr(config, "_benchmarksession", None)
    for benchmark in getattr(session, "benchmarks", []):
        if benchmark.stats.rounds:
            groups.setdefault(benchmark.group, []).append(benchmark)
    if not groups:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{processor()}, {os.cpu_count()} processors, {_native.isa()} kernels")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        write(torch.cuda.get_device_name())
    for group, rows in groups.items():
        write(f"\n{group}")
        ours = next((r for r in rows if (r.params or {}).get("peer") == "hybridret"), rows[0])
        for row in rows:
            name = (row.params or {}).get("peer", row.name)
            # A peer that ran a share of the work.
            median = row.stats.median * row.extra_info.get("scale", 1)
            extra = "  ".join(f"{k} {v}" for k, v in row.extra_info.items() if k != "scale")
            ratio = median / ours.stats.median
            write(f"  {name:28}{median * 1e3:10.2f} ms  x{ratio:<6.2f} {extra}")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
