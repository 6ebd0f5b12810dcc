"""Answers of the photo's own size: the pixels of the corpus, for every fit and size."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from factory import __version__
from factory.core.home import Home
from factory.registry import Registry
from osasis.mix import Mix
from pipelines.job_folder import JobFolder
from pipelines.job_spec import JobSpec, StyleSpec, TargetSpec
from pipelines.manifest import build_manifest
from pipelines.options import OutputOptions
from pipelines.read_squares import READ_TASK, read_squares
from pipelines.source import open_source
from pipelines.stylize_squares import StylizeSquares
from pipelines.write_outputs import write_outputs
from serving.client import Client
from tests.serving.conftest import Server, photo_bytes
from tests.serving.test_http import INK, error_of
from tests.tiny import SIZE

Corpus = Callable[..., bytes]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def group(*faces: str) -> Image.Image:
    """A wide photo with faces of the package's examples, off its centre."""
    photo = Image.new("RGB", (420, 260), (96, 110, 128))
    for i, name in enumerate(faces):
        path = files("factory") / "examples" / "photos" / f"{name}.png"
        with path.open("rb") as stream:
            face = Image.open(stream).convert("RGB").resize((110, 110), Image.Resampling.LANCZOS)
        photo.paste(face, (12 + 150 * i, 20 + 60 * i))
    return photo


