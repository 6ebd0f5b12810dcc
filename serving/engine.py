"""The engine: one thread that encodes and decodes in batches. No Ray in here.

Requests of different styles share a batch: all photos without a cached encoding are encoded in
one call; what has the same mix is decoded in one call, since one call takes one set of weights.
Results do not depend on the company.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osasis.arithmetic import Arithmetic
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.errors import UserError
from osasis.mix import Mix
from osasis.stylize import EncodePlan, Encodings, decode, encode, encode_plan
from serving.caches import ByteLru, StyleCache, encoding_bytes
from serving.request_images import photo_id, to_pixels
from serving.style_loader import StyleLoads, when_all

PREPARERS = 4


class EngineClosedError(RuntimeError):
    """The engine has stopped."""


@dataclass(frozen=True)
class ServedVersion:
    """The version of a style that a request uses. reference: unique to the version, such as
    ``oil:3``. folder: finds the style's bundle, which may have to be downloaded."""

    reference: str
    fingerprint: str
    folder: Callable[[], Path]


@dataclass(frozen=True)
class Work:
    """One photo through one mix.

    photo: normalised PNG. versions: by the styles of the mix. masks: grey PNGs. text_edit: (D,) or
    None. Without a mix the photo is only encoded, as the first of ``versions`` asks. fit: how the
    photo became a square. source: name of the photo's file. mask_hashes: SHA-256 of the masks as
    they were sent.
    """

    photo: bytes
    mix: Mix | None
    versions: dict[str, ServedVersion] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)
    text_edit: Tensor | None = None
    fit: str = "crop"
    source: str = ""
    mask_hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """pixels: uint8 (H, W, 3), None for an encoding alone. seconds: of each part."""

    pixels: np.ndarray | None
    arithmetic: Arithmetic
    cached: bool
    batch: int
    queue_seconds: float
    load_seconds: float
    encode_seconds: float
    decode_seconds: float

    @property
    def picture(self) -> np.ndarray:
        """The pixels of a result that has some."""
        assert self.pixels is not None
        return self.pixels


@dataclass
class _Item:
    work: Work
    mix: Mix | None
    styles: dict[str, Style]
    future: Future[Result]
    photo: str
    plan: EncodePlan
    pixels: Tensor
    masks: dict[str, Tensor]
    load_seconds: float
    queued: float
    cached: bool = False

    @property
    def encoding_key(self) -> str:
        plan = self.plan
        return f"{self.photo}/{plan.t0:g}/{plan.steps}/{plan.arithmetic}"

    @property
    def decode_key(self) -> str:
        versions = sorted((name, v.reference) for name, v in self.work.versions.items())
        masks = sorted((name, photo_id(data)) for name, data in self.work.masks.items())
        edit = None if self.work.text_edit is None else self.work.text_edit.tolist()
        mix = None if self.mix is None else self.mix.to_dict()
        return json.dumps([mix, versions, masks, edit, asdict(self.plan)], sort_keys=True)


class _AbandonedError(Exception):
    """Nobody waits for this group any more."""


