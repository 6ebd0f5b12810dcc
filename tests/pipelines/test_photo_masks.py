"""A mask for each photo of a corpus: where it is found, and what it leaves as it was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.core.home import Home
from factory.core.remake import remake_command
from osasis.bundles.base import load_base
from osasis.bundles.provenance import read_provenance
from osasis.errors import UserError
from osasis.mix import PHOTO_MASK, StyleShare
from osasis.segmenting import MaskProposal
from osasis.validation import InvalidInputError
from pipelines.corpus import with_masks
from pipelines.corpus_run import CorpusRun
from pipelines.job_folder import JobFolder
from pipelines.job_revision import InputChanges, known_names, take_up
from pipelines.job_spec import PhotoMasks
from pipelines.manifest import build_manifest
from pipelines.masks import masks_of_photos, photo_mask_files, read_masks
from pipelines.options import OutputOptions
from pipelines.photo_mask import check_segmenter
from pipelines.read_squares import READ_TASK, read_squares
from pipelines.source import open_source
from pipelines.stylize_squares import StylizeSquares
from pipelines.targets import Targets
from pipelines.write_outputs import write_outputs
from tests.osasis.segmenting.test_onnx_model import make_model
from tests.pipelines.conftest import written
from tests.tiny import picture

LEFT = np.zeros((60, 90), np.uint8)
LEFT[:, :30] = 255
LEFT[:, 30:40] = np.linspace(230, 20, 10)  # a soft border
Made = tuple[JobFolder, InputChanges | None, list[str]]


def place(folder: JobFolder) -> Path:
    return Path(folder.output.location)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    picture(1, (90, 60)).save(folder / "a.png")
    transparent = picture(2, (90, 60)).convert("RGBA")
    transparent.paste((7, 200, 9, 100), (50, 10, 70, 50))
    transparent.save(folder / "sub" / "b.png")
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.webp").write_bytes(png(LEFT))
    (folder / "sub" / "b.png").write_bytes(png(LEFT))
    return folder


@pytest.fixture
def run(gallery: Home, tmp_path: Path) -> Callable[..., Made]:
    """A job in style oil without Ray; returns its folder, the changes and the photos it made."""

    def go(source: Path, masks: Path | None = None, **options: Any) -> Made:
        names = ("region", "segmenter", "save")
        proposal = {name: options.pop(name) for name in names if name in options}
        chosen = OutputOptions.parse(options)
        corpus = with_masks(open_source(source), masks)
        own = masks_of_photos(corpus, **proposal)
        targets = Targets(gallery, PHOTO_MASK if own else None)
        targets.add([StyleShare(style="oil")], {})
        fixed = read_masks({}, targets.targets, chosen, own is not None)
        folder = JobFolder(tmp_path / "out")
        job = CorpusRun(gallery, chosen, corpus, targets, fixed, own, folder, None)
        names = job.output_names(known_names(folder))
        manifest = build_manifest(corpus, [[0]] * corpus.count, {}, names)
        changes = take_up(folder, job.fingerprint(manifest), manifest)
        folder.open(job.fingerprint(manifest), manifest)
        spec = job.spec.replace(folder=folder.place.location)
        todo = [{"index": i, "todo": t} for i, t in folder.missing()]
        actor = StylizeSquares(spec, "cpu")
        for squares in read_squares(pa.Table.from_pylist(todo, schema=READ_TASK), spec):
            write_outputs(actor(squares), spec)
        folder.merge_records()
        keys = manifest["key"].to_pylist()
        return folder, changes, [keys[t["index"]].decode() for t in todo]

    return go


def pixels(image: Path | bytes, mode: str = "RGBA") -> np.ndarray:
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    return np.asarray(Image.open(source).convert(mode)).astype(int)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop": "10,5,40"},
        pytest.param({"detail": True}, marks=pytest.mark.slow),
        pytest.param({"fit": "pad"}, marks=pytest.mark.slow),
        pytest.param({"fit": "resize"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_photo_is_itself_where_its_mask_is_0(
    run: Callable[..., Made], photos: Path, masks: Path, options: dict[str, Any]
) -> None:
    """Pixel by pixel at the photo's size, also the colours below transparent pixels."""
    folder, _, _ = run(photos, masks, **options)
    assert folder.failures == {}
    files = written(place(folder))
    assert set(files) == {"oil/a.png", "oil/sub/b.png"}
    for name, photo in (("oil/a.png", "a.png"), ("oil/sub/b.png", "sub/b.png")):
        found, before = pixels(files[name]), pixels(photos / photo)
        assert found.shape == (60, 90, 4)
        np.testing.assert_array_equal(found[LEFT == 0], before[LEFT == 0])
        assert np.abs(found - before)[LEFT == 255].mean() > 4
    told = read_provenance(files["oil/a.png"])
    assert told is not None and told.mix.styles[0].mask == PHOTO_MASK
    assert len(told.masks[PHOTO_MASK]) == 64


