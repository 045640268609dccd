"""The main job on a few steps: every part of it runs, and what it writes can be used."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("bm25s")

from hybridret.errors import DataError
from hybridret.quickstart import quickstart
from hybridret.serving.retriever import Retriever


def test_quickstart(tmp_path, capsys):
    output = tmp_path / "quickstart"
    reports = quickstart(output, steps=60)
    names = ["random", "bm25", "untrained", "monolingual", "cross-lingual", "mixed", "hybrid"]
    assert [r.name for r in reports] == names
    ap = {r.name: {k: r.summary[k]["AP"] for k in ("mono", "cross", "multi")} for r in reports}
    assert ap["random"]["mono"] < 0.03
    # True at any budget: only batches that pair languages teach which words mean the same.
    for setting in ("cross", "multi"):
        assert ap["cross-lingual"][setting] > ap["monolingual"][setting]
    assert ap["monolingual"]["mono"] > ap["cross-lingual"]["mono"] > ap["random"]["mono"]
    printed = capsys.readouterr().out
    for line in ("Data", "Average precision", "Export and index", "Search across languages"):
        assert f"\n{line}" in printed
    assert len(json.loads((output / "results.json").read_text())["systems"]) == 7
    assert "hybrid" in (output / "report.html").read_text()
    assert len(Retriever.load(output / "encoder").search("Wo liegt Accra?", k=4)) == 4
    with pytest.raises(DataError, match="not empty"):
        quickstart(output)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="something else"):
        quickstart(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
