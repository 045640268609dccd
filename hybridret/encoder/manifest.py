"""``hybridret.json``, the manifest of an exported encoder: settings, checksums, fingerprint."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from hybridret._files import check_files, checksums, read_json, sha256
from hybridret.encoder.tokenization import TOKENIZER_FILE
from hybridret.errors import ModelError

MANIFEST_FILE = "hybridret.json"
ONNX_FILE = "onnx/model.onnx"
INDEX_FOLDER = "index"


def is_exported(folder: str | Path) -> bool:
    """Whether a folder was written by ``hybridret export``."""
    return (Path(folder) / MANIFEST_FILE).is_file()


def seal(folder: Path, encoder: dict[str, Any]) -> dict[str, Any]:
    """The entries ``files`` (checksums) and ``fingerprint`` for the files now in a folder."""
    files = checksums(folder)
    return {"files": files, "fingerprint": _fingerprint(files, encoder)}


def read_manifest(folder: Path, *, check: bool = True) -> dict[str, Any]:
    """The manifest of an exported encoder.

    Args:
        check: compare all files with their checksums.

    Raises:
        ModelError: the manifest is missing, damaged or of another schema, or a file differs from
            its checksum.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder")
    if not path.is_file():
        is_torch = any((folder / name).is_file() for name in ("modules.json", "config.json"))
        what = "a torch model" if is_torch else f"no {MANIFEST_FILE}"
        raise ModelError(
            f"{folder}: not an exported encoder ({what}); make one with 'hybridret export "
            f"{folder if is_torch else 'MODEL'} ENCODER'"
        )
    manifest = read_json(path, ModelError)
    if not isinstance(manifest, dict):
        raise ModelError(f"{path}: damaged: expected an object, got {type(manifest).__name__}")
    if manifest.get("schema") != 1:
        raise ModelError(
            f"{path}: schema {manifest.get('schema')!r:.60}, but this version reads schema 1"
        )
    for name, kind in (("dimension", int), ("fingerprint", str), ("encoder", dict)):
        if type(manifest.get(name)) is not kind:
            raise ModelError(f"{path}: damaged: {name!r} is {manifest.get(name)!r:.60}")
    if not 1 <= manifest["dimension"] <= 1 << 20:
        raise ModelError(f"{path}: damaged: 'dimension' is {manifest['dimension']!r:.60}")
    if not check:
        return manifest
    if "files" in manifest:
        check_files(folder, manifest["files"], ModelError)
        files = manifest["files"]
    else:  # written by hybridret 0.1, which had no list of files
        files = {
            file.relative_to(folder).as_posix(): {"sha256": sha256(file)}
            for file in (folder / TOKENIZER_FILE, *(folder / ONNX_FILE).parent.glob("*"))
            if file.is_file()
        }
    for name in (TOKENIZER_FILE, ONNX_FILE):
        if name not in files:
            raise ModelError(f"{folder}: no {name} in this encoder folder")
    if _fingerprint(files, manifest["encoder"]) != manifest["fingerprint"]:
        raise ModelError(
            f"{folder}: damaged: tokenizer, model or {MANIFEST_FILE} was changed after the export"
        )
    return manifest


def copy_encoder(source: Path, target: Path) -> None:
    """Copies the files of an exported encoder into an empty folder.

    Not as links: who writes into one of the folders in place would change both.
    """
    listed = read_manifest(source, check=False).get("files")
    if listed is None:  # written by hybridret 0.1
        model = sorted(file for file in (source / ONNX_FILE).parent.iterdir() if file.is_file())
        listed = [TOKENIZER_FILE, *(file.relative_to(source).as_posix() for file in model)]
    for name in (MANIFEST_FILE, *listed):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy)


def _fingerprint(files: dict[str, dict[str, Any]], encoder: dict[str, Any]) -> str:
    """A hash of everything that determines the vectors: weights, tokenizer, prompts, lengths."""
    parent = Path(ONNX_FILE).parent.as_posix()
    model = sorted(name for name in files if name.startswith(f"{parent}/"))
    names = [TOKENIZER_FILE, *model]
    parts = [f"{Path(name).name} {files[name]['sha256']}" for name in names]
    text = "\n".join([*parts, json.dumps(encoder, sort_keys=True)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