def test_a_soft_border_blends_photo_and_stylization_once(
    run: Callable[..., Made], photos: Path, masks: Path
) -> None:
    folder, _, _ = run(photos, masks)
    soft = pixels(place(folder) / "oil" / "a.png", "RGB")
    (masks / "a.webp").write_bytes(png(np.where(LEFT > 0, 255, 0).astype(np.uint8)))
    _, _, made = run(photos, masks)
    hard = pixels(place(folder) / "oil" / "a.png", "RGB")
    assert made == ["a.png"]
    share = LEFT[..., None] / 255
    want = share * hard + (1 - share) * pixels(photos / "a.png", "RGB")
    assert np.abs(soft - want).max() <= 1.0


def test_outputs_of_the_bases_size_have_the_squares_own_pixels(
    run: Callable[..., Made], photos: Path, masks: Path
) -> None:
    (masks / "a.webp").write_bytes(png(np.zeros_like(LEFT)))
    folder, _, _ = run(photos / "a.png", masks, size="base", fit="resize")
    want = Image.open(photos / "a.png").resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3.0)
    found = pixels(place(folder) / "oil" / "a.png", "RGB")
    np.testing.assert_array_equal(found, np.asarray(want))


def test_photos_without_a_mask_are_rows_of_errors_that_name_it(
    run: Callable[..., Made], photos: Path, masks: Path
) -> None:
    (masks / "sub" / "b.png").unlink()
    picture(3, (90, 60)).save(photos / "c.png")
    (masks / "c.png").write_bytes(b"no image")
    picture(4, (90, 60)).save(photos / "d.png")
    (masks / "d.png").write_bytes(png(np.zeros((60, 50), np.uint8)))
    (masks / "e.jpg").write_bytes(png(LEFT))
    (masks / "e.png").write_bytes(png(LEFT))
    picture(5, (90, 60)).save(photos / "e.png")
    folder, _, _ = run(photos, masks)
    assert set(written(place(folder))) == {"oil/a.png"}
    rows = {row["path"].rpartition("/")[2]: row for row in folder.error_rows(_targets(folder))}
    assert {row["stage"] for row in rows.values()} == {"mask"}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "b.png": f"no mask sub/b.png in {masks} (nor with another image suffix)",
        "c.png": "not an image; PNG, JPEG, WEBP, GIF, TIFF, BMP, PPM and AVIF files are read",
        "d.png": "the mask has 50x60 pixels, but the photo has 90x60; give the mask the photo's "
        "aspect ratio, or make it square for the base's square",
        "e.png": f"several masks in {masks}: e.jpg, e.png; keep one of them",
    }


def _targets(folder: JobFolder) -> list[Any]:
    from osasis.mix import Mix
    from pipelines.job_spec import TargetSpec

    return [TargetSpec(label="oil", mix=Mix.of("oil"))]


