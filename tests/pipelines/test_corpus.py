"""`stylize` on a real Ray: outputs, names, errors, resume, Parquet."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from factory.core.home import Home
from factory.core.remake import provenance_of
from factory.registry import Registry
from osasis.bundles.base import load_base
from osasis.bundles.provenance import read_provenance
from osasis.bundles.style import load_style
from osasis.encode import EncodePlan, encode
from osasis.errors import UserError
from osasis.images.tensors import load_square, tensor_to_image
from osasis.mix import Mix, StyleShare
from osasis.stylize import decode
from pipelines import StylizeResult, stylize
from pipelines.targets import Targets
from tests.factory.conftest import cli
from tests.pipelines.conftest import OUTPUTS, register, state_of, times_done, written
from tests.tiny import SIZE, picture, truncated_jpeg


@pytest.fixture(scope="module")
def both(
    gallery: Home, photos: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StylizeResult, Path]:
    """Result and output folder of all photos in both styles, at the base's size, by two workers."""
    output = tmp_path_factory.mktemp("both")
    result = stylize(["oil", "ink"], photos, output, home=gallery, workers=2, size="base")
    return result, output


def test_every_photo_is_written_under_its_own_name(both: tuple[StylizeResult, Path]) -> None:
    result, output = both
    assert (result.photos, result.images, result.errors) == (9, 18, ())
    assert result.styles == ("oil:1", "ink:1")
    files = written(output)
    assert set(files) == {f"{style}/{name}" for style in ("oil", "ink") for name in OUTPUTS}
    # Distinct content: no photo was written under another's name.
    assert len(set(files.values())) == 18
    names = {".job", "oil", "ink", "summary.json", "contact.html"}
    assert {p.name for p in output.iterdir()} == names
    assert set(times_done(output).values()) == {1}
    assert len(times_done(output)) == 18
    assert json.loads((output / "summary.json").read_text()) == result.to_dict()
    assert result.passes >= 6  # two styles of nine photos, four at a time
    assert 0 < result.model_share <= 1
    assert "18 (0 by earlier runs)" in result._repr_html_()
    sheet = (output / "contact.html").read_text()
    assert sheet.count('src="data:image/jpeg;base64,') == 27
    assert "://" not in sheet


def test_outputs_equal_encode_and_decode_of_a_single_photo(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path
) -> None:
    """The reference runs without Ray, batching or encoding between the steps."""
    _, output = both
    torch.set_num_threads(1)
    base = load_base(gallery.bases / "tiny")
    style = load_style(Registry(gallery).resolve("oil").folder(), base)
    for name, stylized in (
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a.png.png"),
        ("sub/B.JPG", "sub/B.png"),
    ):
        encodings = encode(base, load_square(photos / name, SIZE)[None], EncodePlan(0.5, 10))
        (image,) = decode(base, encodings, Mix.of("oil"), {"oil": style})
        with Image.open(output / "oil" / stylized) as got:
            assert got.tobytes() == tensor_to_image(image).tobytes()


def test_the_same_call_resumes_and_repeats_no_output(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path, tmp_path: Path
) -> None:
    _, output = both
    kept = tmp_path / "kept"
    shutil.copytree(output, kept)
    # The state after a kill: some outputs are not recorded, one is missing.
    (log,) = (kept / ".job" / state_of(kept) / "log").iterdir()
    records = [json.loads(line) for line in log.read_text().splitlines() if line]
    lost = [r for r in records if r.get("photo", 0) % 3 == 1]
    log.write_text("".join(json.dumps(r) + "\n" for r in records if r not in lost) + '{"pho')
    (kept / "oil" / "1.png").unlink()
    again = stylize(["oil", "ink"], photos, kept, home=gallery, workers=1, size="base")
    assert (again.images, again.done_before) == (18, 12)
    assert written(kept) == written(output)
    assert set(times_done(kept).values()) == {1}
    third = stylize(["oil", "ink"], photos, kept, home=gallery, size="base")
    assert (third.images, third.done_now, third.passes) == (18, 0, 0)


