"""`style-factory stylize` and `inspect`, with a real Ray and registry."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.factory.cli.conftest import assert_problems
from tests.factory.conftest import Ran, cli
from tests.tiny import picture, truncated_jpeg


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good photos, one of them in a sub-folder, and three bad ones."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep" / "er").mkdir(parents=True)
    picture(200, (50, 40)).save(folder / "tall.png")
    picture(201, (20, 30)).save(folder / "small.webp", lossless=True)
    picture(202, (64, 64)).save(folder / "deep" / "er" / "x.jpg")
    picture(203).convert("L").save(folder / "grey.gif")
    truncated_jpeg(folder / "cut.jpg")
    (folder / "words.jpg").write_text("this is no picture, it only says so")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    return folder


@pytest.fixture(scope="module")
def stylized(
    gallery_home: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ran, Path]:
    output = tmp_path_factory.mktemp("stylized")
    ran = cli(
        *("stylize", "--styles", "oil:1,ink", "--input", photos, "--output", output),
        *("--home", gallery_home, "--workers", "1", "--json", "--mix", "strength=0.5"),
    )
    return ran, output


def test_stylize_writes_every_good_photo_in_every_style(stylized: tuple[Ran, Path]) -> None:
    ran, output = stylized
    assert ran.code == 1
    document = ran.document
    assert (document["photos"], document["images"]) == (7, 8)
    assert document["styles"] == ["oil:1", "ink:1"]
    written = {p.relative_to(output).as_posix() for p in output.rglob("*.png")}
    sizes = {"tall": (50, 40), "small": (20, 30), "deep/er/x": (64, 64), "grey": (40, 40)}
    assert written == {f"{style}/{name}.png" for style in ("oil", "ink") for name in sizes}
    for name, size in sizes.items():
        with Image.open(output / "oil" / f"{name}.png") as image:
            assert (image.size, image.mode) == (size, "RGB")
    assert (output / "oil/tall.png").read_bytes() != (output / "ink/tall.png").read_bytes()


def test_stylize_reports_every_bad_photo(stylized: tuple[Ran, Path], photos: Path) -> None:
    ran, output = stylized
    rows = pq.read_table(output / "errors.parquet").to_pylist()
    reasons = {Path(r["path"]).relative_to(photos.resolve()).as_posix(): r["reason"] for r in rows}
    assert reasons["cut.jpg"] == "the JPEG data is truncated"
    assert reasons["words.jpg"].startswith("not an image; ")
    assert reasons["dot.png"] == "1x1 pixels; at least 8x8 are needed"
    assert len(rows) == 6  # of two styles each
    assert {r["stage"] for r in rows} == {"decode"}
    assert ran.document["errors"] == rows
    summary = json.loads((output / "summary.json").read_text())
    assert summary == ran.document


def test_stylized_images_carry_their_provenance(
    stylized: tuple[Ran, Path], gallery_home: Path
) -> None:
    _, output = stylized
    picture = output / "oil" / "deep" / "er" / "x.png"
    provenance = cli("inspect", picture, "--json").document["provenance"]
    assert [s["reference"] for s in provenance["styles"]] == ["oil:1"]
    base = cli("base", "info", "--home", gallery_home, "--json").document
    assert provenance["base"] == base["fingerprint"]
    assert [s["style"] for s in provenance["mix"]["styles"]] == ["oil"]
    assert provenance["mix"]["strength"] == 0.5


def test_stylize_of_one_good_photo_succeeds(
    gallery_home: Path, photos: Path, tmp_path: Path
) -> None:
    # Left by an earlier run; a run without errors removes it.
    (tmp_path / "errors.parquet").write_bytes(b"")
    ran = cli(
        *("stylize", "--styles", "ink", "--input", photos / "tall.png", "--output", tmp_path),
        *("--home", gallery_home),
    )
    assert ran.code == 0
    assert ran.out == f"1 image(s) in {tmp_path}\n"
    assert not (tmp_path / "errors.parquet").exists()
    assert (tmp_path / "ink" / "tall.png").is_file()


STYLIZE_PROBLEMS = [
    (["--fit", "crob", "--quality", "900", "--workers", "0"], ["--fit", "--quality", "--workers"]),
    (["--mix", "strenght=1", "--mix", "strength=9"], ["strength", "strenght"]),
]
STYLIZE_MISTAKES = [
    (["--styles", "oill"], "unknown style 'oill' (nearest: oil)"),
    (["--styles", "oil,zzz"], "unknown style 'zzz' (registered: ink, oil)"),
    (["--styles", "oil:7"], "style 'oil' has no version '7': there are 1 (champion)"),
    (["--styles", "oil@best"], "style 'oil' has no version 'best': there are 1 (champion)"),
    (["--styles", "oil,oil:1"], "the same style is named twice"),
    (["--styles", ","], "no style is named"),
    (["--styles", "o'il"], 'unknown style "o\'il"'),
    (["--mix", "strength"], "--mix 'strength': write NAME=VALUE"),
    (["--mix", "level_weights=[1]"], "level_weights has 1 values; this base"),
    (["--mix", "text_edit=smile"], "unknown text edit 'smile'"),
    (["--mask", "subject", "--mask", "face"], "--mask names subject and face; one mask can be"),
    (["--mask", "sky"], "--mask is 'sky'; it must be NAME=FILE, or one of subject, background"),
    (["--mask", "hair"], "grabcut proposes the masks subject, background and face"),
    (["--segmenter", "grabcut"], "a segmenter is named, but no mask that it shall propose"),
    (["--notify", "hooks.example"], "--notify: it must be an address that begins with http://"),
    (["--input", "nowhere"], "nowhere: no such folder, photo, list"),
]


def stylize(gallery_home: Path, photos: Path, output: Path, options: list[str]) -> Ran:
    return cli(
        *("stylize", "--home", gallery_home, "--styles", "oil", "--input", photos),
        *("--output", output, "--json", *options),
    )


@pytest.mark.parametrize(("options", "fields"), STYLIZE_PROBLEMS)
def test_stylize_problems(
    gallery_home: Path, photos: Path, tmp_path: Path, options: list[str], fields: list[str]
) -> None:
    assert_problems(stylize(gallery_home, photos, tmp_path / "out", options), fields)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "says"), STYLIZE_MISTAKES)
def test_stylize_mistakes(
    gallery_home: Path, photos: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    ran = stylize(gallery_home, photos, tmp_path / "out", options)
    assert ran.code == 2
    assert says in ran.error
    assert ran.document["error"] == ran.error
    assert not (tmp_path / "out").exists()