def test_a_changed_mask_makes_its_outputs_again(
    run: Callable[..., Made], photos: Path, masks: Path, tmp_path: Path
) -> None:
    first, _, made = run(photos, masks)
    before = written(place(first))
    assert made == ["a.png", "sub/b.png"]
    (masks / "a.webp").write_bytes(png(255 - LEFT))
    (masks / "sub" / "b.png").touch()
    folder, changes, made = run(photos, masks)
    assert (changes, made) == (InputChanges(changed=("a.png",), touched=1), ["a.png"])
    after = written(place(folder))
    assert after["oil/sub/b.png"] == before["oil/sub/b.png"]
    assert after["oil/a.png"] != before["oil/a.png"]
    # A missing mask that is given later.
    (masks / "a.webp").rename(tmp_path / "kept.png")
    assert run(photos, masks)[0].count(2) == 1
    (tmp_path / "kept.png").rename(masks / "a.png")
    folder, _, made = run(photos, masks)
    assert (made, folder.failures, written(place(folder))) == (["a.png"], {}, after)
    with pytest.raises(UserError, match=r"input: a mask for each photo before, no masks of"):
        run(photos)


@pytest.mark.parametrize(
    "kind",
    [
        "bytes",
        "list",
        pytest.param("paths", marks=pytest.mark.slow),
        pytest.param("paths of masks only", marks=pytest.mark.slow),
    ],
)
def test_masks_that_the_input_names(
    kind: str, run: Callable[..., Made], photos: Path, masks: Path, tmp_path: Path
) -> None:
    """A column `mask` of a Parquet input, or a second column of a list."""
    of_files, _, _ = run(photos, masks)
    want = {name.rpartition("/")[2]: pixels(d) for name, d in written(place(of_files)).items()}
    (tmp_path / "out").rename(tmp_path / "of files")
    names, files = ["a.png", "b.png"], [photos / "a.png", photos / "sub" / "b.png"]
    places = ["masks/a.webp", "masks/sub/b.png"]
    source = tmp_path / "input.parquet"
    if kind == "list":
        source = tmp_path / "input.txt"
        lines = [f"photos/{f.relative_to(photos)}\t{m}" for f, m in zip(files, places, strict=True)]
        source.write_text("\n".join(["# photos and their masks", *lines]))
    else:
        of_bytes = [f.read_bytes() for f in files]
        columns: dict[str, Any] = {"name": names, "image": of_bytes}
        columns["mask"] = [(tmp_path / m).read_bytes() for m in places]
        if kind != "bytes":
            columns["mask"] = places
        if kind == "paths":
            columns = {"path": [str(f) for f in files], "mask": places}
        if kind == "bytes":
            columns = {name: [*values, values[0]] for name, values in columns.items()}
            columns["name"][2], columns["mask"][2] = "c.png", None
        pq.write_table(pa.table(columns), source)
    folder, _, _ = run(source)
    found = {name.rpartition("/")[2]: pixels(d) for name, d in written(place(folder)).items()}
    assert found.keys() == want.keys()
    for name, image in want.items():
        np.testing.assert_array_equal(found[name], image)
    reasons = [f.reason for f in folder.failures.values()]
    assert reasons == (["the row's mask is null"] if kind == "bytes" else [])


