"""Loads styles in background threads; concurrent requests for a style share one load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from factory.methods import LoadedBase, Style, load_style
from factory.registry import StyleVersion
from osasis.errors import UserError
from serving.caches import StyleCache

LOAD_THREADS = 4


class StyleFailedError(UserError):
    """A style that cannot be loaded.

    message: for clients, without paths of the server. detail: for the log. permanent: whether a
    later attempt would fail, too, until the files are repaired.
    """

    def __init__(self, message: str, detail: str, permanent: bool) -> None:
        super().__init__(message, detail, permanent)  # exceptions are unpickled from args
        self.message, self.detail, self.permanent = message, detail, permanent

    def __str__(self) -> str:
        return self.detail


class StyleLoader:
    """Loads styles of a base into the cache, in its own threads: requests whose styles are cached
    never wait on storage."""

    def __init__(self, base: LoadedBase, cache: StyleCache) -> None:
        self.base, self.cache = base, cache
        self._pool = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
        self._running: dict[str, Future[Style]] = {}
        self._lock = threading.Lock()

    def submit(self, version: StyleVersion) -> Future[Style]:
        """Start loading a style, unless a load of it is running; the future of a cached style is
        done already. The future raises StyleFailedError."""
        key = version.reference
        with self._lock:
            # A load caches its style before it leaves ``_running``, so the cache comes second.
            if (load := self._running.get(key)) is None:
                if (style := self.cache.host.get(key)) is not None:
                    load = Future()
                    load.set_result(style)
                else:
                    load = self._running[key] = self._pool.submit(self._load, version)
                    load.add_done_callback(lambda _: self._running.pop(key, None))
        return load

    def _load(self, version: StyleVersion) -> Style:
        """Read a style from its folder and cache it."""
        try:
            style = load_style(version.folder(), self.base)
            if self.base.device.type == "cuda":
                style = style.map(Tensor.pin_memory)  # copies to the GPU do not block
        except Exception as e:  # broken files or unreachable storage of any kind
            raise _failure(version, e) from None
        self.cache.loads += 1
        self.cache.host.put(version.reference, style)
        return style


def _failure(version: StyleVersion, error: Exception) -> StyleFailedError:
    reason = " ".join(str(error).split()) or type(error).__name__
    what = f"style {version.reference} cannot be loaded"
    permanent = version.in_home
    cause = "its files are missing or damaged" if permanent else "its storage does not answer"
    return StyleFailedError(f"{what}: {cause}", f"{what}: {reason}", permanent)


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
