"""Ranks photos by the density of a base's training data near them (OSASIS's protocol).

The measure is LPIPS between a photo and its reconstruction from z and fresh noise: high where the
base has seen few similar photos. Ranks are written to OUTPUT/density/*/*.parquet, one file a batch,
and a resumed evaluation reads them.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from factory.core.failures import describe_failure
from factory.core.home import local_base
from factory.core.object_store import StoreError
from factory.core.stores import Store, open_store
from osasis.choices import SquareFit
from osasis.errors import UserError
from osasis.evaluation.weights import check_digests, weights_digest
from osasis.seeds import derived_seed
from osasis.storage import sha256_text
from osasis.validation import InputModel
from pipelines.evaluation_result import HIGH, LOW
from pipelines.manifest import parquet_bytes
from pipelines.measure_pictures import MeasureSpec
from pipelines.photo_bytes import read_photo
from pipelines.progress import Progress
from pipelines.source import Source
from pipelines.store_check import StoreCheck, spread
from pipelines.stream import CPUS, Workers, connect, from_tasks, tables_of

FOLDER = "density"
STEPS = 50
BATCH = 8
# distance: null for a photo that cannot be read.
RANKS = pa.schema([("key", pa.large_binary()), ("distance", pa.float64()), ("reason", pa.string())])


class RankSpec(InputModel):
    """What the workers receive.

    folder: of the ranks, a path or URI. base: its bundle's path or URI. weights: folder of weights,
    or "". digest: hash of LPIPS's weights there. sample: some of the photos, as locations.
    """

    folder: str
    base: str
    weights: str
    digest: str
    sample: tuple[bytes, ...] = ()
    fit: SquareFit
    square: int
    seed: int

    @classmethod
    def for_evaluation(cls, spec: MeasureSpec) -> RankSpec:
        """The part of an evaluation's specification that ranking needs."""
        shared = {
            name: getattr(spec, name) for name in ("base", "weights", "fit", "square", "seed")
        }
        digest = weights_digest(Path(spec.weights) if spec.weights else None, "lpips")
        return cls(folder=f"{spec.folder}/{FOLDER}", digest=digest, **shared)


class RankPhotos:
    """Measures batches of photos (key, path) and writes their ranks."""

    def __init__(self, spec: RankSpec, device: str) -> None:
        import torch

        from factory.methods import load_base
        from osasis.evaluation.choose import choose_metrics

        if device == "cpu":
            torch.set_num_threads(1)
        self.spec = spec
        self.base = load_base(local_base(spec.base), device).judge
        weights = Path(spec.weights) if spec.weights else None
        check_digests(weights, {"lpips": weights_digest(weights, "lpips")}, {"lpips": spec.digest})
        self.check = StoreCheck(lambda: [os.fsdecode(place) for place in spec.sample], None)
        (self.lpips,) = choose_metrics(self.base, ["lpips"], weights).metrics

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = []
        for key, path in zip(batch["key"].to_pylist(), batch["path"].to_pylist(), strict=True):
            try:
                rows.append({"key": key, "distance": self._distance(key, path), "reason": ""})
            except StoreError as e:
                self.check.check(e)
                rows.append({"key": key, "distance": None, "reason": describe_failure(e)})
            except Exception as e:  # reported by the corpus job if the photo is chosen
                rows.append({"key": key, "distance": None, "reason": describe_failure(e)})
        name = f"{uuid.uuid4().hex}.parquet"
        table = pa.Table.from_pylist(rows, schema=RANKS)
        open_store(self.spec.folder).write(name, parquet_bytes(table))
        return pa.table({"photos": [len(rows)]})

    def _distance(self, key: bytes, path: bytes) -> float:
        import torch

        from osasis.evaluation.metric import Pair, Picture
        from osasis.images.decoding import load_sized
        from osasis.images.geometry import fit_square
        from osasis.images.tensors import image_to_tensor
        from osasis.pretraining.evaluate_base import stochastic_reconstructions

        image, _ = load_sized(read_photo(os.fsdecode(path)), target=self.spec.square)
        photo = image_to_tensor(fit_square(image, self.spec.square, self.spec.fit))
        photo = photo.to(self.base.device)
        seed = derived_seed(self.spec.seed, key.decode("utf-8", "replace"))
        with torch.no_grad():
            made = stochastic_reconstructions(self.base, photo[None], steps=STEPS, seed=seed)
        original = Picture(photo)
        measured = self.lpips.measure(Pair(original, Picture(made[0]), original, original))
        assert measured is not None
        return float(measured[0])


def read_ranks(folder: Store) -> dict[bytes, float | None]:
    """Distance by photo's key."""
    found: dict[bytes, float | None] = {}
    for name in folder.list():
        table = pq.read_table(pa.BufferReader(folder.read(name)), schema=RANKS)
        # A photo whose measurement failed is measured again.
        rows = table.filter(pc.equal(table["reason"], ""))
        found |= dict(zip(rows["key"].to_pylist(), rows["distance"].to_pylist(), strict=True))
    return found


def by_density(
    source: Source,
    count: int,
    spec: RankSpec,
    plan: Callable[[int], Workers],
    progress: Progress,
) -> tuple[Source, dict[str, set[int]]]:
    """The ``count`` photos of lowest and of highest density, and the rows of both groups.

    plan: workers for a number of photos. Raises UserError for too few photos and for a node with
    other weights, StoreError, DiskFullError.
    """
    # Ranks by other weights, seeds or fits are not comparable.
    identity = spec.replace(folder="", weights="").to_dict()
    digest = sha256_text(json.dumps(identity, sort_keys=True))[:12]
    folder = open_store(spec.folder).within(digest)
    listing = source.listing
    sample = listing["path"].take(spread(len(listing))).to_pylist()
    spec = spec.replace(folder=folder.location, sample=tuple(sample))
    known = read_ranks(folder)
    missing = [i for i, key in enumerate(listing["key"].to_pylist()) if key not in known]
    if missing:
        connect()
        photos = listing.select(["key", "path"]).take(missing)
        _rank(photos, spec, plan(len(missing)), progress)
        known = read_ranks(folder)
    keys = listing["key"].to_pylist()
    ranked = sorted(
        (distance, i) for i, key in enumerate(keys) if (distance := known.get(key)) is not None
    )
    if len(ranked) < 2 * count:
        raise UserError(
            f"--density {count} needs {2 * count} photos, but {len(ranked)} can be ranked; give a "
            "smaller number or more photos"
        )
    dense, sparse = ([i for _, i in part] for part in (ranked[:count], ranked[-count:]))
    rows = {i: row for row, i in enumerate(sorted([*dense, *sparse]))}
    chosen = replace(source, listing=listing.take(list(rows)))
    return chosen, {LOW: {rows[i] for i in sparse}, HIGH: {rows[i] for i in dense}}


def _rank(photos: pa.Table, spec: RankSpec, workers: Workers, progress: Progress) -> None:
    import ray.data

    # After the import of ray.data, which sets the levels of its loggers. Errors are raised.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    tasks = [photos.slice(i, BATCH) for i in range(0, len(photos), BATCH)]
    progress.start(f"ranking {len(photos)} photo(s) by density", len(photos), 0)
    count = min(workers.models, len(tasks))
    dataset: Any = from_tasks(tasks).map_batches(
        RankPhotos,
        fn_constructor_kwargs={"spec": spec, "device": workers.device},
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=count, max_size=count),
        num_cpus=CPUS[workers.device][0],
        num_gpus=workers.gpus,
    )
    done = 0
    for batch in tables_of(dataset):
        done += sum(batch["photos"].to_pylist())
        progress.update(done, 0)
