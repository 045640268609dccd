"""What earlier releases wrote is opened: ``tests/data/release-*``, by ``tests/data/make.py``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import smoke
from conftest import ROOT

import hybridret
from hybridret.evaluation.report import KINDS

RELEASES = sorted((ROOT / "tests" / "data").glob("release-*"), key=str)


def test_there_is_one_of_every_release():
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+)\.", log, re.M)
    assert {f"release-{v}" for v in versions if v != "0.1"} == {r.name for r in RELEASES}


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
def test_encoders_and_stores(release):
    smoke.search(release)


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
def test_a_store_is_verified_and_compacted(release, tmp_path):
    folder = shutil.copytree(release / "encoder", tmp_path / "encoder")
    retriever = hybridret.Retriever.load(folder)
    before = [hit.document_id for hit in retriever.search("Madagascar", k=20)]
    retriever.index.verify()
    retriever.index.compact()
    retriever.index.verify()
    assert [hit.document_id for hit in retriever.search("Madagascar", k=20)] == before


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
def test_a_run_goes_on(release, tmp_path):
    pytest.importorskip("torch")
    shutil.copytree(release / "run", tmp_path / "run")
    config = json.loads((release / "run" / "training.json").read_text())["config"]
    data = hybridret.load_dataset("facts-evaluation", languages=["de", "en", "ar"])
    documents = [d.full_text for d in list(data.documents)[::40]]
    encoder = hybridret.TorchEncoder.new_static(documents, dimension=16, vocabulary_size=300)
    hybridret.train(
        encoder,
        hybridret.PairTable.from_dataset(data),
        tmp_path / "run",
        hybridret.TrainingConfig(**config | {"steps": 6}),
        resume=True,
    )
    assert json.loads((tmp_path / "run" / "training.json").read_text())["step"] == 6
    assert hybridret.TorchEncoder.load(tmp_path / "run" / "model").dimension == 16


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
def test_a_report_has_the_fields_it_had(release):
    """Programs read them: fields are only ever added."""

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(inner) for name, inner in value.items()}
        return shape(value[0]) if isinstance(value, list) and value else type(value).__name__

    def has(new: object, old: object, where: str) -> None:
        if isinstance(old, dict):
            assert isinstance(new, dict), where
            for name, inner in old.items():
                assert name in new, f"{where}.{name}"
                has(new[name], inner, f"{where}.{name}")
        else:
            assert new == old, where

    old = json.loads((release / "report.json").read_text())
    data = hybridret.load_dataset("facts-evaluation", languages=["de", "en", "ar"])
    encoder = hybridret.OnnxEncoder(Path(release) / "encoder")
    new = hybridret.evaluate(encoder, data).to_dict()
    has(shape(json.loads(json.dumps(new))), shape(old), "report")
    assert set(KINDS) <= old["summary"].keys()
