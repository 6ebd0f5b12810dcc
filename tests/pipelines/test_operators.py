"""The operators without Ray: timeouts, metadata, formats, failing models; read tasks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from factory.core.home import Home
from osasis.bundles.base import load_base
from osasis.bundles.provenance import read_provenance
from osasis.bundles.style import save_style
from osasis.errors import UserError
from osasis.images.geometry import fit_square
from osasis.mix import Mix
from pipelines.job_folder import JobFolder
from pipelines.job_spec import JobSpec, StyleSpec, TargetSpec
from pipelines.manifest import build_manifest
from pipelines.masks import read_masks
from pipelines.options import OutputOptions
from pipelines.read_squares import READ_TASK, read_squares
from pipelines.source import open_source
from pipelines.stream import Workers, _passes, make_read_tasks
from pipelines.stylize_squares import StylizeSquares
from pipelines.write_outputs import write_outputs
from tests.pipelines.conftest import written
from tests.tiny import SIZE, picture, write_style

Run = Callable[..., tuple[JobFolder, Path]]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Run all operators in sequence over a folder, in the styles "good" and "bad" (NaN weights)."""
    tiny = home / "bases" / "tiny"

    def go(source: Path, **options: Any) -> tuple[JobFolder, Path]:
        timeout, mask = options.pop("timeout", None), options.pop("mask", None)
        pass_size = options.pop("pass_size", None)
        styles = {}
        for name in ("good", "bad"):
            style = write_style(tmp_path / name, tiny, name)
            if pass_size:  # only low-rank styles share passes
                style = style.compact(rank=2)
            if name == "bad":
                style.delta["out.2.bias"] = torch.full((3,), float("nan"))
            empty = torch.zeros(3, SIZE, SIZE)
            save_style(tmp_path / name, style, empty, empty)
            styles[name] = StyleSpec(
                reference=f"{name}:1",
                fingerprint=name,
                folder=str(tmp_path / name),
                keeps_photo=True,
            )
        shares = {n: {"style": n, "mask": None if mask is None else "m"} for n in styles}
        mixes = {n: Mix.parse({"styles": [share]}) for n, share in shares.items()}
        targets = tuple(TargetSpec(label=n, mix=mix) for n, mix in mixes.items())
        output = tmp_path / options.pop("output", "out")
        folder = JobFolder(options.pop("store", output))
        corpus = open_source(source)
        manifest = build_manifest(corpus, [[0, 1]] * corpus.count, {})
        chosen = OutputOptions(**options)
        folder.open({"input": ""}, manifest)
        job = JobSpec(
            folder=folder.place.location,
            output=folder.output.location,
            run=folder.run,
            base=str(tiny),
            base_fingerprint=load_base(tiny).fingerprint,
            square=SIZE,
            styles=styles,
            targets=targets,
            text_edits=str(Home(home).text_edits),
            code="0",
            timeout=timeout,
            batch=4,
            options=chosen,
            masks=read_masks({"m": mask}, targets, chosen) if mask else {},
            input=corpus.folder,
        )
        actor = StylizeSquares(job, "cpu", pass_size)
        rows = [{"index": i, "todo": [0, 1]} for i in range(manifest.num_rows)]
        for squares in read_squares(pa.Table.from_pylist(rows, schema=READ_TASK), job):
            write_outputs(actor(squares), job)
        folder.merge_records()
        return folder, output

    return go


