"""The second operator: stylizes squares, in actors that hold the base and the styles."""

from __future__ import annotations

import io
import time
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from factory.core.failures import describe_failure
from pipelines.job_folder import record_computed, stopped
from pipelines.job_spec import JobSpec
from pipelines.read_squares import SQUARES, decode_png

if TYPE_CHECKING:
    from torch import Tensor

    from osasis.bundles.style import Style
    from osasis.encode import EncodePlan, Encodings

# Size of an actor's LRU cache of styles.
MAX_LOADED_STYLES = 16
# Least time between two progress reports of an actor.
REPORT_SECONDS = 1.0

STYLIZED = pa.schema(
    [
        *SQUARES,
        # PNGs of all squares of the first target in todo, then of the second, ...; null on failure.
        ("stylized", pa.list_(pa.large_binary())),
        # Per target in todo: the reason of a failure, or "".
        ("failed", pa.list_(pa.string())),
        # Per target in todo.
        ("arithmetic", pa.list_(pa.string())),
        # Of the whole batch, in its first row: model seconds, end in seconds since the epoch,
        # decoded squares, forward batches.
        ("busy", pa.float64()),
        ("ended", pa.float64()),
        ("images", pa.int32()),
        ("passes", pa.int32()),
        # Id of the Ray node that computed the batch; "" without Ray.
        ("node", pa.string()),
    ]
)