class Engine:
    """Batches over one base. ``submit`` from any thread; one worker thread computes."""

    def __init__(
        self,
        base: Base,
        *,
        batch: int = 8,
        batch_wait: float = 0.01,
        styles_host: int = 2_000_000_000,
        styles_device: int = 1_000_000_000,
        encodings: int = 256_000_000,
        stall: float = 120.0,
    ) -> None:
        self.base, self.batch, self.batch_wait, self.stall = base, batch, batch_wait, stall
        self.styles = StyleCache(styles_host, styles_device, base.device)
        self.loads = StyleLoads(base, self.styles)
        self.encodings: ByteLru[Encodings] = ByteLru(encodings, encoding_bytes)
        self.batches = self.images = self.encoded = self.cancelled = 0
        self.busy_since: float | None = None
        self._beat = time.monotonic()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Result]:
        """Queue work. The future raises UserError for what is wrong with it; cancelling it
        takes it out of the queue, or out of the batch where all others are cancelled too."""
        if self._closed:
            raise EngineClosedError("the engine has stopped")
        future: Future[Result] = Future()
        start = time.monotonic()
        loads = {n: self.loads.soon(v.reference, v.folder) for n, v in work.versions.items()}
        when_all(
            loads.values(),
            lambda: self._preparers.submit(self._prepare, work, loads, start, future),
        )
        return future

    def close(self) -> None:
        self._closed = True
        self.loads.close()
        self._preparers.shutdown(wait=True)
        self._queue.put(None)
        self._thread.join(timeout=self.stall)

    def problem(self) -> str | None:
        """Why the engine is sick, if it is."""
        if not self._thread.is_alive() and not self._closed:
            return "the engine's thread has ended"
        silent = time.monotonic() - self._beat
        if self.busy_since is not None and silent > self.stall:
            return f"the engine has been at one step for {silent:.0f} s"
        return None

    def _prepare(
        self, work: Work, loads: dict[str, Future[Style]], start: float, future: Future[Result]
    ) -> None:
        """Decode pictures, off the computing thread; all loads have ended."""
        try:
            styles = {name: load.result() for name, load in loads.items()}
            load_seconds = time.monotonic() - start
            mix = work.mix
            name = mix.styles[0].style if mix is not None else next(iter(styles))
            plan = encode_plan(mix, styles[name].settings, self.base.device)
            pixels = torch.from_numpy(to_pixels(work.photo)).permute(2, 0, 1).float()
            masks = {
                name: torch.from_numpy(to_pixels(data)).float() / 255
                for name, data in work.masks.items()
            }
            now = time.monotonic()
            self._queue.put(
                _Item(work, mix, styles, future, photo_id(work.photo), plan,
                      pixels / 127.5 - 1, masks, load_seconds, now)
            )  # fmt: skip
        except BaseException as e:
            if not future.done():
                future.set_exception(e)

    def _run(self) -> None:
        while (items := self._collect()) is not None:
            items = [i for i in items if i.future.set_running_or_notify_cancel()]
            if not items:
                continue
            self._beat = self.busy_since = time.monotonic()
            try:
                self._compute(items)
            except BaseException as e:
                for item in items:
                    if not item.future.done():
                        item.future.set_exception(e)
            self.busy_since = None
            self._beat = time.monotonic()
            self.batches += 1
            self.images += len(items)

    def _collect(self) -> list[_Item] | None:
        """A batch: up to ``batch`` items, waiting for them until the deadline of the first."""
        first = self._queue.get()
        if first is None:
            return None
        items, deadline = [first], time.monotonic() + self.batch_wait
        while len(items) < self.batch:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            items.append(item)
        return items

    def _compute(self, items: list[_Item]) -> None:
        started = time.monotonic()
        encodings, encode_seconds = self._encode(items)
        groups: dict[str, list[_Item]] = {}
        for item in items:
            if item.mix is None:
                self._finish(item, None, len(items), started, encode_seconds, 0.0)
            elif not item.future.done():
                groups.setdefault(item.decode_key, []).append(item)
        for group in groups.values():
            try:
                self._decode(group, encodings, len(items), started, encode_seconds)
            except _AbandonedError:
                self.cancelled += len(group)
            except Exception as e:  # one mix's mistake is not the others'
                for item in group:
                    item.future.set_exception(e)

    def _encode(self, items: list[_Item]) -> tuple[dict[str, Encodings], dict[str, float]]:
        """Encodings by key; cached ones, and the others in one call for each way of encoding."""
        found: dict[str, Encodings] = {}
        wanted: dict[EncodePlan, dict[str, _Item]] = {}
        for item in items:
            key = item.encoding_key
            cached = found.get(key) or self.encodings.get(key)
            item.cached = cached is not None
            if cached is not None:
                found[key] = cached
            else:
                wanted.setdefault(item.plan, {}).setdefault(key, item)
        seconds: dict[str, float] = {}
        for plan, new in wanted.items():
            start = time.monotonic()
            photos = torch.stack([i.pixels for i in new.values()]).to(self.base.device)
            try:
                done = encode(self.base, photos, plan, progress=self._progress(None))
            except Exception as e:
                for item in items:
                    if item.encoding_key in new:
                        item.future.set_exception(e)
                continue
            took = time.monotonic() - start
            for i, key in enumerate(new):
                found[key] = _own(done.take(slice(i, i + 1)))
                self.encodings.put(key, found[key])
                seconds[key] = took
            self.encoded += len(new)
        return found, seconds

    def _decode(
        self,
        group: list[_Item],
        encodings: dict[str, Encodings],
        batch: int,
        started: float,
        encode_seconds: dict[str, float],
    ) -> None:
        start = time.monotonic()
        first = group[0]
        assert first.mix is not None
        parts = [encodings[i.encoding_key] for i in group]
        together = Encodings(
            torch.cat([p.photo for p in parts]),
            torch.cat([p.z for p in parts]),
            torch.cat([p.x_t0 for p in parts]),
            first.plan,
        )
        keys = first.work.versions
        styles = {n: self.styles.place(keys[n].reference, s) for n, s in first.styles.items()}
        device = self.base.device
        edits = {}
        if first.mix.text_edit is not None and first.work.text_edit is not None:
            edits[first.mix.text_edit] = first.work.text_edit.to(device)
        images = decode(
            self.base, together, first.mix, styles,
            masks={k: v.to(device) for k, v in first.masks.items()},
            text_edits=edits, progress=self._progress(group),
        )  # fmt: skip
        took = time.monotonic() - start
        if not bool(torch.isfinite(images).all()):
            raise UserError("the image holds no finite numbers; the style may have diverged")
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for item, picture in zip(group, pixels, strict=True):
            self._finish(item, picture, batch, started, encode_seconds, took)

    def _finish(
        self,
        item: _Item,
        pixels: np.ndarray | None,
        batch: int,
        started: float,
        encode_seconds: dict[str, float],
        decode_seconds: float,
    ) -> None:
        if item.future.done():  # its encoding failed
            return
        seconds = 0.0 if item.cached else encode_seconds.get(item.encoding_key, 0.0)
        item.future.set_result(
            Result(pixels, item.plan.arithmetic, item.cached, batch, started - item.queued,
                   item.load_seconds, seconds, decode_seconds)
        )  # fmt: skip

    def _progress(self, group: list[_Item] | None) -> Callable[[int, int], None]:
        def step(done: int, of: int) -> None:
            self._beat = time.monotonic()
            if group and all(getattr(i.future, "abandoned", False) for i in group):
                for item in group:
                    item.future.set_exception(_AbandonedError())
                raise _AbandonedError

        return step

    def stats(self) -> dict[str, float]:
        """Counters and sizes for the metrics."""
        return {
            "engine_batches_total": self.batches,
            "engine_images_total": self.images,
            "engine_encoded_total": self.encoded,
            "engine_abandoned_total": self.cancelled,
            "style_loads_total": self.styles.loads,
            "style_evictions_total": self.styles.host.evictions,
            "styles_loaded": len(self.styles.host),
            "styles_bytes": self.styles.host.bytes,
            "encodings_bytes": self.encodings.bytes,
            "encoding_hits_total": self.encodings.hits,
            "encoding_misses_total": self.encodings.misses,
        }


def abandon(future: Future[Result]) -> None:
    """Nobody waits for this any more: cancel it, also where it is being computed."""
    if not future.cancel():
        future.abandoned = True  # type: ignore[attr-defined]


def _own(e: Encodings) -> Encodings:
    """A copy that does not keep its whole batch in memory."""
    return Encodings(e.photo.clone(), e.z.clone(), e.x_t0.clone(), e.plan)