def test_masks_that_are_no_masks_of_photos_are_refused(
    gallery: Home, photos: Path, masks: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--masks .*a\.png: is a photo; give a folder of masks"):
        photo_mask_files(photos / "a.png", [b"a.png"])
    with pytest.raises(UserError, match="is inside the input"):
        with_masks(open_source(photos), photos / "sub")
    table = pa.table({"path": [str(photos / "a.png")], "mask": [1]})
    pq.write_table(table, tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match="column 'mask' is int64; the mask of each photo must be"):
        open_source(tmp_path / "numbers.parquet")
    pq.write_table(table.set_column(1, "mask", [["a.png"]]), tmp_path / "paths.parquet")
    with pytest.raises(UserError, match="both by --masks and in the input"):
        with_masks(open_source(tmp_path / "paths.parquet"), masks)
    targets = Targets(gallery, PHOTO_MASK)
    targets.add([StyleShare(style="oil")], {})
    with pytest.raises(UserError, match="masks cannot be combined with fit align"):
        read_masks({}, targets.targets, OutputOptions(fit="align"), True)
    with pytest.raises(InvalidInputError, match="'photo' is the mask of each photo"):
        read_masks({PHOTO_MASK: masks / "a.webp"}, targets.targets, OutputOptions(), True)


def test_a_mix_limits_single_styles_to_the_photos_mask(gallery: Home) -> None:
    targets = Targets(gallery, PHOTO_MASK)
    index = targets.add([StyleShare(style="oil", mask=PHOTO_MASK), StyleShare(style="ink")], {})
    assert [s.mask for s in targets.targets[index].mix.styles] == [PHOTO_MASK, None]
    index = targets.add([StyleShare(style="oil"), StyleShare(style="ink")], {})
    assert [s.mask for s in targets.targets[index].mix.styles] == [PHOTO_MASK] * 2
    assert load_base(gallery.bases / "tiny").config.image_size == 32


def test_a_proposed_mask_limits_the_styles_and_is_saved(
    run: Callable[..., Made], tmp_path: Path
) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    with (files("factory") / "examples" / "photos" / "portrait-04.png").open("rb") as stream:
        portrait = Image.open(stream).convert("RGB").resize((96, 96))
    portrait.save(folder / "anna.png")
    picture(1, (60, 40)).save(folder / "nobody.png")
    job, _, _ = run(folder, region="face", save=tmp_path / "saved")
    assert {f.reason for f in job.failures.values()} == {
        "no face is found; the mask face needs one"
    }
    mask = pixels(tmp_path / "saved" / "anna.png", "L")
    found, before = (
        pixels(f, "RGB") for f in (place(job) / "oil" / "anna.png", folder / "anna.png")
    )
    assert 0.1 < (mask > 0).mean() < 0.6
    np.testing.assert_array_equal(found[mask == 0], before[mask == 0])
    assert np.abs(found - before)[mask == 255].mean() > 4
    output = place(job) / "oil" / "anna.png"
    told = read_provenance(output.read_bytes())
    assert told is not None
    assert told.mask_proposal == {"region": "face", "segmenter": {"name": "grabcut"}}
    assert "--mask face --segmenter grabcut" in remake_command(told)
    sha256 = hashlib.sha256((tmp_path / "saved" / "anna.png").read_bytes()).hexdigest()
    assert told.masks == {PHOTO_MASK: sha256}
    # The saved mask gives the same pixels.
    (tmp_path / "out").rename(tmp_path / "proposed")
    job, _, _ = run(folder, tmp_path / "saved")
    np.testing.assert_array_equal(pixels(output, "RGB"), found)


def test_proposals_that_contradict_the_input_are_refused(
    photos: Path, masks: Path, tmp_path: Path
) -> None:
    corpus = open_source(photos)
    with pytest.raises(UserError, match="both by --mask face and by --masks"):
        masks_of_photos(with_masks(corpus, masks), "face")
    with pytest.raises(UserError, match="a segmenter is named, but no mask"):
        masks_of_photos(corpus, None, {"name": "grabcut"})
    with pytest.raises(UserError, match="--save-masks: the photos have no masks"):
        masks_of_photos(corpus, save=tmp_path)
    with pytest.raises(UserError, match="--save-masks s3://a/b: give a local folder"):
        masks_of_photos(corpus, "face", save="s3://a/b")


@pytest.mark.parametrize("here", [None, b"another model"])
def test_a_node_with_another_model_is_refused(here: bytes | None, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = make_model(tmp_path / "model.onnx", [[1, 0, 0]])
    segmenter = {"name": "onnx", "model": str(model)}
    proposal = MaskProposal.parse({"region": "subject", "segmenter": segmenter})
    masks = PhotoMasks(proposal=proposal, proposal_identity=proposal.identity())
    job: Any = SimpleNamespace(run="before", photo_masks=masks, timeout=None)
    check_segmenter(job)
    model.unlink()
    if here is not None:
        model.write_bytes(here)
    check_segmenter(job)  # once a run
    job.run = "after"
    with pytest.raises(UserError, match=rf"^on .*: {model} is (another file|missing)"):
        check_segmenter(job)
