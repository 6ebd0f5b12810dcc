"""A corpus through registered styles: what decides an output, its name, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from factory.home import Home
from factory.registry import Registry
from osasis.base import load_base
from osasis.errors import UserError
from osasis.images import load_square, png_bytes, tensor_to_image
from osasis.mix import Mix
from osasis.style import load_style, save_style
from osasis.stylize import decode, encode
from osasis.text_edit import TextEdit, save_text_edit
from pipelines.stylize import StylizeBatch, StylizeResult, stylize
from tests.factory.conftest import SIZE, import_tiny, picture, truncated_jpeg, write_style

PHOTOS = ("0.png", "1.png", "2.jpg", "3.png", "4.png", "a.jpg", "a.png", "sub/a.png", "sub/B.JPG")


def register(home: Home, style: str, base: str = "tiny", seed: int = 1) -> None:
    folder = home.path / "made" / style
    write_style(folder, home.bases / base, style, seed)
    Registry(home).register(
        style,
        folder,
        fingerprint=style,
        base=load_base(home.bases / base).fingerprint,
        params={},
        history=[],
        metrics={},
        tags={"base_name": base},
    )


@pytest.fixture(scope="module")
def gallery(fresh_home: Callable[[], Path], local_ray: None) -> Home:
    """A home with two styles."""
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    register(home, "ink", seed=5)
    return home


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for i, name in enumerate(PHOTOS):
        picture(400 + i, (40 + i, 44)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def both(
    gallery: Home, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StylizeResult, Path]:
    """All photos in both styles, by two workers."""
    output = tmp_path_factory.mktemp("both")
    return stylize(["oil", "ink"], photos, output, home=gallery, workers=2), output


def written(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def test_every_photo_is_written_under_its_own_name(
    both: tuple[StylizeResult, Path], photos: Path
) -> None:
    result, output = both
    assert (result.photos, result.images, result.errors) == (9, 18, ())
    assert result.styles == ("oil:1", "ink:1")
    # a.jpg and a.png would be one file: both keep their suffix.
    names = {"0.png", "1.png", "2.png", "3.png", "4.png", "a.jpg.png", "a.png.png"}
    names |= {"sub/a.png", "sub/B.png"}
    files = written(output)
    assert set(files) == {f"{style}/{name}" for style in ("oil", "ink") for name in names}
    # All differ: no photo took another's place.
    assert len(set(files.values())) == 18
    assert {p.name for p in output.iterdir()} == {"oil", "ink", "summary.json"}


def test_a_collision_keeps_each_photos_own_picture(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path
) -> None:
    """Against the method itself, without Ray: encode and decode of that one photo."""
    _, output = both
    torch.set_num_threads(1)
    base = load_base(gallery.bases / "tiny")
    style = load_style(Registry(gallery).resolve("oil").folder(), base)
    for name, stylized in (
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a.png.png"),
        ("sub/B.JPG", "sub/B.png"),
    ):
        encodings = encode(base, load_square(photos / name, SIZE)[None], steps=10)
        (image,) = decode(base, encodings, Mix.of("oil"), {"oil": style})
        expected = tensor_to_image(image)
        with Image.open(output / "oil" / stylized) as got:
            assert got.tobytes() == expected.tobytes()
            assert png_bytes(expected, got.text) == (output / "oil" / stylized).read_bytes()  # type: ignore[attr-defined]


def test_an_output_does_not_depend_on_company_workers_or_other_styles(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path, tmp_path: Path
) -> None:
    _, output = both
    together = written(output / "ink")
    stylize(["ink"], photos, tmp_path / "one", home=gallery, workers=1)
    assert written(tmp_path / "one" / "ink") == together
    stylize(["ink:1"], photos / "3.png", tmp_path / "alone", home=gallery)
    assert written(tmp_path / "alone") == {"ink/3.png": together["3.png"]}


def test_only_bad_photos_are_errors(gallery: Home, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    picture(1).save(source / "good\nname ü.png")
    Path(os.fsdecode(b"%b/caf\xe9.png" % os.fsencode(source))).write_bytes(b"")
    (source / "link.png").symlink_to("nowhere.png")
    (source / "empty.png").write_bytes(b"")
    truncated_jpeg(source / "cut.jpg")
    picture(2).save(source / "taken.png")
    # A folder where the image would go: the disk refuses, as a full one does.
    (tmp_path / "out" / "oil" / "taken.png" / "x").mkdir(parents=True)
    told: list[str] = []
    result = stylize(["oil"], source, tmp_path / "out", home=gallery, report=told.append)
    assert (result.photos, result.images) == (6, 1)
    assert (tmp_path / "out" / "oil" / "good\nname ü.png").is_file()
    rows = pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    reasons = {Path(r["path"]).name: r["reason"] for r in rows}
    assert reasons.pop("taken.png").startswith("oil: IsADirectoryError: ")
    assert reasons == {
        "nowhere.png": "no such file",
        "caf\\xe9.png": "the file is empty",
        "empty.png": "the file is empty",
        "cut.jpg": "the JPEG data is truncated",
    }
    assert told[0] == f"6 photo(s) x 1 style(s) to {tmp_path / 'out'}"
    assert told[-1].endswith(", 5 photo(s) failed")


def test_a_text_edit_changes_the_photos(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path, tmp_path: Path
) -> None:
    base = load_base(gallery.bases / "tiny")
    direction = torch.ones(base.config.z_channels)
    edit = TextEdit("a face", "a smile", direction, base.fingerprint, {})
    save_text_edit(gallery.text_edits / "smile", edit)
    mix = {"text_edit": "smile", "text_amount": 2.0}
    stylize(["oil"], photos / "3.png", tmp_path, home=gallery, mix=mix)

    torch.set_num_threads(1)
    style = load_style(Registry(gallery).resolve("oil").folder(), base)
    encodings = encode(base, load_square(photos / "3.png", SIZE)[None], steps=10)
    (expected,) = decode(
        base, encodings, Mix.of("oil", **mix), {"oil": style}, text_edits={"smile": direction}
    )
    with Image.open(tmp_path / "oil" / "3.png") as got:
        assert got.tobytes() == tensor_to_image(expected).tobytes()
        with Image.open(both[1] / "oil" / "3.png") as plain:
            assert got.tobytes() != plain.tobytes()


def test_a_style_that_yields_nan_fails_its_photos_only(gallery: Home, tmp_path: Path) -> None:
    """An actor's work, without the actor."""
    tiny = gallery.bases / "tiny"
    style = write_style(tmp_path / "good", tiny, "good")
    key = next(iter(style.delta))
    style.delta[key] = torch.full_like(style.delta[key], float("nan"))
    save_style(tmp_path / "bad", style, torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE))
    picture(1).save(tmp_path / "photo.png")
    job = {
        "base": str(tiny),
        "styles": {"bad": str(tmp_path / "bad"), "good": str(tmp_path / "good")},
        "versions": {"bad": "bad:1", "good": "good:1"},
        "mix": Mix.of("bad", "good").to_dict(),
        "text_edits": str(gallery.text_edits),
        "output": str(tmp_path / "out"),
        "fit": "crop",
    }
    rows = pa.table({"path": [os.fsencode(tmp_path / "photo.png")], "name": [b"photo.png"]})
    (row,) = StylizeBatch(job, "cpu")(rows).to_pylist()
    assert row["error"] == "bad: ValueError: the image tensor holds NaN"
    assert row["images"] == 1
    assert set(written(tmp_path / "out")) == {"good/photo.png"}


def test_styles_of_different_bases_are_refused_in_one_line(
    gallery: Home, sources: Path, photos: Path, tmp_path: Path
) -> None:
    assert import_tiny(gallery.path, sources, "other", "--photos", str(photos)).code == 0
    try:
        register(gallery, "chalk", base="other", seed=9)
        prints = [load_base(gallery.bases / b).fingerprint for b in ("tiny", "other")]
        assert prints[0] != prints[1]
        with pytest.raises(UserError) as refused:
            stylize(["oil", "chalk"], photos, tmp_path / "out", home=gallery)
        assert str(refused.value) == (
            "these styles belong to different bases; stylize base by base "
            f"(oil:1 on {prints[0]}, chalk:1 on {prints[1]})"
        )
    finally:
        shutil.rmtree(gallery.bases / "other")
    with pytest.raises(UserError) as refused:
        stylize(["chalk"], photos, tmp_path / "out", home=gallery)
    missing = f"the base of chalk:1 ({prints[1]}) is not in {gallery.bases}; import it"
    assert str(refused.value) == missing
    assert not (tmp_path / "out").exists()
