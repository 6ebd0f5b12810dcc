"""`style-factory evaluate`: stylize photos, measure the pictures, and estimate the metrics.

The pictures are outputs of a corpus job below OUTPUT/images. Workers measure them on Ray Data, and
write one row per picture and metric. The same call resumes a killed evaluation; a call with more
metrics or baselines measures only what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from factory import __version__
from factory.core.home import Home
from factory.core.stores import Store, local_folder, open_store
from factory.core.uris import locate
from factory.methods import LoadedBase, load_base
from factory.registry.shared_bundle import shared_bundle
from osasis.errors import UserError
from osasis.evaluation.baselines import baseline_digest, check_baselines
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.weights import weights_digest
from osasis.mix import StyleShare
from osasis.storage import json_bytes, sha256_text
from pipelines.corpus_run import CorpusRun
from pipelines.density import RankSpec, by_density
from pipelines.evaluation_registry import register_results
from pipelines.evaluation_result import DOCUMENT, EvaluationResult
from pipelines.evaluation_run import EvaluationRun
from pipelines.job_folder import JobFolder
from pipelines.manifest import build_manifest, listing_digest
from pipelines.measure_pictures import MeasureSpec
from pipelines.options import OutputOptions
from pipelines.progress import Progress
from pipelines.retraining import Retrain, add_retrained, plan_retrainings
from pipelines.source import Source, open_source
from pipelines.stream import plan_workers
from pipelines.targets import Targets
from pipelines.variants import Variant, make_variants

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
    retrain: Retrain | None = None,
    limit: int | None = None,
    density: int | None = None,
    fit: str = "crop",
    seed: int = 0,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    report: Callable[[str], None] | None = None,
    terminal: bool = False,
) -> EvaluationResult:
    """Measure styles on photos; the same call resumes an unfinished evaluation.

    styles: ``name``, ``name@alias`` or ``name:version``. photos: folder, glob, list (.txt), photo
    or a URI of one of these. output: folder or URI; default: one below the home's jobs that the
    arguments determine. mix: fields of ``osasis.mix.Mix``. sweeps: (field, values) of the mix or of
    the training settings; each value is a variant. baselines: see ``pipelines.variants``. metrics:
    of ``osasis.evaluation``; default: all that are available. weights: a folder of
    ``osasis.evaluation.weights.FILES``. gate: conditions such as ``evaluate.identity<=0.35``; a
    candidate that meets them becomes champion. retrain: trains styles for variants with training
    settings. limit: use the first photos only. density: use as many photos of the lowest and of the
    highest density, see ``pipelines.density``. seed: of baselines and confidence intervals.

    Results of a style's own settings are logged in its version's run. Raises UserError.
    """
    home = home or Home.find()
    if not styles:
        raise UserError("no style is named; name at least one with --styles")
    variants = make_variants(mix or {}, sweeps, baselines)
    made_here = tuple(v.name for v in variants if v.fields is None)
    folder_of_weights = None if weights is None else Path(weights).absolute()
    if folder_of_weights is not None and not folder_of_weights.is_dir():
        raise UserError(f"--weights {weights}: no such folder")
    check_baselines(made_here, folder_of_weights)
    targets = Targets(home)
    chosen = _targets_of(targets, styles, variants)
    assert targets.base is not None
    versions = dict(targets.versions)
    planned = plan_retrainings(versions, variants, retrain)
    source = _open_photos(photos, limit)
    options = OutputOptions.parse({"fit": fit, "size": "base"})
    conditions = _parse_gate(gate, variants)
    base = load_base(targets.base)
    _check_models_photos(base, made_here, density)
    measured = choose_metrics(base.judge, metrics, folder_of_weights)
    place = output_store(output) if output is not None else _own_place(
        home, targets, source,
        {"fit": fit, "density": density, "seed": seed, "retrained": [r.id for r in planned]},
    )  # fmt: skip
    folder_of_trainings = _folder_of_trainings(home, place) if planned else None
    progress = Progress(report, terminal)
    if asked := [f"{n}: {measured.unavailable[n]}" for n in metrics if n in measured.unavailable]:
        raise UserError(f"these metrics cannot be measured: {'; '.join(asked)}")
    for name, reason in measured.unavailable.items():
        progress.emit(f"{name} is not measured: {reason}", "unavailable", metric=name)
    folder = JobFolder(place.within(IMAGES).location)
    plan = partial(
        plan_workers, base=targets.base, workers=workers, readers=None,
        gpus_per_worker=gpus_per_worker,
    )  # fmt: skip
    worker_spec = MeasureSpec(
        folder=place.location,
        base=home.base_location(targets.base),
        styles={name: shared_bundle(v, home) for name, v in versions.items()},
        metrics=tuple(m.name for m in measured.metrics),
        baselines=made_here,
        weights=str(folder_of_weights or ""),
        measured_by={m.name: weights_digest(folder_of_weights, m.name) for m in measured.metrics},
        made_by={n: baseline_digest(n, folder_of_weights, seed) for n in made_here},
        fit=options.fit,  # type: ignore[arg-type]
        square=base.image_size,
        seed=seed,
    )
    with folder.locked(progress.wait):
        groups: dict[str, set[int]] = {}
        if density is not None:
            ranks = RankSpec.for_evaluation(worker_spec)
            source, groups = by_density(source, density, ranks, plan, progress)
        if folder_of_trainings is not None and retrain is not None:
            chosen |= add_retrained(planned, retrain, folder_of_trainings, targets)
        corpus = CorpusRun(home, options, source, targets, {}, None, folder, None)
        rows = [sorted(set(chosen.values()))] * source.count
        manifest = build_manifest(source, rows, {}, corpus.output_names())
        made = corpus.run(
            manifest, progress, plan=plan, max_errors=None, retry_errors=False, contact_sheet=False
        )
        run = EvaluationRun(
            place, IMAGES, corpus, folder, tuple(versions), variants, chosen, measured,
            worker_spec.replace(job=corpus.spec.folder), groups,
        )  # fmt: skip
        if not made.stopped:
            run.measure(progress, plan)
        facts = {
            "code": __version__,
            "base": base.fingerprint,
            "size": base.image_size,
            "fit": fit,
            "mix": dict(mix or {}),
            "retrained": {f"{r.version.style}/{r.variant.name}": r.id for r in planned},
            "density": density,
            "seed": seed,
            "photos_digest": listing_digest(manifest),
        }
        result = replace(run.result(), facts=facts, errors=made.errors, stopped=made.stopped)
        place.write(DOCUMENT, json_bytes(result.to_dict()))
        run.write_grid(result)
        if result.measured:
            result = register_results(home, result, versions, variants, conditions)
            place.write(DOCUMENT, json_bytes(result.to_dict()))
    return result


def _targets_of(
    targets: Targets, styles: Sequence[str], variants: Sequence[Variant]
) -> dict[tuple[str, str], int]:
    """The target of each style and variant of our method, checked; none for one to train again."""
    found = {}
    for reference in styles:
        style = targets.style(reference)
        for variant in variants:
            if variant.fields is None:
                continue
            share = StyleShare(style=reference)
            if variant.training:
                targets.mix([share], variant.fields)
            else:
                label = f"{style}/{variant.name}"
                found[style, variant.name] = targets.add([share], variant.fields, label)
    return found


def _check_models_photos(base: LoadedBase, baselines: Sequence[str], density: int | None) -> None:
    """Raise UserError for what needs a base that models photos, where this one does not."""
    if base.method.models_photos:
        return
    asked = ["baseline sdedit"] if "sdedit" in baselines else []
    asked += ["--density"] if density is not None else []
    if asked:
        raise UserError(
            f"{asked[0]} needs a base that models photos, but base {base.name} of method "
            f"{base.method.name} does not; leave it out"
        )


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


def output_store(given: str | os.PathLike[str]) -> Store:
    """Where the files of an evaluation are written to, by path or URI. Raises UserError."""
    place = open_store(locate(os.fspath(given), Path.cwd()))
    folder = local_folder(place)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--output {given} is no folder; give a folder")
    return place


def _folder_of_trainings(home: Home, place: Store) -> Path:
    """Where styles are trained again. Raises UserError for a home or an output in a store."""
    folder = local_folder(place)
    if home.uri is not None or folder is None:
        raise UserError(
            "styles are trained again (by a sweep of a training setting, or by baseline "
            "no-in-domain) only with a home and an output in a folder; give both, or leave it out"
        )
    return folder


def _own_place(home: Home, targets: Targets, source: Source, options: Mapping[str, Any]) -> Store:
    """A place in the home's jobs that the arguments of an evaluation determine."""
    keys = [source.folder, *(k.decode("utf-8", "replace") for k in
                             source.listing["key"].to_pylist())]  # fmt: skip
    parts = {
        "code": __version__,
        "styles": {n: v.fingerprint for n, v in targets.versions.items()},
        "targets": [t.mix.to_dict() for t in targets.targets],
        "options": dict(options),
        "photos": sha256_text("\n".join(keys)),
    }
    name = f"evaluate-{sha256_text(json.dumps(parts, sort_keys=True))[:12]}"
    return open_store(home.shared(home.jobs / name))
