"""The measuring part of an evaluation, on Ray Data: which pictures there are, what they lack."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from factory.core.local_copy import local_copy
from factory.core.object_store import StoreError
from factory.core.stores import Store
from osasis.bundles.files import STYLE_JSON, STYLE_PNG
from osasis.bundles.provenance import FORMATS
from pipelines.corpus_run import CorpusRun
from pipelines.evaluation_grid import chosen_photos, grid_of
from pipelines.evaluation_result import GRID, EvaluationResult, estimate_all
from pipelines.job_folder import JobFolder
from pipelines.measure_pictures import MeasurePictures, MeasureSpec, batches
from pipelines.measurements import Picture, key_of, merge, read_rows
from pipelines.progress import Progress
from pipelines.stream import CPUS, Workers, connect, from_tasks, tables_of
from pipelines.variants import Variant

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

    from osasis.evaluation.choose import Chosen


@dataclass(frozen=True)
class EvaluationRun:
    """The measuring part of an evaluation, after its corpus job.

    place: of the evaluation. images: the folder in it with the corpus job's pictures. chosen:
    target of each (style, variant). groups: rows of the manifest by name.
    """

    place: Store
    images: str
    corpus: CorpusRun
    folder: JobFolder
    styles: tuple[str, ...]
    variants: Sequence[Variant]
    chosen: dict[tuple[str, str], int]
    measured: Chosen
    spec: MeasureSpec
    groups: dict[str, set[int]]

    def name(self, photo: int, style: str, variant: Variant) -> str:
        """The picture of a photo in a style and variant, by its name in the store."""
        name = self.folder.manifest["name"][photo].as_py()
        if variant.fields is not None:
            chosen = self.chosen[style, variant.name]
            return f"{self.images}/{self.corpus.spec.output_name(name, chosen)}"
        suffix = FORMATS[self.corpus.spec.options.encoding]
        digest = self.spec.made_by.get(variant.name, "")
        made = f"{variant.name}-{digest}" if digest else variant.name
        return f"{self.images}/{style}/{made}/{self.place.name_of(name)}{suffix}"

    def pictures(self) -> list[Picture]:
        """All pictures that exist or that the workers make."""
        found = []
        for photo in range(self.folder.manifest.num_rows):
            for style in self.styles:
                for v in self.variants:
                    if v.fields is None or self.folder.done(photo, self.chosen[style, v.name]):
                        name = self.name(photo, style, v)
                        found.append(Picture(photo, style, v.name, name))
        return found

    def measure(self, progress: Progress, plan: Callable[[int], Workers]) -> None:
        """Measure what has no row yet, or whose measurement failed.

        Raises StoreError, DiskFullError, and UserError for a node with other weights.
        """
        known = {key_of(row) for row in read_rows(self.place) if not row["reason"]}
        todo: list[tuple[Picture, list[str]]] = []
        pictures = self.pictures()
        for picture in pictures:
            lacking = [
                m.name
                for m in self.measured.metrics
                if picture.key(m.name, m.backbone, self.spec.digest(picture.variant, m.name))
                not in known
            ]
            if lacking:
                todo.append((picture, lacking))
        before = len(pictures) - len(todo)
        progress.start(
            f"{before} of {len(pictures)} picture(s) are measured", len(pictures), before
        )
        if todo:
            connect()
            workers = plan(len(todo))
            started, done = time.time(), 0
            for batch in tables_of(self._dataset(batches(todo), workers)):
                done += sum(batch["pictures"].to_pylist())
                progress.update(before + done, 0, done, started)
        merge(self.place, read_rows(self.place))

    def _dataset(self, tasks: list[pa.Table], workers: Workers) -> Any:
        import ray.data

        # After the import of ray.data, which sets the levels of its loggers. Errors are raised.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        count = min(workers.models, len(tasks))
        return from_tasks(tasks).map_batches(
            MeasurePictures,
            fn_constructor_kwargs={"spec": self.spec, "device": workers.device},
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=count, max_size=count, max_tasks_in_flight_per_actor=1
            ),
            num_cpus=CPUS[workers.device][0],
            num_gpus=workers.gpus,
        )

    def result(self) -> EvaluationResult:
        """The estimates of all rows of this call's styles, variants and metrics."""
        names = {m.name: m.backbone for m in self.measured.metrics}
        variants = [v.name for v in self.variants]
        rows = [
            r
            for r in read_rows(self.place)
            if r["style"] in self.styles and r["variant"] in variants
            and names.get(r["metric"]) == r["backbone"]
            and r["weights"] == self.spec.digest(r["variant"], r["metric"])
        ]  # fmt: skip
        metrics = self.measured.metrics
        results = estimate_all(rows, metrics, self.styles, variants, self.spec.seed, self.groups)
        return EvaluationResult(
            photos=self.folder.manifest.num_rows,
            styles={n: self.corpus.spec.styles[n].reference for n in self.styles},
            variants=tuple(variants),
            metrics=tuple(
                {
                    "name": m.name, "lower_better": m.lower_better, "backbone": m.backbone,
                    "source": m.source,
                }
                for m in metrics
            ),
            results=results,
            output=self.place.location,
            unavailable=self.measured.unavailable,
            warnings=_warnings(names, self.folder.manifest.num_rows * len(self.styles)),
            failed=dict(
                Counter(f"{r['metric']}: {r['reason']}" for r in rows if r["reason"]).most_common()
            ),
        )  # fmt: skip

    def write_grid(self, result: EvaluationResult) -> None:
        """Write the grid of pictures of a few photos in each style."""
        from PIL import Image

        rows: list[list[Image.Image | None]] = []
        captions = {}
        for style in self.styles:
            captions[len(rows)] = result.styles[style]
            style_image = Image.open(local_copy(self.spec.styles[style], STYLE_JSON) / STYLE_PNG)
            for photo in chosen_photos(result.photos):
                pictures = [self._picture(self.name(photo, style, v)) for v in self.variants]
                rows.append([self._square(photo), style_image, *pictures])
        if rows:
            grid = grid_of(["photo", "style", *result.variants], rows, captions)
            self.place.write(GRID, grid)

    def _picture(self, name: str) -> Image.Image | None:
        from PIL import Image

        try:
            return Image.open(BytesIO(self.place.read(name)))
        except FileNotFoundError:
            return None

    def _square(self, photo: int) -> Any:
        """The photo as the model sees it; None where it cannot be read."""
        from osasis.errors import ImageError
        from osasis.images.decoding import load_sized
        from osasis.images.geometry import fit_square
        from pipelines.photo_bytes import read_photo

        path = os.fsdecode(self.folder.manifest["path"][photo].as_py())
        try:
            image, _ = load_sized(read_photo(path), target=self.spec.square)
        except (ImageError, StoreError):
            return None
        return fit_square(image, self.spec.square, self.spec.fit)


def _warnings(metrics: Mapping[str, str], pairs: int) -> tuple[str, ...]:
    from osasis.evaluation.artfid import MIN_PAIRS

    if ("fid" not in metrics and "artfid" not in metrics) or pairs >= MIN_PAIRS:
        return ()
    return (f"fid and artfid of {pairs} pairs are biased; use at least {MIN_PAIRS:,}",)
