"""The log of the service, written by a thread of its own: what reads it may be slow, or gone."""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time
from contextlib import suppress

_LINES = 10_000  # that may wait; more are lost
_STANDARD_ERROR = 2


class Log(logging.Handler):
    """Writes lines to standard error; where they are not taken, later ones are dropped.

    A request never waits for whoever reads the log, such as the other end of a pipe.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._lines: queue.Queue[str] = queue.Queue(_LINES)
        threading.Thread(target=self._write, name="hybridret log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(f"{self.format(record)}\n")
        except queue.Full:
            pass
        except Exception:  # of a message that does not go with its values
            self.handleError(record)

    def _write(self) -> None:
        while True:
            data = self._lines.get().encode(errors="replace")
            with suppress(OSError):  # nobody is there any more
                while data:
                    try:
                        data = data[os.write(_STANDARD_ERROR, data) :]
                    except BlockingIOError:  # somebody has made it so
                        select.select([], [_STANDARD_ERROR], [])
            self._lines.task_done()

    def finish(self, seconds: float = 2.0) -> None:
        """Waits until all lines are written, at most so long."""
        end = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
