"""Answers that are kept for a moment and renewed before they are too old, so that hardly anybody waits for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Name = TypeVar("Name")
Answer = TypeVar("Answer")
RENEW_SHARE = 0.5  # of the life: from then on the next one who asks has it renewed, and takes the one that is there
MOST = 10_000


class Remembered(Generic[Name, Answer]):
    """The answers of `find`, each true as of at most `life_s` ago."""

    def __init__(self, find: Callable[[Name], Awaitable[Answer]], life_s: float) -> None:
        self._find, self._life_s = find, life_s
        self._held: dict[Name, tuple[float, Answer]] = {}
        self._renewing: dict[Name, asyncio.Task[Answer]] = {}

    async def get(self, name: Name) -> Answer:
        """Raises what `find` raises, when there is no answer that is young enough."""
        held = self._held.get(name)
        age_s = self._life_s if held is None else time.monotonic() - held[0]
        if held is not None and age_s < self._life_s:
            if age_s >= RENEW_SHARE * self._life_s and name not in self._renewing:
                self._renew(name)
            return held[1]
        return await asyncio.shield(self._renewing.get(name) or self._renew(name))

    def _renew(self, name: Name) -> "asyncio.Task[Answer]":
        task = self._renewing[name] = asyncio.ensure_future(self._found(name, time.monotonic()))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to whoever waits, if anybody
        return task

    async def _found(self, name: Name, asked_s: float) -> Answer:
        try:
            answer = await self._find(name)
            if len(self._held) >= MOST:
                self._held.clear()
            self._held[name] = (asked_s, answer)
            return answer
        finally:
            del self._renewing[name]