@pytest.fixture(scope="module")
def corpus(shop_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Stylizes one photo in style ink with the operators of a corpus job."""
    home = Home(shop_home)
    version = Registry(home).resolve("ink")

    def run(photo: bytes, **options: Any) -> bytes:
        work = tmp_path_factory.mktemp("corpus")
        (work / "in").mkdir()
        (work / "in" / "photo.png").write_bytes(photo)
        folder = JobFolder(work / "out")
        source = open_source(work / "in")
        folder.open({"input": ""}, build_manifest(source, [[0]], {}))
        spec = StyleSpec(
            reference=version.reference,
            fingerprint=version.fingerprint,
            folder=str(version.folder()),
            keeps_photo=True,
        )
        job = JobSpec(
            code=__version__, run=folder.run,
            folder=folder.place.location, output=str(work / "out"),
            base=str(home.base_folder(None)), base_fingerprint=version.base, square=SIZE,
            styles={"ink": spec}, targets=(TargetSpec(label="ink", mix=Mix.parse(INK)),),
            text_edits=str(home.text_edits), options=OutputOptions.parse(options),
        )  # fmt: skip
        actor = StylizeSquares(job, "cpu")
        tasks = pa.Table.from_pylist([{"index": 0, "todo": [0]}], schema=READ_TASK)
        for squares in read_squares(tasks, job):
            write_outputs(actor(squares), job)
        return (work / "out" / "ink" / "photo.png").read_bytes()

    return run


def transparent() -> bytes:
    photo = Image.open(io.BytesIO(photo_bytes(820, (90, 50)))).convert("RGBA")
    photo.paste((0, 255, 0, 0), (0, 0, 30, 50))
    return png(photo)


WIDE = photo_bytes(821, (150, 60))
TALL = photo_bytes(822, (50, 170))
CASES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a wide photo": (WIDE, {}),
    "a tall photo with detail": (TALL, {"detail": True}),
    "a padded photo": (TALL, {"fit": "pad"}),
    "a resized photo of the base's size": (WIDE, {"fit": "resize", "size": "base"}),
    "a box off the centre": (WIDE, {"crop": "90,4,50"}),
    "a box with detail": (TALL, {"crop": "0,60,50", "detail": True}),
    "a box of the base's size": (WIDE, {"crop": "90,4,50", "size": "base"}),
    "a cut-out": (transparent(), {}),
    "a cut-out of the base's size on white": (transparent(), {"size": "base", "alpha": "drop"}),
    "a group": (png(group("portrait-01", "portrait-05")), {"fit": "align"}),
    "a face with detail": (png(group("portrait-03")), {"fit": "align", "detail": True}),
    "no face": (WIDE, {"fit": "align", "no_face": "keep"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_answer_has_the_bytes_of_the_corpus_output(
    server: Server, corpus: Corpus, case: str
) -> None:
    photo, options = CASES[case]
    form = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    answer = server.post(
        "/v1/stylize",
        files={"image": ("photo.png", photo)},
        data={"mix": json.dumps(INK), **form},
    )
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(answer.content))
    expected = (SIZE, SIZE) if options.get("size") == "base" else Image.open(io.BytesIO(photo)).size
    assert image.size == expected
    assert answer.headers["x-image-size"] == f"{expected[0]}x{expected[1]}"
    made = corpus(photo, **options)
    assert (np.asarray(image) == np.asarray(Image.open(io.BytesIO(made)))).all()
    if options.get("no_face") != "keep":  # a photo that is kept has no arithmetic
        assert answer.content == made


def test_faces_are_found_and_stylized(server: Server) -> None:
    photo = group("portrait-01", "portrait-05")
    found = server.post("/v1/faces", files={"image": ("p.png", png(photo))})
    assert found.status_code == 200, found.text
    (row,) = found.json()["photos"]
    assert row["size"] == [420, 260]
    for face, (x, y) in zip(row["faces"], ((12, 20), (162, 80)), strict=True):
        box = face["crop"]
        assert abs(box["x"] - x) < 20 and abs(box["y"] - y) < 20 and 80 < box["side"] < 130
        assert len(face["corners"]) == 4
    by_id = {"encodings": [row["encoding"]], "mix": INK}
    answer = server.post("/v1/stylize", json={**by_id, "fit": "align"})
    assert answer.headers["x-faces"] == "2"
    changed = np.abs(
        np.asarray(Image.open(io.BytesIO(answer.content)), int) - np.asarray(photo, int)
    ).max(-1)
    assert changed[50:100, 40:90].mean() > 10 and changed[110:160, 190:240].mean() > 10
    assert changed[200:, :100].max() == 0
    # A found face's box is a crop box.
    box = row["faces"][1]["crop"]
    answer = server.post("/v1/stylize", json={**by_id, "crop": box, "size": "base"})
    assert Image.open(io.BytesIO(answer.content)).size == (SIZE, SIZE)
    again = server.post("/v1/faces", json={"encodings": [row["encoding"]]})
    assert again.json() == found.json()


def test_what_cannot_be_placed_is_refused_with_its_field(server: Server) -> None:
    def refused(photo: bytes, **options: Any) -> dict[str, Any]:
        key = server.post("/v1/encodings", files={"image": ("p.png", photo)}).json()
        body = {"encodings": [key["encodings"][0]["id"]], "mix": INK, **options}
        return error_of(server.post("/v1/stylize", json=body), 422)

    assert refused(WIDE, fit="align")["field"] == "fit"
    error = refused(WIDE, crop={"x": 120, "y": 0, "side": 60})
    assert error["field"] == "crop" and "150x60" in error["message"]
    assert refused(WIDE, crop="1,2")["field"] == "crop"
    assert refused(WIDE, crop="0,0,50", fit="pad")["field"] == "crop"
    assert refused(WIDE, fit="align", size="base")["field"] == "size"
    error = refused(WIDE, fit="whole")
    assert error["field"] == "fit" and error["allowed"] == "one of crop, pad, resize, align"
    two = {"images": [], "encodings": ["0" * 32] * 2, "mix": INK, "crop": "0,0,50"}
    assert error_of(server.post("/v1/stylize", json=two), 422)["field"] == "crop"


def test_the_photo_is_itself_outside_of_masks(server: Server) -> None:
    """At its own size, pixel by pixel; masks are sent or proposed, soft and square ones too."""
    photo = Image.open(io.BytesIO(photo_bytes(830, (300, 200))))
    disc = np.hypot(*(np.mgrid[:200, :300] - np.array([100, 150])[:, None, None]))
    pixels = np.where(disc[..., None] < 60, (240, 120, 40), np.asarray(photo) // 3)
    photo = Image.fromarray(pixels.astype(np.uint8))
    found = server.post("/v1/masks", files={"image": ("p.png", png(photo))})
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "image/png"
    mask = np.asarray(Image.open(io.BytesIO(found.content)))
    assert mask.shape == (200, 300)
    assert ((mask > 127) != (disc < 60)).mean() < 0.02
    ident = found.headers["x-encoding"]
    answer = server.post("/v1/masks", json={"encodings": [ident], "region": "background"})
    background = np.asarray(Image.open(io.BytesIO(answer.content)))
    np.testing.assert_array_equal(background, 255 - mask)
    client = Client(server.url, key=server.headers["Authorization"].removeprefix("Bearer "))
    np.testing.assert_array_equal(np.asarray(client.mask(png(photo), "subject")), mask)

    # What is elsewhere is found where a point or a box says.
    corner = {"box": [0.0, 0.0, 0.25, 0.4]}
    answer = server.post("/v1/masks", json={"encodings": [ident], **corner})
    elsewhere = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert elsewhere[:, 80:].max() == 0
    form = {k: json.dumps(v) for k, v in corner.items()}
    answer = server.post("/v1/masks", files={"image": ("p.png", png(photo))}, data=form)
    assert answer.content == server.post("/v1/masks", json={"encodings": [ident], **corner}).content
    at_disc = client.mask(png(photo), points=[(0.5, 0.5)])
    assert ((np.asarray(at_disc) > 127) != (disc < 60)).mean() < 0.02

    def stylized(name: str, **body: Any) -> np.ndarray:
        mix = {"styles": [{"style": "ink", "mask": name}]}
        answer = server.post("/v1/stylize", json={"encodings": [ident], "mix": mix, **body})
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)

    sent = stylized("m", masks={"m": base64.b64encode(found.content).decode()})
    np.testing.assert_array_equal(sent[mask == 0], pixels[mask == 0])
    assert np.abs(sent - pixels)[mask == 255].mean() > 4
    np.testing.assert_array_equal(stylized("subject"), sent)
    square = png(Image.new("L", (32, 32)))
    np.testing.assert_array_equal(
        stylized("m", masks={"m": base64.b64encode(square).decode()}, fit="crop"), pixels
    )


def test_masks_that_cannot_be_proposed_are_refused(server: Server) -> None:
    error = error_of(
        server.post("/v1/masks", files={"image": ("p.png", WIDE)}, data={"region": "hair"}), 422
    )
    assert error["field"] == "region" and "grabcut proposes the masks" in error["message"]
    error = error_of(
        server.post("/v1/masks", files={"image": ("p.png", WIDE)}, data={"region": "face"}), 422
    )
    assert "no face is found" in error["message"]
    error = error_of(
        server.post("/v1/masks", files={"image": ("p.png", WIDE)}, data={"region": "sky"}), 422
    )
    assert error["field"] == "region"
    for field, value in (("points", "[[0.5, 7]]"), ("points", "[["), ("box", "[0, 0, 1]")):
        answer = server.post("/v1/masks", files={"image": ("p.png", WIDE)}, data={field: value})
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["field"].startswith(field)
    two = [("image", ("a.png", WIDE)), ("image", ("b.png", TALL))]
    assert error_of(server.post("/v1/masks", files=two), 422)["field"] == "images"
    mix = {"styles": [{"style": "ink", "mask": "sky"}]}
    sent = {"mix": json.dumps(mix)}
    error = error_of(server.post("/v1/stylize", files={"image": ("p.png", WIDE)}, data=sent), 422)
    assert error["field"] == "masks" and "background" in error["allowed"]
