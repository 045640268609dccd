"""SQLite connections of a file: one a thread, none across a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hybridret.errors import IndexFileError

TIMEOUT = 5.0
"""Seconds that a change waits for another process's."""
_SERIALS = count(1)


class Connection(sqlite3.Connection):
    """A connection that begins and ends transactions, whatever interrupts them.

    Attributes:
        serial: another number for each one of this process and of its parents.
        file: of one that takes the file for unchangeable: how it was; else empty.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.serial = next(_SERIALS)
        self.file: tuple[int, ...] = ()

    def begin(self, kind: str = "") -> None:
        """Begins a transaction; one that an interrupt has left open is undone."""
        self.end("ROLLBACK")
        self.execute(f"BEGIN {kind}")

    def end(self, how: str) -> None:
        """Ends the transaction, if there is one."""
        if self.in_transaction:
            with suppress(sqlite3.Error):
                self.execute(how)


class Connections:
    """The connections to a database.

    Args:
        timeout: seconds that SQLite waits for a lock.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._own = threading.local()
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        after_fork(self._forked)

    def get(self) -> Connection:
        """That of this thread."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is not None and connection.file and connection.file != _state(self.path):
            self.close()
            connection = None
        if connection is None:
            connection = self._own.connection = _connect(self.path, self.timeout)
            self._all.add(connection)
        return connection

    def close(self) -> None:
        """Closes this thread's; :meth:`get` opens another."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def _forked(self) -> None:
        """In the child: while a connection of the parent is open, SQLite takes its locks for those
        of this process."""
        for connection in list(self._all):
            with suppress(sqlite3.Error):
                connection.close()
        self._own = threading.local()
        self._all = weakref.WeakSet()


_HOOKS: list[weakref.WeakMethod[Callable[[], None]]] = []


def after_fork(hook: Callable[[], None]) -> None:
    """Has a method called in every child of a fork, as long as its object lives."""
    _HOOKS[:] = [known for known in _HOOKS if known() is not None]
    _HOOKS.append(weakref.WeakMethod(hook))


def _run_hooks() -> None:
    for known in list(_HOOKS):
        hook = known()
        if hook is not None:
            hook()


os.register_at_fork(after_in_child=_run_hooks)


def _connect(path: Path, timeout: float) -> Connection:
    """A connection; to a folder that cannot be written, for reading alone."""
    options: dict[str, Any] = {
        "isolation_level": None,
        "timeout": timeout,
        "check_same_thread": False,
        "factory": Connection,
    }
    folder = path.parent
    if os.access(folder, os.W_OK) and os.access(path, os.W_OK):
        connection: Connection = sqlite3.connect(path, **options)
        connection.execute("PRAGMA synchronous = FULL")
        return connection
    log = Path(f"{path}-wal")
    uri = path.absolute().as_uri()
    if log.exists() and log.stat().st_size:
        if not Path(f"{path}-shm").exists():
            raise IndexFileError(
                f"{folder}: cannot be written, and has changes that were not copied into the "
                f"database yet; open it once where it can be written"
            )
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, **options)
    else:
        # Without a log SQLite wants to make one. Another user may: see get().
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, **options)
        connection.file = _state(path)
    return connection


def _state(path: Path) -> tuple[int, ...]:
    """Of a database that others may write."""
    found = path.stat()
    log = Path(f"{path}-wal")
    return found.st_ino, found.st_mtime_ns, found.st_size, log.stat().st_size if log.exists() else 0
