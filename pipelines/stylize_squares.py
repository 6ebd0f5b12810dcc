"""The second operator: stylizes squares, in actors that hold the base and the styles."""

from __future__ import annotations

import io
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from factory.core.failures import describe_failure
from factory.core.home import local_base
from factory.core.local_copy import local_copy
from factory.core.stores import open_store
from osasis.bundles.files import STYLE_JSON
from pipelines.job_folder import record_computed, stopped
from pipelines.job_spec import JobSpec
from pipelines.read_squares import SQUARES

if TYPE_CHECKING:
    from torch import Tensor

    from factory.methods.interface import Encodings, Plan, Recipe, Style

# Size of an actor's LRU cache of styles: hundreds of low-rank styles, or three full-rank ones of a
# 256 px base.
MAX_STYLE_BYTES = 2_000_000_000
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

    def __init__(self, job: JobSpec, device: str, pass_size: int | None = None) -> None:
        """pass_size: of ``decode_rows``."""
        import torch

        from factory.methods import load_base

        if device == "cpu":
            torch.set_num_threads(1)
        self.job, self.device = job, device
        self.name = uuid.uuid4().hex
        self.computed = 0
        self.last_report = 0.0
        self.started: float | None = None
        self.base = load_base(local_base(job.base), device)
        self.pass_size = pass_size or self.base.largest_pass
        self.targets = [t.mix for t in job.targets]
        self.styles: OrderedDict[str, Style] = OrderedDict()
        self.least_styles = max(len(m.styles) for m in self.targets)
        self.text_edits = {}
        for name in {m.text_edit for m in self.targets} - {None}:
            from factory.methods.text_edits import read_text_edit

            edit = read_text_edit(job.text_edits, str(name), self.base.fingerprint)
            self.text_edits[str(name)] = edit.direction.to(device)
        self.masks = {name: mask.image() for name, mask in job.masks.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        if stopped(self.job.folder, self.job.run):
            return STYLIZED.empty_table()
        started = time.perf_counter()
        self.started = self.started or time.time()
        by_shape: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for row in batch.to_pylist():
            by_shape.setdefault(_shape(row), []).append(row)
        batches = [_Batch(self, rows) for rows in by_shape.values()]
        for each in batches:
            for outputs in each.stylize():
                self._report_progress(outputs)
        first = {
            "busy": time.perf_counter() - started,
            "ended": time.time(),
            "images": sum(each.images for each in batches),
            "passes": sum(each.passes for each in batches),
        }
        others, node = dict.fromkeys(first, 0), _node()
        out = [{**row, "node": node, **others} for each in batches for row in each.results()]
        if out:
            out[0] |= first
        return pa.Table.from_pylist(out, schema=STYLIZED)

    def _report_progress(self, outputs: int) -> None:
        """Publish the computed outputs; called per group, as a batch may take minutes."""
        self.computed += outputs
        now = time.time()
        if now - self.last_report >= max(REPORT_SECONDS, open_store(self.job.folder).look_seconds):
            self.last_report = now
            job, started = self.job, self.started or now
            record_computed(job.folder, job.run, self.name, self.computed, started)

    def style(self, name: str) -> Style:
        """A style, from the cache or its bundle."""
        from factory.methods import load_style

        if name not in self.styles:
            folder = local_copy(self.job.styles[name].folder, STYLE_JSON)
            self.styles[name] = load_style(folder, self.base).to(self.device)
            self._limit_styles()
        self.styles.move_to_end(name)
        return self.styles[name]

    def _limit_styles(self) -> None:
        """Drop the styles that were not used for the longest time, beyond the limit."""
        while (
            len(self.styles) > self.least_styles
            and sum(s.nbytes for s in self.styles.values()) > MAX_STYLE_BYTES
        ):
            self.styles.popitem(last=False)

    def plan(self, target: int) -> Plan:
        """How squares are encoded for a target."""
        mix = self.targets[target]
        settings = self.style(mix.styles[0].style).settings
        return self.base.plan(mix, settings, self.job.options.precision)


def _shape(row: dict[str, Any]) -> tuple[int, int]:
    """Width and height of the row's squares; (0, 0) without a face."""
    if not row["squares"]:
        return 0, 0
    with Image.open(io.BytesIO(row["squares"][0]), formats=["PNG"]) as image:
        return image.size


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


class _Batch:
    """Squares of one shape as a tensor, their encodings, and the results by (row, target)."""

    def __init__(self, actor: StylizeSquares, rows: list[dict[str, Any]]) -> None:
        import torch

        from osasis.images.decoding import read_png
        from osasis.images.tensors import image_to_tensor

        self.actor, self.rows = actor, rows
        self.spans: list[range] = []
        tensors: list[Tensor] = []
        for row in rows:
            start = len(tensors)
            tensors += [image_to_tensor(read_png(s)) for s in row["squares"]]
            self.spans.append(range(start, len(tensors)))
        self.photos = torch.stack(tensors).to(actor.device) if tensors else None
        self.encodings: dict[Plan, tuple[Encodings, dict[int, int]]] = {}
        self.stylized: dict[tuple[int, int], list[bytes | None]] = {}
        self.failed: dict[tuple[int, int], str] = {}
        self.images = self.passes = 0
        self.plans: dict[int, Plan] = {}
        for target in sorted({t for row in rows for t in row["todo"]}):
            try:
                self.plans[target] = actor.plan(target)
            except Exception as e:  # steps or a style that fail must not fail the other targets
                self._fail(target, describe_failure(e))

    def stylize(self) -> Iterator[int]:
        """Stylize what the rows lack, by groups that share forward passes.

        Yields the number of outputs that were finished since the last one. A failure is recorded in
        ``failed``.
        """
        size = self.actor.pass_size
        recipes: dict[tuple[int, int], Recipe] = {}
        targets = list(self.plans)
        for number, target in enumerate(targets):
            found = self._recipes(target)
            recipes |= found
            # Full-rank styles are large: one at a time.
            low_rank = bool(found) and all(recipe.low_rank for recipe in found.values())
            waiting = len({t for t, _ in recipes})
            if number == len(targets) - 1 or waiting == size or not low_rank:
                yield from self._stylize_targets(recipes, size)
                recipes = {}

    def results(self) -> Iterator[dict[str, Any]]:
        """The rows with what was made of them."""
        for k, row in enumerate(self.rows):
            yield {
                **row,
                "stylized": [png for t in row["todo"] for png in self.stylized[k, t]],
                "failed": [self.failed.get((k, t), "") for t in row["todo"]],
                "arithmetic": [self.arithmetic(t) for t in row["todo"]],
            }

    def _stylize_targets(self, recipes: dict[tuple[int, int], Recipe], size: int) -> Iterator[int]:
        """recipes: by target and row."""
        squares = [(target, k, i) for target, k in recipes for i in self.spans[k]]
        # Photos without a face have no squares, and are kept unchanged.
        if unchanged := len(recipes) - len({(target, k) for target, k, _ in squares}):
            yield unchanged
        for group in self.actor.base.groups([recipes[t, k] for t, k, _ in squares], size):
            chosen = [squares[g] for g in group]
            self._stylize_group(chosen, recipes)
            self.images += len(chosen)
            self.passes += -(-len(chosen) // size)
            yield len({(target, k) for target, k, _ in chosen})

    def _lacking(self, target: int) -> list[int]:
        """The rows that lack a target."""
        return [k for k, row in enumerate(self.rows) if target in row["todo"]]

    def _recipes(self, target: int) -> dict[tuple[int, int], Recipe]:
        """The recipes of a target by (target, row); rows with equal masks have the same one.

        A failure is recorded, and must not fail other rows and targets.
        """
        found: dict[tuple[int, int], Recipe] = {}
        made: dict[tuple[bytes, ...], Recipe | str] = {}
        for k in self._lacking(target):
            self.stylized[k, target] = [None] * len(self.spans[k])
            masks = self._square_masks(target, k)
            key = tuple(mask.tobytes() for mask in masks.values())
            if key not in made:
                try:
                    made[key] = self._recipe(target, masks)
                except Exception as e:
                    made[key] = describe_failure(e)
            result = made[key]
            if isinstance(result, str):
                self.failed[k, target] = result
            else:
                found[target, k] = result
        return found

    def _square_masks(self, target: int, k: int) -> dict[str, Image.Image]:
        """The masks of a target's mix on the square of a row.

        Where the photo itself is outside of them, they are those of ``shares_inside``.
        """
        from osasis.images.decoding import read_png
        from osasis.images.masks import fit_mask, shares_inside

        row, job = self.rows[k], self.actor.job
        names = [s.mask for s in job.targets[target].mix.styles]
        size = row["width"], row["height"]
        masks = {
            name: fit_mask(self.actor.masks[name], job.square, job.options, size)
            if name in self.actor.masks
            else read_png(row["mask_square"], "L")
            for name in names
            if name
        }
        return shares_inside(masks, names) if job.keeps_photo(target) else masks

    def _recipe(self, target: int, masks: dict[str, Image.Image]) -> Recipe:
        import torch

        actor = self.actor
        mix = actor.targets[target]
        styles = {s.style: actor.style(s.style) for s in mix.styles}
        tensors = {
            name: torch.from_numpy(np.array(mask)).float().div(255).to(actor.base.device)
            for name, mask in masks.items()
        }
        return actor.base.recipe(
            mix, styles, self.plans[target], masks=tensors, text_edits=actor.text_edits
        )

    def _fail(self, target: int, reason: str) -> None:
        """Record that a target fails for all rows."""
        for k in self._lacking(target):
            self.stylized[k, target] = [None] * len(self.spans[k])
            self.failed[k, target] = reason

    def arithmetic(self, target: int) -> str:
        """Of a target's forward passes; "" where it failed before."""
        plan = self.plans.get(target)
        return "" if plan is None else plan.arithmetic

    def _stylize_group(
        self, squares: list[tuple[int, int, int]], recipes: dict[tuple[int, int], Recipe]
    ) -> None:
        """Decode and store squares of one group, as (target, row, square)."""
        from osasis.images.decoding import png_bytes
        from osasis.images.tensors import tensor_to_image

        try:
            images = self._decode(squares, recipes)
        except Exception as e:
            by_target = [list(g) for _, g in groupby(squares, key=lambda square: square[0])]
            if len(by_target) > 1:  # find the target that fails
                for alone in by_target:
                    self._stylize_group(alone, recipes)
                return
            for target, k, _ in squares:
                self.failed[k, target] = describe_failure(e)
            return
        for (target, k, i), image in zip(squares, images, strict=True):
            try:
                png = png_bytes(tensor_to_image(image))
            except ValueError as e:  # the image holds NaN
                self.failed[k, target] = describe_failure(e)
            else:
                self.stylized[k, target][i - self.spans[k].start] = png

    def _decode(
        self, squares: list[tuple[int, int, int]], recipes: dict[tuple[int, int], Recipe]
    ) -> Tensor:
        import torch

        rows = []
        for _, group in groupby(squares, key=lambda square: id(recipes[square[0], square[1]])):
            members = list(group)
            recipe = recipes[members[0][0], members[0][1]]
            encodings, place = self._encode(recipe.plan)
            index = torch.tensor([place[i] for _, _, i in members], device=self.actor.base.device)
            rows.append((encodings.take(index), recipe))
        return self.actor.base.decode_rows(rows, pass_size=self.actor.pass_size).cpu()

    def _encode(self, plan: Plan) -> tuple[Encodings, dict[int, int]]:
        """Encodings of all squares whose targets use this plan, and the row of each square."""
        if plan not in self.encodings:
            squares = [
                i
                for row, span in zip(self.rows, self.spans, strict=True)
                if any(self.plans.get(t) == plan for t in row["todo"])
                for i in span
            ]
            assert self.photos is not None
            encodings = self.actor.base.encode(self.photos[squares], plan)
            self.encodings[plan] = encodings, {i: n for n, i in enumerate(squares)}
        return self.encodings[plan]