@pytest.mark.slow
def test_a_uri_gives_the_outputs_of_its_folder(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path, tmp_path: Path
) -> None:
    """local:// is read by fsspec, in the worker processes; the output is a file:// URI."""
    _, output = both
    result = stylize(
        ["oil"], f"local://{photos}", tmp_path.as_uri(), home=gallery, workers=1, size="base"
    )
    assert (result.images, result.output) == (9, tmp_path)
    of_folder = {n: data for n, data in written(output).items() if n.startswith("oil/")}
    assert written(tmp_path) == of_folder


@pytest.mark.slow
def test_inspect_prints_the_command_that_reproduces_the_output(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = {
        "styles": [{"style": "oil", "weight": 0.3}, {"style": "ink", "weight": 0.9}],
        "strength": 0.7,
        "level_weights": [0.25, 1.0, 0.5],
    }
    first = stylize(
        [], photos / "a.jpg", tmp_path / "first", home=gallery, mix=mix, fit="pad", detail=True,
        format="jpeg", quality=83, workers=1,
    )  # fmt: skip
    assert first.errors == ()
    ((name, data),) = written(tmp_path / "first").items()
    ran = cli("inspect", tmp_path / "first" / name, "--json")
    assert ran.code == 0, ran.err
    program, *argv = shlex.split(ran.document["command"])
    assert program == "style-factory"
    assert argv[-1] == "OUTPUT"
    monkeypatch.chdir(photos)  # the printed input is relative
    again = cli(*argv[:-1], tmp_path / "again", "--home", gallery.path, "--workers", "1")
    assert again.code == 0, again.err
    assert written(tmp_path / "again") == {name: data}


def test_another_job_in_the_same_folder_is_refused_with_the_differences(
    both: tuple[StylizeResult, Path], gallery: Home, photos: Path, tmp_path: Path
) -> None:
    _, output = both
    before = written(output)
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    picture(9, (50, 50)).save(other / "3.png")
    for change, difference in (
        ({"mix": {"strength": 0.5}}, "targets[0].strength: none before, 0.5 now"),
        ({"fit": "pad"}, 'options.fit: "crop" before, "pad" now'),
        ({"styles": ["oil"]}, 'styles.ink: "ink:1 (ink-5)" before, none now'),
        ({"source": other, "frozen": True}, "before"),
    ):
        call = {"styles": ["oil", "ink"], "source": photos, "size": "base", **change}
        with pytest.raises(UserError) as refused:
            stylize(output=output, home=gallery, **call)  # type: ignore[arg-type]
        assert difference in str(refused.value)
        assert str(refused.value).startswith(f"{output} holds another job (")
    assert written(output) == before


def hostile(folder: Path) -> dict[str, str]:
    """Fill a folder with odd and broken files; returns the reason of each file that must fail."""
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    truncated_jpeg(folder / "cut.jpg")
    (folder / "text.jpg").write_text("dear diary")
    picture(1, (40, 40)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(__import__("numpy").arange(1600, dtype="uint16").reshape(40, 40) * 40).save(
        folder / "deep.png"
    )
    picture(2).convert("P").save(folder / "palette.png", transparency=0)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(3, (60, 40)).save(folder / "turned.jpg", exif=turned)
    frames = [picture(i) for i in (4, 5)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    picture(6, (9000, 9)).save(folder / "wide.png")
    picture(7).save(folder / "good\nname ü.png")
    picture(8).save(folder / "twin.png")
    picture(9).save(folder / "TWIN.jpg")
    picture(10).save(folder / "twin.webp")
    (folder / "link.png").symlink_to("nowhere.png")
    Path(os.fsdecode(b"%b/caf\xe9.png" % os.fsencode(folder))).write_bytes(
        (folder / "twin.png").read_bytes()
    )
    picture(11).save(folder / "taken.png")
    return {
        "empty.png": "the file is empty",
        "cut.jpg": "the JPEG data is truncated",
        "text.jpg": "not an image",
        "bomb.png": "too many pixels",
        "dot.png": "1x1 pixels",
        "link.png": "no such file",
        "taken.png": "IsADirectoryError",
    }


def test_every_photo_of_a_hostile_corpus_is_an_output_or_an_error(
    gallery: Home, local_ray: None, tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    bad = hostile(source)
    # A folder at the output's path makes the write fail.
    (output / "oil" / "taken.png" / "x").mkdir(parents=True)
    lines: list[str] = []
    result = stylize(["oil"], source, output, home=gallery, report=lines.append, workers=1)
    assert result.images + result.failed == result.photos == 18
    rows = pq.read_table(output / "errors.parquet").to_pylist()
    assert list(rows) == list(result.errors)
    assert len({r["id"] for r in rows}) == len(rows)
    reasons = {Path(r["path"]).name: r["reason"] for r in rows}
    assert set(reasons) == set(bad)
    for name, reason in bad.items():
        assert reason in reasons[name]
    stages = {Path(r["path"]).name: r["stage"] for r in rows}
    assert (stages["link.png"], stages["cut.jpg"], stages["taken.png"]) == (
        "read",
        "decode",
        "write",
    )
    # Outputs have the photo's size after EXIF rotation.
    files = {
        "turned.png": (40, 60), "wide.png": (9000, 9), "moving.png": (40, 40), "cmyk.png": (40, 40),
        "good\nname ü.png": (40, 40), "twin.png.png": (40, 40), "TWIN.jpg.png": (40, 40),
        "twin.webp.png": (40, 40), os.fsdecode(b"caf\xe9.png"): (40, 40), "deep.png": (40, 40),
        "palette.png": (40, 40),
    }  # fmt: skip
    for name, size in files.items():
        with Image.open(output / "oil" / name) as image:
            assert (image.size, image.mode) == (size, "RGB")
    events = [json.loads(line) for line in lines]
    assert (events[0]["event"], events[-1]["event"]) == ("start", "end")
    assert events[-1]["failed"] == 7
    # Failed outputs are skipped unless retry_errors is set.
    shutil.rmtree(output / "oil" / "taken.png")
    again = stylize(["oil"], source, output, home=gallery)
    assert (again.done_now, again.failed) == (0, 7)
    retried = stylize(["oil"], source, output, home=gallery, retry_errors=True, workers=1)
    assert (retried.done_now, retried.failed) == (1, 6)


@pytest.mark.parametrize("level", ["style", "full", "none"])
def test_provenance_in_parquet_and_contact_sheet(
    level: str, gallery: Home, photos: Path, tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    (source / "anna").mkdir(parents=True)
    (source / "anna" / "scan.png").write_bytes((photos / "0.png").read_bytes())
    output = tmp_path / "out"
    stylize(
        ["oil"], source, output, home=gallery, format="parquet", provenance=level, workers=1
    )  # fmt: skip
    (row,) = pq.read_table(output / "part-00000.parquet").to_pylist()
    want = {"style": "scan.png", "full": str(source / "anna" / "scan.png"), "none": None}
    assert row["stylized_key"] == want[level]
    assert row["stylized_style"] == "oil:1"
    told = [row[f"stylized_{name}"] for name in ("mix", "code", "base", "provenance")]
    assert [t is None for t in told] == [level == "none"] * 4
    sheet = (output / "contact.html").read_text()
    assert ("anna" in sheet) == (level == "full")
    assert ("scan." in sheet) == (level != "none")
    if level == "none":
        with pytest.raises(UserError, match="wrote it with --provenance none"):
            provenance_of(output / "part-00000.parquet")
    else:
        assert provenance_of(output / "part-00000.parquet").source == want[level]


def test_parquet_input_and_output_with_mix_columns(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    data = [(photos / n).read_bytes() for n in ("0.png", "1.png", "2.jpg")] + [None, b"no image"]
    table = pa.table(
        {
            "name": ["x", "y", "z", "null", "bad"],
            "image": pa.array(data, pa.binary()),
            "style": [None, "ink:1", ["nobody"][0], None, None],
            "strength": [None, 0.5, None, None, None],
            "label": [1, 2, 3, 4, 5],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    output = tmp_path / "out"
    call = {"home": gallery, "format": "parquet", "encoding": "jpeg", "quality": 95, "workers": 1}
    result = stylize(["oil"], tmp_path / "in.parquet", output, **call)  # type: ignore[arg-type]
    assert (result.images, result.failed) == (2, 3)
    errors = {r["path"].rsplit("#")[-1]: (r["stage"], r["reason"]) for r in result.errors}
    assert errors["null"] == ("read", "the row holds no image (null)")
    assert errors["bad"][0] == "decode"
    assert errors["z"][0] == "mix"
    assert "nobody" in errors["z"][1]
    made = pq.read_table(output / "part-00000.parquet")
    assert made.column_names[:5] == table.column_names
    rows = made.to_pylist()
    assert [(r["name"], r["label"], r["image"]) for r in rows] == [
        ("x", 1, data[0]),
        ("y", 2, data[1]),
    ]
    assert [r["stylized_style"] for r in rows] == ["oil:1", "ink:1"]
    assert [json.loads(r["stylized_mix"])["strength"] for r in rows] == [None, 0.5]
    for row in rows:
        provenance = read_provenance(row["stylized"])
        assert provenance is not None
        assert provenance.to_text() == json.loads(row["stylized_provenance"])
        assert [s.reference for s in provenance.styles] == [row["stylized_style"]]
    first = (output / "part-00000.parquet").read_bytes()
    again = stylize(["oil"], tmp_path / "in.parquet", output, **call)  # type: ignore[arg-type]
    assert again.done_now == 0
    assert (output / "part-00000.parquet").read_bytes() == first


def test_max_errors_ends_early(gallery: Home, local_ray: None, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(40):
        (source / f"{i:02d}.png").write_bytes(b"")
    result = stylize(
        ["oil"], source, tmp_path / "out", home=gallery, max_errors=3, readers=1, workers=1
    )
    assert "--max-errors" in result.stopped
    assert result.failed > 3
    assert result.images == 0


def test_names_kinds_and_links_of_a_strange_folder(
    gallery: Home, local_ray: None, tmp_path: Path
) -> None:
    """Each photo is written once under a name that fits; what is no photo is counted."""
    root, long = tmp_path / "in", "x" * 251
    (root / "@eaDir").mkdir(parents=True)
    photos = ("a.png", f"{long}.png", f"{long}.jpg", "bad\udcff.png", "what?.png", "@eaDir/t.png")
    for i, name in enumerate(photos):
        picture(i).save(root / name)
    picture(7).save(root / "hash", "AVIF")
    (root / "scan").write_bytes(b"%PDF-1.7")
    (root / "loop").symlink_to(root)
    lines: list[str] = []
    result = stylize(
        ["oil"], root.as_uri(), tmp_path / "out", home=gallery, workers=1, size="base",
        report=lines.append,
    )  # fmt: skip
    assert (result.photos, result.images, result.errors) == (6, 6, ())
    assert result.left_out == {"@eaDir": 1, "PDF": 1}
    assert result.shortened_names == 2
    names = sorted(p.name for p in (tmp_path / "out" / "oil").iterdir())
    assert [n for n in names if len(n) < 50] == ["a.png", "bad\udcff.png", "hash.png", "what?.png"]
    assert [len(n) for n in names if len(n) > 50] == [255, 255]
    events = {line["event"]: line for line in map(json.loads, lines)}
    assert events["left_out"]["kinds"] == {"@eaDir": 1, "PDF": 1}
    assert events["shortened_names"]["count"] == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["left_out"], summary["shortened_names"]) == ({"@eaDir": 1, "PDF": 1}, 2)


def test_a_blend_of_long_style_names_has_a_folder(fresh_home: Callable[[], Path]) -> None:
    home = Home(fresh_home())
    styles = [f"{letter * 62}{i}" for i, letter in enumerate("abcde")]
    for i, style in enumerate(styles):
        register(home, style, seed=i)
    targets = Targets(home)
    targets.add([StyleShare(style=s, weight=0.2) for s in styles], {})
    targets.add([StyleShare(style=s) for s in styles[:2]], {})
    long, short = (target.label for target in targets.targets)
    assert len(long) == 255
    assert long.startswith("+".join(styles)[:200])
    assert short == "+".join(styles[:2])
