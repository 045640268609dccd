"""The service in a process of its own: keys, address, signals."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from pathlib import Path
from typing import Any

from hybridret import _native
from hybridret._extras import require
from hybridret.errors import DataError
from hybridret.serving.http.log import Log
from hybridret.serving.retriever import Retriever

_KEEP = 75  # seconds that a connection stays open between requests: longer than clients keep theirs
_STOP = 30  # seconds that requests have to come to their end


def serve(
    folder: str | Path,
    *,
    store: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: str | Path | None = None,
    threads: int = 2,
    timeout: float = 30.0,
    max_waiting: int = 512,
    max_body: int = 16 << 20,
) -> None:
    """Answers requests until SIGTERM or SIGINT; those that have begun are answered first.

    Args:
        folder: of an exported encoder with an index, or of a store.
        host: other than a loopback address needs ``key_file``.
        threads: batches that are computed at the same time.
        timeout: seconds until a request is given up.
        max_waiting, max_body: see :class:`hybridret.serving.http.app.Limits`.

    Raises:
        DataError: a setting is out of range, the address cannot be used, or a key is missing.
        MissingExtraError: starlette or uvicorn is not installed.
        HybridretError: see :meth:`hybridret.Retriever.load`.
    """
    for name in ("starlette", "fastjsonschema", "prometheus_client"):
        require(name, "service", "hybridret serve")
    uvicorn: Any = require("uvicorn", "service", "hybridret serve")
    from hybridret.serving.http.app import Limits, create_app

    _check(port=port, threads=threads, timeout=timeout, max_waiting=max_waiting, max_body=max_body)
    keys = _keys(Path(key_file)) if key_file is not None else []
    if not keys and not _is_loopback(host):
        raise DataError(
            f"{host} can be reached by other machines: give --key-file, or listen at 127.0.0.1"
        )
    each = max(1, _native.default_threads() // threads)
    retriever = Retriever.load(folder, store=store, threads=each)
    limits = Limits(body=max_body, waiting=max_waiting, timeout=timeout, threads=threads)
    config = uvicorn.Config(
        create_app(retriever, keys=keys, limits=limits),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP,
        timeout_graceful_shutdown=_STOP,
        lifespan="on",
    )
    with _listen(host, port) as listening:
        log = Log()
        logging.basicConfig(handlers=[log], level=logging.INFO)
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"http://{shown}:{address[1]}/  ({len(retriever):,} documents)", flush=True)
        # uvicorn raises the signal again after it has stopped: the process is to exit with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            log.finish()


def _check(**values: float) -> None:
    most = {"port": 65535, "threads": 256}
    for name, value in values.items():
        least = 0 if name == "port" else 1
        if not (least <= value <= most.get(name, 2**40)):
            raise DataError(f"{name.replace('_', '-')} must be from {least}, got {value}")


def _keys(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the keys cannot be read: {error}") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise DataError(f"{file}: no key in this file, one is expected in each line")
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise DataError(f"{file}: a key must have ASCII letters, digits and signs alone")
    return keys


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DataError(f"{host}: not an address: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise DataError(f"{host}:{port}: cannot listen: {error.strerror or error}") from None
    return listening
