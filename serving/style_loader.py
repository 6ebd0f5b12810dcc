"""Styles on their way into memory: one thread's work for all that wait for the same one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from osasis.bundles.base import Base
from osasis.bundles.style import Style, load_style
from osasis.errors import UserError
from serving.caches import StyleCache

LOADERS = 4


class StyleFailedError(UserError):
    """A style that cannot be loaded; others go on."""


class StyleLoads:
    """Loads styles of a base into its cache, in threads of its own: what has its styles never
    waits for a store that does not answer."""

    def __init__(self, base: Base, cache: StyleCache) -> None:
        self.base, self.cache = base, cache
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="load")
        self._running: dict[str, Future[Style]] = {}
        self._guard = threading.Lock()

    def now(self, key: str, folder: Callable[[], Path]) -> Style:
        """A style from the cache or its folder. Raises StyleFailedError."""

        def read() -> Style:
            try:
                return load_style(folder(), self.base)
            except Exception as e:  # broken files, a store out of reach: this style's problem
                reason = " ".join(str(e).split()) or type(e).__name__
                raise StyleFailedError(f"style {key} cannot be loaded: {reason}") from None

        return self.cache.get(key, read)

    def soon(self, key: str, folder: Callable[[], Path]) -> Future[Style]:
        """The same without waiting; a style in memory is there at once."""
        if (style := self.cache.host.get(key)) is not None:
            there: Future[Style] = Future()
            there.set_result(style)
            return there
        with self._guard:
            if (load := self._running.get(key)) is None:
                load = self._running[key] = self._threads.submit(self.now, key, folder)
                load.add_done_callback(lambda _: self._running.pop(key, None))
        return load

    def close(self) -> None:
        self._threads.shutdown(wait=True)


def when_all(futures: Iterable[Future[Style]], call: Callable[[], object]) -> None:
    """Call once, when all have ended; at once where there are none."""
    waiting = list(futures)
    left, guard = len(waiting) + 1, threading.Lock()

    def ended(_: object) -> None:
        nonlocal left
        with guard:
            left -= 1
            last = left == 0
        if last:
            call()

    for future in waiting:
        future.add_done_callback(ended)
    ended(None)
