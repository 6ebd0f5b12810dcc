"""The engine: one thread that encodes and decodes photos in batches. Independent of Ray.

Requests of different styles share a batch. Photos without a cached encoding are encoded together.
On a GPU, photos with different mixes of low-rank styles are decoded together; on the CPU a forward
pass takes one image, so that a result does not depend on the batch that computed it.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from factory.methods.interface import Encodings, LoadedBase, Plan, Recipe, Style
from factory.registry import StyleVersion
from osasis.arithmetic import Arithmetic
from osasis.errors import UserError
from osasis.mix import Mix
from osasis.validation import InvalidInputError, Problem
from serving.caches import ByteLru, StyleCache
from serving.request_images import photo_id, to_pixels
from serving.style_loader import StyleLoader, when_all
from serving.submissions import Call, Stage, Submission

PREPARE_THREADS = 4
NOT_FINITE = "the image has values that are not finite; the style may have diverged"


@dataclass(frozen=True)
class ImageTask:
    """One photo to stylize with one mix.

    photo: PNG of the base's size, RGB. mix: None to encode the photo only, with the settings of the
    first of ``versions``. versions: by style, in the mix's order. masks: grey PNGs by name.
    text_edit: (D,) or None.
    """

    photo: bytes
    mix: Mix | None
    versions: dict[str, StyleVersion] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)
    text_edit: Tensor | None = None


@dataclass(frozen=True)
class Result:
    """A finished task.

    pixels: uint8 (H, W, 3); None if the photo was only encoded. cached: whether the encoding came
    from the cache. batch: images that were decoded together, or encoded if it was only encoded.
    """

    pixels: np.ndarray | None
    arithmetic: Arithmetic
    cached: bool
    batch: int
    queue_seconds: float
    load_seconds: float
    encode_seconds: float
    decode_seconds: float

    @property
    def image(self) -> np.ndarray:
        """``pixels`` of a stylized photo."""
        assert self.pixels is not None
        return self.pixels


@dataclass
class _QueuedTask:
    task: ImageTask
    styles: dict[str, Style]
    future: Submission[Result]
    photo: str
    plan: Plan
    pixels: Tensor
    masks: dict[str, Tensor]
    load_seconds: float
    queued: float
    cached: bool = False
    encode_seconds: float = 0.0
    encoded_together: int = 1

    @property
    def encoding_key(self) -> str:
        return f"{self.photo}/{self.plan}"

    @property
    def decode_key(self) -> str:
        versions = sorted((name, v.reference) for name, v in self.task.versions.items())
        masks = sorted((name, photo_id(data)) for name, data in self.task.masks.items())
        edit = None if self.task.text_edit is None else self.task.text_edit.tolist()
        mix = None if self.task.mix is None else self.task.mix.to_dict()
        return json.dumps([mix, versions, masks, edit, str(self.plan)], sort_keys=True)


class _AbandonedError(Exception):
    """All tasks that are computed together are abandoned."""


class Engine:
    """Runs tasks on one base in batches. ``submit`` is thread-safe; one worker thread computes.

    batch: most tasks per batch. batch_wait: seconds that the first task of a batch waits for
    others. pass_size: of ``decode_rows``. styles_host, styles_device, encodings: bytes of the
    caches. stall: seconds without progress after which ``problem`` reports the engine.
    encode_calls: most network calls of an inversion of a full schedule that a mix may ask for,
    beyond what its style takes by default. taken: tasks taken out of the queue so far.
    """

    def __init__(
        self,
        base: LoadedBase,
        *,
        batch: int = 8,
        batch_wait: float = 0.01,
        pass_size: int | None = None,
        styles_host: int = 2_000_000_000,
        styles_device: int = 1_000_000_000,
        encodings: int = 256_000_000,
        stall: float = 120.0,
        encode_calls: int = 200,
    ) -> None:
        self.base, self.batch, self.batch_wait, self.stall = base, batch, batch_wait, stall
        self.encode_calls = encode_calls
        self.pass_size = pass_size or base.largest_pass
        self.styles = StyleCache(styles_host, styles_device, base.device)
        self.loader = StyleLoader(base, self.styles)
        self.encodings: ByteLru[Encodings] = ByteLru(encodings, lambda e: e.nbytes)
        self.batches = self.images = self.encoded = self.abandoned = 0
        self._busy, self.taken, self._tickets = False, 0, itertools.count()
        self._last_progress = time.monotonic()
        self._queue: queue.SimpleQueue[_QueuedTask | Call] = queue.SimpleQueue()
        self._prepare_pool = ThreadPoolExecutor(PREPARE_THREADS, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, task: ImageTask) -> Submission[Result]:
        """Queue a task. The future raises UserError for an invalid task or a style that cannot be
        loaded; its ``abandon`` cancels it."""
        future: Submission[Result] = Submission()
        start = time.monotonic()
        loads = {name: self.loader.submit(v) for name, v in task.versions.items()}
        when_all(
            loads.values(),
            lambda: self._prepare_pool.submit(self._prepare, task, loads, start, future),
        )
        return future

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Call a function between two batches, in the thread that computes with the base.

        Decoding replaces the network's weights for a moment, so no other thread may use it.
        """
        future: Future[object] = Future()
        self._queue.put(Call(function, future))
        return future

    def problem(self) -> str | None:
        """Why the engine is unhealthy; None if it is healthy."""
        if not self._thread.is_alive():
            return "the engine's thread has ended"
        idle = time.monotonic() - self._last_progress
        if self._busy and idle > self.stall:
            return f"the engine has been at one step for {idle:.0f} s"
        return None

    def _prepare(
        self, task: ImageTask, loads: dict[str, Future[Style]], start: float,
        future: Submission[Result],
    ) -> None:  # fmt: skip
        """Decode the task's PNGs in the prepare pool and queue it. All loads have ended."""
        try:
            styles = {name: load.result() for name, load in loads.items()}
            load_seconds = time.monotonic() - start
            first = next(iter(styles.values()))
            plan = self.base.plan(task.mix, first.settings)
            self._check_calls(task.mix, plan, self.base.plan(None, first.settings))
            pixels = torch.from_numpy(to_pixels(task.photo)).permute(2, 0, 1).float()
            masks = {
                name: torch.from_numpy(to_pixels(data)).float() / 255
                for name, data in task.masks.items()
            }
            future.ticket = next(self._tickets)
            future.enter("queue")
            self._queue.put(
                _QueuedTask(task, styles, future, photo_id(task.photo), plan,
                            pixels / 127.5 - 1, masks, load_seconds, time.monotonic())
            )  # fmt: skip
        except BaseException as e:
            if not future.done():
                future.set_exception(e)

    def _check_calls(self, mix: Mix | None, plan: Plan, own: Plan) -> None:
        """Raise InvalidInputError if a mix asks for too many network calls. own: the style's."""
        if mix is None or plan.calls <= max(self.encode_calls, own.calls):
            return
        name = "encode_steps" if mix.encode_steps is not None else "decode_steps"
        message = (
            f"{name} is {plan.steps}; the inversion takes {plan.calls} network calls for so many "
            "steps"
        )
        allowed = f"at most {self.encode_calls} network calls"
        raise InvalidInputError("mix", [Problem(name, plan.steps, message, allowed)])

    def _run(self) -> None:
        while True:
            items = [i for i in self._collect() if i.future.set_running_or_notify_cancel()]
            if not items:
                continue
            self._last_progress, self._busy = time.monotonic(), True
            try:
                self._compute(items)
            except BaseException as e:
                for item in items:
                    if not item.future.done():
                        item.future.set_exception(e)
            self._busy = False

    def _collect(self) -> list[_QueuedTask]:
        """Wait for the first task, then up to ``batch_wait`` for a batch of ``batch`` tasks."""
        items, deadline = [self._next(None)], time.monotonic() + self.batch_wait
        while len(items) < self.batch:
            try:
                items.append(self._next(max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        self.taken += len(items)
        return items

    def _next(self, timeout: float | None) -> _QueuedTask:
        """The next task; calls before it are made. Raises queue.Empty after ``timeout`` seconds."""
        while isinstance(found := self._queue.get(timeout=timeout), Call):
            self._last_progress, self._busy = time.monotonic(), True
            found.run()
            self._busy = False
        return found

    def _compute(self, items: list[_QueuedTask]) -> None:
        started = time.monotonic()
        encodings = self._encode(items)
        groups: dict[tuple[torch.Size, str], list[_QueuedTask]] = {}
        for item in items:
            if item.task.mix is None:
                self._finish(item, None, item.encoded_together, started, 0.0)
            elif not item.future.done():
                # Full-rank styles are large: their mixes are resolved one at a time.
                mixed = self.pass_size > 1 and all(s.low_rank for s in item.styles.values())
                key = "" if mixed else item.decode_key
                groups.setdefault((item.pixels.shape, key), []).append(item)
        for group in groups.values():
            self._stylize(group, encodings, started)

    def _stylize(
        self, items: list[_QueuedTask], encodings: dict[str, Encodings], started: float
    ) -> None:
        """Resolve the tasks' mixes and decode them, by groups that share forward passes."""
        recipes: dict[str, Recipe] = {}
        for item in items:
            try:
                if item.decode_key not in recipes and item.task.mix is not None:
                    recipes[item.decode_key] = self._recipe(item, item.task.mix)
            except Exception as e:  # an error of one mix must not fail the others
                item.future.set_exception(e)
        waiting = [item for item in items if not item.future.done()]
        of_items = [recipes[item.decode_key] for item in waiting]
        for rows in self.base.groups(of_items, self.pass_size):
            group = [waiting[i] for i in rows]
            try:
                self._decode(group, [of_items[i] for i in rows], encodings, started)
            except Exception as e:
                several = len({item.decode_key for item in group}) > 1
                if several and not isinstance(e, _AbandonedError):  # find the mix that fails
                    for item in group:
                        self._stylize([item], encodings, started)
                    continue
                for item in group:
                    item.future.set_exception(e)

    def _encode(self, items: list[_QueuedTask]) -> dict[str, Encodings]:
        """Encodings by key, from the cache or from one encode call per plan and shape."""
        found: dict[str, Encodings] = {}
        missing: dict[tuple[Plan, torch.Size], dict[str, _QueuedTask]] = {}
        for item in items:
            key = item.encoding_key
            cached = found.get(key) or self.encodings.get(key)
            item.cached = cached is not None
            if cached is not None:
                found[key] = cached
            else:
                missing.setdefault((item.plan, item.pixels.shape), {}).setdefault(key, item)
        for (plan, _), new in missing.items():
            members = [i for i in items if i.encoding_key in new]
            start = time.monotonic()
            photos = torch.stack([i.pixels for i in new.values()]).to(self.base.device)
            try:
                done = self.base.encode(photos, plan, progress=self._progress(members, "encode"))
                if self.base.device.type == "cuda":  # for the time
                    torch.cuda.synchronize(self.base.device)
            except Exception as e:
                for item in members:
                    item.future.set_exception(e)
                continue
            elapsed = time.monotonic() - start
            for item in members:
                item.encode_seconds = elapsed
                item.encoded_together = min(len(new), self.pass_size)
            for i, key in enumerate(new):
                found[key] = done.take(slice(i, i + 1)).own()
                self.encodings.put(key, found[key])
            self.encoded += len(new)
        return found

    def _recipe(self, item: _QueuedTask, mix: Mix) -> Recipe:
        device, versions = self.base.device, item.task.versions
        styles = {
            n: self.styles.to_device(versions[n].reference, s) for n, s in item.styles.items()
        }
        edits = {}
        if mix.text_edit is not None and item.task.text_edit is not None:
            edits[mix.text_edit] = item.task.text_edit.to(device)
        masks = {k: v.to(device) for k, v in item.masks.items()}
        return self.base.recipe(mix, styles, item.plan, masks=masks, text_edits=edits)

    def _decode(
        self,
        group: list[_QueuedTask],
        recipes: list[Recipe],
        encodings: dict[str, Encodings],
        started: float,
    ) -> None:
        """Decode tasks that share forward passes."""
        start = time.monotonic()
        parts = [encodings[item.encoding_key] for item in group]
        rows = list(zip(parts, recipes, strict=True))
        report = self._progress(group, "decode")
        images = self.base.decode_rows(rows, pass_size=self.pass_size, progress=report)
        finite = images.isfinite().flatten(1).all(dim=1).tolist()
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        elapsed = time.monotonic() - start
        self.batches += -(-len(group) // self.pass_size)
        self.images += len(group)
        together = min(len(group), self.pass_size)
        for item, image, is_finite in zip(group, pixels, finite, strict=True):
            if is_finite:
                self._finish(item, image, together, started, elapsed)
            else:
                item.future.set_exception(UserError(NOT_FINITE))

    def _finish(
        self, item: _QueuedTask, pixels: np.ndarray | None, batch: int, started: float,
        decode_seconds: float,
    ) -> None:  # fmt: skip
        if item.future.done():  # its encoding failed
            return
        item.future.set_result(
            Result(pixels, item.plan.arithmetic, item.cached, batch, started - item.queued,
                   item.load_seconds, item.encode_seconds, decode_seconds)
        )  # fmt: skip

    def _progress(self, group: list[_QueuedTask], stage: Stage) -> Callable[[int, int], None]:
        """A callback per step: records progress and stops a group that is abandoned as a whole."""
        for item in group:
            item.future.enter(stage)

        def step(done: int, of: int) -> None:
            self._last_progress = time.monotonic()
            if all(item.future.abandoned for item in group):
                self.abandoned += len(group)
                raise _AbandonedError
            for item in group:
                item.future.enter(stage, done, of)

        return step

    def stats(self) -> dict[str, float]:
        """Counters and sizes for the metrics."""
        return {
            "engine_batches_total": self.batches,
            "engine_images_total": self.images,
            "engine_encoded_total": self.encoded,
            "engine_abandoned_total": self.abandoned,
            "style_loads_total": self.styles.loads,
            "style_evictions_total": self.styles.host.evictions,
            "styles_loaded": len(self.styles.host),
            "styles_bytes": self.styles.host.bytes,
            "encodings_bytes": self.encodings.bytes,
            "encoding_hits_total": self.encodings.hits,
            "encoding_misses_total": self.encodings.misses,
        }
