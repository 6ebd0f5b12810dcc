"""Admission control of one ingress process, and the Retry-After estimate."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import ApiError

# Seconds per image before the first image has been measured.
INITIAL_SECONDS = 1.0
MAX_RETRY_AFTER = 600


class Throughput:
    """Mean seconds per image over the last ``window`` images, all engines together.

    The clock runs only while work is in progress, so idle time does not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, window: int = 64) -> None:
        self._clock, self._elapsed, self._since = clock, 0.0, clock()
        self._busy = False
        self._finished: deque[float] = deque([0.0], maxlen=window)

    def set_busy(self, busy: bool) -> None:
        """Start or stop the clock."""
        now = self._clock()
        if self._busy:
            self._elapsed += now - self._since
        self._busy, self._since = busy, now

    def record_image(self) -> None:
        """Count a finished image."""
        self.set_busy(self._busy)
        self._finished.append(self._elapsed)

    @property
    def seconds_per_image(self) -> float:
        if len(self._finished) == 1:
            return INITIAL_SECONDS
        return (self._finished[-1] - self._finished[0]) / (len(self._finished) - 1)


class Admission:
    """Limits on concurrent images and body bytes; requests above a limit are answered with 503.

    An idle process admits a request of any size.
    """

    def __init__(self, images: int, body_bytes: int) -> None:
        self.max_images, self.max_bytes = images, body_bytes
        self.images = self.bytes = 0
        self.rejected = 0
        self.throughput = Throughput()

    def retry_after(self) -> int:
        """Estimated seconds, 1 to 600, until all admitted images are finished."""
        estimate = math.ceil(self.images * self.throughput.seconds_per_image)
        return max(1, min(MAX_RETRY_AFTER, estimate))

    @contextmanager
    def admit_body(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that reserves the bytes of a body as they arrive, until the end.

        The function raises ApiError 503 where other requests leave no room. Announced bytes are
        not reserved: a client that sends none would keep others out.
        """
        own = 0

        def reserve(size: int) -> None:
            nonlocal own
            if self.bytes > own and self.bytes + size > self.max_bytes:
                self.rejected += 1
                raise ApiError(503, f"busy: {self.bytes:,} bytes of requests are in progress",
                               allowed=f"at most {self.max_bytes:,} bytes",
                               retry_after=self.retry_after())  # fmt: skip
            own += size
            self.bytes += size

        try:
            yield reserve
        finally:
            self.bytes -= own

    @contextmanager
    def admit_images(self, images: int) -> Iterator[None]:
        """Reserve places for images. Raises ApiError 503."""
        if self.images and self.images + images > self.max_images:
            self.rejected += 1
            raise ApiError(503, f"busy: {self.images} images are in progress",
                           allowed=f"at most {self.max_images}",
                           retry_after=self.retry_after())  # fmt: skip
        self._add(images)
        try:
            yield
        finally:
            self._add(-images)

    @contextmanager
    def count_images(self, images: int) -> Iterator[None]:
        """Count further images of an admitted request, such as the faces of a photo."""
        self._add(images)
        try:
            yield
        finally:
            self._add(-images)

    def _add(self, images: int) -> None:
        self.images += images
        self.throughput.set_busy(self.images > 0)
