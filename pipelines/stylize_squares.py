"""The second operator: squares to stylized squares. An actor holds the base and the styles."""

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

from pipelines.job_folder import record_computed, stopped
from pipelines.job_spec import JobSpec
from pipelines.read_squares import SQUARES, decode_png

if TYPE_CHECKING:
    from torch import Tensor

    from osasis.bundles.style import Style
    from osasis.stylize import EncodePlan, Encodings

# Styles in an actor's memory at a time; the one longest unused makes room.
LOADED_STYLES = 16
# How often an actor tells how far it is, at most.
TELL_SECONDS = 1.0

STYLIZED = pa.schema(
    [
        *SQUARES,
        # Target by target, square by square; null where the model failed.
        ("stylized", pa.list_(pa.large_binary())),
        # One reason a target; "" where there is none.
        ("failed", pa.list_(pa.string())),
        # One arithmetic a target.
        ("arithmetic", pa.list_(pa.string())),
        ("busy", pa.float64()),
        ("ended", pa.float64()),
        ("images", pa.int32()),
        ("passes", pa.int32()),
        # Of the cluster: where it was computed; "" without Ray.
        ("node", pa.string()),
    ]
)


class StylizeSquares:
    """Encodes each square once and decodes it for each target that its row still lacks."""

    def __init__(self, job: JobSpec, device: str) -> None:
        import torch

        from osasis.bundles.base import load_base
        from osasis.text_edit import load_text_edit

        if device == "cpu":
            torch.set_num_threads(1)
        self.job, self.device = job, device
        self.name, self.computed, self.told = uuid.uuid4().hex, 0, 0.0
        self.since: float | None = None
        self.base = load_base(Path(job.base), device)
        self.targets = [t.mix for t in job.targets]
        self.loaded: OrderedDict[str, Style] = OrderedDict()
        self.text_edits = {}
        for name in {m.text_edit for m in self.targets} - {None}:
            edit = load_text_edit(Path(job.text_edits) / str(name), self.base.fingerprint)
            self.text_edits[str(name)] = edit.direction.to(device)
        self.masks = {name: _mask(m.png).to(device) for name, m in job.masks.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        if stopped(self.job.folder, self.job.run):
            return STYLIZED.empty_table()
        rows = batch.to_pylist()
        work = _Work(self, rows)
        started = time.perf_counter()
        self.since = self.since or time.time()
        for target in sorted({t for row in rows for t in row["todo"]}):
            work.decode(target)
            self._tell(sum(target in row["todo"] for row in rows))
        facts = {
            "busy": time.perf_counter() - started,
            "ended": time.time(),
            "images": work.images,
            "passes": work.passes,
        }
        nothing = {"busy": 0.0, "ended": 0.0, "images": 0, "passes": 0}
        node = _node()
        out = []
        for k, row in enumerate(rows):
            stylized = [p for t in row["todo"] for p in work.pictures[k, t]]
            failed = [work.failed.get((k, t), "") for t in row["todo"]]
            row |= {
                "stylized": stylized,
                "failed": failed,
                "arithmetic": [self.plan(t).arithmetic for t in row["todo"]],
                "node": node,
            }
            out.append({**row, **(facts if k == 0 else nothing)})
        return pa.Table.from_pylist(out, schema=STYLIZED)

    def _tell(self, outputs: int) -> None:
        """A batch of many styles takes minutes: progress hears of each."""
        self.computed += outputs
        now = time.time()
        if now - self.told >= TELL_SECONDS:
            self.told = now
            job, since = self.job, self.since or now
            record_computed(job.folder, job.run, self.name, self.computed, since)

    def style(self, name: str) -> Style:
        """A style, from memory where it is there."""
        from osasis.bundles.style import load_style

        if name not in self.loaded:
            folder = Path(self.job.styles[name].folder)
            self.loaded[name] = load_style(folder, self.base).to(self.device)
            while len(self.loaded) > max(LOADED_STYLES, self._widest()):
                self.loaded.popitem(last=False)
        self.loaded.move_to_end(name)
        return self.loaded[name]

    def plan(self, target: int) -> EncodePlan:
        """How squares are encoded for a target."""
        from osasis.stylize import encode_plan

        mix, device = self.targets[target], self.base.device
        settings = self.style(mix.styles[0].style).settings
        return encode_plan(mix, settings, device, self.job.options.precision)

    def _widest(self) -> int:
        return max(len(m.styles) for m in self.targets)


def _mask(png: bytes) -> Tensor:
    """A grey PNG as (H, W) in [0, 1]."""
    import torch

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return torch.from_numpy(np.array(image)).float() / 255


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def _described(error: Exception) -> str:
    from factory.core.failures import describe_failure  # with all that trains under it

    return describe_failure(error)


class _Work:
    """One batch: its squares as one tensor, their encodings, and what became of them."""

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
        self.pictures: dict[tuple[int, int], list[bytes | None]] = {}
        self.failed: dict[tuple[int, int], str] = {}
        self.images = self.passes = 0

    def decode(self, target: int) -> None:
        """Stylize every row that lacks this target; a failure is noted and stops nothing."""
        wanted = [k for k, row in enumerate(self.rows) if target in row["todo"]]
        for k in wanted:
            self.pictures[k, target] = [None] * len(self.spans[k])
        picked = [(k, i) for k in wanted for i in self.spans[k]]
        if not picked:  # photos without a face, kept as they are
            return
        try:
            images = self._decoded(target, [i for _, i in picked])
        except Exception as e:  # whatever is wrong with one style, the others go on
            for k in wanted:
                self.failed[k, target] = _described(e)
            return
        for (k, i), image in zip(picked, images, strict=True):
            self._keep(k, target, i - self.spans[k].start, image)

    def _keep(self, k: int, target: int, position: int, image: Tensor) -> None:
        from osasis.images.decoding import png_bytes
        from osasis.images.tensors import tensor_to_image

        try:
            self.pictures[k, target][position] = png_bytes(tensor_to_image(image))
        except ValueError as e:  # an image that holds NaN
            self.failed[k, target] = _described(e)

    def _decoded(self, target: int, squares: list[int]) -> Tensor:
        import torch

        from osasis.stylize import chunk_size, decode

        actor, mix = self.actor, self.actor.targets[target]
        styles = {s.style: actor.style(s.style) for s in mix.styles}
        encodings, at = self._encoded(self.actor.plan(target))
        device = actor.base.device
        index = torch.tensor([at[i] for i in squares], device=device)
        images = decode(
            actor.base,
            encodings.take(index),
            mix,
            styles,
            masks=actor.masks,
            text_edits=actor.text_edits,
        )
        self.images += len(squares)
        self.passes += -(-len(squares) // chunk_size(device))
        return images.cpu()

    def _encoded(self, plan: EncodePlan) -> tuple[Encodings, dict[int, int]]:
        """Encodings by a plan of all squares whose targets need it, and each square's row."""
        from osasis.stylize import encode

        if plan not in self.encodings:
            wanted = [
                i
                for row, span in zip(self.rows, self.spans, strict=True)
                if any(self.actor.plan(t) == plan for t in row["todo"])
                for i in span
            ]
            assert self.photos is not None
            made = encode(self.actor.base, self.photos[wanted], plan)
            self.encodings[plan] = made, {i: n for n, i in enumerate(wanted)}
        return self.encodings[plan]
