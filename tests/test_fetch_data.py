"""The script that fetches public data, from a folder that stands in for its publishers."""

from __future__ import annotations

import hashlib

import fetch_data
import pytest


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two files of a data set, and their checksums."""
    source = fetch_data.SOURCES["tatoeba"]
    folder = tmp_path / "host" / source.repository / source.revision / source.remote
    folder.mkdir(parents=True)
    lines = []
    for name in ("tatoeba.deu-eng.deu", "tatoeba.deu-eng.eng"):
        (folder / name).write_text(f"{name}\n")
        checksum = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        lines.append(f"{checksum}  tatoeba  {name}")
    (tmp_path / "hashes").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(fetch_data, "HASHES", tmp_path / "hashes")
    monkeypatch.setattr(fetch_data, "HOST", (tmp_path / "host").as_uri())
    return folder


def test_it_fetches_checks_and_fetches_no_file_twice(published, tmp_path, capsys):
    run = [str(tmp_path / "data"), "tatoeba"]
    assert fetch_data.main(run) == 0
    assert "tatoeba: 2 of 2 files (CC BY 2.0 FR" in capsys.readouterr().out
    got = tmp_path / "data" / "tatoeba"
    assert sorted(f.name for f in got.iterdir()) == ["tatoeba.deu-eng.deu", "tatoeba.deu-eng.eng"]
    for file in published.iterdir():
        assert (got / file.name).read_bytes() == file.read_bytes()
        file.unlink()
    assert fetch_data.main(run) == 0  # nobody was asked
    (got / "tatoeba.deu-eng.deu").write_text("cut")
    assert fetch_data.main(run) == 1
    assert "tatoeba: 1 of 2 files" in capsys.readouterr().out


def test_another_file_is_not_taken(published, tmp_path, capsys):
    (published / "tatoeba.deu-eng.deu").write_text("something else\n")
    assert fetch_data.main([str(tmp_path / "data"), "tatoeba"]) == 1
    assert "is another file now" in capsys.readouterr().out
    assert not (tmp_path / "data" / "tatoeba" / "tatoeba.deu-eng.deu").exists()


def test_what_it_cannot_fetch(tmp_path, capsys):
    assert fetch_data.main([str(tmp_path), "pud"]) == 1
    assert "pud: cannot be fetched by this script" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fetch_data.main([str(tmp_path), "wikipedia"])
    assert "unknown data set 'wikipedia'; expected xquad-r" in capsys.readouterr().err


def test_the_checksums_are_those_of_the_files(real_data):
    for name in ("xquad-r", "mlqa-r", "tatoeba"):
        for path, _, checksum in fetch_data.files(name):
            assert hashlib.sha256((real_data / path).read_bytes()).hexdigest() == checksum, path
