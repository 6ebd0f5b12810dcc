"""`style-factory evaluate`: stylize photos, measure the pictures, and estimate the metrics.

The pictures are outputs of a corpus job below OUTPUT/images. Workers measure them on Ray Data, and
write one row per picture and metric. The same call resumes a killed evaluation; a call with more
metrics or baselines measures only what is new.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory import __version__
from factory.core.home import Home
from osasis.bundles.base import load_base
from osasis.bundles.provenance import FORMATS
from osasis.errors import UserError
from osasis.evaluation.baselines import check_baselines
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.names import BASELINE_NAMES
from osasis.mix import StyleShare
from osasis.storage import sha256_text, write_json
from pipelines.corpus_run import CorpusRun
from pipelines.evaluation_grid import chosen_photos, write_grid
from pipelines.evaluation_registry import register_results
from pipelines.evaluation_result import DOCUMENT, GRID, EvaluationResult, estimate_all
from pipelines.job_folder import JobFolder
from pipelines.manifest import build_manifest, listing_digest
from pipelines.measure_pictures import MeasurePictures, MeasureSpec, batches
from pipelines.measurements import Picture, key_of, merge, read_rows
from pipelines.options import OutputOptions
from pipelines.progress import Progress
from pipelines.source import Source, open_source
from pipelines.stream import CPUS, Workers, connect, from_tasks, plan_workers
from pipelines.targets import Targets
from pipelines.variants import Variant, make_variants

if TYPE_CHECKING:
    import pyarrow as pa

    from osasis.evaluation.choose import Chosen

IMAGES = "images"


def evaluate(
    styles: Sequence[str],
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    home: Home | None = None,
    mix: Mapping[str, Any] | None = None,
    sweeps: Sequence[tuple[str, Sequence[Any]]] = (),
    baselines: Sequence[str] = (),
    metrics: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
    gate: Sequence[str] = (),
    limit: int | None = None,
    fit: str = "crop",
    seed: int = 0,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    report: Callable[[str], None] | None = None,
    terminal: bool = False,
) -> EvaluationResult:
    """Measure styles on photos; the same call resumes an unfinished evaluation.

    styles: ``name``, ``name@alias`` or ``name:version``. photos: folder, glob, list (.txt), photo
    or a URI of one of these. output: folder; default: one below the home's jobs that the arguments
    determine. mix: fields of ``osasis.mix.Mix``. sweeps: (field, values) of the mix; each value is
    a variant. baselines: see ``pipelines.variants``. metrics: of ``osasis.evaluation``; default:
    all that are available. weights: a folder of ``osasis.evaluation.weights.FILES``. gate:
    conditions such as ``evaluate.identity<=0.35``; a candidate that meets them becomes champion.
    limit: use the first photos only. seed: of baselines and confidence intervals.

    Results of a style's own settings are logged in its version's run. Raises UserError.
    """
    home = home or Home.find()
    if not styles:
        raise UserError("no style is named; name at least one with --styles")
    variants = make_variants(mix or {}, sweeps, baselines)
    made_here = tuple(v.name for v in variants if v.name in BASELINE_NAMES)
    folder_of_weights = None if weights is None else Path(weights).absolute()
    if folder_of_weights is not None and not folder_of_weights.is_dir():
        raise UserError(f"--weights {weights}: no such folder")
    check_baselines(made_here, folder_of_weights)
    targets = Targets(home)
    chosen = _targets_of(targets, styles, variants)
    assert targets.base is not None
    source = _open_photos(photos, limit)
    options = OutputOptions.parse({"fit": fit, "size": "base"})
    conditions = _parse_gate(gate, variants)
    base = load_base(targets.base)
    measured = choose_metrics(base, metrics, folder_of_weights)
    place = _output_folder(output, home, targets, source, fit)
    progress = Progress(report, terminal)
    for name, reason in measured.unavailable.items():
        if not metrics or name in metrics:
            progress.emit(f"{name} is not measured: {reason}", "unavailable", metric=name)
    folder = JobFolder(place / IMAGES)
    plan = partial(
        plan_workers, base=targets.base, workers=workers, readers=None,
        gpus_per_worker=gpus_per_worker,
    )  # fmt: skip
    with folder.locked(progress.wait):
        corpus = CorpusRun(home, options, source, targets, {}, folder, None)
        rows = [sorted(set(chosen.values()))] * source.count
        manifest = build_manifest(source, rows, {}, corpus.output_names())
        made = corpus.run(
            manifest, progress, plan=plan, max_errors=None, retry_errors=False, contact_sheet=False
        )
        run = _Run(
            place, corpus, folder, tuple(targets.versions), variants, chosen, measured,
            MeasureSpec(
                folder=str(place.resolve()),
                manifest=str(folder.path.resolve() / "manifest.parquet"),
                base=str(targets.base),
                styles={n: s.folder for n, s in corpus.spec.styles.items()},
                metrics=tuple(m.name for m in measured.metrics),
                baselines=made_here,
                weights=str(folder_of_weights or ""),
                fit=options.fit,  # type: ignore[arg-type]
                square=corpus.spec.square,
                seed=seed,
            ),
        )  # fmt: skip
        stopped = made.stopped or run.measure(progress, plan)
        result = replace(
            run.result(),
            facts={
                "code": __version__, "base": base.fingerprint, "size": corpus.spec.square,
                "fit": fit, "mix": dict(mix or {}), "seed": seed,
                "photos_digest": listing_digest(manifest),
            },
            errors=made.errors,
            stopped=stopped,
        )  # fmt: skip
        if not stopped:
            result = register_results(home, result, targets.versions, variants, conditions)
        write_json(place / DOCUMENT, result.to_dict())
        run.write_grid(place / GRID, result)
    return result


def _targets_of(
    targets: Targets, styles: Sequence[str], variants: Sequence[Variant]
) -> dict[tuple[str, str], int]:
    """The target of each style and variant of our method."""
    found = {}
    for reference in styles:
        style = targets.style(reference)
        for variant in variants:
            if variant.fields is not None:
                label = f"{style}/{variant.name}"
                share = StyleShare(style=style)
                found[style, variant.name] = targets.add([share], variant.fields, label)
    return found


def _open_photos(photos: str | os.PathLike[str], limit: int | None) -> Source:
    source = open_source(photos)
    if source.kind == "parquet":
        raise UserError(f"{os.fspath(photos)}: give a folder, glob, list or photo; Parquet is not "
                        "evaluated")  # fmt: skip
    if limit is not None:
        source = replace(source, listing=source.listing.slice(0, limit))
    return source


def _parse_gate(gate: Sequence[str], variants: Sequence[Variant]) -> tuple[Any, ...]:
    from factory.registry.gate import parse_gate

    conditions = parse_gate(gate)
    if conditions and not any(v.as_registered for v in variants):
        raise UserError("--gate judges styles in their own settings; leave out --mix and --sweep")
    return conditions


def _output_folder(
    given: str | os.PathLike[str] | None, home: Home, targets: Targets, source: Source, fit: str
) -> Path:
    if given is not None:
        place = Path(given).expanduser().absolute()
        if place.exists() and not place.is_dir():
            raise UserError(f"--output {given} is no folder; give a folder")
        return place
    keys = [source.folder, *(k.decode("utf-8", "replace") for k in
                             source.listing["key"].to_pylist())]  # fmt: skip
    parts = {
        "code": __version__,
        "styles": {n: v.fingerprint for n, v in targets.versions.items()},
        "targets": [t.mix.to_dict() for t in targets.targets],
        "fit": fit,
        "photos": sha256_text("\n".join(keys)),
    }
    return home.jobs / f"evaluate-{sha256_text(json.dumps(parts, sort_keys=True))[:12]}"


@dataclass(frozen=True)
class _Run:
    """The measuring part of an evaluation, after its corpus job.

    chosen: target of each (style, variant).
    """

    place: Path
    corpus: CorpusRun
    folder: JobFolder
    styles: tuple[str, ...]
    variants: Sequence[Variant]
    chosen: dict[tuple[str, str], int]
    measured: Chosen
    spec: MeasureSpec

    def path(self, photo: int, style: str, variant: Variant) -> Path:
        """The picture of a photo in a style and variant."""
        name = self.folder.manifest["name"][photo].as_py()
        if variant.fields is not None:
            return self.corpus.spec.output_path(name, self.chosen[style, variant.name])
        suffix = FORMATS[self.corpus.spec.options.encoding]
        return self.folder.output / style / variant.name / (os.fsdecode(name) + suffix)

    def pictures(self) -> list[Picture]:
        """All pictures that exist or that the workers make."""
        found = []
        for photo in range(self.folder.manifest.num_rows):
            for style in self.styles:
                for v in self.variants:
                    if v.fields is None or self.folder.done(photo, self.chosen[style, v.name]):
                        path = str(self.path(photo, style, v))
                        found.append(Picture(photo, style, v.name, path))
        return found

    def measure(self, progress: Progress, plan: Callable[[int], Workers]) -> str:
        """Measure what has no row yet. Returns why some is missing, or ""."""
        known = {key_of(row) for row in read_rows(self.place) if not row["reason"]}
        todo: list[tuple[Picture, list[str]]] = []
        pictures = self.pictures()
        for picture in pictures:
            lacking = [
                m.name
                for m in self.measured.metrics
                if picture.key(m.name, m.backbone) not in known
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
            for batch in self._dataset(batches(todo), workers).iter_batches(
                batch_size=None, batch_format="pyarrow"
            ):
                done += sum(batch["pictures"].to_pylist())
                progress.update(before + done, 0, done, started)
        merge(self.place, read_rows(self.place))
        return ""

    def _dataset(self, tasks: list[pa.Table], workers: Workers) -> Any:
        import ray.data

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
        ]  # fmt: skip
        metrics = self.measured.metrics
        results = estimate_all(rows, metrics, self.styles, variants, self.spec.seed)
        return EvaluationResult(
            photos=self.folder.manifest.num_rows,
            styles={n: s.reference for n, s in self.corpus.spec.styles.items()},
            variants=tuple(variants),
            metrics=tuple(
                {
                    "name": m.name, "lower_better": m.lower_better, "backbone": m.backbone,
                    "source": m.source,
                }
                for m in metrics
            ),
            results=results,
            output=self.place,
            unavailable=self.measured.unavailable,
            warnings=_warnings(names, self.folder.manifest.num_rows * len(self.styles)),
            failed=dict(
                Counter(f"{r['metric']}: {r['reason']}" for r in rows if r["reason"]).most_common()
            ),
        )  # fmt: skip

    def write_grid(self, path: Path, result: EvaluationResult) -> None:
        """Write the grid of pictures of a few photos in each style."""
        from PIL import Image

        def picture(file: Path) -> Image.Image | None:
            return Image.open(file) if file.is_file() else None

        rows: list[list[Image.Image | None]] = []
        captions = {}
        for style in self.styles:
            captions[len(rows)] = result.styles[style]
            style_image = picture(Path(self.spec.styles[style]) / "style.png")
            for photo in chosen_photos(result.photos):
                files = [self.path(photo, style, v) for v in self.variants]
                rows.append([self._square(photo), style_image, *map(picture, files)])
        if any(p is not None for row in rows for p in row):
            write_grid(path, ["photo", "style", *result.variants], rows, captions)

    def _square(self, photo: int) -> Any:
        """The photo as the model sees it; None where it cannot be read."""
        from osasis.errors import ImageError
        from osasis.images.decoding import load_sized
        from osasis.images.geometry import fit_square
        from pipelines.source import read_photo

        path = os.fsdecode(self.folder.manifest["path"][photo].as_py())
        try:
            image, _ = load_sized(read_photo(path), target=self.spec.square)
        except ImageError:
            return None
        return fit_square(image, self.spec.square, self.spec.fit)


def _warnings(metrics: Mapping[str, str], pairs: int) -> tuple[str, ...]:
    from osasis.evaluation.artfid import MIN_PAIRS

    if ("fid" not in metrics and "artfid" not in metrics) or pairs >= MIN_PAIRS:
        return ()
    return (f"fid and artfid of {pairs} pairs are biased; use at least {MIN_PAIRS:,}",)
