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
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hybridret.errors import HybridretError

_WRITE_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EBUSY, errno.ELOOP}
_WRITING = "writing-"  # in the names of temporary files and folders


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` at the end; nothing changes on an error.

    A link is followed. Devices, named pipes and the open files of this process (``/dev/stdout``)
    are written to, not replaced. Temporary files that a killed process left for the same ``path``
    are removed.

    Raises:
        OSError: ``path`` is a folder or cannot be written; the error names it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (written := Path(folder) / "written")
            with _naming(path), written.open("rb") as source, _open_stream(path) as target:
                shutil.copyfileobj(source, target)
        return
    given = path
    with _naming(given):
        path = _resolved(path)
        with temporary_file(path) as temporary, _naming(given, temporary):
            yield temporary
            put(temporary, path)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A file beside ``path``, for :func:`put`; without that it is removed at the end.

    Those that a killed process left for the same ``path`` are removed.
    """
    temporary, lock = _make_temporary(path, _make_file)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def put(temporary: Path, path: Path) -> None:
    """Gives a temporary file its name, in the place of what has it, once its content is on disk."""
    sync(temporary)
    temporary.chmod(0o666 & ~UMASK)
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def replayable(path: str | Path) -> Iterator[Path]:
    """A path that can be read several times: that of a copy, if ``path`` is a pipe."""
    path = Path(path)
    if not path.exists() or path.is_file() or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary folder that replaces ``path`` at the end; nothing changes on an error.

    A link is followed. Temporary folders that a killed process left for the same ``path`` are
    removed.

    Args:
        replace: if not, it takes the place of an empty folder at most, also of one that was not
            there at the beginning.

    Raises:
        FileExistsError: something is there that is not to be replaced.
        OSError: ``path`` is the current directory or cannot be written; the error names it.
    """
    given = path = Path(path)
    if not replace and _occupied(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _naming(given):
        path = _resolved(path)
        with suppress(FileNotFoundError):
            if path.samefile("."):
                raise OSError(errno.EBUSY, "is the current directory, which cannot be replaced")
        temporary, lock = _make_temporary(path, _make_folder)
    try:
        with _naming(given, temporary):
            yield temporary
            use_umask(temporary)
            for entry in (temporary, *temporary.rglob("*")):
                sync(entry)
            _publish(temporary, path, replace)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _occupied(path: Path) -> bool:
    """Something is there, other than an empty folder."""
    try:
        return any(path.iterdir())
    except OSError:  # not a folder, or nothing
        return path.exists()


def use_umask(folder: Path) -> None:
    """Gives a folder of ours and its contents default permissions: safetensors writes 0600."""
    folder.chmod(0o777 & ~UMASK)
    for entry in folder.rglob("*"):
        if not entry.is_symlink():
            entry.chmod((0o777 if entry.is_dir() else 0o666) & ~UMASK)


@contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Errors of a write that name no file (a full disk), or the temporary one, name ``path``."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        ours = temporary is not None and named.startswith(str(temporary))
        if ours or (not named and error.errno in _WRITE_ERRORS):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _resolved(path: Path) -> Path:
    """Where ``path`` leads, whose folder is there then."""
    resolved = Path(os.path.realpath(path))
    if resolved.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    resolved.parent.mkdir(parents=True, exist_ok=True)
    return resolved


# ---- streams -----------------------------------------------------------------------------------

_DESCRIPTOR = re.compile(r"/dev/(?:(stdin|stdout|stderr)|fd/(\d+))|/proc/self/fd/(\d+)")


def _is_stream(path: Path) -> bool:
    if _DESCRIPTOR.fullmatch(str(path)):
        return True
    return path.exists() and not path.is_file()


def _open_stream(path: Path) -> BinaryIO:
    """For writing where the stream is; a file that the shell appends to is not cut."""
    match = _DESCRIPTOR.fullmatch(str(path))
    if match is None:
        return os.fdopen(os.open(path, os.O_WRONLY), "wb")
    name, *numbers = match.groups()
    number = ("stdin", "stdout", "stderr").index(name) if name else int(next(filter(None, numbers)))
    for printed in filter(None, (sys.stdout, sys.stderr)):
        printed.flush()  # what was printed before stays before
    return os.fdopen(os.dup(number), "wb")


# ---- temporary files and folders ---------------------------------------------------------------
# Each is locked by its process. One that is not locked is stale: its process was killed.


def _make_file(prefix: str, folder: Path) -> str:
    descriptor, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    os.close(descriptor)
    return name


def _make_folder(prefix: str, folder: Path) -> str:
    return tempfile.mkdtemp(prefix=prefix, dir=folder)


def _prefix(path: Path) -> str:
    """A hidden name, short enough for eight more letters and ``.old``."""
    name = path.name
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}.{_WRITING}"


def _make_temporary(path: Path, make: Callable[[str, Path], str]) -> tuple[Path, int]:
    """A temporary file or folder beside ``path``, and the descriptor that holds its lock."""
    _remove_stale(path)
    while True:
        temporary = Path(make(_prefix(path), path.parent))
        try:
            # NFS locks only what is open for writing, which a folder cannot be.
            mode = os.O_RDONLY if temporary.is_dir() else os.O_RDWR
            descriptor = os.open(temporary, mode)
        except FileNotFoundError:
            continue  # another process took it for stale
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue  # another process is about to remove it
        except OSError:
            return temporary, descriptor  # a file system without locks: nothing is ever stale
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    pattern = re.compile(rf"{re.escape(_prefix(path))}[a-z0-9_]{{8}}(\.old)?")
    try:
        found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]
    except PermissionError:
        return  # a folder that may not be listed
    if not path.exists() and any(entry.suffix == ".old" for entry in found):
        return  # killed between two renames: one of these is the last complete folder
    for entry in found:
        try:
            descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # removed in the meantime, or not ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(kind):
                shutil.rmtree(entry, ignore_errors=True)
            elif stat.S_ISREG(kind):
                entry.unlink(missing_ok=True)
        except OSError:
            pass  # another process is writing it, or no locks here
        finally:
            os.close(descriptor)


def _publish(new: Path, path: Path, replace: bool) -> None:
    """Gives a folder its name, also while other processes do so or remove it."""
    while True:
        try:
            return _rename_new(new, path)
        except FileExistsError:
            if not replace:
                raise
        with suppress(FileNotFoundError, FileExistsError):  # removed or replaced meanwhile
            return _exchange(new, path)


def _rename_new(new: Path, path: Path) -> None:
    try:
        new.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders in one step (Linux's renameat2), so that a kill leaves a complete one."""
    at_fdcwd, rename_exchange = -100, 2  # from fcntl.h and stdio.h
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(at_fdcwd, bytes(new), at_fdcwd, bytes(old), rename_exchange) == 0:
            return
        if ctypes.get_errno() == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(old))
    # Not supported by the file system: between the two renames the name is missing.
    backup = new.with_name(f"{new.name}.old")
    old.rename(backup)
    try:
        _rename_new(new, old)
    except FileExistsError:  # another process gave it the name meanwhile
        shutil.rmtree(backup, ignore_errors=True)
        raise
    except BaseException:
        backup.rename(old)
        raise
    with suppress(FileNotFoundError):  # another process has removed what a killed one might leave
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
        raise error(f"{path}: damaged: {str(reason).partition(';')[0]}") from None


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


def sync(path: Path) -> None:
    """Makes sure that a file, or the names of a folder's files, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()  # read once: reading it sets it to 0 for a moment, in all threads
