"""What a process has accepted and not answered yet, and how long that will take."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import ApiError

# Seconds that the first images are thought to take, before any has been seen.
FIRST_GUESS = 1.0
LONGEST_WAIT = 600


class Pace:
    """Seconds that an image takes, all engines together, over the last ones.

    Its clock runs only while there is work, so that an idle hour does not count; batches and
    replicas are in it without being asked for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, last: int = 64) -> None:
        self._clock, self._busy, self._since = clock, 0.0, clock()
        self._working = False
        self._done: deque[float] = deque([0.0], maxlen=last)

    def working(self, value: bool) -> None:
        """Whether there is work from now on."""
        now = self._clock()
        if self._working:
            self._busy += now - self._since
        self._working, self._since = value, now

    def done(self) -> None:
        """An image is ready."""
        self.working(self._working)
        self._done.append(self._busy)

    @property
    def seconds(self) -> float:
        if len(self._done) == 1:
            return FIRST_GUESS
        return (self._done[-1] - self._done[0]) / (len(self._done) - 1)


class Admission:
    """Bounds on images and on bytes of bodies at any one time; what is over them gets 503."""

    def __init__(self, images: int, body_bytes: int) -> None:
        self.most_images, self.most_bytes = images, body_bytes
        self.images = self.bytes = 0
        self.refused = 0
        self.pace = Pace()

    def retry_after(self) -> int:
        """Seconds until what is accepted now will be done, as far as recent images tell."""
        return max(1, min(LONGEST_WAIT, math.ceil(self.images * self.pace.seconds)))

    @contextmanager
    def body(self, size: int) -> Iterator[None]:
        """Room for a body of this many bytes. Raises ApiError 503."""
        if self.bytes and self.bytes + size > self.most_bytes:
            self.refused += 1
            raise ApiError(503, f"busy: {self.bytes:,} bytes of requests are in work",
                           allowed=f"at most {self.most_bytes:,} bytes",
                           retry_after=self.retry_after())  # fmt: skip
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    @contextmanager
    def room(self, images: int) -> Iterator[None]:
        """Room for images; a single request always finds some where nothing else is in work.

        Raises ApiError 503.
        """
        if self.images and self.images + images > self.most_images:
            self.refused += 1
            raise ApiError(503, f"busy: {self.images} images are in work",
                           allowed=f"at most {self.most_images}",
                           retry_after=self.retry_after())  # fmt: skip
        self._add(images)
        try:
            yield
        finally:
            self._add(-images)

    def _add(self, images: int) -> None:
        self.images += images
        self.pace.working(self.images > 0)
