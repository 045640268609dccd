"""Dynamic batching: what comes while a batch is computed makes the next one.

Nothing waits for a batch to fill. Small pieces of work (queries) go before large ones (documents to
embed), which leave one thread to them where there are several.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class Busy(Exception):
    """Too much is waiting."""


@dataclass(eq=False)
class Work:
    """Something to compute.

    Attributes:
        size: characters of its texts.
        urgent: whether somebody waits for an answer that is short.
        deadline: time of the loop after which nobody waits any more.
    """

    size: int
    urgent: bool
    deadline: float
    payload: Any
    done: asyncio.Future[Any] = field(repr=False)


class Batcher:
    """Runs work in threads, in batches.

    Args:
        run: computes the payloads of a batch, which are all urgent or all not; gives a result or an
            exception for each.
        threads: batches that are computed at the same time.
        batch: characters of a batch; work that is larger is a batch of its own.
        queue: pieces of work that may wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        threads: int,
        batch: int,
        queue: int,
    ) -> None:
        self.run = run
        self.threads = threads
        self.batch = batch
        self.queue = queue
        self._waiting: dict[bool, deque[Work]] = {True: deque(), False: deque()}
        self._running = {True: 0, False: 0}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hybridret")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return sum(map(len, self._waiting.values()))

    async def submit(self, payload: Any, *, size: int, urgent: bool, timeout: float) -> Any:
        """The result for a payload.

        Raises:
            Busy: the queue is full.
            TimeoutError: it took longer than ``timeout`` seconds.
        """
        if self.waiting >= self.queue:
            raise Busy
        loop = asyncio.get_running_loop()
        work = Work(size, urgent, loop.time() + timeout, payload, loop.create_future())
        self._waiting[urgent].append(work)
        self._start()
        async with asyncio.timeout(timeout):
            return await work.done

    def _start(self) -> None:
        """Starts batches while there are threads and work."""
        while True:
            busy = self._running[True] + self._running[False]
            urgent = bool(self._waiting[True])
            spare = self.threads if urgent else max(1, self.threads - 1)
            if busy >= spare or not self._waiting[urgent]:
                return
            batch = self._take(urgent)
            if batch:
                self._running[urgent] += 1
                task = asyncio.get_running_loop().create_task(self._compute(batch, urgent))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self, urgent: bool) -> list[Work]:
        """The next batch; work that nobody waits for is dropped."""
        waiting, size = self._waiting[urgent], 0
        batch: list[Work] = []
        now = asyncio.get_running_loop().time()
        while waiting and (not batch or size + waiting[0].size <= self.batch):
            work = waiting.popleft()
            if work.done.done() or work.deadline <= now:
                continue
            batch.append(work)
            size += work.size
        return batch

    async def _compute(self, batch: list[Work], urgent: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            payloads = [work.payload for work in batch]
            results: Sequence[Any] = await loop.run_in_executor(self._pool, self.run, payloads)
        except Exception as error:
            results = [error] * len(batch)
        for work, result in zip(batch, results, strict=True):
            if work.done.done():
                continue
            if isinstance(result, Exception):
                work.done.set_exception(result)
            else:
                work.done.set_result(result)
        self._running[urgent] -= 1
        self._start()

    async def close(self) -> None:
        """Waits for what is running and waiting."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._pool.shutdown()