class StylizeSquares:
    """Encodes each square once and decodes it for each target that its row lacks."""

    def __init__(self, job: JobSpec, device: str) -> None:
        import torch

        from osasis.bundles.base import load_base
        from osasis.text_edit import load_text_edit

        if device == "cpu":
            torch.set_num_threads(1)
        self.job, self.device = job, device
        self.name = uuid.uuid4().hex
        self.computed = 0
        self.last_report = 0.0
        self.started: float | None = None
        self.base = load_base(Path(job.base), device)
        self.targets = [t.mix for t in job.targets]
        self.styles: OrderedDict[str, Style] = OrderedDict()
        widest_blend = max(len(m.styles) for m in self.targets)
        self.max_styles = max(MAX_LOADED_STYLES, widest_blend)
        self.text_edits = {}
        for name in {m.text_edit for m in self.targets} - {None}:
            edit = load_text_edit(Path(job.text_edits) / str(name), self.base.fingerprint)
            self.text_edits[str(name)] = edit.direction.to(device)
        self.masks = {name: _mask(m.png).to(device) for name, m in job.masks.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        if stopped(self.job.folder, self.job.run):
            return STYLIZED.empty_table()
        rows = batch.to_pylist()
        results = _Batch(self, rows)
        started = time.perf_counter()
        self.started = self.started or time.time()
        for target in sorted({t for row in rows for t in row["todo"]}):
            results.decode(target)
            self._report_progress(sum(target in row["todo"] for row in rows))
        first = {
            "busy": time.perf_counter() - started,
            "ended": time.time(),
            "images": results.images,
            "passes": results.passes,
        }
        others = dict.fromkeys(first, 0)
        node = _node()
        out = [
            {
                **row,
                "stylized": [png for t in row["todo"] for png in results.stylized[k, t]],
                "failed": [results.failed.get((k, t), "") for t in row["todo"]],
                "arithmetic": [self.plan(t).arithmetic for t in row["todo"]],
                "node": node,
                **(others if k else first),
            }
            for k, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(out, schema=STYLIZED)

    def _report_progress(self, outputs: int) -> None:
        """Publish the computed outputs; called per target, as a batch may take minutes."""
        self.computed += outputs
        now = time.time()
        if now - self.last_report >= REPORT_SECONDS:
            self.last_report = now
            job, started = self.job, self.started or now
            record_computed(job.folder, job.run, self.name, self.computed, started)

    def style(self, name: str) -> Style:
        """A style, from the cache or its bundle."""
        from osasis.bundles.style import load_style

        if name not in self.styles:
            folder = Path(self.job.styles[name].folder)
            self.styles[name] = load_style(folder, self.base).to(self.device)
            if len(self.styles) > self.max_styles:
                self.styles.popitem(last=False)
        self.styles.move_to_end(name)
        return self.styles[name]

    def plan(self, target: int) -> EncodePlan:
        """How squares are encoded for a target."""
        from osasis.encode import encode_plan

        mix, device = self.targets[target], self.base.device
        settings = self.style(mix.styles[0].style).settings
        return encode_plan(mix, settings, device, self.job.options.precision)


def _mask(png: bytes) -> Tensor:
    """A greyscale PNG as (H, W) in [0, 1]."""
    import torch

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return torch.from_numpy(np.array(image)).float() / 255


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


class _Batch:
    """The squares of a batch as one tensor, their encodings, and the results by (row, target)."""

    def __init__(self, actor: StylizeSquares, rows: list[dict[str, Any]]) -> None:
        import torch

        from osasis.images.tensors import image_to_tensor

        self.actor, self.rows = actor, rows
        self.spans: list[range] = []
        tensors: list[Tensor] = []
        for row in rows:
            start = len(tensors)
            tensors += [image_to_tensor(decode_png(s)) for s in row["squares"]]
            self.spans.append(range(start, len(tensors)))
        self.photos = torch.stack(tensors).to(actor.device) if tensors else None
        self.encodings: dict[EncodePlan, tuple[Encodings, dict[int, int]]] = {}
        self.stylized: dict[tuple[int, int], list[bytes | None]] = {}
        self.failed: dict[tuple[int, int], str] = {}
        self.images = self.passes = 0

    def decode(self, target: int) -> None:
        """Stylize every row that lacks this target; a failure is recorded in ``failed``."""
        from osasis.images.decoding import png_bytes
        from osasis.images.tensors import tensor_to_image

        lacking = [k for k, row in enumerate(self.rows) if target in row["todo"]]
        for k in lacking:
            self.stylized[k, target] = [None] * len(self.spans[k])
        squares = [(k, i) for k in lacking for i in self.spans[k]]
        if not squares:  # only photos without a face, which are kept unchanged
            return
        try:
            images = self._decode(target, [i for _, i in squares])
        except Exception as e:  # a failing style must not fail the batch's other styles
            for k in lacking:
                self.failed[k, target] = describe_failure(e)
            return
        for (k, i), image in zip(squares, images, strict=True):
            try:
                png = png_bytes(tensor_to_image(image))
            except ValueError as e:  # the image holds NaN
                self.failed[k, target] = describe_failure(e)
            else:
                self.stylized[k, target][i - self.spans[k].start] = png

    def _decode(self, target: int, squares: list[int]) -> Tensor:
        import torch

        from osasis.encode import largest_pass
        from osasis.stylize import decode

        actor, mix = self.actor, self.actor.targets[target]
        styles = {s.style: actor.style(s.style) for s in mix.styles}
        encodings, rows = self._encode(actor.plan(target))
        device = actor.base.device
        index = torch.tensor([rows[i] for i in squares], device=device)
        images = decode(
            actor.base,
            encodings.take(index),
            mix,
            styles,
            masks=actor.masks,
            text_edits=actor.text_edits,
        )
        self.images += len(squares)
        self.passes += -(-len(squares) // largest_pass(device))
        return images.cpu()

    def _encode(self, plan: EncodePlan) -> tuple[Encodings, dict[int, int]]:
        """Encodings of all squares whose targets use this plan, and the row of each square."""
        from osasis.encode import encode

        if plan not in self.encodings:
            squares = [
                i
                for row, span in zip(self.rows, self.spans, strict=True)
                if any(self.actor.plan(t) == plan for t in row["todo"])
                for i in span
            ]
            assert self.photos is not None
            encodings = encode(self.actor.base, self.photos[squares], plan)
            self.encodings[plan] = encodings, {i: n for n, i in enumerate(squares)}
        return self.encodings[plan]
