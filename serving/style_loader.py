"""Loads styles in background threads; concurrent requests for a style share one load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from osasis.bundles.base import Base
from osasis.bundles.style import Style, load_style
from osasis.errors import UserError
from serving.caches import StyleCache

LOAD_THREADS = 4


class StyleFailedError(UserError):
    """A style that cannot be loaded."""


class StyleLoader:
    """Loads styles of a base into the cache, in its own threads: requests whose styles are cached
    never wait on storage."""

    def __init__(self, base: Base, cache: StyleCache) -> None:
        self.base, self.cache = base, cache
        self._pool = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
        self._running: dict[str, Future[Style]] = {}
        self._lock = threading.Lock()

    def load(self, key: str, folder: Callable[[], Path]) -> Style:
        """The style from the cache, else from its folder. Raises StyleFailedError."""

        def read() -> Style:
            try:
                return load_style(folder(), self.base)
            except Exception as e:  # broken files or unreachable storage of any kind
                reason = " ".join(str(e).split()) or type(e).__name__
                raise StyleFailedError(f"style {key} cannot be loaded: {reason}") from None

        return self.cache.get(key, read)

    def submit(self, key: str, folder: Callable[[], Path]) -> Future[Style]:
        """Start ``load`` in the background; the future of a cached style is done already."""
        if (style := self.cache.host.get(key)) is not None:
            done: Future[Style] = Future()
            done.set_result(style)
            return done
        with self._lock:
            if (load := self._running.get(key)) is None:
                load = self._running[key] = self._pool.submit(self.load, key, folder)
                load.add_done_callback(lambda _: self._running.pop(key, None))
        return load


def when_all(futures: Iterable[Future[Style]], call: Callable[[], object]) -> None:
    """Call ``call`` once, when all futures are done; immediately if there are none."""
    pending = list(futures)
    left, lock = len(pending) + 1, threading.Lock()

    def count_down(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            call()

    for future in pending:
        future.add_done_callback(count_down)
    count_down(None)
