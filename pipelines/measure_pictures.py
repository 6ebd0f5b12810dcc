"""The operator of an evaluation: makes missing baselines and measures pictures, in actors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from factory.core.failures import describe_failure
from factory.core.home import local_base
from factory.core.local_copy import local_copy
from factory.core.object_store import StoreError
from factory.core.stores import open_store
from osasis.bundles.files import COUNTERPART_PNG, STYLE_JSON, STYLE_PNG
from osasis.choices import SquareFit
from osasis.errors import ImageError
from osasis.seeds import derived_seed
from osasis.storage import DiskFullError
from osasis.validation import InputModel
from pipelines.manifest import manifest_rows
from pipelines.measurements import Picture, write_part
from pipelines.photo_bytes import read_photo
from pipelines.store_check import check_of_job

if TYPE_CHECKING:
    from osasis.evaluation.metric import Pair
    from osasis.evaluation.metric import Picture as Image

# Pictures of a batch; a killed run loses at most the measurements of one batch per actor.
BATCH = 16
# A batch: pictures, whose names need not be UTF-8, and the metrics that each lacks.
TODO = pa.schema(
    [
        ("photo", pa.int64()),
        ("style", pa.string()),
        ("variant", pa.string()),
        ("name", pa.binary()),
        ("metrics", pa.list_(pa.string())),
    ]
)


class MeasureSpec(InputModel):
    """What the workers of an evaluation receive.

    folder: of the evaluation. job: state of the corpus job. base: the base's bundle. styles: their
    bundles by name. All of these are paths or URIs. baselines: variants that the workers make.
    weights: folder of weights, or "". measured_by, made_by: hashes of a metric's weights, and of
    what a baseline's pictures depend on, by name.
    """

    subject: ClassVar[str] = "evaluation"

    folder: str
    job: str = ""
    base: str
    styles: dict[str, str]
    metrics: tuple[str, ...]
    baselines: tuple[str, ...]
    weights: str
    measured_by: dict[str, str]
    made_by: dict[str, str]
    fit: SquareFit
    square: int
    seed: int

    def digest(self, variant: str, metric: str) -> str:
        """Hash of what made and measured a picture beside base and style."""
        return self.made_by.get(variant, "") + self.measured_by.get(metric, "")


def batches(todo: Sequence[tuple[Picture, list[str]]]) -> list[pa.Table]:
    """Tables (schema TODO) of about BATCH pictures; those of a photo stay together.

    A worker then computes the features of a photo once.
    """
    out: list[list[dict[str, Any]]] = []
    last = None
    for picture, metrics in sorted(todo, key=lambda item: item[0].photo):
        if not out or (len(out[-1]) >= BATCH and picture.photo != last):
            out.append([])
        out[-1].append({**vars(picture), "name": os.fsencode(picture.name), "metrics": metrics})
        last = picture.photo
    return [pa.Table.from_pylist(rows, schema=TODO) for rows in out]


class MeasurePictures:
    """Measures batches and writes their rows. Returns the number of pictures.

    Raises UserError where this machine's weights are others than those of the driver.
    """

    def __init__(self, spec: MeasureSpec, device: str) -> None:
        import torch

        from factory.methods import load_base
        from osasis.evaluation.baselines import Baselines, baseline_digest
        from osasis.evaluation.choose import choose_metrics
        from osasis.evaluation.weights import check_digests, weights_digest

        if device == "cpu":
            torch.set_num_threads(1)
        self.spec = spec
        self.store = open_store(spec.folder)
        base = load_base(local_base(spec.base), device).judge
        weights = Path(spec.weights) if spec.weights else None
        found = {name: weights_digest(weights, name) for name in spec.measured_by}
        found |= {name: baseline_digest(name, weights, spec.seed) for name in spec.made_by}
        check_digests(weights, found, {**spec.measured_by, **spec.made_by})
        metrics = choose_metrics(base, spec.metrics, weights).metrics
        self.metrics = {m.name: m for m in metrics}
        self.baselines = Baselines(base, spec.baselines, weights)
        self.device = base.device
        self.styles: dict[str, tuple[Image, Image | None]] = {}

    def __call__(self, batch: pa.Table) -> pa.Table:
        photos: dict[int, tuple[str, Image]] = {}
        rows: list[dict[str, Any]] = []
        for item in batch.to_pylist():
            names = item.pop("metrics")
            picture = Picture(**{**item, "name": os.fsdecode(item["name"])})
            try:
                key, photo = photos[picture.photo] if picture.photo in photos else self._photo(
                    picture.photo
                )  # fmt: skip
                photos[picture.photo] = key, photo
                pair = self._pair(picture, key, photo)
            except (StoreError, DiskFullError):
                raise
            except Exception as e:  # one picture must not stop the evaluation
                rows += [self._row(picture, name, reason=describe_failure(e)) for name in names]
                continue
            rows += [self._measure(picture, pair, name) for name in names]
        write_part(self.store, rows)
        return pa.table({"pictures": [batch.num_rows]})

    def _measure(self, picture: Picture, pair: Pair, name: str) -> dict[str, Any]:
        try:
            values = self.metrics[name].measure(pair)
        except Exception as e:
            return self._row(picture, name, reason=describe_failure(e))
        return self._row(picture, name, None if values is None else list(values))

    def _row(
        self, picture: Picture, name: str, values: list[float] | None = None, reason: str = ""
    ) -> dict[str, Any]:
        return {
            "photo": picture.photo,
            "style": picture.style,
            "variant": picture.variant,
            "metric": name,
            "backbone": self.metrics[name].backbone,
            "weights": self.spec.digest(picture.variant, name),
            "values": values,
            "reason": reason,
        }

    def _photo(self, index: int) -> tuple[str, Image]:
        """Key and square of a photo, read as the corpus job reads it."""
        from osasis.evaluation.metric import Picture as Image
        from osasis.images.decoding import load_sized
        from osasis.images.geometry import fit_square
        from osasis.images.tensors import image_to_tensor

        (row,) = manifest_rows(self.spec.job, [index])
        try:
            data = read_photo(os.fsdecode(row["path"]))
        except StoreError as e:
            check_of_job(self.spec.job, None).check(e)
            raise ImageError("photo", str(e)) from None
        image, _ = load_sized(data, target=self.spec.square)
        square = fit_square(image, self.spec.square, self.spec.fit)
        key = row["key"].decode("utf-8", "replace")
        return key, Image(image_to_tensor(square).to(self.device))

    def _style(self, name: str) -> tuple[Image, Image | None]:
        """Style image, and photo counterpart or None."""
        if name not in self.styles:
            folder = local_copy(self.spec.styles[name], STYLE_JSON)
            counterpart = folder / COUNTERPART_PNG
            self.styles[name] = (
                self._decoded((folder / STYLE_PNG).read_bytes()),
                self._decoded(counterpart.read_bytes()) if counterpart.is_file() else None,
            )
        return self.styles[name]

    def _decoded(self, data: bytes) -> Image:
        """An image file at the base's square."""
        from osasis.evaluation.metric import Picture as Image
        from osasis.images.tensors import load_square

        return Image(load_square(data, self.spec.square).to(self.device))

    def _pair(self, picture: Picture, key: str, photo: Image) -> Pair:
        from osasis.evaluation.metric import Pair
        from osasis.images.decoding import png_bytes
        from osasis.images.tensors import tensor_to_image

        style, counterpart = self._style(picture.style)
        try:
            data = self.store.read(picture.name)
        except FileNotFoundError:
            if picture.variant not in self.spec.baselines:
                raise
            seed = derived_seed(self.spec.seed, key)
            made = self.baselines.make(picture.variant, photo.pixels, style.pixels, seed)
            data = png_bytes(tensor_to_image(made))
            self.store.write(picture.name, data)
        return Pair(photo, self._decoded(data), style, counterpart)
