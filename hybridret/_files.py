"""Atomic writing of files and folders (complete or not at all), and checksums of files."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybridret.errors import HybridretError

_WRITING = "writing-"  # in the names of temporary files and folders


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` at the end; nothing changes on an error.

    A link is followed. Devices, named pipes and everything under /dev or /proc are written to, not
    replaced. Temporary files that a killed process left for the same ``path`` are removed.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (written := Path(folder) / "written")
            with written.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    with _locked(path, _make_file) as temporary:
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    if str(path.absolute()).startswith(("/dev/", "/proc/")):
        return True
    return path.exists() and not path.is_file()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that replaces ``path`` at the end; nothing changes on an error.

    A link is followed. Temporary folders that a killed process left for the same ``path`` are
    removed.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    with _locked(path, _make_folder) as temporary:
        try:
            yield temporary
            use_umask(temporary)
            for entry in (temporary, *temporary.rglob("*")):
                _sync(entry)
            if path.exists():
                _exchange(temporary, path)
            else:
                temporary.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def use_umask(folder: Path) -> None:
    """Gives a folder and its contents default permissions; safetensors writes files as 0600."""
    folder.chmod(0o777 & ~_UMASK)
    for entry in folder.rglob("*"):
        entry.chmod((0o777 if entry.is_dir() else 0o666) & ~_UMASK)


def _make_file(prefix: str, folder: Path) -> str:
    descriptor, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    os.close(descriptor)
    return name


def _make_folder(prefix: str, folder: Path) -> str:
    return tempfile.mkdtemp(prefix=prefix, dir=folder)


@contextmanager
def _locked(path: Path, make: Callable[[str, Path], str]) -> Iterator[Path]:
    """A temporary file or folder beside ``path``, locked: an unlocked one is stale (its process was
    killed)."""
    while True:
        temporary = Path(make(f".{path.name}.{_WRITING}", path.parent))
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if temporary.exists():
                yield temporary
                return
        except BlockingIOError:
            pass  # another process found it before it was locked and is removing it
        finally:
            os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Removes the temporary files and folders of ``path`` that no running process holds."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_WRITING}[a-z0-9_]{{8}}(\.old)?")
    found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]
    if not path.exists() and any(entry.suffix == ".old" for entry in found):
        return  # killed between two renames: one of these is the last complete folder
    for entry in found:
        try:
            descriptor = os.open(entry, os.O_RDONLY)
        except OSError:
            continue  # removed in the meantime
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # another process is writing it
        finally:
            os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders in one step (Linux's renameat2), so that a kill leaves a complete one."""
    at_fdcwd, rename_exchange = -100, 2  # from fcntl.h and stdio.h
    libc = ctypes.CDLL(None, use_errno=True)
    done = hasattr(libc, "renameat2") and (
        libc.renameat2(at_fdcwd, bytes(new), at_fdcwd, bytes(old), rename_exchange) == 0
    )
    if not done:  # not supported by the file system: between the two renames the name is missing
        backup = new.with_name(f"{new.name}.old")
        old.rename(backup)
        try:
            new.rename(old)
        except BaseException:
            backup.rename(old)
            raise
        backup.rename(new)


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, error: type[HybridretError]) -> Any:
    """The value in a JSON file.

    Raises:
        error: the file is not UTF-8 or not JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise error(f"{path}: damaged: nested too deeply") from None
    except ValueError as reason:  # not UTF-8, not JSON, or a number of 5,000 digits
        raise error(f"{path}: damaged: {reason}") from None


def sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(path: Path) -> dict[str, Any]:
    """``{"bytes": ..., "sha256": ...}`` of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """``{relative path: {"bytes": ..., "sha256": ...}}`` of every file in a folder."""
    files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
    return {file.relative_to(folder).as_posix(): checksum(file) for file in files}


def check_files(folder: Path, expected: Any, error: type[HybridretError]) -> None:
    """Compares the files of a folder with their :func:`checksums`; other files are ignored.

    Raises:
        error: a file is missing or differs, or ``expected`` is malformed; the message names it.
    """
    try:
        files = [(folder / name, e["bytes"], e["sha256"]) for name, e in expected.items()]
    except (AttributeError, TypeError, KeyError) as reason:
        raise error(f"{folder}: the manifest's list of files is damaged: {reason!r}") from None
    for file, expected_size, digest in files:
        if not file.is_file():
            raise error(f"{file}: missing")
        size = file.stat().st_size
        if size != expected_size:
            raise error(f"{file}: truncated or changed: {size} bytes, expected {expected_size}")
        if sha256(file) != digest:
            raise error(f"{file}: damaged: its checksum differs from the manifest's")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once: reading it sets it to 0 for a moment, in all threads
