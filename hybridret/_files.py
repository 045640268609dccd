"""Files and folders that appear whole or not at all, and checksums of what stands in them."""

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

_WRITING = "writing-"  # in the names of what is not yet whole


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` at the end; nothing changes on an error.

    A link is followed. What is neither a file nor a folder (a device, a named pipe, whatever stands
    under /dev or /proc) is written to, not replaced.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file to write", str(path))
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (written := Path(folder) / "written")
            with written.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    with _held(path, _make_file) as temporary:
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
    """A temporary folder that takes the place of ``path`` at the end; an old one goes last.

    A link is followed. What a killed run of the same ``path`` left behind is removed.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    with _held(path, _make_folder) as temporary:
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
    """Gives all in a folder the permissions of new files: safetensors writes its own as 0600."""
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
def _held(path: Path, make: Callable[[str, Path], str]) -> Iterator[Path]:
    """What ``make`` makes beside ``path``, locked: what no process locks, a killed one left."""
    while True:
        made = Path(make(f".{path.name}.{_WRITING}", path.parent))
        descriptor = os.open(made, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if made.exists():
                yield made
                return
        except BlockingIOError:
            pass  # another process takes it for left over, and is about to remove it
        finally:
            os.close(descriptor)


def _remove_left_over(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_WRITING}[a-z0-9_]{{8}}(\.old)?")
    found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]
    if not path.exists() and any(entry.suffix == ".old" for entry in found):
        return  # killed between two renames: the last whole folder is among these
    for entry in found:
        try:
            descriptor = os.open(entry, os.O_RDONLY)
        except OSError:
            continue  # gone meanwhile
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # being written
        finally:
            os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Two folders change places in one step (Linux's renameat2), so that a kill finds one whole."""
    current, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    libc = ctypes.CDLL(None, use_errno=True)
    done = hasattr(libc, "renameat2") and (
        libc.renameat2(current, bytes(new), current, bytes(old), flag) == 0
    )
    if not done:  # a file system that cannot: between the two renames no folder has the name
        aside = new.with_name(f"{new.name}.old")
        old.rename(aside)
        try:
            new.rename(old)
        except BaseException:
            aside.rename(old)
            raise
        aside.rename(new)


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, error: type[HybridretError]) -> Any:
    """The value that a JSON file of ours holds.

    Raises:
        error: the file is not UTF-8 or not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise error(f"{path}: damaged: nested too deeply") from None
    except ValueError as reason:  # undecodable bytes, broken JSON, a number of 5,000 digits
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
    """Compares the files of a folder with their :func:`checksums`; others are not looked at.

    Raises:
        error: a file is missing or differs, or ``expected`` is malformed; the message names it.
    """
    try:
        for name, known in expected.items():
            file = folder / name
            if not file.is_file():
                raise error(f"{file}: missing")
            size = file.stat().st_size
            if size != known["bytes"]:
                raise error(
                    f"{file}: cut short or changed: {size} bytes, expected {known['bytes']}"
                )
            if sha256(file) != known["sha256"]:
                raise error(f"{file}: damaged: its checksum differs from the manifest's")
    except (AttributeError, TypeError, KeyError, ValueError) as reason:
        raise error(f"{folder}: the manifest's list of files is damaged: {reason!r}") from None


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


_UMASK = _umask()  # read once: reading sets it, for all threads