@pytest.mark.parametrize("pass_size", [None, 16])
def test_a_style_that_yields_nan_fails_only_its_own_outputs(
    run: Run, tmp_path: Path, pass_size: int | None
) -> None:
    """Also where the styles share forward passes, as on a GPU."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "in" / f"{i}.png")
    folder, output = run(tmp_path / "in", pass_size=pass_size)
    assert set(written(output)) == {f"good/{i}.png" for i in range(3)}
    assert [(f.stage, f.target) for f in folder.failures.values()] == [("model", 1)] * 3
    assert {f.reason for f in folder.failures.values()} == {
        "ValueError: the image tensor contains NaN"
    }


def test_styles_that_share_passes_give_the_same_images(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "in" / f"{i}.png")
    _, alone = run(tmp_path / "in", pass_size=1, output="alone")
    _, shared = run(tmp_path / "in", pass_size=16, output="shared")
    for i in range(3):
        a, b = (np.asarray(Image.open(o / "good" / f"{i}.png"), np.int16) for o in (alone, shared))
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize(("format", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_formats_with_metadata_kept(format: str, suffix: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    picture(1, (60, 40)).save(tmp_path / "in" / "photo.jpg", exif=exif)
    _, output = run(tmp_path / "in", format=format, encoding=format, metadata="keep", detail=True)
    (data,) = written(output).values()
    info = read_provenance(data)
    assert info is not None
    assert (info.styles[0].reference, info.source, info.detail) == ("good:1", "photo.jpg", True)
    assert (info.format, info.quality, info.metadata) == (format, 90, "keep")
    with Image.open(output / "good" / f"photo.{suffix}") as image:
        assert image.size == (40, 60)
        assert image.getexif()[0x010F] == "Maker"
        assert image.getexif().get(0x0112, 1) == 1


def test_align_records_an_error_for_a_photo_without_a_face(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(1, (120, 100)).save(tmp_path / "in" / "photo.png")
    folder, output = run(tmp_path / "in", fit="align")
    assert written(output) == {}
    assert {(f.stage, f.reason) for f in folder.failures.values()} == {
        (
            "fit",
            "no face is found, upright or turned by about 30 degrees; choose fit crop, or no_face "
            "crop or keep",
        )
    }


def test_align_with_no_face_keep_writes_the_photo_unchanged(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo = picture(1, (120, 100))
    photo.save(tmp_path / "in" / "photo.png")
    _, output = run(tmp_path / "in", fit="align", no_face="keep")
    with Image.open(output / "good" / "photo.png") as kept:
        assert kept.tobytes() == photo.tobytes()


def cut_out(size: tuple[int, int]) -> Image.Image:
    """A photo whose left third is transparent, over hidden green."""
    photo = picture(1, size)
    alpha = Image.new("L", size, 255)
    alpha.paste(0, (0, 0, size[0] // 3, size[1]))
    photo.paste((0, 255, 0), (0, 0, size[0] // 3, size[1]))
    photo.putalpha(alpha)
    return photo


def outputs_told(folder: Path) -> list[Any]:
    return [read_provenance(data) for data in written(folder).values()]


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detail": True},
        {"size": "base"},
        {"fit": "pad"},
        {"fit": "resize", "size": "base"},
        {"fit": "align", "no_face": "keep"},
    ],
    ids=str,
)
def test_transparency_is_kept(
    format: str, options: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    photo = cut_out((60, 44))
    photo.save(tmp_path / "in" / "photo.png")
    _, output = run(tmp_path / "in", format=format, encoding=format, **options)
    with Image.open(output / "good" / f"photo.{format}") as image:
        assert image.mode == "RGBA"
        alpha, want = image.getchannel("A"), photo.getchannel("A")
        colours = np.asarray(image.convert("RGB")).astype(int)
    if options.get("size") == "base":
        want = fit_square(want, SIZE, options.get("fit", "crop"))
    assert alpha.tobytes() == want.tobytes()
    if "no_face" in options:
        opaque = np.asarray(want) == 255
        difference = colours[opaque] - np.asarray(photo.convert("RGB"))[opaque]
        assert np.abs(difference).mean() <= (0 if format == "png" else 6)
    assert {info.alpha for info in outputs_told(output)} == {"keep"}


def test_dropped_transparency_equals_a_photo_on_white(run: Run, tmp_path: Path) -> None:
    for name in ("cut", "white"):
        (tmp_path / name).mkdir()
    photo = cut_out((60, 44))
    photo.save(tmp_path / "cut" / "photo.png")
    white = Image.new("RGB", photo.size, "white")
    white.paste(photo, mask=photo.getchannel("A"))
    white.save(tmp_path / "white" / "photo.png")
    _, output = run(tmp_path / "cut", alpha="drop")
    (dropped,) = outputs_told(output)
    with Image.open(output / "good" / "photo.png") as image:
        pixels = image.tobytes()
        assert image.mode == "RGB"
    _, output = run(tmp_path / "white", output="other")
    with Image.open(output / "good" / "photo.png") as image:
        assert image.tobytes() == pixels
        assert "alpha" not in image.text
    assert dropped.alpha == "drop"


def test_jpeg_drops_transparency_and_refuses_to_keep_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cut_out((60, 44)).save(tmp_path / "in" / "photo.png")
    _, output = run(tmp_path / "in", format="jpeg", encoding="jpeg")
    assert [info.alpha for info in outputs_told(output)] == [None]
    with pytest.raises(UserError, match="alpha keep needs a format with transparency"):
        OutputOptions.parse({"format": "jpeg", "encoding": "jpeg", "alpha": "keep"})


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_provenance_tells_no_folder_unless_asked(format: str, run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in" / "anna-b-1980"
    source.mkdir(parents=True)
    picture(1, (40, 44)).save(source / "scan.png")
    told = {}
    for level in ("style", "full", "none"):
        _, output = run(tmp_path / "in", format=format, encoding=format, provenance=level)
        (data,) = written(output).values()
        (info,) = outputs_told(output)
        told[level] = info and info.source
        assert (b"anna" in data) == (level == "full")
        assert (b"style-factory" in data) == (level != "none")
        shutil.rmtree(output)
    assert told == {"style": "scan.png", "full": str(source / "scan.png"), "none": None}


def test_a_mask_of_another_shape_is_an_error_row(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(1, (60, 40)).save(tmp_path / "in" / "wide.png")
    picture(2, (40, 60)).save(tmp_path / "in" / "tall.png")
    Image.new("L", (30, 20), 255).save(tmp_path / "mask.png")
    folder, output = run(tmp_path / "in", mask=tmp_path / "mask.png")
    assert set(written(output)) == {"good/wide.png"}
    fits = {f.reason for f in folder.failures.values() if f.stage == "fit"}
    assert fits == {
        "mask m has 30x20 pixels, but the photo has 40x60; give the mask the photo's aspect "
        "ratio, or make it square for the base's square"
    }


def test_a_photo_that_exceeds_the_timeout_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    # 100 million pixels in a small file: slow to decode.
    Image.new("L", (10_000, 10_000)).save(tmp_path / "in" / "vast.png", compress_level=1)
    folder, output = run(tmp_path / "in", timeout=0.05)
    assert written(output) == {}
    assert {(f.stage, f.reason) for f in folder.failures.values()} == {
        ("read", "took longer than 0.05 s")
    }


def test_a_timeout_does_not_change_the_outputs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(2):
        picture(i, (60, 40)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "text.jpg").write_text("dear diary")
    folder, output = run(tmp_path / "in", detail=True)
    failures = {(f.stage, f.reason) for f in folder.failures.values() if f.target == 0}
    expected = written(output)
    assert set(expected) == {"good/0.png", "good/1.png"}
    shutil.rmtree(output)
    folder, output = run(tmp_path / "in", detail=True, timeout=120)
    assert written(output) == expected
    assert {(f.stage, f.reason) for f in folder.failures.values() if f.target == 0} == failures


def test_batch_sizes_let_all_actors_end_together() -> None:
    # Of 12 passes, each of two actors runs 6 in batches of three; one of them 8 in batches of four.
    assert [_passes(n, 2, 4) for n in (12, 16, 3, 1)] == [3, 4, 2, 1]
    assert [_passes(15, 1, 4), _passes(250_000, 2, 4), _passes(10, 4, 4)] == [3, 4, 3]
    # Of 6 passes, each of two actors runs 3.
    assert _passes(6, 2, 8) == 3


def test_read_tasks_reach_all_actors() -> None:
    """One actor gets all tables of a task, so a small corpus has several tasks."""

    def sizes(photos: int, groups: list[tuple[str, int]] | None = None) -> list[int]:
        tasks = make_read_tasks([(i, [0]) for i in range(photos)], groups, Workers(2, 1, 0.0, 8))
        assert [i for t in tasks for i in t["index"].to_pylist()] == list(range(photos))
        return [t.num_rows for t in tasks]

    assert sizes(12) == [8, 4]
    assert sizes(100) == [8] * 12 + [4]
    # In a large corpus, tasks hold several batches.
    assert sizes(64_000) == [32] * 2000
    # A row group is one task, unless it holds much of the corpus.
    assert sizes(20, [("a", i // 10) for i in range(20)]) == [8, 2, 8, 2]
    assert sizes(1600, [("a", 0)] * 1600) == [100] * 16
    assert sizes(80_000, [("a", i // 500) for i in range(80_000)]) == [500] * 160
